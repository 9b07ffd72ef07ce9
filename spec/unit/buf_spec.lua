local ffi = require("ffi")
local C = require("spec.helper.c")
local bytes = require("spec.helper.bytes")

describe("a buffer", function()
  it("appends, drops from the front, clears and is used again", function()
    local b = bytes.buf()
    assert.equal(0, C.tarn_buf_append(b, nil, 0))
    assert.is_true(b.data == nil)
    assert.equal(0, C.tarn_buf_append(b, "hello world", 11))
    C.tarn_buf_consume(b, 6)
    assert.equal("world", bytes.content(b))
    C.tarn_buf_consume(b, 0)
    assert.equal("world", bytes.content(b))
    C.tarn_buf_consume(b, 5)
    assert.equal("", bytes.content(b))
    C.tarn_buf_append(b, "x", 1)
    C.tarn_buf_clear(b)
    assert.equal(0, tonumber(b.size))
    assert.is_true(b.capacity > 0)
    C.tarn_buf_release(b)
    assert.is_true(b.data == nil)
    assert.equal(0, C.tarn_buf_append(b, "again", 5))
    assert.equal("again", bytes.content(b))
  end)

  it("holds exactly its limit and says so beyond it, unchanged", function()
    for _, limit in ipairs({ 0, 1, 63, 64, 65, 1000, 4096 }) do
      local b = bytes.buf(limit)
      for _ = 1, limit do assert(C.tarn_buf_append(b, "a", 1) == 0) end
      assert.equal(limit, tonumber(b.size))
      assert.is_true(b.capacity <= limit)
      assert.equal(bytes.ETOOBIG, C.tarn_buf_append(b, "b", 1))
      assert.equal(bytes.ETOOBIG, C.tarn_buf_reserve(b, 1))
      assert.equal(0, C.tarn_buf_reserve(b, 0))
      assert.equal(("a"):rep(limit), bytes.content(b))
    end
  end)

  it("refuses sizes near 2^64 without overflowing", function()
    for _, limit in ipairs({ 0xffffffffffffffffULL, 100ULL }) do
      local b = bytes.buf(limit)
      C.tarn_buf_append(b, "abc", 3)
      for _, more in ipairs({ 0xffffffffffffffffULL, 0xfffffffffffffffcULL, 0xfffffffffffffffdULL,
        0x8000000000000000ULL, 0x7fffffffffffffffULL }) do
        local rc = C.tarn_buf_reserve(b, more)
        assert.is_true(rc == bytes.ETOOBIG or rc == bytes.ENOMEM)
        assert.equal("abc", bytes.content(b))
      end
    end
  end)

  it("is unchanged when memory is exhausted", function()
    local b = bytes.buf()
    C.tarn_buf_append(b, "abc", 3)
    local text = ("x"):rep(1000)
    assert.equal(1, bytes.sweep(function()
      local rc = C.tarn_buf_append(b, text, #text)
      if rc ~= 0 then assert.equal("abc", bytes.content(b)) end
      return rc
    end))
    assert.equal("abc" .. text, bytes.content(b))
  end)

  it("gives its memory away", function()
    bytes.hold_garbage(finally)
    local b, size, before = bytes.buf(), ffi.new("size_t[1]"), C.tarn_alloc_bytes()
    C.tarn_buf_append(b, "mine", 4)
    local p = C.tarn_buf_detach(b, size)
    assert.equal("mine", ffi.string(p, size[0]))
    assert.equal(0, tonumber(b.size))
    assert.is_true(b.data == nil and b.capacity == 0)
    C.tarn_free(p)
    assert.equal(before, C.tarn_alloc_bytes())
    assert.is_true(C.tarn_buf_detach(b, size) == nil)
    assert.equal(0, tonumber(size[0]))
  end)

  it("behaves like a string under random operations", function()
    math.randomseed(3)
    local b, model = bytes.buf(5000), ""
    for _ = 1, 20000 do
      local n = math.random(0, 200)
      if math.random() < 0.5 then
        local s = string.char(math.random(0, 255)):rep(n)
        local fits = #model + n <= 5000
        assert(C.tarn_buf_append(b, s, n) == (fits and 0 or bytes.ETOOBIG))
        if fits then model = model .. s end
      else
        n = math.min(n, #model)
        C.tarn_buf_consume(b, n)
        model = model:sub(n + 1)
      end
      assert(bytes.content(b) == model)
    end
  end)
end)

describe("allocation", function()
  it("counts what is taken until it is given back", function()
    bytes.hold_garbage(finally)
    local before = C.tarn_alloc_bytes()
    local p = C.tarn_malloc(1000)
    assert.is_true(C.tarn_alloc_bytes() - before >= 1000)
    p = C.tarn_realloc(p, 100000)
    assert.is_true(C.tarn_alloc_bytes() - before >= 100000)
    p = C.tarn_realloc(p, 10)
    assert.is_true(C.tarn_alloc_bytes() - before < 1000)
    local q, s, z = C.tarn_aligned(4096, 100), C.tarn_strdup("text"), C.tarn_calloc(3, 5)
    assert.equal(0, tonumber(ffi.cast("uintptr_t", q) % 4096))
    assert.equal("text", ffi.string(s))
    assert.equal(("\0"):rep(15), ffi.string(z, 15))
    for _, each in ipairs({ p, q, s, z }) do C.tarn_free(each) end
    C.tarn_free(nil)
    assert.equal(before, C.tarn_alloc_bytes())
  end)

  it("gives a pointer for size 0 and null for what cannot be", function()
    local a, b = C.tarn_malloc(0), C.tarn_calloc(0, 8)
    assert.is_true(a ~= nil and b ~= nil and a ~= b)
    a = C.tarn_realloc(a, 0)
    assert.is_true(a ~= nil)
    for _, huge in ipairs({ 0xffffffffffffffffULL, 0x8000000000000000ULL }) do
      assert.is_true(C.tarn_malloc(huge) == nil)
      assert.is_true(C.tarn_calloc(huge, 2) == nil)
      assert.is_true(C.tarn_calloc(2, huge) == nil)
      assert.is_true(C.tarn_aligned(64, huge) == nil)
      assert.is_true(C.tarn_realloc(a, huge) == nil)
    end
    C.tarn_free(a)
    C.tarn_free(b)
  end)

  it("fails once, when it was told to", function()
    C.tarn_alloc_fail_at(2)
    local a, b, c = C.tarn_malloc(8), C.tarn_malloc(8), C.tarn_malloc(8)
    assert.is_true(a ~= nil and b == nil and c ~= nil)
    C.tarn_free(a)
    C.tarn_free(c)
  end)
end)
