-- tarn inspect: what saved files hold, told by the command.
local cluster = require "spec.helper.cluster"
local process = require "spec.helper.process"

local says = cluster.says

describe("tarn inspect", function()
  local directory, path

  before_each(function()
    directory = process.tmpdir()
    path = directory .. "/value.tarn"
  end)

  local function inspect(...) return process.run_tarn({ "inspect", ... }) end

  it("tells type, sizes, serializers, blocks, checksums and the first values", function()
    tarn.save(path, { 1, 2, "x\0\255", name = "abc", deep = { { { { 1 } } } }, column = tarn.array("double", { 1.5, 2, 3 }),
      words = tarn.strings { "a", nil, "b", n = 3 } })
    local run = inspect(path)
    assert.equal(0, run.code, run.err)
    assert.equal("", run.err)
    says(run.out, path, "4 blocks; all checksums are right", "table, 3 elements, 4 other keys", 'name = "abc"', [["x\0\255"]],
      "array, version 1, content ", "strings, version 1, content ", " 24 bytes, checksum ", "array of double (3): 1.5, 2, 3",
      'strings (3): "a", nil, "b"', "deep = { { {...} } }")
    -- The checksum is what docs/FORMAT.md says: XXH3 of the block's bytes, which stands at 64 in the file.
    local bytes = process.read_file(path)
    local sum = bytes:sub(65, 72):reverse():gsub(".", function(c) return ("%02x"):format(c:byte()) end)
    says(run.out, "checksum " .. sum)
  end)

  it("shows scalars, and long things in short", function()
    for _, case in ipairs { { 5, "number", "5" }, { "text", "string, 4 bytes", '"text"' },
      { ("y"):rep(1000), "string, 1000 bytes", "(1000 bytes)" },
      { {}, "table, 0 elements, 0 other keys", "{}" }, { tarn.array("float", { shape = { 100, 75 } }), "100x75", "0, 0, 0" } } do
      tarn.save(path, case[1])
      local run = inspect(path)
      assert.equal(0, run.code)
      says(run.out, case[2], case[3])
      assert.is_true(#run.out < 1000)
    end
    local cycle = {}
    cycle.me = cycle
    tarn.save(path, cycle)
    says(inspect(path).out, "the same table as above")
    local many = {}
    for i = 1, 50 do many[i] = tarn.array("uint8_t", i) end
    tarn.save(path, many)
    says(inspect(path).out, "30 more blocks", "...")
  end)

  it("verifies what it cannot show: functions, and types that are not known", function()
    tarn.save(path, function() return 1 end)
    local run = inspect(path)
    assert.equal(0, run.code)
    says(run.out, "all checksums are right", "not shown: image: holds a function")
    local Class = {}
    tarn.serializer { name = "spec.inspected", version = 7, type = Class, mmwrite = function(out) out:block("12345678") end,
      mmread = function() return {} end }
    tarn.save(path, setmetatable({}, Class))
    run = inspect(path)
    assert.equal(0, run.code)
    says(run.out, "spec.inspected, version 7", "block 1     8 bytes", "unknown serializer 'spec.inspected' (version 7)")
  end)

  it("says in one line what is wrong with a bad file, goes on with the others, and fails", function()
    local good = directory .. "/good.tarn"
    tarn.save(good, "good")
    tarn.save(path, tarn.array("double", 200000)) -- a block that load would check in the background only
    local bytes = process.read_file(path)
    local function bad(text, expected)
      process.write_file(path, text)
      local run = inspect(path, good)
      assert.equal(1, run.code)
      assert.equal(1, #process.lines(run.err), run.err)
      says(run.err, path, expected)
      says(run.out, good, '"good"')
    end
    bad(bytes:sub(1, -2) .. "\1", "wrong checksum of block 0")
    bad(bytes:sub(1, 1000), "1000 bytes long where the header says")
    bad(bytes:sub(1, 20) .. "\255" .. bytes:sub(22), "wrong checksum of the header")
    bad("hello", "5 bytes are too few")
    bad("", "0 bytes are too few")
    bad(("hello"):rep(100), "not a tarn file")
    for _, case in ipairs { { directory, "not a file but a directory" }, { directory .. "/none", "No such file or directory" } } do
      local run = inspect(case[1])
      assert.equal(1, run.code)
      says(run.err, case[1], case[2])
    end
    local run = inspect()
    assert.equal(2, run.code)
    says(run.err, "which file?")
  end)
end)
