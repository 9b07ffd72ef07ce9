local core = require "tarn.core"
local errors = require "tarn.errors"
local nullable = require "tarn.nullable"

local function back(x) return core.decode(core.encode(x)) end

local function refused(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(errors.iserror(e, "ArgumentError"), tostring(e))
  assert.is_truthy(e.message:find("nullable_spec.lua:%d+: "), e.message)
end

describe("nullable", function()
  it("shares the array and the bits that it is made of", function()
    local values, there = tarn.array("double", { 1, 2, 3 }), tarn.bits { true, false, true }
    local c = nullable(values, there)
    assert.are.same({ 1, nil, 3, n = 3 }, c:totable())
    c[2] = 5
    assert.are.equal(5, values[2])
    assert.is_true(there[2])
    c[1] = nil
    assert.is_false(there[1])
    values[3] = 7
    assert.are.same({ nil, 5, 7, n = 3 }, c:totable())
    assert.are.equal(7, c.values[3])
    assert.are.equal("nullable double (3): nil, 5, 7", tostring(c))
    assert.are.equal("double", c.ctype)
    values, there = nil, nil -- luacheck: ignore
    collectgarbage()
    assert.are.equal(7, c[3])
  end)

  it("is made of a type and elements too", function()
    assert.are.same({ n = 3 }, nullable("int8_t", 3):totable())
    assert.are.same({ 1, nil, 3, n = 3 }, nullable("int8_t", { 1, nil, 3 }):totable())
    assert.are.same({ true, nil, false, n = 4 }, nullable("bits", { true, nil, false, n = 4 }):totable())
    assert.are.same({ 1, 2, n = 2 }, nullable(tarn.array("float", { 1, 2 })):totable())
    assert.are.same({ nil, 2, n = 2 }, nullable(tarn.array("float", { 1, 2 }), { false, true }):totable())
    local c = nullable("int64_t", { 5LL, nil, 7 })
    assert.is_true(c[1] == 5LL and c[2] == nil and c[3] == 7LL)
  end)

  it("of structs and of slices", function()
    local c = nullable("struct { int32_t a; struct { double d[2]; } in; }", 3)
    c[2] = { 5, { { 1, 2 } } }
    for _, each in ipairs { c, back(c), c:copy() } do
      assert.is_nil(each[1])
      assert.are.equal(2, each[2]["in"].d[1])
      assert.are.equal(1, each:valid_count())
    end
    local a, b = tarn.array("int16_t", 20), tarn.bits(20)
    for i = 1, 20 do
      a[i], b[i] = i, i % 3 == 0
    end
    local part = nullable(a:slice(4, 15), b:slice(4, 15))
    assert.are.same({ nil, nil, 6, nil, nil, 9, n = 12 }, { part[1], part[2], part[3], part[4], part[5], part[6], n = #part })
    assert.are.equal(9, back(part:slice(2))[5])
  end)

  it("refuses nonsense", function()
    refused(nullable, tarn.array("double", 3), tarn.bits(2))
    refused(nullable, tarn.array("double", 3), 5)
    refused(nullable, tarn.array("double", 3), { 1, 2, 3 })
    refused(nullable, tarn.strings { "a" })
    refused(nullable, {})
    refused(nullable)
    refused(nullable, "double", "x")
    refused(nullable, "double", -1)
    refused(nullable, "char *", 1)
    local c = nullable("double", 3)
    refused(function() c[1] = "x" end)
    refused(function() c[4] = nil end)
    refused(function() nullable("bits", 1)[1] = 5 end)
    assert.is_nil(c[1])
  end)

  it("that is sealed cannot be written", function()
    local c = nullable("double", { 1, nil, 3 })
    local ref = tarn.poolset(c)
    refused(function() c[1] = 5 end)
    refused(function() c[1] = nil end)
    assert.is_true(c.sealed)
    local copy = tarn.poolget(ref):copy()
    copy[1] = nil
    assert.are.same({ 1, nil, 3, n = 3 }, c:totable())
    tarn.pooldelete(ref)
  end)
end)
