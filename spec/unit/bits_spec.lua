local bits = require "tarn.bits"
local columns = require "spec.helper.columns"
local errors = require "tarn.errors"

local function refused(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(errors.iserror(e, "ArgumentError"), tostring(e))
  assert.is_truthy(e.message:find("bits_spec.lua:%d+: "), e.message)
end

describe("bits", function()
  it("are false at first, take an eighth of a byte each, and are written one by one", function()
    local b = bits(20)
    assert.are.equal(0, b:count())
    assert.are.equal(3, b:nbytes())
    b[1], b[8], b[9], b[20] = true, true, true, true
    b[8] = false
    assert.are.same({ 1, 9, 20 }, b:which():totable())
    assert.are.equal("bits (20): true, false, false, false, false, false, false, false, ...", tostring(b))
    assert.are.equal(0, #bits(0))
    assert.are.equal(0, #bits {})
  end)

  it("are counted, found, filled and listed wherever they begin", function()
    math.randomseed(columns.seed)
    for round = 1, 300 do
      local n = math.random(0, 300)
      local all, list = bits(n), { n = n }
      local density = math.random()
      for i = 1, n do
        list[i] = math.random() < density
        all[i] = list[i]
      end
      local i = math.random(1, n + 1)
      local j = math.random(i - 1, n)
      local b, part = all:slice(i, j), columns.slice(list, i, j)
      local count, which = 0, {}
      for k = 1, part.n do
        if part[k] then
          count = count + 1
          which[count] = k
        end
      end
      local what = ("TARN_SEED=%d, round %d"):format(columns.seed, round)
      assert.are.equal(count, b:count(), what)
      assert.are.same(which, b:which():totable(), what)
      assert.are.equal(count > 0, b:any(), what)
      assert.are.equal(count == part.n, b:all(), what)
      local from, value = math.random(-2, part.n + 3), math.random(2) == 1
      local first
      for k = part.n, math.max(from, 1), -1 do
        if part[k] == value then first = k end
      end
      assert.are.equal(first, b:find(value, from), what)
      columns.check(b:copy(), part)
      -- Filling a part touches nothing beside it.
      if part.n > 0 then
        local x = math.random(part.n)
        local y = math.random(x - 1, part.n)
        b:fill(value, x, y)
        for k = i + x - 1, i + y - 1 do list[k] = value end
        columns.check(all, list)
      end
    end
  end)

  it("refuse nonsense", function()
    refused(bits, -1)
    refused(bits, 1.5)
    refused(bits, "x")
    refused(bits)
    refused(bits, { true, 1 })
    local b = bits(3)
    refused(function() b[1] = 1 end)
    refused(function() b[1] = nil end)
    refused(b.fill, b, 1)
    refused(b.fill, b, true, 0)
    refused(b.fill, b, true, 1, 4)
    refused(b.find, b, true, 1.5)
    refused(b.count)
    assert.is_nil(b:find(5))
  end)

  it("that are sealed are not written; a copy is", function()
    local b = bits { true, false }
    require("ffi").cdef "void tarn_block_seal(tarn_block_t *b);"
    require("ffi").C.tarn_block_seal(b.block)
    refused(function() b[2] = true end)
    refused(b.fill, b, true)
    assert.is_true(b.sealed)
    local c = b:copy()
    c[2] = true
    assert.are.same({ true, true }, c:totable())
    assert.is_false(b[2])
  end)

  it("choose the elements of other columns", function()
    local s = tarn.strings { "a", "b", "c" }
    assert.are.same({ "a", "c", n = 2 }, s:take(bits({ true, false, true }):which()):totable())
  end)
end)
