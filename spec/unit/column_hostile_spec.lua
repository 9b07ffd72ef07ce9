-- Columns out of bytes that nobody vouches for: damaged at random, and made wrong on purpose in each place. Whatever is read ends in the
-- elements or in an error of tarn's; nothing outside of the blocks is touched (the sanitized run of this file would see it).
local columns = require "spec.helper.columns"
local core = require "tarn.core"
local errors = require "tarn.errors"

local function refused(name, parts)
  local ok, e = pcall(core.decode, columns.forge(name, parts), { code = false })
  assert.is_false(ok)
  assert.is_true(errors.iserror(e, "Corrupt"), tostring(e))
  assert.is_truthy(e.message:find(name, 1, true), e.message)
end

local function accepted(name, parts) return core.decode(columns.forge(name, parts), { code = false }) end

-- Everything that can be asked of a column.
local function use(c)
  local tries = {
    function() for i = 1, math.min(#c, 300) do local _ = c[i] end end,
    function() return tostring(c) end,
    function() return c:nbytes(), c:valid_count(), c:validity() end,
    function() return c:copy()[1] end,
    function() return c:slice(1, math.min(#c, 9)):copy()[1] end,
    function() return c:take { 1, #c } end,
    function() return c:argsort() end,
    function() return c:argsort(nil, true) end,
    function() return c:group() end,
    function() return tarn.pooled(c) end,
    function() return c:find(c[#c]) end,
    function() return c:find("abc") end,
    function()
      for i = 1, math.min(#c, 50) do
        c:hash(i)
        c:compare(i, #c - i + 1)
        c:eq(i, c[1])
      end
    end,
    function() return core.decode(core.encode(c)) end,
  }
  for _, try in ipairs(tries) do
    local ok, e = pcall(try)
    if not ok and not errors.iserror(e) then error(e, 0) end
  end
end

describe("columns out of damaged bytes", function()
  it("give elements or errors, whatever byte was changed", function()
    math.randomseed(columns.seed)
    local damaged, read = 0, 0
    for _, kind in ipairs(columns.kinds) do
      local good = core.encode(kind.make(columns.list(kind, 40)))
      for _ = 1, 150 do
        local at = math.random() < 0.5 and math.random(math.min(#good, 200)) or math.random(#good)
        local bad = good:sub(1, at - 1) .. string.char(math.random(0, 255)) .. good:sub(at + 1)
        local ok, c = pcall(core.decode, bad, { code = false })
        if not ok then
          damaged = damaged + 1
          if not errors.iserror(c) then error(("TARN_SEED=%d, %s: %s"):format(columns.seed, kind.name, tostring(c)), 0) end
        elseif require("tarn.column").kind(c) then
          read = read + 1
          local fine, e = pcall(use, c)
          if not fine then error(("TARN_SEED=%d, %s, byte %d: %s"):format(columns.seed, kind.name, at, tostring(e)), 0) end
        end
      end
    end
    assert.is_true(damaged > 100 and read > 100)
  end)

  it("are refused where they are cut off", function()
    math.randomseed(columns.seed)
    for _, kind in ipairs(columns.kinds) do
      local good = core.encode(kind.make(columns.list(kind, 9)))
      for size = 0, #good - 1, 7 do assert.is_false((pcall(core.decode, good:sub(1, size), { code = false }))) end
    end
  end)
end)

local not_whole = { -1, 0.5, 0 / 0, 1 / 0, 2 ^ 60, "8", false, {} }

describe("bits out of wrong parts", function()
  it("are refused", function()
    local block = { block = "\1\2" }
    assert.are.equal(16, #accepted("bits", { 16, 0, block }))
    assert.are.equal(3, #accepted("bits", { 3, 13, block }))
    refused("bits", { 17, 0, block })
    refused("bits", { 16, 1, block })
    refused("bits", { 0, 17, block })
    refused("bits", { 1, 0 })
    refused("bits", { 1, 0, 5 })
    for _, x in ipairs(not_whole) do
      refused("bits", { x, 0, block })
      refused("bits", { 1, x, block })
    end
  end)
end)

describe("strings out of wrong parts", function()
  local offsets, blob = { block = "\0\0\0\0\1\0\0\0\3\0\0\0" }, { block = "abc" }
  local wide = { block = ("\0"):rep(8) .. "\1" .. ("\0"):rep(7) .. "\3" .. ("\0"):rep(7) }

  local function parts(n, width, offsets_at, blob_at, blob_size, validity, o, b)
    return { n, width, offsets_at, blob_at, blob_size, validity, o or offsets, b or blob, n = 8 }
  end

  it("are refused", function()
    assert.are.same({ "a", "bc", n = 2 }, accepted("strings", parts(2, 4, 0, 0, 3)):totable())
    assert.are.same({ "a", "bc", n = 2 }, accepted("strings", parts(2, 8, 0, 0, 3, nil, wide)):totable())
    assert.are.same({ "bc", n = 1 }, accepted("strings", parts(1, 4, 4, 0, 3)):totable())
    assert.are.same({ nil, "bc", n = 2 }, accepted("strings", parts(2, 4, 0, 0, 3, tarn.bits { false, true })):totable())
    refused("strings", parts(3, 4, 0, 0, 3))
    refused("strings", parts(2, 4, 4, 0, 3))
    refused("strings", parts(1, 4, 2, 0, 3))
    refused("strings", parts(2, 8, 0, 0, 3))
    refused("strings", parts(1, 8, 4, 0, 3, nil, wide))
    refused("strings", parts(2, 4, 0, 0, 4))
    refused("strings", parts(2, 4, 0, 1, 3))
    for _, width in ipairs { 0, 1, 2, 16, -4, "4", 4.5 } do refused("strings", parts(2, width, 0, 0, 3)) end
    for _, x in ipairs(not_whole) do
      refused("strings", parts(x, 4, 0, 0, 3))
      refused("strings", parts(2, 4, x, 0, 3))
      refused("strings", parts(2, 4, 0, x, 3))
      refused("strings", parts(2, 4, 0, 0, x))
    end
    refused("strings", parts(2, 4, 0, 0, 3, tarn.bits(3)))
    refused("strings", parts(2, 4, 0, 0, 3, tarn.array("double", 2)))
    refused("strings", parts(2, 4, 0, 0, 3, 5))
    refused("strings", { 2, 4, 0, 0, 3, nil, offsets, n = 7 })
  end)

  it("whose offsets are wrong say so where they are read, by every way", function()
    for _, bytes in ipairs { "\2\0\0\0\1\0\0\0\3\0\0\0", "\0\0\0\0\4\0\0\0\3\0\0\0", "\0\0\0\0\1\0\0\0\xff\xff\xff\xff" } do
      local s = accepted("strings", parts(2, 4, 0, 0, 3, nil, { block = bytes }))
      for _, fn in ipairs { s.copy, s.argsort, s.group, function(x) return x:find("zz") end, function(x) return x:take { 1, 2 } end,
        function(x) return x:totable() end, function(x) return x:hash(1), x:hash(2) end, function(x) return x:compare(1, 2) end,
        tarn.pooled } do
        local ok, e = pcall(fn, s)
        assert.is_false(ok)
        assert.is_true(errors.iserror(e, "Corrupt"), tostring(e))
        assert.is_truthy(e.message:find("strings", 1, true))
      end
      assert.is_true(s:nbytes() <= 15)
    end
  end)
end)

describe("nullable columns out of wrong parts", function()
  it("are refused", function()
    local values, there = tarn.array("double", 3), tarn.bits(3)
    assert.are.equal(3, #accepted("nullable", { values, there }))
    assert.are.equal(3, #accepted("nullable", { there, there }))
    refused("nullable", { values, tarn.bits(2) })
    refused("nullable", { values, values })
    refused("nullable", { values, 5 })
    refused("nullable", { values })
    refused("nullable", { 5, there })
    refused("nullable", { tarn.strings { "a", "b", "c" }, there })
    refused("nullable", { tarn.nullable(values), there })
  end)
end)

describe("pooled columns out of wrong parts", function()
  local codes, values = tarn.array("uint8_t", { 0, 1, 0 }), tarn.strings { "a", "b" }

  it("are refused", function()
    assert.are.equal(3, #accepted("pooled", { codes, values, nil, n = 3 }))
    assert.are.equal(1, accepted("pooled", { codes, values, tarn.bits { false, true, false } }):valid_count())
    refused("pooled", { codes, values, tarn.bits(2) })
    refused("pooled", { codes, values, codes })
    refused("pooled", { codes, codes, 7 })
    refused("pooled", { codes, tarn.strings { "a", nil, "b", n = 3 }, nil, n = 3 })
    refused("pooled", { codes, tarn.pooled { "a" }, nil, n = 3 })
    refused("pooled", { codes, { "a", "b" }, nil, n = 3 })
    refused("pooled", { tarn.array("int8_t", 3), values, nil, n = 3 })
    refused("pooled", { tarn.array("double", 3), values, nil, n = 3 })
    refused("pooled", { values, values, nil, n = 3 })
    refused("pooled", { codes, tarn.array("struct { int32_t x; }", 2), nil, n = 3 })
    refused("pooled", { codes, values })
  end)

  it("whose codes or values are wrong say so where they are read", function()
    local c = accepted("pooled", { tarn.array("uint8_t", { 0, 2, 255 }), values, nil, n = 3 })
    assert.are.equal("a", c[1])
    for _, fn in ipairs { function() return c[2] end, function() return c[3] end, function() return c:argsort() end } do
      local ok, e = pcall(fn)
      assert.is_false(ok)
      assert.is_true(errors.iserror(e, "Corrupt"), tostring(e))
    end
    local twice = accepted("pooled", { codes, tarn.strings { "a", "a" }, nil, n = 3 })
    local uses = { function() return twice:eq(1, "a") end, function() return twice:group() end, function() return twice:argsort() end }
    for _, fn in ipairs(uses) do
      local ok, e = pcall(fn)
      assert.is_false(ok)
      assert.is_true(errors.iserror(e, "Corrupt"), tostring(e))
    end
  end)
end)
