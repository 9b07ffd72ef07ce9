local ffi = require("ffi")
local C = require("spec.helper.c")
local bytes = require("spec.helper.bytes")
local unhex, hex = bytes.unhex, bytes.hex

pcall(ffi.cdef, [[typedef struct tarn_mp_token {
  int kind; uint8_t code; int8_t ext_type; uint32_t length; const uint8_t *bytes;
  union { uint64_t u; int64_t i; double d; } v; } tarn_mp_token_t;]])
pcall(ffi.cdef, "typedef struct tarn_mp_reader { const uint8_t *at, *end; } tarn_mp_reader_t;")
pcall(ffi.cdef, [[
int tarn_mp_read(tarn_mp_reader_t *r, tarn_mp_token_t *t);
int tarn_mp_skip(tarn_mp_reader_t *r, uint32_t max_depth);
int tarn_mp_read_uint(tarn_mp_reader_t *r, uint64_t max, uint64_t *out);
int tarn_mp_read_array(tarn_mp_reader_t *r, uint32_t *count);
int tarn_mp_read_map(tarn_mp_reader_t *r, uint32_t *count);
int tarn_mp_read_bytes(tarn_mp_reader_t *r, const uint8_t **bytes, uint32_t *length);
int tarn_mp_read_bool(tarn_mp_reader_t *r, bool *out);
int tarn_mp_write_nil(tarn_buf_t *b);
int tarn_mp_write_bool(tarn_buf_t *b, bool v);
int tarn_mp_write_uint(tarn_buf_t *b, uint64_t v);
int tarn_mp_write_int(tarn_buf_t *b, int64_t v);
int tarn_mp_write_int64(tarn_buf_t *b, int64_t v);
int tarn_mp_write_uint64(tarn_buf_t *b, uint64_t v);
int tarn_mp_write_double(tarn_buf_t *b, double v);
int tarn_mp_write_str(tarn_buf_t *b, const void *s, size_t length);
int tarn_mp_write_cstr(tarn_buf_t *b, const char *s);
int tarn_mp_write_bin_header(tarn_buf_t *b, size_t length);
int tarn_mp_write_bin(tarn_buf_t *b, const void *s, size_t length);
int tarn_mp_write_array(tarn_buf_t *b, uint32_t count);
int tarn_mp_write_map(tarn_buf_t *b, uint32_t pairs);
int tarn_mp_write_ext_header(tarn_buf_t *b, int8_t type, size_t length);]])

local NIL, FALSE, TRUE, UINT, INT, DOUBLE, STR, BIN, ARRAY, MAP, EXT = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local int64_min = -0x7fffffffffffffffLL - 1

-- A reader over bytes of exactly that size, which must outlive it.
local function reader(memory, size)
  local start = ffi.cast("const uint8_t *", memory)
  return ffi.new("tarn_mp_reader_t", start, start + size)
end

