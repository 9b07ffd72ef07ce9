-- A pool under test: declarations, values made of patterns, and their verification.
local ffi = require("ffi")
local C = require("spec.helper.c")
local bytes = require("spec.helper.bytes")
local image = require("spec.helper.image")
local posix = require("spec.helper.posix")
local process = require("spec.helper.process")

for _, declaration in ipairs({
  "typedef struct tarn_pool tarn_pool_t;",
  "typedef struct tarn_value tarn_value_t;",
  "typedef struct tarn_block { uint8_t *data; uint64_t size; uint32_t sealed; uint32_t kind; } tarn_block_t;",
  [[typedef struct tarn_pool_config {
      uint64_t max_memsize, max_disksize;
      const char *spill_dir;
      void (*on_room)(void *user);
      void (*on_drop_live)(void *user, uint64_t tag);
      void (*on_lend)(void *user);
      void (*on_deleted)(void *user, uint64_t id);
      void (*on_unguard)(void *user, void *guard);
      void (*on_pressure)(void *user);
      void *user;
      uint64_t patience_ns;
    } tarn_pool_config_t;]],
  [[typedef struct tarn_pool_stats {
      uint64_t objects, live_bytes, resident_bytes, inflight_bytes, lent_bytes, borrowed_bytes, spilled_bytes, disk_bytes;
      uint64_t max_memsize, max_disksize;
      uint64_t sets, gets, deletes, evictions, spill_written_bytes, mapped_back_bytes;
      uint64_t segment_bytes, heap_bytes, cached_bytes, record_bytes, received_bytes;
    } tarn_pool_stats_t;]],
  [[int tarn_pool_create(const tarn_pool_config_t *config, tarn_pool_t **out, tarn_error_t *err);
    void tarn_pool_destroy(tarn_pool_t *pool);]],
  [[typedef struct tarn_message { void *link[2], *way; uint64_t number; } tarn_message_t;]],
  [[int tarn_pool_sending(tarn_pool_t *pool, uint64_t connection, tarn_message_t *m);
    void tarn_pool_sent(tarn_pool_t *pool, tarn_message_t *m);
    int tarn_block_create(tarn_pool_t *pool, uint64_t size, uint32_t flags, tarn_block_t **out, tarn_error_t *err);
    void tarn_block_retain(tarn_block_t *b);
    void tarn_block_release(tarn_block_t *b);
    int tarn_block_map(tarn_block_t *b, tarn_error_t *err);
    void tarn_block_unmap(tarn_block_t *b);
    void tarn_block_unmap_later(tarn_block_t *b);
    void tarn_block_seal(tarn_block_t *b);
    int tarn_block_verify(tarn_block_t *b, tarn_error_t *err);
    void tarn_pool_boundary(tarn_pool_t *pool);]],
  [[int tarn_value_create(tarn_pool_t *pool, uint8_t *front, size_t front_size, tarn_block_t *const *blocks,
                          uint32_t block_count, tarn_value_t **out, tarn_error_t *err);
    void tarn_value_retain(tarn_value_t *v);
    void tarn_value_release(tarn_value_t *v);
    const uint8_t *tarn_value_front(const tarn_value_t *v, size_t *size);
    uint32_t tarn_value_block_count(const tarn_value_t *v);
    tarn_block_t *tarn_value_block(const tarn_value_t *v, uint32_t index);
    uint64_t tarn_value_size(const tarn_value_t *v);]],
  [[int tarn_pool_set_live(tarn_pool_t *pool, uint64_t size, uint32_t flags, uint32_t tag, uint64_t *id, tarn_error_t *err);
    uint32_t tarn_pool_live_tag(tarn_pool_t *pool, uint64_t id, bool touch);
    int tarn_pool_set_value(tarn_pool_t *pool, tarn_value_t *v, uint32_t flags, uint64_t *id, tarn_error_t *err);
    int tarn_pool_encoded(tarn_pool_t *pool, uint64_t id, tarn_value_t *v, tarn_error_t *err);
    int tarn_pool_next_live(tarn_pool_t *pool, uint64_t *id);
    void tarn_pool_pin_live(tarn_pool_t *pool, uint64_t id);
    int tarn_pool_get(tarn_pool_t *pool, uint64_t id, uint32_t flags, tarn_value_t **v, tarn_error_t *err);
    int tarn_pool_touch(tarn_pool_t *pool, uint64_t id, tarn_error_t *err);
    int tarn_pool_delete(tarn_pool_t *pool, uint64_t id);
    int tarn_pool_set_destroy_on_evict(tarn_pool_t *pool, uint64_t id, bool flag);
    int tarn_pool_size_of(tarn_pool_t *pool, uint64_t id, uint64_t *size_bytes);
    int tarn_pool_evict(tarn_pool_t *pool, uint64_t id, tarn_error_t *err);
    void tarn_pool_clear(tarn_pool_t *pool);
    void tarn_pool_set_limits(tarn_pool_t *pool, const uint64_t *max_memsize, const uint64_t *max_disksize);
    void tarn_pool_get_stats(tarn_pool_t *pool, tarn_pool_stats_t *out);]],
  "int tarn__pool_check(tarn_pool_t *pool);",
  "void tarn__mappings_at_most(tarn_pool_t *pool, uint64_t count);",
  [[int tarn_file_compose_header(const uint8_t *front, uint64_t front_size, const void *const *blocks,
                               const uint64_t *sizes, uint32_t block_count, tarn_buf_t *out);]],
  "typedef struct tarn_saved_identity { uint64_t device, inode, size, changed_ns, header_hash; } tarn_saved_identity_t;",
  [[int tarn_saved_identify(const char *path, tarn_saved_identity_t *out, tarn_error_t *err);
    int tarn_pool_open_saved(tarn_pool_t *pool, const char *path, uint32_t flags, tarn_saved_identity_t *identity,
                             tarn_value_t **out, tarn_error_t *err);
    int tarn_pool_rehome(tarn_pool_t *pool, uint64_t id, tarn_value_t *v, tarn_error_t *err);
    int tarn_pool_saved_path(tarn_pool_t *pool, uint64_t id, char *path, size_t size);
    int tarn_pool_copy(tarn_pool_t *pool, uint64_t id, tarn_error_t *err);
    int tarn_pool_watch(tarn_pool_t *pool, uint64_t id);
    int tarn_pool_visit(tarn_pool_t *pool, tarn_value_t *v);]],
  "bool tarn__pool_idle(tarn_pool_t *pool);",
  "int usleep(unsigned us);",
  "void *memset(void *s, int c, size_t n);",
  "int memcmp(const void *a, const void *b, size_t n);",
}) do
  pcall(ffi.cdef, declaration)
