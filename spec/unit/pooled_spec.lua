local core = require "tarn.core"
local errors = require "tarn.errors"
local pooled = require "tarn.pooled"

local function back(x) return core.decode(core.encode(x)) end

local function refused(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(errors.iserror(e, "ArgumentError"), tostring(e))
  assert.is_truthy(e.message:find("pooled_spec.lua:%d+: "), e.message)
end

describe("pooled", function()
  it("keeps each value once, in order of appearance", function()
    local c = pooled { "x", "y", nil, "x", "", n = 6 }
    assert.are.same({ "x", "y", nil, "x", "", n = 6 }, c:totable())
    assert.are.same({ "x", "y", "", n = 3 }, c.values:totable())
    assert.are.same({ 0, 1, 0, 0, 2, 0 }, c.codes:totable())
    assert.are.equal('pooled (6 of 3 values): "x", "y", nil, "x", "", nil', tostring(c))
    assert.are.equal(1, c:code("y"))
    assert.is_nil(c:code("z"))
    assert.is_true(c:eq(1, "x"))
    assert.is_false(c:eq(1, "z"))
    assert.is_false(c:eq(3, "x"))
    assert.is_true(c:eq(3, nil))
    assert.are.same({ 1, 2.5, n = 2 }, pooled({ 1, 2.5 }):totable())
    assert.are.equal(0, #pooled {})
    assert.are.same({ n = 2 }, back(pooled { n = 2 }):totable())
  end)

  it("takes the smallest type of codes, whether built from a list, one by one or from a column", function()
    for _, case in ipairs { { 1, "uint8_t" }, { 256, "uint8_t" }, { 257, "uint16_t" }, { 65536, "uint16_t" }, { 65537, "uint32_t" } } do
      local count, text = case[1], case[2]
      local list, expected = { n = count + 30 }, { n = count + 30 }
      for i = 1, count + 30 do
        if i % 7 ~= 0 or i > count then list[i] = "value " .. (i - 1) % count end
      end
      for i = 7, count, 7 do list[i] = "value " .. i - 1 end -- all of them appear
      list[count + 5] = nil
      for i = 1, list.n do expected[i] = list[i] end
      for _, c in ipairs { pooled(list), pooled(tarn.strings(list)), back(pooled(list)) } do
        assert.are.equal(text, c.codes.ctype)
        assert.are.equal(count, #c.values)
        for i = 1, list.n do
          if c[i] ~= expected[i] then error(("%d values: element %d is %s"):format(count, i, tostring(c[i]))) end
        end
        assert.are.equal(list.n - 1, c:valid_count())
      end
    end
  end)

  it("is built one after another, from the first missing one to the last", function()
    local b, expected = pooled.builder(), { n = 5000 }
    for i = 1, 5000 do
      expected[i] = i > 3000 and i % 5 ~= 0 and "v" .. i % 400 or i <= 3000 and "w" .. i % 9 or nil
      b:add(expected[i])
    end
    local c = b:finish()
    assert.are.same(expected, c:totable())
    b:add("again")
    assert.are.same({ "again", n = 1 }, b:finish():totable())
    assert.are.equal(0, #pooled.builder():finish())
  end)

  it("of a column makes no values of missing ones", function()
    local c = pooled(tarn.nullable("int64_t", { 5LL, nil, 7LL, 5LL, nil }))
    assert.are.equal("int64_t", c.values.ctype)
    assert.are.equal(2, #c.values)
    assert.is_true(c[4] == 5LL and c[5] == nil and c:code(7) == 1)
    c = pooled(tarn.strings { nil, "a", nil, "b", "a", n = 5 })
    assert.is_nil(c.values:validity())
    assert.are.same({ nil, "a", nil, "b", "a", n = 5 }, back(c):totable())
    assert.is_nil(pooled(tarn.strings { "a" }):validity())
    assert.are.equal(c, pooled(c))
  end)

  it("shares its values among its parts", function()
    local c = pooled { "a", "b", "a", "c" }
    local t = back { c, c:slice(2), c:take { 4, 1 } }
    assert.is_true(rawequal(t[1].values, t[2].values) and rawequal(t[1].values, t[3].values))
    assert.are.same({ "b", "a", "c", n = 3 }, t[2]:totable())
    assert.are.same({ "c", "a", n = 2 }, t[3]:totable())
    local other = pooled { "b", "z" }
    assert.are.equal(0, c:compare(2, 1, other))
    assert.are.equal(-1, c:compare(1, 1, other))
    assert.are.equal(-1, c:compare(4, 2, other))
  end)

  it("knows NaN, and counts codes and values", function()
    local c = pooled { 0 / 0, 1, 0 / 0 }
    assert.are.equal(2, #c.values)
    assert.is_true(c[3] ~= c[3] and c:eq(3, 0 / 0) and not c:eq(2, 0 / 0))
    assert.are.equal(3 + 16, (core.approx_size(c)))
    assert.are.equal(3 + 1 + 3 * 4 + 2, (core.approx_size(pooled { "a", nil, "b" })))
  end)

  it("cannot be changed, and is made of one kind of value", function()
    local c = pooled { "a" }
    refused(function() c[1] = "a" end)
    refused(pooled, { 1, "x" })
    refused(pooled, { "x", true })
    refused(pooled, { {} })
    refused(pooled, "x")
    refused(pooled)
    refused(pooled, { n = 0.5 })
    refused(pooled, tarn.bits(3))
    refused(pooled, tarn.array("struct { int32_t x; }", 2))
    refused(function() pooled.builder():add({}) end)
  end)
end)