-- The one token in s, which is read from a place of exactly its size.
local function read_one(s)
  local memory, token = bytes.exact(s), ffi.new("tarn_mp_token_t")
  local r = reader(memory, #s)
  local rc = C.tarn_mp_read(r, token)
  local used = tonumber(r.at - ffi.cast("const uint8_t *", memory))
  if rc ~= 0 then
    assert(used == 0, "the reader moved on failure")
    return rc
  end
  local text
  if token.kind == STR or token.kind == BIN or token.kind == EXT then
    text = ffi.string(token.bytes, token.length)
  end
  return 0, token, used, text
end

local function written(writer, ...)
  local b = bytes.buf()
  assert(C["tarn_mp_write_" .. writer](b, ...) == 0)
  -- The same in a buffer that has exactly the room, and in one that lacks a byte of it.
  local size = tonumber(b.size)
  local tight, short = bytes.buf(size), bytes.buf(size - 1)
  assert(C["tarn_mp_write_" .. writer](tight, ...) == 0)
  assert(bytes.content(tight) == bytes.content(b))
  assert(C["tarn_mp_write_" .. writer](short, ...) == bytes.ETOOBIG)
  assert(short.size == 0)
  return bytes.content(b)
end

-- Every proper prefix must be refused.
local function assert_prefixes_refused(s)
  for n = 0, math.min(#s - 1, 20) do assert.equal(bytes.ECORRUPT, (read_one(s:sub(1, n)))) end
  if #s > 20 then assert.equal(bytes.ECORRUPT, (read_one(s:sub(1, -2)))) end
end

describe("writing integers", function()
  local cases = {
    { 0LL, "00" }, { 1LL, "01" }, { 127LL, "7f" }, { 128LL, "cc80" }, { 255LL, "ccff" }, { 256LL, "cd0100" },
    { 65535LL, "cdffff" }, { 65536LL, "ce00010000" }, { 0xffffffffLL, "ceffffffff" },
    { 0x100000000LL, "cf0000000100000000" }, { 0x7fffffffffffffffLL, "cf7fffffffffffffff" },
    { -1LL, "ff" }, { -32LL, "e0" }, { -33LL, "d0df" }, { -127LL, "d081" }, { -128LL, "d080" }, { -129LL, "d1ff7f" },
    { -32768LL, "d18000" }, { -32769LL, "d2ffff7fff" }, { -0x80000000LL, "d280000000" },
    { -0x80000001LL, "d3ffffffff7fffffff" }, { -4294967297LL, "d3fffffffeffffffff" },
    { int64_min, "d38000000000000000" }, { int64_min + 1, "d38000000000000001" },
  }
  for _, case in ipairs(cases) do
    it(("takes the shortest form for %s and reads it back"):format(tostring(case[1])), function()
      local s = written("int", case[1])
      assert.equal(case[2], hex(s))
      local rc, token, used = read_one(s)
      assert.equal(0, rc)
      assert.equal(#s, used)
      assert.equal(case[1] < 0 and INT or UINT, token.kind)
      assert.equal(s:byte(1), token.code)
      assert.is_true(token.v.i == case[1])
      assert_prefixes_refused(s)
      if case[1] >= 0 then assert.equal(case[2], hex(written("uint", ffi.cast("uint64_t", case[1])))) end
    end)
  end

  it("writes unsigned ones from 2^63 on", function()
    assert.equal("cf8000000000000000", hex(written("uint", 0x8000000000000000ULL)))
    assert.equal("cfffffffffffffffff", hex(written("uint", 0xffffffffffffffffULL)))
    local _, token = read_one(unhex("cfffffffffffffffff"))
    assert.equal(UINT, token.kind)
    assert.is_true(token.v.u == 0xffffffffffffffffULL)
  end)

  it("keeps the wide forms wide", function()
    assert.equal("d30000000000000005", hex(written("int64", 5)))
    assert.equal("d3fffffffffffffffb", hex(written("int64", -5)))
    assert.equal("cf0000000000000005", hex(written("uint64", 5)))
    local _, token = read_one(unhex("d30000000000000005"))
    assert.equal(INT, token.kind)
    assert.is_true(token.v.i == 5LL)
  end)

  it("reads back random ones, near powers of two and anywhere", function()
    math.randomseed(11)
    local token, b = ffi.new("tarn_mp_token_t"), bytes.buf()
    for _ = 1, 100000 do
      local bits = math.random(0, 63)
      local v = ffi.cast("int64_t", math.random(0, 2 ^ 31 - 1)) * 0x100000001LL * math.random(1, 1000)
      v = bit.rshift(v, bits) + math.random(-2, 2)
      if math.random() < 0.5 then v = -v end
      C.tarn_buf_clear(b)
      assert(C.tarn_mp_write_int(b, v) == 0)
      local r = ffi.new("tarn_mp_reader_t", b.data, b.data + b.size)
      assert(C.tarn_mp_read(r, token) == 0 and token.v.i == v and r.at == r["end"])
    end
  end)
end)

describe("reading integers", function()
  for form, value in pairs({
    ["cc00"] = 0LL, ["cd0000"] = 0LL, ["ce00000000"] = 0LL, ["d000"] = 0LL, ["d07f"] = 127LL, ["d0ff"] = -1LL,
    ["d17fff"] = 32767LL, ["d1ffff"] = -1LL, ["d27fffffff"] = 0x7fffffffLL, ["d2ffffffff"] = -1LL,
    ["d3ffffffffffffffff"] = -1LL, ["d37fffffffffffffff"] = 0x7fffffffffffffffLL,
  }) do
    it("accepts the needlessly long or signed form " .. form, function()
      local rc, token, used = read_one(unhex(form))
      assert.equal(0, rc)
      assert.equal(#form / 2, used)
      assert.equal(form:sub(1, 2) < "d0" and UINT or INT, token.kind)
      assert.is_true(token.v.i == value)
    end)
  end
end)

describe("nil, booleans and floats", function()
  it("have one byte each", function()
    local no, yes = written("bool", false), written("bool", true)
    for s, kind in pairs({ [written("nil")] = NIL, [no] = FALSE, [yes] = TRUE }) do
      local _, token, used = read_one(s)
      assert.equal(kind, token.kind)
      assert.equal(1, used)
    end
    assert.equal("c0c2c3", hex(written("nil") .. written("bool", false) .. written("bool", true)))
  end)

  it("are eight bytes of double, to the bit", function()
    assert.equal("cb3ff8000000000000", hex(written("double", 1.5)))
    assert.equal("cb8000000000000000", hex(written("double", -0.0)))
    for _, v in ipairs({ 0, -0.0, 1 / 3, math.huge, -math.huge, 4.9e-324, 1.7976931348623157e308 }) do
      local s = written("double", v)
      local _, token = read_one(s)
      assert.equal(DOUBLE, token.kind)
      assert.equal(v, token.v.d)
      assert.equal(1 / v, 1 / token.v.d)
      assert_prefixes_refused(s)
    end
    local _, token = read_one(written("double", 0 / 0))
    assert.is_true(token.v.d ~= token.v.d)
  end)

  it("reads floats of four bytes", function()
    local _, token, used = read_one(unhex("ca3fc00000"))
    assert.equal(DOUBLE, token.kind)
    assert.equal(1.5, token.v.d)
    assert.equal(5, used)
    assert_prefixes_refused(unhex("ca3fc00000"))
  end)
end)

describe("strings and binaries", function()
  local heads = {
    str = { [0] = "a0", [1] = "a1", [31] = "bf", [32] = "d920", [255] = "d9ff", [256] = "da0100", [65535] = "daffff",
      [65536] = "db00010000", [70000] = "db00011170" },
    bin = { [0] = "c400", [1] = "c401", [31] = "c41f", [32] = "c420", [255] = "c4ff", [256] = "c50100",
      [65535] = "c5ffff", [65536] = "c600010000", [70000] = "c600011170" },
  }
  for kind, sizes in pairs(heads) do
    for size, head in pairs(sizes) do
      it(("of %d bytes as %s start with %s"):format(size, kind, head), function()
        local text = ("\0\255ab"):rep(size / 4 + 1):sub(1, size)
        local s = written(kind, text, size)
        assert.equal(head, hex(s:sub(1, #head / 2)))
        assert.equal(text, s:sub(#head / 2 + 1))
        local rc, token, used, content = read_one(s)
        assert.equal(0, rc)
        assert.equal(kind == "str" and STR or BIN, token.kind)
        assert.equal(#s, used)
        assert.equal(text, content)
        assert_prefixes_refused(s)
        if kind == "bin" then assert.equal(head, hex(written("bin_header", size))) end
      end)
    end
  end

  it("of 2^32 bytes and more are refused before anything is touched", function()
    local b = bytes.buf()
    for _, size in ipairs({ 0x100000000ULL, 0xffffffffffffffffULL, 0xfffffffffffffff8ULL }) do
      for _, writer in ipairs({ "str", "bin" }) do
        assert.equal(bytes.ETOOBIG, C["tarn_mp_write_" .. writer](b, nil, size))
      end
      assert.equal(bytes.ETOOBIG, C.tarn_mp_write_bin_header(b, size))
      assert.equal(bytes.ETOOBIG, C.tarn_mp_write_ext_header(b, 1, size))
    end
    assert.equal(0, tonumber(b.size))
  end)

  it("may come from C strings and from nowhere when empty", function()
    assert.equal("a3616263", hex(written("cstr", "abc")))
    assert.equal("a0", hex(written("str", nil, 0)))
    assert.equal("c400", hex(written("bin", nil, 0)))
  end)
end)

describe("containers", function()
  local heads = {
    array = { [0] = "90", [1] = "91", [15] = "9f", [16] = "dc0010", [65535] = "dcffff", [65536] = "dd00010000" },
    map = { [0] = "80", [1] = "81", [15] = "8f", [16] = "de0010", [65535] = "deffff", [65536] = "df00010000" },
  }
  for kind, counts in pairs(heads) do
    for count, head in pairs(counts) do
      it(("%s of %d starts with %s and needs its elements"):format(kind, count, head), function()
        assert.equal(head, hex(written(kind, count)))
        local elements = kind == "map" and 2 * count or count
        local whole = unhex(head) .. ("\0"):rep(elements)
        local rc, token, used = read_one(whole)
        assert.equal(0, rc)
        assert.equal(kind == "map" and MAP or ARRAY, token.kind)
        assert.equal(count, token.length)
        assert.equal(#head / 2, used)
        assert_prefixes_refused(whole)
      end)
    end
  end

  it("cannot claim more than there is", function()
    for _, head in ipairs({ "ddffffffff", "dfffffffff", "df80000000", "dcffff", "deffff", "9f", "8f" }) do
      assert.equal(bytes.ECORRUPT, (read_one(unhex(head) .. "\0\0\0")))
    end
  end)
end)

describe("extensions", function()
  for size, head in pairs({ [0] = "c700", [1] = "d4", [2] = "d5", [3] = "c703", [4] = "d6", [7] = "c707", [8] = "d7",
    [16] = "d8", [17] = "c711", [255] = "c7ff", [256] = "c80100", [65535] = "c8ffff", [65536] = "c900010000" }) do
    it(("of %d bytes start with %s"):format(size, head), function()
      for _, ext_type in ipairs({ 0, 1, 0x1a, 127, -1, -128 }) do
        local header = written("ext_header", ext_type, size)
        assert.equal(head .. ("%02x"):format(ext_type % 256), hex(header))
        local whole = header .. ("z"):rep(size)
        local rc, token, used, content = read_one(whole)
        assert.equal(0, rc)
        assert.equal(EXT, token.kind)
        assert.equal(ext_type, token.ext_type)
        assert.equal(#whole, used)
        assert.equal(("z"):rep(size), content)
        assert_prefixes_refused(whole)
      end
    end)
  end
end)

describe("malformed input", function()
  it("with 0xc1 is refused", function()
    assert.equal(bytes.ECORRUPT, (read_one("\193")))
    assert.equal(bytes.ECORRUPT, (read_one("\193" .. ("\0"):rep(100))))
  end)

  it("claiming lengths of 2^32-1 is refused", function()
    for _, head in ipairs({ "c6ffffffff", "dbffffffff", "c9ffffffff01", "c9ffffffff" }) do
      assert.equal(bytes.ECORRUPT, (read_one(unhex(head))))
      assert.equal(bytes.ECORRUPT, (read_one(unhex(head) .. "abcdef")))
    end
  end)

  it("of random bytes never moves the reader beyond the end", function()
    math.randomseed(5)
    local token = ffi.new("tarn_mp_token_t")
    for _ = 1, 20000 do
      local size = math.random(0, 24)
      local memory = bytes.exact((("x"):rep(size):gsub(".", function() return string.char(math.random(0, 255)) end)))
      local r = reader(memory, size)
      while C.tarn_mp_read(r, token) == 0 do assert(r.at <= r["end"]) end
      assert(r.at <= r["end"])
      r = reader(memory, size)
      C.tarn_mp_skip(r, 10)
      assert(r.at <= r["end"])
    end
  end)
end)

describe("skipping", function()
  local function skip(s, depth)
    local memory = bytes.exact(s)
    local r = reader(memory, #s)
    local rc = C.tarn_mp_skip(r, depth)
    return rc, tonumber(r.at - ffi.cast("const uint8_t *", memory))
  end

  it("passes one whole value", function()
    for _, s in ipairs({ "00", "a161", "9301a162c0", "82019002820102a16303", "c70310000000", "dc00039190910000" }) do
      local rc, used = skip(unhex(s) .. "\1\2", 5)
      assert.equal(0, rc)
      assert.equal(#s / 2, used)
      for n = 0, #s / 2 - 1 do
        rc, used = skip(unhex(s):sub(1, n), 5)
        assert.equal(bytes.ECORRUPT, rc)
        assert.equal(0, used)
      end
    end
  end)

  it("bounds the depth", function()
    assert.equal(0, (skip("\0", 0)))
    assert.equal(bytes.ETOOBIG, (skip("\144", 0)))
    assert.equal(0, (skip("\144", 1)))
    for _, opener in ipairs({ "\145", "\129\0" }) do
      assert.equal(0, (skip(opener:rep(999) .. "\144", 1000)))
      assert.equal(bytes.ETOOBIG, (skip(opener:rep(1000) .. "\144", 1000)))
      assert.equal(bytes.ETOOBIG, (skip(opener:rep(100000), 1000)))
    end
  end)
end)

describe("expecting helpers", function()
  local function run(name, s, ...)
    local memory = bytes.exact(s)
    local r = reader(memory, #s)
    local rc = C["tarn_mp_read_" .. name](r, ...)
    local used = tonumber(r.at - ffi.cast("const uint8_t *", memory))
    assert(rc == 0 or used == 0, "the reader moved on failure")
    return rc
  end

  it("give what is expected and refuse the rest", function()
    local u64, u32 = ffi.new("uint64_t[1]"), ffi.new("uint32_t[1]")
    local flag, at = ffi.new("bool[1]"), ffi.new("const uint8_t *[1]")
    assert.equal(0, run("uint", unhex("cd0100"), 256, u64))
    assert.is_true(u64[0] == 256ULL)
    assert.equal(bytes.ECORRUPT, run("uint", unhex("cd0100"), 255, u64))
    assert.equal(bytes.ECORRUPT, run("uint", unhex("ff"), 255, u64))
    assert.equal(bytes.ECORRUPT, run("uint", unhex("ff"), 0xffffffffffffffffULL, u64))
    assert.equal(0, run("uint", unhex("d305"):sub(1, 1) .. unhex("0000000000000005"), 9, u64))
    assert.is_true(u64[0] == 5ULL)
    assert.equal(bytes.ECORRUPT, run("uint", "\160", 255, u64))
    assert.equal(bytes.ECORRUPT, run("uint", "", 255, u64))
    assert.equal(0, run("array", unhex("920000"), u32))
    assert.equal(2, u32[0])
    assert.equal(bytes.ECORRUPT, run("array", unhex("810000"), u32))
    assert.equal(0, run("map", unhex("810000"), u32))
    assert.equal(1, u32[0])
    assert.equal(bytes.ECORRUPT, run("map", unhex("920000"), u32))
    assert.equal(0, run("bytes", unhex("a161"), at, u32))
    assert.equal(0, run("bytes", unhex("c40161"), at, u32))
    assert.equal(1, u32[0])
    assert.equal(bytes.ECORRUPT, run("bytes", unhex("d40161"), at, u32))
    assert.equal(0, run("bool", "\195", flag))
    assert.is_true(flag[0])
    assert.equal(0, run("bool", "\194", flag))
    assert.is_false(flag[0])
    assert.equal(bytes.ECORRUPT, run("bool", "\192", flag))
  end)
end)

describe("writing under memory pressure", function()
  it("leaves the buffer unchanged when an allocation fails", function()
    for _, case in ipairs({ { "nil" }, { "int", -129 }, { "double", 1 }, { "str", ("s"):rep(300), 300 },
      { "bin", ("s"):rep(300), 300 }, { "array", 70000 }, { "ext_header", 1, 300 } }) do
      local b = bytes.buf()
      local failures = bytes.sweep(function()
        local rc = C["tarn_mp_write_" .. case[1]](b, unpack(case, 2))
        assert.is_true(rc == 0 or b.size == 0)
        return rc
      end)
      assert.equal(1, failures)
    end
  end)
end)
