-- MessagePack by its specification (github.com/msgpack/msgpack, spec.md): every value in every form that the format table allows for it.
-- The forms are built here from that table, without the project's own writer; the values are those at which a form begins or ends, among
-- them all that the published test suite uses.
local ffi = require "ffi"
local core = require "tarn.core"
local errors = require "tarn.errors"

-- n bytes of an integer (a Lua number or a 64-bit cdata), big-endian.
local function big_endian(v, n)
  local u, bytes = ffi.cast("uint64_t", ffi.cast("int64_t", v)), {}
  if ffi.istype("uint64_t", v) then u = v end
  for i = n - 1, 0, -1 do bytes[#bytes + 1] = string.char(tonumber(u / 256ULL ^ i % 256ULL)) end
  return table.concat(bytes)
end

local function float_bytes(kind, v)
  return ffi.string(ffi.new(kind .. "[1]", v), ffi.sizeof(kind)):reverse()
end

-- The forms of an integer: fixints, then uint and int of 8 to 64 bits, shortest first; a writer takes the first.
local function integer_forms(v)
  local forms = {}
  local function add(code, n) forms[#forms + 1] = string.char(code) .. (n > 0 and big_endian(v, n) or "") end
  local function within(low, high) return v >= low and v <= high end
  if within(0, 127) then add(tonumber(v), 0) end
  if within(-32, -1) then add(256 + tonumber(v), 0) end
  for i = 0, 3 do
    if v >= 0 and (i == 3 or v <= 2 ^ (8 * 2 ^ i) - 1) then add(0xcc + i, 2 ^ i) end
  end
  for i = 0, 3 do
    local bound = 2 ^ (8 * 2 ^ i - 1)
    if i == 3 or within(-bound, bound - 1) then add(0xd0 + i, 2 ^ i) end
  end
  return forms
end

-- Lengths in 8, 16 and 32 bits, after a short form where there is one.
local function sized_forms(size, short, codes)
  local forms = {}
  if short and size <= short.max then forms[1] = string.char(short.code + size) end
  for i, code in ipairs(codes) do
    local n = code and 2 ^ (i - 1)
    if n and size < 2 ^ (8 * n) then forms[#forms + 1] = string.char(code) .. big_endian(size, n) end
  end
  return forms
end

local function string_forms(s) return sized_forms(#s, { max = 31, code = 0xa0 }, { 0xd9, 0xda, 0xdb }) end
local function binary_forms(s) return sized_forms(#s, nil, { 0xc4, 0xc5, 0xc6 }) end
local function array_forms(n) return sized_forms(n, { max = 15, code = 0x90 }, { false, 0xdc, 0xdd }) end
local function map_forms(n) return sized_forms(n, { max = 15, code = 0x80 }, { false, 0xde, 0xdf }) end

local function refused(bytes)
  local ok, e = pcall(core.decode, bytes)
  assert.is_false(ok)
  assert.is_true(errors.iserror(e, "Corrupt"), tostring(e))
  return e
end

describe("MessagePack", function()
  it("nil and booleans", function()
    for bytes, v in pairs { ["\xc2"] = false, ["\xc3"] = true } do
      assert.are.equal(v, core.decode(bytes))
      assert.are.equal(bytes, core.encode(v))
    end
    assert.is_nil(core.decode("\xc0"))
    assert.are.equal("\xc0", core.encode(nil))
  end)

  it("integers are read from every form and written in the shortest", function()
    local bounds = { 0, 1, 255, 256, 65535, 65536, 4294967295, 4294967296, 281474976710656, 9007199254740992 }
    for i = 4, 53 do
      for d = -1, 1 do
        if 2 ^ i + d <= 2 ^ 53 then bounds[#bounds + 1] = 2 ^ i + d end
      end
    end
    local count = 0
    for _, bound in ipairs(bounds) do
      for _, v in ipairs { bound, 0 - bound } do
        local forms = integer_forms(v)
        for _, bytes in ipairs(forms) do
          local read = core.decode(bytes)
          assert.are.equal("number", type(read))
          assert.are.equal(v, read)
          count = count + 1
        end
        assert.are.equal(forms[1], core.encode(v), tostring(v))
      end
    end
    assert.is_true(count > 800, tostring(count))
  end)

  it("integers of 64 bits stay such beyond 2^53, whatever form they have", function()
    for _, v in ipairs { 9223372036854775807LL, -9223372036854775807LL, -9223372036854775807LL - 1, 9007199254740993LL, -9007199254740993LL,
      9223372036854775808ULL, 18446744073709551615ULL, 9007199254740993ULL } do
      local unsigned, positive = ffi.istype("uint64_t", v), v > 0 and v <= 9223372036854775807ULL
      local forms = { unsigned and "\xcf" or "\xd3", positive and (unsigned and "\xd3" or "\xcf") or nil }
      for i, code in ipairs(forms) do
        local bytes = code .. big_endian(v, 8)
        assert.is_true(core.decode(bytes) == v, tostring(v))
        if i == 1 then assert.are.equal(bytes, core.encode(v)) end
      end
    end
  end)

  it("floats of 32 and 64 bits", function()
    for _, v in ipairs { 0, 1, -1, -32, 0.5, -0.5, 2147483648, 4294967296, 281474976710656, -281474976710656, 2 ^ 100, -2 ^ -100, 1 / 0,
      -1 / 0 } do
      assert.are.equal(v, core.decode("\xca" .. float_bytes("float", v)))
      assert.are.equal(v, core.decode("\xcb" .. float_bytes("double", v)))
    end
    for _, v in ipairs { 4294967295, -2147483648, -4294967296, 0.1, 1e300, 5e-324 } do
      assert.are.equal(v, core.decode("\xcb" .. float_bytes("double", v)))
    end
    for _, v in ipairs { 0.5, -0.5, 0.1, 1e300, 1 / 0, 2 ^ 53 + 2 } do
      assert.are.equal("\xcb" .. float_bytes("double", v), core.encode(v))
    end
    assert.are.equal(-1 / 0, 1 / core.decode("\xca\x80\0\0\0"))
    local nan = core.decode("\xca\x7f\xc0\0\0")
    assert.is_true(nan ~= nan)
  end)

  it("strings and binary of every size", function()
    local texts = { "", "a", "1234567890123456789012345678901", "12345678901234567890123456789012", "Кириллица", "ひらがな", "한글", "汉字",
      "漢字", "❤", "🍺" }
    for _, n in ipairs { 31, 32, 255, 256, 65535, 65536 } do texts[#texts + 1] = ("x"):rep(n) end
    for _, s in ipairs(texts) do
      local forms = string_forms(s)
      for _, header in ipairs(forms) do assert.are.equal(s, core.decode(header .. s)) end
      assert.are.equal(forms[1] .. s, core.encode(s))
      for _, header in ipairs(binary_forms(s)) do assert.are.equal(s, core.decode(header .. s)) end
    end
    for _, s in ipairs { "\xff", "\1\xff", "\0\xff", ("\xff"):rep(256), ("\xfe"):rep(70000) } do
      local forms = binary_forms(s)
      for _, header in ipairs(forms) do assert.are.equal(s, core.decode(header .. s)) end
      assert.are.equal(forms[1] .. s, core.encode(s))
    end
  end)

  it("arrays and maps of every size, and nested ones", function()
    for _, n in ipairs { 0, 1, 15, 16, 65535, 65536 } do
      local list, map, pairs_text = {}, {}, {}
      for i = 1, n do
        list[i] = i % 100
        map["k" .. i] = i % 100
        local key = "k" .. i
        pairs_text[i] = string.char(0xa0 + #key) .. key .. string.char(i % 100)
      end
      local elements = {}
      for i = 1, n do elements[i] = string.char(list[i]) end
      local forms = array_forms(n)
      for _, header in ipairs(forms) do assert.are.same(list, core.decode(header .. table.concat(elements))) end
      assert.are.equal(forms[1] .. table.concat(elements), core.encode(list))
      for _, header in ipairs(map_forms(n)) do assert.are.same(map, core.decode(header .. table.concat(pairs_text))) end
      if n > 0 then assert.are.equal(map_forms(n)[1], core.encode(map):sub(1, #map_forms(n)[1])) end
    end
    for _, outer in ipairs(array_forms(1)) do
      for _, inner in ipairs { array_forms(0), map_forms(0) } do
        for _, empty in ipairs(inner) do assert.are.same({ {} }, core.decode(outer .. empty)) end
      end
    end
    for _, outer in ipairs(map_forms(1)) do
      for _, inner in ipairs { array_forms(0), map_forms(0) } do
        for _, empty in ipairs(inner) do assert.are.same({ a = {} }, core.decode(outer .. "\xa1a" .. empty)) end
      end
    end
    assert.are.same({ a = "A" }, core.decode("\x81\xa1a\xa1A"))
  end)

  it("extensions of others, timestamps among them, are refused by their type", function()
    local payload = {}
    for _, n in ipairs { 1, 2, 4, 8, 16 } do payload[n] = ("\0"):rep(n) end
    for type_, name in pairs { ["\xff"] = "-1", ["\1"] = "1", ["\127"] = "127" } do
      for i, n in ipairs { 1, 2, 4, 8, 16 } do
        assert.is_truthy(refused(string.char(0xd3 + i) .. type_ .. payload[n]).message:find("extension type " .. name, 1, true))
      end
      for i, n in ipairs { 1, 2, 4 } do
        local bytes = string.char(0xc6 + i) .. big_endian(12, n) .. type_ .. ("\0"):rep(12)
        assert.is_truthy(refused(bytes).message:find("extension type " .. name, 1, true))
      end
    end
  end)

  it("cut off anywhere, or with a byte too many, is refused", function()
    local cases = { "\xc1" }
    local function add(header, body) cases[#cases + 1] = header .. body end
    for _, v in ipairs { 200, 70000, 2 ^ 40, -200, -70000, -2 ^ 40 } do
      for _, bytes in ipairs(integer_forms(v)) do add(bytes, "") end
    end
    for _, header in ipairs(string_forms("text")) do add(header, "text") end
    for _, header in ipairs(binary_forms("text")) do add(header, "text") end
    for _, header in ipairs(array_forms(2)) do add(header, "\1\2") end
    for _, header in ipairs(map_forms(2)) do add(header, "\1\2\3\4") end
    add("\xca", "\0\0\0\0")
    add("\xcb", ("\0"):rep(8))
    for _, bytes in ipairs(cases) do
      for cut = 0, #bytes - 1 do refused(bytes:sub(1, cut)) end
      refused(bytes .. "\0")
    end
  end)
end)
