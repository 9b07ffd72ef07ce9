-- Lending between two pools of one process, with the notes carried by hand, so that every order of events can be had.
local ffi = require("ffi")
local C = require("spec.helper.c")
local pool = require("spec.helper.pool")

for _, declaration in ipairs({
  [[typedef struct tarn_lend_source {
      int memory_fd, spill_fd;
      uint64_t memory_dev, memory_ino, spill_dev, spill_ino, token_offset;
      uint8_t token[16];
    } tarn_lend_source_t;]],
  "typedef struct tarn_lend_place { bool lent, in_file; uint64_t offset; } tarn_lend_place_t;",
  "typedef struct tarn_lend_note { int kind; uint64_t peer, tag, loan; uint32_t block; uint64_t offset; } tarn_lend_note_t;",
  [[typedef struct tarn_borrow tarn_borrow_t;
    int tarn_pool_lend_source(tarn_pool_t *pool, const uint8_t *token, tarn_lend_source_t *out, tarn_error_t *err);
    int tarn_pool_lend(tarn_pool_t *pool, tarn_value_t *v, uint64_t holder, uint64_t tag, uint64_t *loan, tarn_lend_place_t *places);
    int tarn_pool_lend_value(tarn_pool_t *pool, uint64_t holder, uint64_t loan, tarn_value_t **v, tarn_error_t *err);
    void tarn_pool_lend_moved(tarn_pool_t *pool, uint64_t holder, uint64_t loan, uint32_t block);
    void tarn_pool_lend_end(tarn_pool_t *pool, uint64_t holder, uint64_t loan);
    void tarn_pool_lend_end_all(tarn_pool_t *pool, uint64_t holder);
    tarn_borrow_t *tarn_pool_borrow_begin(tarn_pool_t *pool, uint64_t lender, uint64_t loan, uint32_t block_count);
    int tarn_pool_borrow_block(tarn_pool_t *pool, tarn_borrow_t *w, uint32_t block, int fd, uint64_t offset, uint64_t size,
                               tarn_block_t **out, tarn_error_t *err);
    void tarn_pool_borrow_end(tarn_pool_t *pool, tarn_borrow_t *w);
    void tarn_pool_borrow_moved(tarn_pool_t *pool, uint64_t lender, uint64_t loan, uint32_t block, int fd, uint64_t offset);
    bool tarn_pool_lend_next(tarn_pool_t *pool, tarn_lend_note_t *out);
    void tarn_pool_lend_again(tarn_pool_t *pool, uint64_t holder);
    void tarn_pool_borrow_check(tarn_pool_t *pool, uint64_t lender, uint64_t loan);
    void tarn_pool_borrow_forget(tarn_pool_t *pool, uint64_t lender);]],
}) do
  pcall(ffi.cdef, declaration)
end

local M = { MOVED = 0, IN_PLACE = 1, RETURNED = 2, CHECK = 3, TOKEN = "0123456789abcdef" }

-- An owner (number 1) and a holder (number 2); what is on its way between them stands in a list.
function M.pair(owner_bytes, holder_bytes)
  return M.link(pool.new(owner_bytes), pool.new(holder_bytes))
end

