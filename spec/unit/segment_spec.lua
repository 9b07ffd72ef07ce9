local ffi = require("ffi")
local C = require("spec.helper.c")
require("spec.helper.bytes")

for _, declaration in ipairs({
  [[typedef struct tarn__ranges { void *root; size_t count; uint64_t bytes; uint32_t seed; } tarn__ranges_t;
    void tarn__ranges_init(tarn__ranges_t *r);
    void tarn__ranges_clear(tarn__ranges_t *r);
    bool tarn__ranges_take(tarn__ranges_t *r, uint64_t size, uint64_t *offset);
    bool tarn__ranges_give(tarn__ranges_t *r, uint64_t offset, uint64_t size);
    bool tarn__ranges_pop(tarn__ranges_t *r, uint64_t *offset, uint64_t *size);]],
  [[typedef struct tarn__segment { void *prev, *next; uint64_t offset, size, warm; } tarn__segment_t;
    typedef struct tarn__memory tarn__memory_t;
    typedef struct tarn__memory_start { int fd; uint8_t *base; uint64_t reserved, top, cached; } tarn__memory_start_t;
    uint32_t tarn__class_floor(uint64_t pages);
    uint64_t tarn__class_pages(uint32_t index);
    uint32_t tarn__class_ceil(uint64_t pages);
    int tarn__memory_open(tarn__memory_t *m, uint64_t reserve_bytes, tarn_error_t *err);
    void tarn__memory_close(tarn__memory_t *m);
    tarn__segment_t *tarn__memory_find(tarn__memory_t *m, uint64_t size);
    void tarn__memory_use(tarn__memory_t *m, tarn__segment_t *s, uint64_t size, tarn__segment_t **spare);
    bool tarn__memory_fresh(tarn__memory_t *m, tarn__segment_t *s, uint64_t size);
    void tarn__memory_recycle(tarn__memory_t *m, tarn__segment_t *s);
    tarn__segment_t *tarn__memory_largest(tarn__memory_t *m);
    bool tarn__memory_punch(tarn__memory_t *m, uint64_t offset, uint64_t size);]],
}) do
  pcall(ffi.cdef, declaration)
end

local PAGE, MiB = 4096, 1048576

describe("size classes", function()
  it("are eight to a doubling, without gaps, and at most an eighth too long", function()
    local last = 0
    for pages = 16, 5000 do
      local up, down = C.tarn__class_ceil(pages), C.tarn__class_floor(pages)
      local long, short = tonumber(C.tarn__class_pages(up)), tonumber(C.tarn__class_pages(down))
      assert(short <= pages and pages <= long and up - down <= 1)
      assert(long <= pages * 9 / 8 + 1)
      assert(up >= last and up - last <= 1 or pages == 16)
      last = up
    end
    assert.equal(8, C.tarn__class_floor(2048) - C.tarn__class_floor(1024))
    assert.is_true(C.tarn__class_ceil(2 ^ 28) < 256) -- a terabyte
  end)
end)

