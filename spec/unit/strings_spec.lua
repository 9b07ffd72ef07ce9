local core = require "tarn.core"
local errors = require "tarn.errors"
local strings = require "tarn.strings"

local function back(x) return core.decode(core.encode(x)) end

local function refused(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(errors.iserror(e, "ArgumentError"), tostring(e))
  assert.is_truthy(e.message:find("strings_spec.lua:%d+: "), e.message)
end

describe("strings", function()
  it("hold texts and bytes, empty ones, and missing ones", function()
    local list = { "a", nil, "", "b\0\xff", ("x"):rep(1000), n = 7 }
    for _, s in ipairs { strings(list), back(strings(list)) } do
      assert.are.equal(7, #s)
      for i = 1, 7 do assert.are.equal(list[i], s[i]) end
      assert.are.same(list, s:totable())
    end
    assert.are.equal(3, #strings { "a", nil, "b" })
    assert.are.equal(0, #strings {})
    assert.are.equal(0, #back(strings {}))
    assert.are.equal(2, #back(strings { n = 2 }))
  end)

  it("give nil outside 1..n and for what is no index", function()
    local s = strings { "a", "b" }
    for _, i in ipairs { 0, -1, 3, 1.5, 2 ^ 60, 0 / 0, 1 / 0 } do
      assert.is_nil(s[i])
      assert.is_nil(s:hash(i))
      assert.is_nil(s:ptr(i))
    end
    assert.is_nil(s.nothing)
    assert.are.equal("b", s[2LL])
  end)

  it("are gone over by index, holes included", function()
    local seen = {}
    for i, v in ipairs(strings { "a", nil, "c", n = 4 }) do seen[#seen + 1] = i .. "=" .. tostring(v) end
    assert.are.equal("1=a 2=nil 3=c 4=nil", table.concat(seen, " "))
  end)

  it("compare, hash and are found without making strings", function()
    local s = strings { "one", "two", nil, "one", "", n = 5 }
    assert.is_true(s:eq(1, "one"))
    assert.is_false(s:eq(1, "on"))
    assert.is_false(s:eq(1, "onE"))
    assert.is_true(s:eq(5, ""))
    assert.is_false(s:eq(3, ""))
    assert.are.equal(s:hash(1), s:hash(4))
    assert.are_not.equal(s:hash(1), s:hash(2))
    assert.are.equal(2, s:find("two"))
    assert.are.equal(4, s:find("one", 2))
    assert.is_nil(s:find("three"))
    assert.is_true(s:missing(3))
    assert.is_false(s:missing(5))
    assert.is_false(s:missing(6))
    local p, size = s:ptr(2)
    assert.are.equal("two", require("ffi").string(p, size))
  end)

  it("cannot be changed, and are made of strings only", function()
    local s = strings { "a" }
    refused(function() s[1] = "b" end)
    refused(strings, { "a", 5 })
    refused(strings, "a")
    refused(strings, { n = -1 })
    refused(strings, { n = 0.5 })
    refused(strings.from, 5)
    refused(function() strings.builder():add(5) end)
  end)

  it("are built one after another, and from iterators", function()
    local b = strings.builder()
    local expected = { n = 5000 }
    for i = 1, 5000 do
      local text = i % 7 ~= 0 and ("text " .. i):rep(i % 11) or nil
      expected[i] = text
      b:add(text)
    end
    local s = b:finish()
    assert.are.same(expected, s:totable())
    assert.are.same(expected, back(s):totable())
    b:add("again")
    assert.are.same({ "again", n = 1 }, b:finish():totable())
    assert.are.equal(0, #strings.builder():finish())
    b:add("")
    assert.are.same({ "", n = 1 }, b:finish():totable())
    assert.are.same({ "a", "bc", n = 2 }, strings.from(("a bc"):gmatch("%S+")):totable())
  end)

  it("of chunks larger than the builder's", function()
    local b = strings.builder()
    local big = ("y"):rep(300000)
    b:add("x")
    b:add(big)
    b:add("z")
    local s = b:finish()
    assert.is_true(s[1] == "x" and s[2] == big and s[3] == "z")
  end)

  it("count their blob and offsets", function()
    assert.are.equal(4 * 4 + 6, (core.approx_size(strings { "ab", "cd", "ef" })))
    assert.are.equal(4 * 4 + 2 + 1, (core.approx_size(strings { "ab", n = 3 })))
  end)

  it("whose blob is too large for 32-bit offsets have 64-bit ones", function()
    local list = { "a", nil, "", ("y"):rep(100), "b", n = 5 }
    local narrow = strings._narrow_max
    strings._narrow_max = 50
    finally(function() strings._narrow_max = narrow end)
    local s = strings(list)
    local _, width = s:buffers()
    assert.are.equal(8, width)
    for _, each in ipairs { s, back(s), s:slice(1), s:copy(), s:take { 1, 2, 3, 4, 5 } } do
      assert.are.same(list, each:totable())
      assert.are.equal(5, each:find("b"))
      assert.are.same({ 3, 1, 5, 4, 2 }, each:argsort():totable())
      assert.are.equal(6 * 8 + 102 + 1, each:nbytes())
    end
    assert.are.equal(4, select(2, s:slice(1, 3):copy():buffers()))
    local b = strings.builder()
    for i = 1, 5 do b:add(list[i]) end
    s = b:finish()
    assert.are.equal(8, select(2, s:buffers()))
    assert.are.same(list, s:totable())
  end)

  it("have slices that share their bytes, and travel as little as they are", function()
    local list = {}
    for i = 1, 1000 do list[i] = "element number " .. i end
    local s = strings(list)
    assert.is_true(#core.encode { s, s:slice(1, 600), s:slice(300) } < #core.encode(s) + 300)
    assert.is_true(#core.encode(s:slice(500, 510)) < 600)
    assert.are.equal("element number 505", back(s:slice(500, 510))[6])
    local kept = s:slice(999)
    s = nil -- luacheck: ignore
    collectgarbage()
    assert.are.equal("element number 1000", kept[2])
  end)

  it("print themselves shortly", function()
    assert.are.equal('strings (3): "a", nil, "b"', tostring(strings { "a", nil, "b" }))
    assert.is_true(#tostring(strings { ("x"):rep(10000), n = 100 }) < 200)
  end)

  it("keep their identity, and live as long as a view of them", function()
    local s = strings { "a", "b" }
    local t = back { s, s }
    assert.is_true(rawequal(t[1], t[2]))
    local kept = t[1]
    t, s = nil, nil -- luacheck: ignore
    collectgarbage()
    assert.are.equal("b", kept[2])
  end)
end)

describe("strings, read from outside", function()
  it("with wrong offsets are Corrupt where they are read, and never read elsewhere", function()
    local good = core.encode(strings { "abc", nil, "defg", "h", n = 4 })
    local seed = tonumber(os.getenv("TARN_SEED")) or os.time()
    math.randomseed(seed)
    local bad = 0
    for _ = 1, 3000 do
      local at = math.random(#good)
      local ok, s = pcall(core.decode, good:sub(1, at - 1) .. string.char(math.random(0, 255)) .. good:sub(at + 1), { code = false })
      if ok and strings.is(s) then
        for i = 1, math.min(#s, 100) do
          for _, read in ipairs { function() return s[i] end, function() return s:eq(i, "abc") end, function() return s:hash(i) end } do
            local fine, e = pcall(read)
            if not fine then
              assert.is_true(errors.iserror(e, "Corrupt"), ("seed %d: %s"):format(seed, tostring(e)))
              bad = bad + 1
            end
          end
        end
      elseif not ok then
        assert.is_true(errors.iserror(s), ("seed %d: %s"):format(seed, tostring(s)))
      end
    end
    assert.is_true(bad > 0)
  end)
end)