-- The same of pools that are there. Either may lend to the other.
function M.link(o, h)
  local self = { o = o, h = h, notes = {} }
  local pools = { o, h }

  -- Nil where a system call failed.
  function self.source(from)
    local owner, s = pools[from or 1], ffi.new("tarn_lend_source_t")
    return C.tarn_pool_lend_source(owner.pool, M.TOKEN, s, owner.err) == 0 and s or nil
  end

  -- Lend a value (a retained one) of pool number from (default 1) and borrow it in the other -> blocks there, the loan. Nil and the code.
  function self.borrow(v, what, from)
    from = from or 1
    local owner, to = pools[from], 3 - from
    local holder = pools[to]
    local loan, places = ffi.new("uint64_t[1]"), ffi.new("tarn_lend_place_t[?]", #what + 1)
    local rc = C.tarn_pool_lend(owner.pool, v, to, 77, loan, places)
    if rc ~= 0 then return nil, rc end
    local s, blocks = self.source(from), {}
    local w = s and C.tarn_pool_borrow_begin(holder.pool, from, loan[0], #what)
    if not w or w == nil then
      C.tarn_pool_lend_end(owner.pool, to, loan[0])
      return nil, pool.ENOMEM
    end
    for i, size in ipairs(what) do
      if places[i - 1].lent and rc == 0 then
        local out = ffi.new("tarn_block_t *[1]")
        local fd = places[i - 1].in_file and s.spill_fd or s.memory_fd
        rc = C.tarn_pool_borrow_block(holder.pool, w, i - 1, fd, places[i - 1].offset, size, out, holder.err)
        if rc == 0 then blocks[#blocks + 1] = { b = out[0], size = size, tag = what.tag + i } end
      end
    end
    if rc ~= 0 then M.release(blocks) end
    C.tarn_pool_borrow_end(holder.pool, w)
    if rc ~= 0 then return nil, rc end
    return blocks, loan[0]
  end

  function self.store_and_borrow(what)
    local id = assert(self.o:set(what))
    local v = assert(self.o:get(id))
    local blocks, loan = self.borrow(v, what)
    C.tarn_value_release(v)
    return id, assert(blocks, loan), loan
  end

  local function take(from)
    local n = ffi.new("tarn_lend_note_t")
    while C.tarn_pool_lend_next(pools[from].pool, n) do
      self.notes[#self.notes + 1] = { from = from, kind = tonumber(n.kind), peer = tonumber(n.peer), tag = tonumber(n.tag), loan = n.loan,
        block = n.block, offset = n.offset }
    end
  end

  local function deliver(note)
    local from, to = note.from, pools[note.peer].pool
    assert(note.peer == 3 - from)
    if note.kind == M.MOVED then
      assert(note.tag == 77)
      local s = self.source(from)
      if s then C.tarn_pool_borrow_moved(to, from, note.loan, note.block, s.spill_fd, note.offset) end
    elseif note.kind == M.IN_PLACE then
      C.tarn_pool_lend_moved(to, from, note.loan, note.block)
    elseif note.kind == M.CHECK then
      assert(note.tag == 77)
      C.tarn_pool_borrow_check(to, from, note.loan)
    else
      C.tarn_pool_lend_end(to, from, note.loan)
    end
  end

  -- Wait until there is a note of that kind, undelivered.
  function self.settle_note(kind)
    for _ = 1, 4000 do
      take(1)
      take(2)
      for _, note in ipairs(self.notes) do
        if note.kind == kind then return end
      end
      ffi.C.usleep(1000)
    end
    error("no such note", 2)
  end

  -- Take what the pools have to tell; deliver it when wanted(note) says so (default: all).
  function self.pump(wanted)
    take(1)
    take(2)
    local left = {}
    for _, note in ipairs(self.notes) do
      if wanted and not wanted(note) then
        left[#left + 1] = note
      else
        deliver(note)
      end
    end
    self.notes = left
  end

  -- The connection is lost, and all that was on its way; then there is another.
  function self.lose()
    take(1)
    take(2)
    self.notes = {}
    for i = 1, 2 do C.tarn_pool_lend_again(pools[i].pool, 3 - i) end
  end

  function self.settle(condition)
    for _ = 1, 4000 do
      self.pump()
      if condition() then return end
      ffi.C.usleep(1000)
    end
    error("it does not come to rest", 2)
  end

  local function at_rest()
    for i = 1, 2 do
      local s = pools[i]:stats()
      if s.lent_bytes > 0 or s.borrowed_bytes > 0 then return false end
    end
    return true
  end

  function self.close()
    self.settle(at_rest)
    self.h:close()
    self.o:close()
  end
  return self
end

function M.verify(blocks)
  for _, b in ipairs(blocks) do
    assert(pool.holds(b.b.data, b.size, b.tag), "a borrowed block has changed")
    assert(b.b.sealed == 1)
  end
end

function M.release(blocks)
  for _, b in ipairs(blocks) do
    C.tarn_block_unmap(b.b)
    C.tarn_block_release(b.b)
  end
end

return M