end

local M = {
  WAIT = 2, SOON = 32, ZERO = 1, DESTROY = 256,
  ENOMEM = -1, EIO = -3, EDISKFULL = -4, EPOOLFULL = -5, ENOENT = -6, ECORRUPT = -7, EAGAIN = -13, ENEEDLUA = -15,
  KiB = 1024, MiB = 1024 * 1024,
}
local Pool = {}
Pool.__index = Pool

--- A directory's name that nothing has yet, under the system's temporary one.
function M.spill_dir()
  local name = os.tmpname()
  os.remove(name)
  return name .. ".spill/deeper"
end

-- Callbacks come on any thread, so none enters Lua. A semaphore: on_room and on_drop_live post it.
for _, declaration in ipairs({ "typedef union spec_semaphore { char bytes[32]; long align; } spec_semaphore;",
  "int sem_init(spec_semaphore *s, int shared, unsigned value);", "int sem_post(spec_semaphore *s);",
  "int sem_trywait(spec_semaphore *s);" }) do
  pcall(ffi.cdef, declaration)
end

function M.semaphore()
  local s = ffi.new("spec_semaphore")
  assert(ffi.C.sem_init(s, 0, 0) == 0)
  return s
end

--- Was it posted within five seconds?
function M.posted(semaphore)
  for _ = 1, 5000 do
    if ffi.C.sem_trywait(semaphore) == 0 then return true end
    ffi.C.usleep(1000)
  end
  return false
end

--- opts: disk, dir, patience (of lending, ns), semaphore (see above), user (a tarn_buf_t: on_drop_live reserves tag bytes in it; only
-- where this thread alone drops).
function M.new(memory, opts)
  opts = opts or {}
  local self = setmetatable({ err = ffi.new("tarn_error_t"), dir = opts.dir or M.spill_dir() }, Pool)
  local config = ffi.new("tarn_pool_config_t", { max_memsize = memory, max_disksize = opts.disk or 0xffffffffffffffffULL })
  config.spill_dir = self.dir
  config.patience_ns = opts.patience or 0
  if opts.semaphore then
    config.user = opts.semaphore
    config.on_room = ffi.cast("void (*)(void *)", ffi.C.sem_post)
    config.on_drop_live = ffi.cast("void (*)(void *, uint64_t)", ffi.C.sem_post)
  elseif opts.user then
    config.user = opts.user
    config.on_drop_live = ffi.cast("void (*)(void *, uint64_t)", C.tarn_buf_reserve)
  end
  local out = ffi.new("tarn_pool_t *[1]")
  assert(C.tarn_pool_create(config, out, self.err) == 0, ffi.string(self.err.message))
  self.pool = out[0]
  return self
