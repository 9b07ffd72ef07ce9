local ffi = require "ffi"
local core = require "tarn.core"
local array = require "tarn.array"
local bytes = require "spec.helper.bytes"
local fails = require "spec.helper.fails"
local hex, unhex = bytes.hex, bytes.unhex

local function back(x) return core.decode(core.encode(x)) end

local function corrupt(text) return fails("Corrupt", core.decode, unhex(text)) end

describe("codec: scalars", function()
  it("come back as they were", function()
    for _, x in ipairs { true, false, 0, 1, -1, 127, 128, -32, -33, -128, -129, 255, 256, -32768, -32769, 65535, 65536, 2 ^ 31, -2 ^ 31 - 1,
      2 ^ 32, -4294967297, 2 ^ 53, -2 ^ 53, 2 ^ 53 + 2, 2 ^ 63, -2 ^ 63, 2 ^ 64, 1e300, -1e-300, 0.1, 1 / 0, -1 / 0, "", "x", "a\0b" } do
      assert.are.equal(x, back(x))
    end
    assert.is_nil(back(nil))
    local nan = back(0 / 0)
    assert.is_true(nan ~= nan)
    assert.are.equal(-1 / 0, 1 / back(-0.0))
    assert.are.equal(1 / 0, 1 / back(0))
  end)

  it("are ordinary MessagePack", function()
    for text, x in pairs { ["c0"] = "nil", ["c3"] = true, ["2a"] = 42, ["e0"] = -32, ["d1ff7f"] = -129, ["cd0100"] = 256,
      ["d3fffffffeffffffff"] = -4294967297, ["cb3ff8000000000000"] = 1.5, ["a26869"] = "hi", ["c402c328"] = "\xc3\x28",
      ["cb8000000000000000"] = -0.0, ["cf0020000000000000"] = 2 ^ 53 } do
      if x == "nil" then x = nil end
      assert.are.equal(text, hex(core.encode(x)))
    end
    assert.are.equal("93010203", hex(core.encode { 1, 2, 3 }))
    assert.are.equal("81a16101", hex(core.encode { a = 1 }))
    assert.are.equal("90", hex(core.encode {}))
  end)

  -- The elements of an array of scalars, and the pairs of such a map, have a way of their own through the codec.
  it("in arrays and maps have the form that they have alone", function()
    local scalars = {
      true, false, 0, -0.0, 1, 127, 128, 255, 256, 65535, 65536, 2 ^ 32 - 1, 2 ^ 32, 2 ^ 53, 2 ^ 53 + 2, -1, -32, -33, -128, -129,
      -32768, -32769, -2 ^ 31, -2 ^ 31 - 1, -2 ^ 53, -2 ^ 53 - 2, 0.5, 65535.5, 1 / 0, -1 / 0, "", "é", "\x80",
    }
    for n = 1, 33 do scalars[#scalars + 1] = ("abcdefghijklmnopqrstuvwxyz0123456"):sub(1, n) end
    local all = {}
    for i = 1, 1000 do all[i] = scalars[i % #scalars + 1] end
    local alone = {}
    for i, x in ipairs(all) do alone[i] = core.encode(x) end
    assert.are.equal("\xdc\x03\xe8" .. table.concat(alone), core.encode(all))
    for i, x in ipairs(back(all)) do
      assert.are.equal(all[i], x)
      if x == 0 then assert.are.equal(1 / all[i], 1 / x) end
    end
    for _, x in ipairs(scalars) do
      assert.are.equal("\x91" .. core.encode(x), core.encode { x })
      assert.are.equal("\x81\xa3key" .. core.encode(x), core.encode { key = x })
      assert.are.equal("\x82\x01" .. core.encode(x) .. "\xa1k" .. core.encode(x), core.encode { x, k = x })
    end
    local numbers = {}
    for i = 1, 3000 do numbers[i] = (i % 5 - 2) * 7 ^ (i % 20) / 4 ^ (i % 3) end
    assert.are.same(numbers, back(numbers))
  end)

  it("in arrays of foreign writers are read in every form, and not beyond the end", function()
    local forms = {
      { "ca3fc00000", 1.5 }, { "cf0000000000000005", 5 }, { "d3fffffffffffffffb", -5 }, { "cc05", 5 }, { "cd0005", 5 }, { "ce00000005", 5 },
      { "d0fb", -5 }, { "d1fffb", -5 }, { "d2fffffffb", -5 }, { "fb", -5 }, { "05", 5 }, { "cf0020000000000000", 2 ^ 53 },
      { "d3ffe0000000000000", -2 ^ 53 },
    }
    for _, form in ipairs(forms) do
      assert.are.same({ form[2], form[2], true }, core.decode(unhex("93" .. form[1]:rep(2) .. "c3")))
      for cut = 1, #form[1] / 2 do corrupt("92" .. form[1] .. form[1]:sub(1, -2 * cut - 1)) end
    end
    local list = core.decode(unhex("94" .. "01" .. "d30020000000000001" .. "cfffffffffffffffff" .. "02"))
    assert.is_true(list[2] == 9007199254740993LL and list[3] == 0xffffffffffffffffULL and list[4] == 2)
    local nans = core.decode(unhex("92cbfff9deadbeef0001ca7fc00001"))
    assert.are.equal("number", type(nans[1]))
    assert.is_true(nans[1] ~= nans[1] and nans[2] ~= nans[2])
  end)

  it("keep 64-bit integers as such, small ones too", function()
    for _, x in ipairs { 0LL, 1LL, -1LL, 9007199254740992LL, 9007199254740993LL, -9007199254740993LL, 0x7fffffffffffffffLL,
      -0x7fffffffffffffffLL - 1, 0ULL, 5ULL, 9007199254740993ULL, 0xffffffffffffffffULL } do
      local y = back(x)
      assert.are.equal(tostring(ffi.typeof(x)), tostring(ffi.typeof(y)))
      assert.is_true(x == y)
    end
  end)

  it("of foreign writers are read: float32, wide forms of small integers, integers over 2^53", function()
    local function read(text) return core.decode(unhex(text)) end
    assert.are.equal(1.5, read("ca3fc00000"))
    assert.are.equal(5, read("cf0000000000000005"))
    assert.are.equal(-5, read("d3fffffffffffffffb"))
    assert.are.equal("int64_t", tostring(ffi.typeof(read("d30020000000000001"))):match("<(.*)>"))
    assert.are.equal("uint64_t", tostring(ffi.typeof(read("cfffffffffffffffff"))):match("<(.*)>"))
    assert.is_true(read("d38000000000000000") == -0x7fffffffffffffffLL - 1)
    local nan = read("cbfff9deadbeef0001") -- a NaN that LuaJIT would take for something else
    assert.are.equal("number", type(nan))
    assert.is_true(nan ~= nan)
    assert.are.equal("number", type(-nan))
  end)

  it("text is str, other bytes are bin, and both are strings again", function()
    for _, s in ipairs { "plain", "é", "日本", "\xf0\x9d\x84\x9e", ("x"):rep(31), ("x"):rep(32), ("x"):rep(300), ("x"):rep(70000) } do
      local code = core.encode(s):byte()
      assert.is_true(code >= 0xa0 and code < 0xc0 or code >= 0xd9 and code <= 0xdb)
      assert.are.equal(s, back(s))
    end
    for _, s in ipairs { "\x80", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff", "\xc3", "aaaaaaaa\xc3", "\xe0\x80\x80" } do
      assert.are.equal(0xc4, core.encode(s):byte())
      assert.are.equal(s, back(s))
    end
  end)
end)

describe("codec: tables", function()
  it("are arrays when their keys are just 1..n, however they were filled", function()
    local reverse = {}
    for i = 50, 1, -1 do reverse[i] = i * i end
    assert.are.equal(0xdc, core.encode(reverse):byte())
    assert.are.same(reverse, back(reverse))
    local cleared = { 1, 2, 3, 4, 5 }
    cleared[5], cleared.x = nil, 1
    cleared.x = nil
    assert.are.equal("9401020304", hex(core.encode(cleared)))
  end)

  it("are maps when not: holes, other keys, key 0, keys of any type", function()
    for _, t in ipairs { { 1, 2, nil, 4 }, { 1, 2, n = 2 }, { [0] = 1, 2 }, { [1.5] = 1 }, { [-1] = 1 }, { [true] = 1, [false] = 2 },
      { [2 ^ 40] = 1 }, { [3] = 3 }, { 1, [1000] = 2 } } do
      assert.are.same(t, back(t))
    end
    local holes = back { 1, nil, 3, n = 3 }
    assert.is_nil(holes[2])
    assert.are.equal(3, holes.n)
    local mixed = {}
    for i = 1, 40 do mixed[i] = i end
    for i = 1, 40 do mixed["k" .. i] = i end
    for i = 80, 60, -1 do mixed[i] = i end
    assert.are.same(mixed, back(mixed))
  end)

  it("of every size around the header's forms come back", function()
    for _, n in ipairs { 0, 1, 14, 15, 16, 17, 255, 256, 65535, 65536 } do
      local list, map = {}, {}
      for i = 1, n do
        list[i] = i
        map["k" .. i] = i
      end
      assert.are.equal(n, #back(list))
      local count = 0
      for k, v in pairs(back(map)) do
        assert(map[k] == v)
        count = count + 1
      end
      assert.are.equal(n, count)
    end
  end)

  it("have the same bytes whether they are read where they lie or by the API", function()
    for _, n in ipairs { 0, 1, 15, 16, 65535, 65536 } do
      local list, map, holes = {}, {}, { [n + 2] = true }
      for i = 1, n do list[i], map["k" .. i], holes[i] = i, i, i end
      for _, t in ipairs { list, map, holes } do
        local by_peeking = core.encode(t)
        core.set_hooks { peek = false }
        local by_api = core.encode(t)
        core.set_hooks { peek = true }
        assert.is_true(by_api == by_peeking, ("%d elements or pairs"):format(n))
      end
    end
  end)

  it("stay shared where they were shared, and cyclic where they were cyclic", function()
    local shared = { 1 }
    local t = back { a = shared, b = shared, list = { shared, shared } }
    assert.is_true(t.a == t.b and t.a == t.list[1] and t.a == t.list[2])
    local cycle = { {} }
    cycle[1].up, cycle.self, cycle[cycle] = cycle, cycle, "key"
    local c = back(cycle)
    assert.is_true(c.self == c and c[1].up == c)
    assert.are.equal("key", c[c])
  end)

  it("that a serializer changes while they are being written are refused, or written as they are then", function()
    local t, change
    local Changer = {}
    require "tarn.serializer" {
      name = "spec_changer", type = Changer,
      mmwrite = function(out)
        change(t)
        out:value(true)
      end,
      mmread = function(inp) return { inp:value() } end,
    }
    local function encode(into, fn)
      t, change = into, fn
      return pcall(core.encode, t)
    end
    local function grow(x) for i = 1, 100 do x["key" .. i] = i end end
    local function vanish(x) x[3], x.b, x.c = nil, nil, nil end
    local changer = setmetatable({}, Changer)
    for _, peek in ipairs { true, false } do
      core.set_hooks { peek = peek }
      for _, fn in ipairs { grow, vanish } do
        for _, into in ipairs { { 1, changer, 3 }, { a = changer, b = 2, c = 3 }, { 1, 2, 3, a = changer, b = 4, c = 5 } } do
          local ok, e = encode(into, fn)
          if ok then core.decode(e) else assert.are.equal("NotSerializable", e.kind, tostring(e)) end
        end
      end
    end
    core.set_hooks { peek = true }
    local ok, s = encode({ 1, changer, 3 }, function(x) x[3] = "changed" end)
    assert.is_true(ok)
    assert.are.equal("changed", core.decode(s)[3])
    local e
    ok, e = encode({ 1, changer, 3 }, function(x) x[3] = nil end)
    assert.is_false(ok)
    assert.is_truthy(e.message:find("a table changed while it was being encoded", 1, true), e.message)
  end)

  it("that are weak, with a metatable that has a name, keep what is alive", function()
    local Weak = { __mode = "v" }
    package.loaded["spec.codec_weak"] = Weak
    local kept = {}
    local t = setmetatable({ a = kept, b = {} }, Weak)
    for _ = 1, 20 do
      t.b = {}
      assert.is_table(back { kept, t }[2].a)
    end
    package.loaded["spec.codec_weak"] = nil
  end)

  it("nest to the bound and not deeper, both ways", function()
    local function nested(n)
      local t = {}
      for _ = 2, n do t = { t } end
      return t
    end
    local deep, depth = back(nested(999)), 0
    while deep do
      deep, depth = deep[1], depth + 1
    end
    assert.are.equal(999, depth)
    back(nested(1000))
    assert.is_truthy(fails("NotSerializable", core.encode, nested(1001)).message:find("deeper than 1000", 1, true))
    fails("NotSerializable", core.encode, nested(100000))
    fails("Corrupt", core.decode, ("\x91"):rep(1001) .. "\xc0")
    fails("Corrupt", core.decode, ("\x91"):rep(1000000) .. "\xc0")
    fails("Corrupt", core.decode, ("\x81"):rep(1000000) .. "\xc0")
  end)
end)

describe("codec: generated values", function()
  local values = require "spec.helper.values"

  it("come back the same, by either way in which tables are read", function()
    package.loaded[values.CLASS] = values.Class
    local seed = values.seed()
    math.randomseed(seed)
    local make = values.generator(math.random, { functions = true })
    for round = 1, 1500 do
      local x = make()
      local by_peeking = core.encode(x)
      core.set_hooks { peek = false }
      local by_api = core.encode(x)
      core.set_hooks { peek = true }
      local where = ("TARN_SEED=%d, round %d"):format(seed, round)
      assert.is_true(by_api == by_peeking, where)
      assert.is_true(values.same(x, core.decode(by_peeking)), where)
      assert.is_true(values.same(x, core.decode(by_api)), where)
    end
    package.loaded[values.CLASS] = nil
  end)
end)

describe("codec: memory", function()
  pcall(ffi.cdef, "uint64_t tarn_alloc_bytes(void);")
  local C = require "spec.helper.c"

  it("is all given back after many rounds, good and bad", function()
    local a = array("double", 100)
    local bad = { a, coroutine.create(print) }
    local function rounds(n)
      for i = 1, n do
        local s = core.encode { a, "x", { i }, function() return a end }
        core.decode(s)
        pcall(core.encode, bad)
        pcall(core.decode, s:sub(1, -2))
        if i % 500 == 0 then collectgarbage() end
      end
      collectgarbage()
      collectgarbage()
      array("double", 1) -- a call that allocates is a boundary, where dead views give back what they held
    end
    rounds(1000)
    local c_before, lua_before = tonumber(C.tarn_alloc_bytes()), collectgarbage("count")
    rounds(5000)
    local c_after, lua_after = tonumber(C.tarn_alloc_bytes()), collectgarbage("count")
    assert.is_true(c_after - c_before < 50000, ("C memory grew by %d"):format(c_after - c_before))
    assert.is_true(lua_after - lua_before < 500, ("Lua memory grew by %d KiB"):format(lua_after - lua_before))
  end)
end)
