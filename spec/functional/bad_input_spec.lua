-- What a user can get wrong on the command line and in a data file: one line that says what, and the right exit status.
local process = require "spec.helper.process"

-- Runs tarn; expects this exit status, nothing on standard output and a single line on standard error, which it returns.
local function one_line(status, args, opts)
  local result = process.run_tarn(args, opts)
  assert.equal("", result.out)
  assert.equal(1, #process.lines(result.err), "one line, not: " .. result.err)
  assert.equal(status, result.code, result.err)
  return result.err
end

local function assert_names(text, ...)
  for _, part in ipairs { ... } do
    assert.is_truthy(text:find(part, 1, true), ("'%s' does not name '%s'"):format(text, part))
  end
end

describe("the command line", function()
  it("names a script that does not exist", function()
    assert_names(one_line(2, { "no-such-script.lua" }), "no-such-script.lua")
  end)

  it("names an unknown option", function()
    assert_names(one_line(2, { "--frobnicate" }), "--frobnicate")
    assert_names(one_line(2, { "-Z", "-e", "print(1)" }), "-Z")
  end)

  it("names a size that cannot be parsed", function()
    for _, size in ipairs { "10XB", "", "MB", "-1MB", "0", "1e999", "12 monkeys" } do
      assert_names(one_line(2, { "-m", size, "-e", "print(1)" }), size)
    end
  end)

  it("names a count of processes that is none", function()
    for _, count in ipairs { "0", "-1", "x", "1.5" } do
      assert_names(one_line(2, { "-p", count, "-e", "print(1)" }), count)
    end
  end)

  it("says when an option lacks its value", function()
    assert_names(one_line(2, { "-m" }), "-m")
    assert_names(one_line(2, { "-p" }), "-p")
    assert_names(one_line(2, { "-e" }), "-e")
  end)

  it("prints its version and its options", function()
    local version = process.run_tarn { "-v" }
    assert.equal(0, version.code)
    assert.is_truthy(version.out:match("^tarn %d+%.%d+%.%d+"))
    local help = process.run_tarn { "-h" }
    assert.equal(0, help.code)
    assert_names(help.out, "usage: tarn", "-p", "-m", "-d", "-e")
  end)

  it("reports a script that does not compile with its position, and exits 1", function()
    local result = process.run_script("local x = = 1\n")
    assert.equal(1, result.code)
    assert_names(result.err, "driver.lua:1:")
  end)
end)

describe("addprocs", function()
  it("refuses counts that are none", function()
    local result = process.run_script [[
      for _, n in ipairs { 0, -1, "x", 1.5, 0/0, {} } do
        local ok, err = pcall(tarn.addprocs, n)
        print(ok, tarn.iserror(err, "ArgumentError"))
      end
      print(#tarn.workers())
    ]]
    assert.equal(("false\ttrue\n"):rep(6) .. "0\n", result.out, result.err)
    assert.equal(0, result.code)
  end)

  it("refuses a size that cannot be parsed", function()
    local result = process.run_script [[
      local ok, err = pcall(tarn.addprocs, 1, { memory = "10XB" })
      print(ok, tarn.iserror(err, "ArgumentError"), tostring(err):find("10XB", 1, true) ~= nil, #tarn.workers())
    ]]
    assert.equal("false\ttrue\ttrue\t0\n", result.out, result.err)
  end)

  it("says so when the worker's program dies at its start, and leaves none behind", function()
    -- Workers get a library path on which libuv is no library: the program ends before it has begun.
    local cwd = process.tmpdir()
    process.write_file(cwd .. "/libuv.so.1", "no library")
    local result = process.run_script([[
      local ok, err = pcall(tarn.addprocs, 2, { env = { LD_LIBRARY_PATH = "." } })
      print(ok, type(err) == "table" and err.kind, #tarn.workers())
      print(tostring(err))
    ]], { cwd = cwd, timeout_s = 20 })
    assert.equal(0, result.code, result.err)
    assert.is_truthy(result.out:match("^false\t%a+\t0\n"), result.out .. result.err)
    assert_names(result.out, "127")
  end)

  it("says so when a worker's init fails, and leaves none behind", function()
    local result = process.run_script([[
      local ok, err = pcall(tarn.addprocs, 2, { init = "error('cannot begin')" })
      print(ok, type(err) == "table" and err.kind, #tarn.workers())
      print(tostring(err))
    ]], { timeout_s = 20 })
    assert.equal(0, result.code, result.err)
    assert.is_truthy(result.out:match("^false\t%a+\t0\n"), result.out .. result.err)
    assert_names(result.out, "cannot begin")
  end)
end)

describe("the demo", function()
  local HEADER = "date,delay,distance,origin,destination\n"
  local GOOD = "2001/01/01 00:47,66,1750,DTW,LAS\n"

  local function demo(text)
    local cwd = process.tmpdir()
    local path = process.write_file(cwd .. "/data.csv", text)
    return one_line(1, { process.root .. "/examples/flights.lua", path, "--workers", "2", "--repeat", "1" }, { cwd = cwd })
  end

  it("names the file that it cannot open", function()
    assert_names(one_line(1, { process.root .. "/examples/flights.lua", "no-such.csv" }), "no-such.csv")
  end)

  it("names file, line and column for an empty file and one without rows", function()
    assert_names(demo "", "data.csv", "line 1", "'date'", "empty")
    assert_names(demo(HEADER), "data.csv", "line 2", "'date'")
  end)

  it("names file, line and column for a missing column", function()
    assert_names(demo "date,delay,distance,origin\n2001/01/01 00:47,66,1750,DTW\n", "data.csv", "line 1", "'destination'")
    assert_names(demo("date,late,distance,origin,destination\n" .. GOOD), "data.csv", "line 1", "'delay'")
  end)

  it("names file, line and column for a short line", function()
    assert_names(demo(HEADER .. GOOD .. "2001/01/01 00:48,7\n" .. GOOD), "data.csv", "line 3", "'distance'")
    assert_names(demo(HEADER .. GOOD .. "\n" .. GOOD), "data.csv", "line 3", "'delay'")
    assert_names(demo(HEADER .. GOOD .. GOOD .. "2001/01/01 00:48,7,8,ABE"), "data.csv", "line 4", "'destination'")
  end)

  it("names file, line and column for what is no number or date", function()
    assert_names(demo(HEADER .. GOOD .. "2001/01/01 00:48,late,8,ABE,ATL\n"), "data.csv", "line 3", "'delay'", "late")
    assert_names(demo(HEADER .. "2001/01/01 00:48,7,,ABE,ATL\n"), "data.csv", "line 2", "'distance'")
    assert_names(demo(HEADER .. "yesterday,7,8,ABE,ATL\n"), "data.csv", "line 2", "'date'", "yesterday")
  end)

  it("finds a bad line far into a large file, by its number", function()
    assert_names(demo(HEADER .. GOOD:rep(70000) .. "2001/01/01 00:48,7,x,ABE,ATL\n" .. GOOD), "data.csv", "line 70002", "'distance'")
  end)
end)