end

--- Ends it; every block and value must have been let go. True sums are part of every spec.
function Pool:close()
  if not self.pool then return end -- a spec that failed in it, and whose end calls it again
  self:check()
  C.tarn_pool_boundary(self.pool)
  C.tarn_pool_clear(self.pool)
  local left
  for _ = 1, 5000 do -- evictions under way have an end
    local s = self:stats()
    left = { s.objects, s.live_bytes, s.resident_bytes, s.spilled_bytes, s.disk_bytes, s.inflight_bytes }
    if math.max(unpack(left)) == 0 then break end
    ffi.C.usleep(1000)
  end
  C.tarn_pool_destroy(self.pool)
  self.pool = nil
  for i, n in ipairs(left) do assert(n == 0, "figure " .. i .. " is " .. n .. " at the end") end
  os.remove((self.dir:gsub("/deeper$", "")))
end

function Pool:check()
  local rc = C.tarn__pool_check(self.pool)
  assert(rc == 0, "the pool's sums are wrong: check " .. rc)
end

function Pool:message() return ffi.string(self.err.message) end

function Pool:stats()
  local s = ffi.new("tarn_pool_stats_t")
  C.tarn_pool_get_stats(self.pool, s)
  return setmetatable({}, { __index = function(_, name) return tonumber(s[name]) end })
end

--- Until its figures are as condition(stats) wants them.
function Pool:becomes(condition)
  for _ = 1, 10000 do
    if condition(self:stats()) then return end
    ffi.C.usleep(2000)
  end
  error("the pool's figures do not become what is waited for", 2)
end

