local block = require "tarn.block"
local core = require "tarn.core"
local ffi = require "ffi"
local lfs = require "lfs"
local process = require "spec.helper.process"
local fails = require "spec.helper.fails"

-- A view of a range, which lets go of it in the end.
local function range(file, offset, size)
  local hold = block.hold()
  core.raw_block(file, offset, size)
  hold.block = block.take()
  return hold
end

local function text(hold) return ffi.string(hold.block.data, hold.block.size) end

describe("a file of another format", function()
  it("is written from strings and pointers, and its ranges are blocks, small ones and mapped ones", function()
    local path = process.tmpdir() .. "/x"
    local bytes = ffi.new("uint8_t[200000]")
    for i = 0, 199999 do bytes[i] = i % 251 end
    core.raw_save(path, { "abc", ffi.cast("const void *", bytes), 200000, "", "def" })
    local file, size = core.raw_open(path)
    assert.are.equal(200006, size)
    local first, large, none = range(file, 0, 3), range(file, 64, 199000), range(file, 200006, 0)
    file = nil -- luacheck: ignore
    collectgarbage()
    assert.are.equal("abc", text(first))
    assert.are.equal("", text(none))
    assert.are.equal(ffi.string(bytes + 61, 199000), text(large))
    assert.are.equal(1, large.block.sealed)
    assert.are.equal(0, tonumber(ffi.cast("uintptr_t", large.block.data)) % 64)
  end)

  it("has no ranges outside, and must stay as it was", function()
    local path = process.tmpdir() .. "/x"
    process.write_file(path, ("x"):rep(100))
    local file = core.raw_open(path)
    for _, bad in ipairs { { 101, 0 }, { 0, 101 }, { 50, 51 }, { 2 ^ 52, 2 ^ 52 } } do
      local e = fails("Corrupt", core.raw_block, file, bad[1], bad[2])
      assert.is_truthy(e.message:find(path, 1, true))
    end
    assert.is_false(pcall(core.raw_block, file, -1, 5))
    process.write_file(path, ("x"):rep(101))
    assert.is_truthy(fails("IOError", core.raw_block, file, 0, 10).message:find("changed or replaced", 1, true))
  end)

  it("that is not there, or cannot be written, is named", function()
    local dir = process.tmpdir()
    assert.are.equal(dir .. "/none", fails("IOError", core.raw_open, dir .. "/none").path)
    fails("IOError", core.raw_open, dir)
    fails("IOError", core.raw_save, dir .. "/none/x", { "a" })
    fails("ArgumentError", core.raw_open, "")
  end)

  it("is replaced whole or not at all", function()
    local dir = process.tmpdir()
    process.write_file(dir .. "/x", "old")
    assert.is_false(pcall(core.raw_save, dir .. "/x", { "new", 5 }))
    assert.are.equal("old", process.read_file(dir .. "/x"))
    core.raw_save(dir .. "/x", { "new" })
    assert.are.equal("new", process.read_file(dir .. "/x"))
    local count = 0
    for name in lfs.dir(dir) do count = count + (name:match("^%.+$") and 0 or 1) end
    assert.are.equal(1, count)
  end)
end)