describe("free ranges", function()
  it("merge with their neighbours and are found lowest first", function()
    local r, at, size = ffi.new("tarn__ranges_t"), ffi.new("uint64_t[1]"), ffi.new("uint64_t[1]")
    C.tarn__ranges_init(r)
    assert.is_false(C.tarn__ranges_take(r, 1, at))
    C.tarn__ranges_give(r, 0, 10)
    C.tarn__ranges_give(r, 20, 10)
    assert.equal(2, tonumber(r.count))
    assert.is_false(C.tarn__ranges_take(r, 11, at))
    C.tarn__ranges_give(r, 10, 10)
    assert.equal(1, tonumber(r.count))
    assert.is_true(C.tarn__ranges_take(r, 12, at))
    assert.equal(0, tonumber(at[0]))
    assert.is_true(C.tarn__ranges_pop(r, at, size))
    assert.same({ 12, 18 }, { tonumber(at[0]), tonumber(size[0]) })
    assert.is_true(r.root == nil)
  end)

  it("are what a table of free units says, under random takes and gives", function()
    local UNITS = 600
    math.randomseed(7)
    local r, at = ffi.new("tarn__ranges_t"), ffi.new("uint64_t[1]")
    C.tarn__ranges_init(r)
    C.tarn__ranges_give(r, 0, UNITS)
    local free, taken = {}, {}
    for i = 0, UNITS - 1 do free[i] = true end
    local function lowest(n)
      local run = 0
      for i = 0, UNITS - 1 do
        run = free[i] and run + 1 or 0
        if run == n then return i - n + 1 end
      end
    end
    for _ = 1, 4000 do
      if math.random() < 0.55 then
        local n = math.random(1, 12)
        local want = lowest(n)
        assert(C.tarn__ranges_take(r, n, at) == (want ~= nil))
        if want then
          assert(tonumber(at[0]) == want)
          for i = want, want + n - 1 do free[i] = false end
          taken[#taken + 1] = { want, n }
        end
      elseif #taken > 0 then
        local t = table.remove(taken, math.random(#taken))
        C.tarn__ranges_give(r, t[1], t[2])
        for i = t[1], t[1] + t[2] - 1 do free[i] = true end
      end
      local sum = 0
      for i = 0, UNITS - 1 do sum = sum + (free[i] and 1 or 0) end
      assert(tonumber(r.bytes) == sum)
    end
    C.tarn__ranges_clear(r)
  end)
end)

describe("segments", function()
  local m, start
  before_each(function()
    m = ffi.cast("tarn__memory_t *", ffi.C.malloc(65536))
    assert.equal(0, C.tarn__memory_open(m, 256 * MiB, nil))
    start = ffi.cast("tarn__memory_start_t *", m)
  end)
  after_each(function()
    C.tarn__memory_close(m)
    ffi.C.free(m)
  end)
  pcall(ffi.cdef, "void *malloc(size_t n); void free(void *p);")

  local function record() return ffi.cast("tarn__segment_t *", C.tarn_malloc(ffi.sizeof("tarn__segment_t"))) end
  local function fresh(size)
    local s = record()
    assert(C.tarn__memory_fresh(m, s, size))
    return s
  end
  local function use(s, size)
    local spare = ffi.new("tarn__segment_t *[1]", record())
    C.tarn__memory_use(m, s, size, spare)
    C.tarn_free(spare[0])
  end

  it("begin without memory and read as zeros", function()
    local s = fresh(100000)
    assert.equal(0, tonumber(s.warm))
    assert.equal(0, tonumber(s.offset) % PAGE)
    for i = 0, 99999, 1000 do assert(start.base[tonumber(s.offset) + i] == 0) end
    s.warm = 102400
    C.tarn__memory_recycle(m, s)
  end)

  it("are used again while warm, a longer one in parts", function()
    local s = fresh(MiB)
    s.warm = MiB
    start.base[tonumber(s.offset)] = 77
    C.tarn__memory_recycle(m, s)
    assert.equal(MiB, tonumber(start.cached))
    assert.is_true(C.tarn__memory_find(m, 2 * MiB) == nil)
    local again = C.tarn__memory_find(m, 100000)
    use(again, 100000)
    assert.equal(77, start.base[tonumber(again.offset)])
    assert.equal(MiB - tonumber(again.warm), tonumber(start.cached))
    assert.is_true(again.size < 120000)
    local rest = C.tarn__memory_find(m, 800000)
    assert.is_true(rest ~= nil)
    assert.equal(again.offset + again.size, rest.offset)
    C.tarn__memory_recycle(m, again)
    assert.equal(MiB, tonumber(start.cached))
  end)

  it("give their addresses back when they are cold, and merge there", function()
    local list = {}
    for i = 1, 8 do list[i] = fresh(MiB) end
    local top = tonumber(start.top)
    for i = 1, 8 do C.tarn__memory_recycle(m, list[i]) end -- never touched: cold
    assert.equal(0, tonumber(start.cached))
    local whole = fresh(8 * MiB)
    assert.equal(top, tonumber(start.top))
    whole.warm = PAGE
    C.tarn__memory_recycle(m, whole)
  end)

  it("are zeros after punching, and gone when the addresses are", function()
    local s = fresh(MiB)
    start.base[tonumber(s.offset) + 5] = 9
    assert.is_true(C.tarn__memory_punch(m, s.offset, s.size))
    assert.equal(0, start.base[tonumber(s.offset) + 5])
    C.tarn__memory_recycle(m, s)
    local big = record()
    assert.is_false(C.tarn__memory_fresh(m, big, 300 * MiB))
    C.tarn_free(big)
  end)

  it("are handed out largest first for being punched", function()
    for _, size in ipairs({ 3, 1, 7, 2 }) do
      local s = fresh(size * MiB)
      s.warm = size * MiB
      C.tarn__memory_recycle(m, s)
    end
    local s = C.tarn__memory_largest(m)
    assert.is_true(tonumber(s.size) >= 7 * MiB)
    C.tarn_free(s)
  end)
end)