--- Until evictions under way have ended (their objects' extents included).
function Pool:quiet()
  local deadline = posix.now() + 60 * process.patience
  while not C.tarn__pool_idle(self.pool) do
    assert(posix.now() < deadline, "the spill thread is not done")
    ffi.C.usleep(1000)
  end
end

local function pattern(size, tag)
  local unit = {}
  for i = 1, 61 do unit[i] = string.char((tag * 37 + i * 11) % 256) end
  return (table.concat(unit):rep(math.ceil(size / 61)):sub(1, size))
end

-- call() again, as bind/ does, while the pool wants live values to be encoded; self.encode_wanted(), where a spec has set it, does that.
function Pool:with_lua(call)
  for _ = 1, 1000 do
    self.err.code = 0
    local rc = call()
    if rc ~= M.ENEEDLUA or not self.encode_wanted then return rc end
    self.encode_wanted()
  end
  error("the pool wants Lua without an end")
end

--- A new block of size bytes, filled by tag. nil and the code when there is no room.
function Pool:block(size, tag, flags)
  local out = ffi.new("tarn_block_t *[1]")
  local rc = self:with_lua(function() return C.tarn_block_create(self.pool, size, flags or M.WAIT, out, self.err) end)
  if rc ~= 0 then return nil, rc end
  if tag then ffi.copy(out[0].data, pattern(size, tag), size) end
  return out[0]
end

-- What a described value with saved = true is: an image, which is what a saved file can hold.
local function image_of(what)
  local n = what.front or 20
  local value = { skeleton = "\197" .. string.char(math.floor(n / 256), n % 256) .. pattern(n, what.tag), blocks = {} }
  for i, size in ipairs(what) do value.blocks[i] = pattern(size, what.tag + i) end
  return value
end

--- The front of a described value.
function M.front(what)
  if not what.saved then return pattern(what.front or 20, what.tag) end
  what.text = what.text or image.front(image_of(what)) -- made once: that allocates
  return what.text
end

--- The bytes of a saved file that holds one (with saved = true, and a front of less than 64 KiB).
function M.file(what)
  local value, header = image_of(what), bytes.buf()
  local front, pointers, kept = image.front(value), image.pointers(value)
  local sizes = ffi.new("uint64_t[?]", math.max(#what, 1))
  for i, size in ipairs(what) do sizes[i - 1] = size end
  assert(C.tarn_file_compose_header(front, #front, pointers, sizes, #what, header) == 0 and kept)
  return bytes.content(header) .. image.whole(value)
end

function M.holds(data, size, tag) return ffi.C.memcmp(data, pattern(size, tag), size) == 0 end

local function let_go(blocks, count)
  for k = 0, count - 1 do
    C.tarn_block_unmap(blocks[k])
    C.tarn_block_release(blocks[k])
  end
end

--- Values are described as { front = size, tag = n, size of block, ... }; block i is filled by tag + i. nil and the code.
function Pool:value(what)
  local blocks = ffi.new("tarn_block_t *[?]", #what + 1)
  for i, size in ipairs(what) do
    local b, rc = self:block(size, what.tag + i)
    if not b then
      let_go(blocks, i - 1)
      return nil, rc
    end
    blocks[i - 1] = b
  end
  local bytes_of_front = M.front(what)
  local front = ffi.cast("uint8_t *", C.tarn_malloc(#bytes_of_front))
  local out, rc = ffi.new("tarn_value_t *[1]"), M.ENOMEM
  if front ~= nil then
    ffi.copy(front, bytes_of_front, #bytes_of_front)
    rc = C.tarn_value_create(self.pool, front, #bytes_of_front, blocks, #what, out, self.err)
  end
  if rc == 0 then return out[0] end
  C.tarn_free(front)
  let_go(blocks, #what)
  return nil, rc
end

--- Stores a described value -> id; nil and the code.
function Pool:set(what, flags)
  local v, rc = self:value(what)
  if not v then return nil, rc end
  local id = ffi.new("uint64_t[1]")
  rc = self:with_lua(function() return C.tarn_pool_set_value(self.pool, v, flags or M.WAIT, id, self.err) end)
  C.tarn_value_release(v)
  if rc ~= 0 then return nil, rc end
  return id[0]
end

--- Tags are 1, 2, 3...
function Pool:set_live(size, flags)
  local id = ffi.new("uint64_t[1]")
  self.tags = (self.tags or 0) + 1
  local rc = self:with_lua(function() return C.tarn_pool_set_live(self.pool, size, flags or 0, self.tags, id, self.err) end)
  if rc ~= 0 then return nil, rc end
  return id[0]
end

--- -> a retained value; nil and the code. A live object: nil, 0.
function Pool:get(id, flags)
  local out = ffi.new("tarn_value_t *[1]")
  local rc = self:with_lua(function() return C.tarn_pool_get(self.pool, id, flags or M.WAIT, out, self.err) end)
  if rc ~= 0 or out[0] == nil then return nil, rc end
  return out[0]
end

--- Every byte of v is what the description says.
function M.verify(v, what)
  local size, wanted = ffi.new("size_t[1]"), M.front(what)
  local front = C.tarn_value_front(v, size)
  assert(tonumber(size[0]) == #wanted)
  assert(ffi.C.memcmp(front, wanted, #wanted) == 0, "the front has changed")
  assert(C.tarn_value_block_count(v) == #what)
  for i, n in ipairs(what) do
    local b = C.tarn_value_block(v, i - 1)
    assert(tonumber(b.size) == n and b.sealed == 1)
    assert(M.holds(b.data, n, what.tag + i), "block " .. i .. " has changed")
  end
end

--- Get, verify, release. True, or false and the code.
function Pool:has(id, what)
  local v, rc = self:get(id)
  if not v then return false, rc end
  M.verify(v, what)
  C.tarn_value_release(v)
  return true
end

--- The value of a saved file, retained; nil and the code.
function Pool:open(path, flags)
  local out = ffi.new("tarn_value_t *[1]")
  local rc = self:with_lua(function() return C.tarn_pool_open_saved(self.pool, path, M.WAIT + (flags or 0), nil, out, self.err) end)
  if rc ~= 0 then return nil, rc end
  return out[0]
end

function Pool:copy(id)
  self.err.code = 0
  return C.tarn_pool_copy(self.pool, id, self.err)
end
function Pool:set_limits(memory, disk)
  C.tarn_pool_set_limits(self.pool, memory and ffi.new("uint64_t[1]", memory), disk and ffi.new("uint64_t[1]", disk))
end
function Pool:evict(id)
  self.err.code = 0
  return C.tarn_pool_evict(self.pool, id, self.err)
end
function Pool:delete(id) return C.tarn_pool_delete(self.pool, id) end

M.bytes = bytes
return M
