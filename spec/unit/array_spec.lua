local ffi = require "ffi"
local core = require "tarn.core"
local array = require "tarn.array"
local ctype = require "tarn.ctype"
local errors = require "tarn.errors"
local tarn_serializer = require "tarn.serializer"

local function back(x, opts) return core.decode(core.encode(x), opts) end

-- fn(...) raises an ArgumentError at the line that calls it.
local function refused(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(errors.iserror(e, "ArgumentError"), tostring(e))
  assert.is_truthy(e.message:find("array_spec.lua:%d+: "), e.message)
  return e.message
end

local integers = {
  int8_t = { -128, 127 }, uint8_t = { 0, 255 }, int16_t = { -32768, 32767 }, uint16_t = { 0, 65535 }, int32_t = { -2 ^ 31, 2 ^ 31 - 1 },
  uint32_t = { 0, 2 ^ 32 - 1 },
}

describe("array", function()
  it("of every number type holds what it is given, and travels", function()
    for name, range in pairs(integers) do
      local a = array(name, { range[1], 0, range[2] })
      assert.are.same({ range[1], 0, range[2] }, a:totable())
      assert.are.same({ range[1], 0, range[2] }, back(a):totable())
      assert.are.equal(name, back(a).ctype)
    end
    assert.are.same({ 0.1, -1 / 0 }, back(array("double", { 0.1, -1 / 0 })):totable())
    assert.are.same({ 0.5, 1 / 0 }, back(array("float", { 0.5, 1 / 0 })):totable())
    assert.are.same({ true, false }, back(array("bool", { true, false })):totable())
  end)

  it("of 64-bit integers gives int64_t and uint64_t", function()
    local a = back(array("int64_t", { 1, -0x7fffffffffffffffLL, 5LL }))
    assert.is_true(ffi.istype("int64_t", a[1]))
    assert.is_true(a[2] == -0x7fffffffffffffffLL)
    a = back(array("uint64_t", { 0xffffffffffffffffULL }))
    assert.is_true(a[1] == 0xffffffffffffffffULL)
    a = array("double", { 7LL })
    assert.are.equal(7, a[1])
  end)

  it("is zero-filled, 1-based, and behaves like a list", function()
    local a = array("double", 3)
    assert.are.same({ 0, 0, 0 }, { a[1], a[2], a[3] })
    assert.are.equal(3, #a)
    a[2] = 5
    local seen = {}
    for i, v in ipairs(a) do seen[#seen + 1] = i .. "=" .. v end
    for i, v in pairs(a) do seen[#seen + 1] = i .. "=" .. v end
    assert.are.equal("1=0 2=5 3=0 1=0 2=5 3=0", table.concat(seen, " "))
    assert.are.equal(5, a[2LL])
    assert.are.equal(0, #array("int8_t", 0))
    assert.are.equal(0, #array("int8_t", {}))
  end)

  it("gives nil outside and for what is no index", function()
    local a = array("int32_t", { 1, 2, 3 })
    for _, i in ipairs { 0, -1, 4, 1.5, 2 ^ 40, 0 / 0, 1 / 0 } do assert.is_nil(a[i]) end
    assert.is_nil(a.nothing)
    assert.is_nil(a[true])
  end)

  it("refuses writing outside, and what does not fit, at the caller's line", function()
    local a = array("int32_t", 3)
    for _, i in ipairs { 0, 4, 1.5, -1, 0 / 0 } do refused(function() a[i] = 1 end) end
    refused(function() a.x = 1 end)
    for _, v in ipairs { "1", true, {}, print } do refused(function() a[1] = v end) end
    refused(function() a[1] = nil end)
    refused(function() array("bool", 1)[1] = 1 end)
    assert.is_truthy(refused(function() a[4] = 1 end):find("index 4 is outside 1..3", 1, true))
    assert.are.same({ 0, 0, 0 }, a:totable())
    local line = debug.getinfo(1, "l").currentline + 1
    local _, e = pcall(function() a[9] = 1 end)
    assert.is_truthy(e.message:find("array_spec.lua:" .. line .. ":", 1, true))
  end)

  it("refuses to be made of nonsense", function()
    refused(array, "double", -1)
    refused(array, "double", 1.5)
    refused(array, "double", 0 / 0)
    refused(array, "double", "x")
    refused(array, "double")
    refused(array, 5, 5)
    refused(array, "double", { 1, "x" })
    refused(array, "double", { shape = { 2, -1 } })
    refused(array, "double", { shape = {} })
    refused(array, "double", { 1, 2, 3, shape = { 2, 2 } })
    refused(array, "double", { shape = { 2 ^ 30, 2 ^ 30 } })
    for _, declaration in ipairs { "char *", "void", "struct { int *p; }", "struct { }", "struct { int a }", "union { int a; }",
      "int(*)(int)", "nonsense", "", "double[3]", "struct { void *p; }", "struct tarn_block", "FILE", "va_list", "struct { int a[0]; }",
      "struct { int a[-1]; }", "int; int",
      "struct { int a; }; int", "struct { int a; int a; }", "struct { int while; } x" } do
      assert.is_truthy(refused(array, declaration, 1):find("tarn.array", 1, true))
    end
    refused(array, ("struct { "):rep(100) .. "int a;" .. ("} b;"):rep(99) .. "}", 1)
  end)

  it("says so when it would not fit into any memory", function()
    local ok, e = pcall(array, "struct { double v[32]; }", 2 ^ 52)
    assert.is_false(ok)
    assert.is_true(errors.iserror(e), tostring(e))
  end)

  it("has a shape", function()
    local a = array("float", { shape = { 2, 3 } })
    assert.are.equal(6, #a)
    assert.are.same({ 2, 3 }, a.shape)
    assert.are.same({ 2, 3 }, back(a).shape)
    assert.are.same({ 2, 3 }, a:copy().shape)
    assert.are.same({ 4 }, array("float", 4).shape)
    assert.are.same({ 1, 2, 3, 4 }, array("int8_t", { 1, 2, 3, 4, shape = { 2, 2 } }):totable())
  end)

  it("slices share the bytes, copies do not", function()
    local a = array("int16_t", { 1, 2, 3, 4, 5 })
    local s, c = a:slice(2, 4), a:copy()
    assert.are.same({ 2, 3, 4 }, s:totable())
    s[1] = 20
    assert.are.equal(20, a[2])
    assert.are.equal(2, c[2])
    assert.are.same({ 4, 5 }, a:slice(4):totable())
    assert.are.equal(0, #a:slice(3, 2))
    assert.are.equal(0, #a:slice(6))
    for _, bad in ipairs { { 0, 2 }, { 1, 6 }, { 3, 1 }, { 1.5, 2 }, { "x" } } do refused(a.slice, a, bad[1], bad[2]) end
    a, c = nil, nil -- luacheck: ignore
    collectgarbage()
    assert.are.equal(20, s[1])
  end)

  it("slices of one value share their block when it travels, and identity is kept", function()
    local a = array("double", 1000)
    for i = 1, 1000 do a[i] = i end
    local one, two = #core.encode { a }, #core.encode { a, a:slice(1, 500), a:slice(501, 1000), a }
    assert.is_true(two < one + 400)
    local b = back { a, a:slice(501), a }
    assert.is_true(rawequal(b[1], b[3]))
    b[1][501] = -1
    assert.are.equal(-1, b[2][1])
    -- a small part of much takes only itself along
    assert.is_true(#core.encode(a:slice(10, 19)) < 500)
    assert.are.equal(19, back(a:slice(10, 19))[10])
  end)

  it("converts from another array", function()
    local a = array("int8_t", array("double", { 1, 2.9, -3 }))
    assert.are.same({ 1, 2, -3 }, a:totable())
    assert.are.same({ 1, 2 }, array("double", array("int64_t", { 1, 2 })):totable())
  end)

  it("gives a raw pointer, 0-based", function()
    local a = array("double", { 1, 2 })
    local p = a:ptr()
    assert.are.equal(2, p[1])
    p[0] = 9
    assert.are.equal(9, a[1])
    refused(a.ptr)
  end)

  it("prints itself shortly", function()
    assert.are.equal("array of int32_t (3): 1, 2, 3", tostring(array("int32_t", { 1, 2, 3 })))
    assert.is_true(#tostring(array("double", 100000)) < 100)
    assert.is_truthy(tostring(array("float", { shape = { 10, 20 } })):find("(10x20)", 1, true))
  end)

  it("counts just its elements' bytes", function()
    assert.are.equal(800, (core.approx_size(array("double", 100))))
    assert.are.equal(100, (core.approx_size(array("uint8_t", 100))))
    assert.are.equal(24, (core.approx_size(array("double", 100):slice(1, 3))))
    local _, typed = core.approx_size { array("double", 1) }
    assert.is_true(typed)
  end)
end)

describe("array of several dimensions", function()
  local function cube()
    local a = array("int32_t", { shape = { 2, 3, 4 } })
    for i = 1, #a do a[i] = i end
    return a
  end

  it("is read and written by all of its indices, the last one's elements beside each other", function()
    local a = cube()
    local k = 0
    for x = 1, 2 do
      for y = 1, 3 do
        for z = 1, 4 do
          k = k + 1
          assert.are.equal(k, a:at(x, y, z))
        end
      end
    end
    local m = array("double", { 1, 2, 3, 4, 5, 6, shape = { 2, 3 } })
    assert.are.same({ 1, 3, 4, 6 }, { m:at(1, 1), m:at(1, 3), m:at(2, 1), m:at(2, 3) })
    m:put(9, 2, 2)
    assert.are.equal(9, m[5])
    a:put(-1, 2, 3, 4)
    assert.are.equal(-1, a[24])
    assert.are.equal(2, array("double", { 1, 2 }):at(2))
  end)

  it("has nothing outside", function()
    local a, m = cube(), array("double", { shape = { 2, 3 } })
    for _, bad in ipairs { { 0, 1 }, { 3, 1 }, { 1, 0 }, { 1, 4 }, { 1.5, 1 }, { 1, 1.5 }, { -1, 7 }, { 2, -1 }, { 1, 0 / 0 },
      { 0 / 0, 1 } } do
      assert.is_nil(m:at(bad[1], bad[2]))
      refused(m.put, m, 1, bad[1], bad[2])
    end
    assert.is_nil(a:at(1, 4, 1))
    assert.is_nil(a:at(3, 1, 1))
    for _, bad in ipairs { {}, { 1 }, { 1, 1, 1 }, { "x", 1, 1 } } do refused(m.at, m, unpack(bad)) end
    assert.is_nil(m:at("x", 1))
    refused(a.at, a, 1, 1)
    refused(m.put, m, 1, 1)
    refused(m.put, m, "x", 1, 1)
  end)

  it("has rows and other shapes on the same bytes", function()
    local a = cube()
    local row = a:row(2)
    assert.are.same({ 3, 4 }, row.shape)
    assert.are.equal(13, row:at(1, 1))
    assert.are.same({ 17, 18, 19, 20 }, row:row(2):totable())
    row:row(2)[1] = 0
    assert.are.equal(0, a:at(2, 2, 1))
    local flat = a:reshape { 6, 4 }
    assert.are.same({ 6, 4 }, flat.shape)
    assert.are.equal(0, flat:at(5, 1))
    assert.are.same({ 24 }, a:reshape({ 24 }).shape)
    assert.are.same({ 6, 4 }, back(flat).shape)
    refused(a.reshape, a, { 5, 5 })
    refused(a.reshape, a, "x")
    refused(a.row, a, 3)
    refused(a.row, row:row(1), 1)
  end)
end)

describe("array, sorted in place", function()
  it("puts every type's elements in order", function()
    for name, list in pairs { int8_t = { 5, -128, 127, 0, -1 }, uint16_t = { 65535, 0, 7 }, int64_t = { 5LL, -0x7fffffffffffffffLL, 0LL },
      uint64_t = { 0xffffffffffffffffULL, 0ULL, 1ULL }, float = { 0.5, -1 / 0, 1 / 0, -0.25 }, bool = { true, false, true } } do
      local a = array(name, list)
      local rows, sorted, down = a:argsort(), a:copy():sort(), a:copy():sort(true)
      for i = 1, #a do
        assert.are.equal(a[rows[i]], sorted[i])
        assert.are.equal(sorted[i], down[#a + 1 - i])
      end
    end
    local a = array("double", { 0 / 0, 3, -0.0, 1 }):sort()
    assert.is_true(a[1] == 0 and a[2] == 1 and a[3] == 3 and a[4] ~= a[4])
    refused(a.sort, 5)
    a = array("struct { int32_t x; }", 3)
    for _, method in ipairs { "sort", "argsort", "group" } do refused(a[method], a) end
    refused(a.order, a, 1, 5)
    refused(a.hash, a, 1)
    assert.are.equal(3, #a:take { 1, 1, 2 })
  end)
end)

describe("array of structs", function()
  it("holds structs, nested and with arrays in them", function()
    local a = array("struct { double v[3]; int32_t a, b; struct { uint8_t x; float y; } in[2]; }", 2)
    a[1] = { { 1, 2, 3 }, 4, 5 }
    a[1]["in"][1].y = 0.5
    local b = back(a)
    assert.are.same({ 3, 4, 5, 0.5, 0 }, { b[1].v[2], b[1].a, b[1].b, b[1]["in"][1].y, b[2].v[0] })
    assert.are.equal(ffi.sizeof "struct { double v[3]; int32_t a, b; struct { uint8_t x; float y; } in[2]; }", core.approx_size(a) / 2)
    refused(function() a[1] = { "x" } end)
    refused(function() a[1] = 5 end)
    a[2] = a[1]
    assert.are.equal(4, a[2].a)
  end)

  it("is one type however it is written", function()
    local a, b = array("struct{double x,y;}", 1), array(" struct  point { double x ; double  y; } ", 1)
    assert.are.equal(a.ctype, b.ctype)
    assert.are.equal(ffi.typeof(a.p), ffi.typeof(b.p))
    assert.are.equal("int32_t", array("int", 1).ctype)
    assert.are.equal("uint64_t", array("unsigned long", 1).ctype)
    assert.are.equal("int64_t", array("long int", 1).ctype)
  end)

  it("can be of a named type, which travels as its declaration", function()
    ctype("spec_point", "struct { double x, y; }")
    local a = array("spec_point", { { 1, 2 }, { 3, 4 } })
    assert.are.equal(4, back(a)[2].y)
    assert.are.equal("struct { double x; double y; }", a.ctype)
    local nested = array("struct { spec_point from, to; }", 1)
    nested[1].to.y = 7
    assert.are.equal(7, back(nested)[1].to.y)
    refused(ctype, "double", "struct { int a; }")
    refused(ctype, "x y", "struct { int a; }")
    refused(ctype, "p", "struct { int *a; }")
  end)
end)

describe("array, read from outside", function()
  -- An array's bytes as a foreign or hostile writer may make them: each value in its place.
  local function forge(text, n, offset, shape, block_size)
    local forged = setmetatable({}, {})
    local hold = require("tarn.block").hold()
    hold.block = require("tarn.block").new(block_size or 64, true)
    local kept = tarn_serializer.load("array").spec
    tarn_serializer {
      name = "array", version = 1, type = getmetatable(forged), mmread = kept.mmread,
      mmwrite = function(out)
        out:value(text)
        out:value(n)
        out:value(offset)
        out:value(shape)
        out:share(hold.block)
      end,
    }
    local s = core.encode(forged)
    tarn_serializer(kept)
    return s
  end

  it("must lie within its block", function()
    assert.are.equal(8, #core.decode(forge("double", 8, 0, false)))
    for _, bad in ipairs { { "double", 9, 0, false }, { "double", 8, 8, false }, { "double", 1, 4, false }, { "double", -1, 0, false },
      { "double", 2 ^ 60, 0, false }, { "double", 0.5, 0, false }, { "double", 1, -8, false },
      { "double", 0 / 0, 0, false }, { "double", 1, 1 / 0, false }, { "void *", 1, 0, false }, { "struct { char *p; }", 1, 0, false },
      { 5, 1, 0, false }, { "double", 4, 0, { 2, 3 } }, { "double", 4, 0, { 2, -2 } },
      { "double", 4, 0, "x" }, { "double", 0, 65, false } } do
      local ok, e = pcall(core.decode, forge(unpack(bad, 1, 4)))
      assert.is_false(ok)
      assert.is_true(errors.iserror(e, "Corrupt"), tostring(e))
    end
  end)

  it("cannot make Lua take a NaN for something else", function()
    for name, bits in pairs { double = "uint64_t", float = "uint32_t" } do
      local a = array(name, 64)
      local p = ffi.cast(bits .. " *", a:ptr())
      for i = 0, 63 do
        p[i] = bits == "uint64_t" and 0x7ff0000000000001ULL + ffi.cast(bits, i) * 0x00003fff00000001ULL or 0x7f800001 + i * 70001
        if i % 2 == 1 then p[i] = p[i] + (bits == "uint64_t" and 0x8000000000000000ULL or 0x80000000) end
      end
      for _ = 1, 100 do
        local sum = 0
        for i = 1, #a do
          local v = a[i]
          assert(type(v) == "number" and v ~= v and type(-v) == "number" and type(v + 1) == "number")
          sum = sum + v
        end
        assert(type(sum) == "number" and sum ~= sum)
      end
      assert.are.equal("number", type(a:totable()[13]))
      -- Bytes that are not trusted are mended, so that raw pointers are safe too.
      local q = ffi.cast(bits .. " *", back(a, { code = false }):ptr())
      for i = 0, 63 do
        local ok = bits == "uint32_t" and q[i] == 0x7fc00000 or q[i] == 0x7ff8000000000000ULL
          or bits == "uint64_t" and bit.band(q[i], 0x7fffffffffffffffULL) < 0x7ff1000000000000ULL
        assert.is_true(ok)
      end
      -- Writing over one and reading it again in the same loop gives what was written.
      for i = 1, #a do
        local v = a[i]
        if v ~= v then a[i] = i end
        assert(a[i] == i)
      end
    end
  end)

  it("has the NaNs in its structs mended too, if it is not trusted", function()
    local a = array("struct { int32_t k; double v[2][3]; struct { float f; double d; } s[2]; }", 3)
    ffi.fill(a:ptr(), core.approx_size(a), 0xff)
    local b = back(a, { code = false })
    for i = 1, 3 do
      for r = 0, 1 do
        for c = 0, 2 do assert.are.equal("number", type(b[i].v[r][c])) end
        assert.are.equal("number", type(b[i].s[r].f))
        assert.are.equal("number", type(b[i].s[r].d))
      end
    end
  end)
end)

describe("array, stored", function()
  it("is sealed: reads go on, writes are refused, a copy is writable", function()
    local a = array("double", { 1, 2, 3 })
    local s = array("struct { int32_t x; }", 2)
    local slice = a:slice(1, 2)
    ffi.cdef "void tarn_block_seal(tarn_block_t *b);"
    ffi.C.tarn_block_seal(a.block)
    ffi.C.tarn_block_seal(s.block)
    assert.is_true(a.sealed)
    assert.are.equal(2, a[2])
    assert.is_truthy(refused(function() a[1] = 5 end):find("sealed", 1, true))
    refused(function() slice[1] = 5 end)
    refused(a.sort, a)
    refused(a.put, a, 1, 1)
    refused(function() s[1] = { 5 } end)
    assert.is_false((pcall(function() s[1].x = 5 end)))
    assert.is_false((pcall(function() a:ptr()[0] = 5 end)))
    local c = a:copy()
    c[1] = 5
    assert.are.same({ 5, 1 }, { c[1], a[1] })
  end)
end)
