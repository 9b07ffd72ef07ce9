-- What the specs of byte formats share: buffers, errors, the allocation seam, hex.
local ffi = require("ffi")
local C = require("spec.helper.c")

-- One declaration a call: what another spec has declared already must not hide the rest.
for _, declaration in ipairs({
  "typedef struct tarn_buf { uint8_t *data; size_t size, capacity; size_t limit; } tarn_buf_t;",
  [[typedef struct tarn_error { int code; uint64_t needed, available; char message[384]; } tarn_error_t;]],
  [[void tarn_buf_init(tarn_buf_t *b, size_t limit_bytes);
    void tarn_buf_clear(tarn_buf_t *b);
    void tarn_buf_release(tarn_buf_t *b);
    int tarn_buf_reserve(tarn_buf_t *b, size_t more_bytes);
    int tarn_buf_append(tarn_buf_t *b, const void *bytes, size_t count);
    void tarn_buf_consume(tarn_buf_t *b, size_t count);
    uint8_t *tarn_buf_detach(tarn_buf_t *b, size_t *size);]],
  [[void *tarn_malloc(size_t size_bytes);
    void *tarn_calloc(size_t count, size_t size_bytes);
    void *tarn_realloc(void *p, size_t size_bytes);
    void *tarn_aligned(size_t alignment, size_t size_bytes);
    void tarn_free(void *p);
    char *tarn_strdup(const char *s);
    uint64_t tarn_alloc_bytes(void);
    void tarn_alloc_fail_at(uint64_t countdown);]],
}) do
  pcall(ffi.cdef, declaration)
end

local M = { OK = 0, ENOMEM = -1, EINVAL = -2, ECORRUPT = -7, EAGAIN = -13, ETOOBIG = -14 }

--- A buffer that frees itself.
function M.buf(limit)
  local b = ffi.gc(ffi.new("tarn_buf_t"), C.tarn_buf_release)
  C.tarn_buf_init(b, limit or 2 ^ 40)
  return b
end

function M.content(b) return b.size == 0 and "" or ffi.string(b.data, b.size) end

--- The bytes in memory of exactly their size from the C heap, so that a sanitizer sees a read beyond them.
function M.exact(s)
  local p = ffi.gc(ffi.cast("uint8_t *", C.tarn_malloc(#s)), C.tarn_free)
  ffi.copy(p, s, #s)
  return p
end

function M.unhex(s)
  return (s:gsub("%s", ""):gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end))
end

function M.hex(s)
  return (s:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

--- Until the end of the spec whose `finally` is handed in, no finalizer frees anything: bytes taken can be counted.
function M.hold_garbage(finally)
  collectgarbage("stop")
  finally(function() collectgarbage("restart") end)
end

--- Run fn, which returns a code, with the first, second, third... allocation failing, until it succeeds.
-- Returns how many allocations failed on the way.
function M.sweep(fn)
  for n = 1, 1000 do
    C.tarn_alloc_fail_at(n)
    local rc = fn()
    C.tarn_alloc_fail_at(0)
    if rc == 0 then return n - 1 end
    assert(rc == M.ENOMEM, "an allocation that failed gave " .. tostring(rc))
  end
  error("still failing after 1000 allocations")
end

return M
