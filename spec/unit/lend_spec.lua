-- Lending between two pools: an owner and a holder, with the notes carried by hand, so that every order of events can be had.
local ffi = require("ffi")
local lfs = require("lfs")
local C = require("spec.helper.c")
local lending = require("spec.helper.lending")
local pool = require("spec.helper.pool")
local process = require("spec.helper.process")
local KiB, MiB = pool.KiB, pool.MiB

local MOVED, IN_PLACE = lending.MOVED, lending.IN_PLACE
local pair, verify, release = lending.pair, lending.verify, lending.release

-- How many descriptors this process has open.
local function descriptors()
  local count = 0
  for _ in lfs.dir("/proc/self/fd") do count = count + 1 end
  return count
end

describe("lending", function()
  local p
  after_each(function() if p then p.close() end p = nil end)

  it("lets a holder map large blocks where they lie, and counts them on both sides", function()
    p = pair(8 * MiB, 8 * MiB)
    local what = { tag = 3, 100, 300000, 65535, 65536 }
    local _, blocks = p.store_and_borrow(what)
    assert.equal(2, #blocks)
    verify(blocks)
    assert.equal(365536, p.o:stats().lent_bytes)
    assert.equal(365536, p.h:stats().borrowed_bytes)
    assert.equal(0, p.h:stats().resident_bytes)
    release(blocks)
    p.settle(function() return p.o:stats().lent_bytes == 0 end)
    assert.equal(0, p.h:stats().borrowed_bytes)
  end)

  it("has a token in the memory, and only there", function()
    p = pair(8 * MiB, 8 * MiB)
    local s = p.source()
    assert.equal(lending.TOKEN, ffi.string(s.token, 16))
    local first = s.token_offset
    assert.equal(first, p.source().token_offset)
  end)

  it("keeps the memory of an evicted block until its holder has mapped the file", function()
    p = pair(4 * MiB, 4 * MiB)
    local what = { tag = 9, 2 * MiB }
    local id, blocks, loan = p.store_and_borrow(what)
    assert.equal(0, p.o:evict(id))
    assert.is_true(p.o:stats().resident_bytes >= 2 * MiB)
    verify(blocks)
    p.o:check()
    assert(p.o:has(id, what))
    p.pump(function(n) return n.kind ~= IN_PLACE end)
    ffi.C.usleep(100000)
    p.pump(function(n) return n.kind ~= IN_PLACE end)
    assert.equal(1, #p.notes)
    assert.equal(IN_PLACE, p.notes[1].kind)
    assert.equal(loan, p.notes[1].loan)
    assert.is_true(p.o:stats().resident_bytes >= 2 * MiB)
    p.settle(function() return p.o:stats().resident_bytes < MiB end)
    for i = 1, 5 do assert(p.o:set({ tag = 50 + i, MiB })) end
    verify(blocks)
    assert(p.o:has(id, what))
    release(blocks)
  end)

  it("says once that a block is in place, however often it was told where", function()
    p = pair(4 * MiB, 4 * MiB)
    local id, blocks, loan = p.store_and_borrow({ tag = 9, 2 * MiB })
    assert.equal(0, p.o:evict(id))
    local moved, n, s, count = ffi.new("tarn_lend_note_t"), ffi.new("tarn_lend_note_t"), p.source(), 0
    assert.is_true(C.tarn_pool_lend_next(p.o.pool, moved))
    assert.equal(MOVED, moved.kind)
    for _ = 1, 3 do -- as after a connection was lost
      local open = descriptors()
      C.tarn_pool_borrow_moved(p.h.pool, 1, loan, moved.block, s.spill_fd, moved.offset)
      while descriptors() > open do ffi.C.usleep(1000) end -- it has a descriptor of its own until it has been mapped
    end
    while count < 10 and C.tarn_pool_lend_next(p.h.pool, n) do
      assert.equal(IN_PLACE, n.kind)
      count = count + 1
    end
    assert.equal(1, count)
    C.tarn_pool_lend_moved(p.o.pool, 2, loan, moved.block)
    release(blocks)
  end)

  it("does not wait for a holder that does not answer, nor touch what it maps", function()
    p = pair(8 * MiB, 4 * MiB)
    local what = { tag = 9, 3 * MiB }
    local _, blocks = p.store_and_borrow(what)
    local ids, started = {}, os.time()
    for i = 1, 20 do ids[i] = assert(p.o:set({ tag = 100 + i, MiB })) end
    assert.is_true(os.time() - started < 10 * process.patience)
    verify(blocks)
    for i, id in ipairs(ids) do assert(p.o:has(id, { tag = 100 + i, MiB })) end
    assert.is_true(p.o:stats().resident_bytes >= 3 * MiB)
    local _, rc = p.o:set({ tag = 1, 6 * MiB }) -- only 5 MiB can be had
    assert.equal(pool.EPOOLFULL, rc)
    p.settle(function() return p.o:set({ tag = 1, 6 * MiB }) end)
    verify(blocks)
    release(blocks)
  end)

  it("frees what a dead holder had, and nothing before", function()
    p = pair(4 * MiB, 4 * MiB)
    local id, blocks = p.store_and_borrow({ tag = 2, 2 * MiB, 100 })
    assert.equal(0, p.o:delete(id))
    verify(blocks)
    assert.equal(2 * MiB, p.o:stats().lent_bytes)
    assert.equal(0, p.o:stats().objects)
    release(blocks) -- the dead do not read
    C.tarn_pool_lend_end_all(p.o.pool, 2)
    assert.equal(0, p.o:stats().lent_bytes)
    assert.equal(0, p.o:stats().resident_bytes)
  end)

  it("evicts what is lent and stored by nobody", function()
    p = pair(4 * MiB, 4 * MiB)
    local what = { tag = 5, 3 * MiB }
    local v = assert(p.o:value(what)) -- a message's
    local blocks = p.borrow(v, what)
    C.tarn_value_release(v)
    assert.equal(0, p.o:stats().objects)
    local id, rc
    p.pump()
    for _ = 1, 20 do
      id, rc = p.o:set({ tag = 70, 2 * MiB })
      if id then break end
      assert.equal(pool.EPOOLFULL, rc) -- nobody has told the holder while this waited
      p.pump()
      ffi.C.usleep(5000)
    end
    assert(id)
    verify(blocks)
    assert.is_true(p.o:stats().spilled_bytes >= 3 * MiB)
    release(blocks)
  end)

  it("lends from the spill file what is there already, until the last extent's reader is gone", function()
    p = pair(4 * MiB, 4 * MiB)
    local what = { tag = 8, MiB, 200000 }
    local id = assert(p.o:set(what))
    assert.equal(0, p.o:evict(id))
    local v = assert(p.o:get(id))
    local blocks = p.borrow(v, what)
    C.tarn_value_release(v)
    verify(blocks)
    assert.equal(0, p.o:delete(id))
    for i = 1, 10 do
      local other = assert(p.o:set({ tag = 30 + i, MiB }))
      assert.equal(0, p.o:evict(other))
      p.o:delete(other)
    end
    verify(blocks)
    release(blocks)
  end)

  it("gives the value itself to who cannot map it, and passes over what it does not know", function()
    p = pair(4 * MiB, 4 * MiB)
    local what = { tag = 8, MiB }
    local id, blocks, loan = p.store_and_borrow(what)
    assert.equal(0, p.o:delete(id))
    local out = ffi.new("tarn_value_t *[1]")
    assert.equal(pool.ENOENT, C.tarn_pool_lend_value(p.o.pool, 3, loan, out, p.o.err))
    assert.equal(0, C.tarn_pool_lend_value(p.o.pool, 2, loan, out, p.o.err))
    C.tarn_pool_lend_moved(p.o.pool, 2, loan, 0) -- it was not told to
    C.tarn_pool_lend_moved(p.o.pool, 2, loan, 9)
    C.tarn_pool_lend_moved(p.o.pool, 2, loan + 9, 0)
    C.tarn_pool_lend_end(p.o.pool, 3, loan)
    C.tarn_pool_borrow_moved(p.h.pool, 1, loan + 9, 0, 0, 0)
    pool.verify(out[0], what)
    C.tarn_value_release(out[0])
    verify(blocks)
    assert.equal(MiB, p.o:stats().lent_bytes)
    release(blocks)
  end)

  it("does not lend on what is borrowed, nor small things", function()
    p = pair(4 * MiB, 4 * MiB)
    local _, blocks = p.store_and_borrow({ tag = 8, MiB })
    local front, arr = ffi.cast("uint8_t *", C.tarn_malloc(9)), ffi.new("tarn_block_t *[1]", blocks[1].b)
    local out = ffi.new("tarn_value_t *[1]")
    ffi.copy(front, "123456789", 9)
    assert.equal(0, C.tarn_value_create(p.h.pool, front, 9, arr, 1, out, p.h.err))
    local loan, places = ffi.new("uint64_t[1]"), ffi.new("tarn_lend_place_t[1]")
    assert.equal(-2, C.tarn_pool_lend(p.h.pool, out[0], 1, 0, loan, places))
    -- But it may be stored: the bytes stay where they are, through an eviction of the rest.
    local id = ffi.new("uint64_t[1]")
    assert.equal(0, C.tarn_pool_set_value(p.h.pool, out[0], pool.WAIT, id, p.h.err))
    C.tarn_value_release(out[0])
    assert.equal(0, p.h:evict(id[0]))
    p.h:check()
    local v = assert(p.h:get(id[0]))
    assert(pool.holds(C.tarn_value_block(v, 0).data, MiB, 9))
    C.tarn_value_release(v)
    assert.equal(MiB, p.h:stats().borrowed_bytes)
    p.h:delete(id[0])
    local small = assert(p.o:value({ tag = 1, 100, 5000 }))
    assert.equal(-2, C.tarn_pool_lend(p.o.pool, small, 2, 0, loan, places))
    C.tarn_value_release(small)
  end)

  it("asks again after a connection is lost, whatever was on its way", function()
    p = pair(8 * MiB, 8 * MiB)
    local what = { tag = 9, 2 * MiB }
    for _, lost in ipairs({ MOVED, IN_PLACE, lending.RETURNED }) do
      local id, blocks = p.store_and_borrow(what)
      if lost ~= lending.RETURNED then assert.equal(0, p.o:evict(id)) end
      if lost == IN_PLACE then
        p.pump()
        p.settle_note(IN_PLACE)
      elseif lost == lending.RETURNED then
        release(blocks)
        p.settle_note(lending.RETURNED)
      end
      p.lose()
      if lost == lending.RETURNED then
        p.settle(function() return p.o:stats().lent_bytes == 0 end)
      else
        p.settle(function() return p.o:stats().resident_bytes == 0 end)
        verify(blocks)
        assert.equal(2 * MiB, p.o:stats().lent_bytes)
        release(blocks)
        p.settle(function() return p.o:stats().lent_bytes == 0 end)
      end
      assert(p.o:has(id, what))
      assert.equal(0, p.o:delete(id))
      p.o:check()
      p.h:check()
    end
  end)

  it("takes back what never arrived, and the holder takes it no more", function()
    p = pair(4 * MiB, 4 * MiB)
    local what = { tag = 9, 2 * MiB }
    local v = assert(p.o:value(what))
    local loan, places = ffi.new("uint64_t[1]"), ffi.new("tarn_lend_place_t[1]")
    assert.equal(0, C.tarn_pool_lend(p.o.pool, v, 2, 77, loan, places))
    C.tarn_value_release(v)
    for _ = 1, 2 do -- asked twice
      p.lose()
      p.settle(function() return p.o:stats().lent_bytes == 0 end)
      C.tarn_pool_borrow_check(p.h.pool, 1, loan[0])
    end
    assert.equal(0, p.o:stats().resident_bytes)
    assert.is_true(C.tarn_pool_borrow_begin(p.h.pool, 1, loan[0], 1) == nil)
    C.tarn_pool_borrow_forget(p.h.pool, 1)
    local w = C.tarn_pool_borrow_begin(p.h.pool, 1, loan[0], 1)
    assert.is_true(w ~= nil)
    C.tarn_pool_borrow_end(p.h.pool, w)
    p.h:check()
  end)

  it("stays right under random operations, with the notes delayed at will", function()
    local seed = tonumber(os.getenv("TARN_SPEC_SEED")) or os.time()
    local rounds = tonumber(os.getenv("TARN_SPEC_ROUNDS")) or 1500
    print("lending: seed " .. seed)
    math.randomseed(seed)
    p = pair(12 * MiB, 4 * MiB)
    local stored, loans, tag = {}, {}, 0
    local function any(list) return math.random(#list) end
    local function pick(note)
      if note.kind == MOVED then return math.random() < 0.5 end
      return math.random() < 0.6
    end
    local ops = {
      function()
        tag = tag + 10
        local what = { tag = tag % 200, front = math.random(200) }
        for i = 1, math.random(3) do what[i] = math.random(5) == 1 and math.random(1000) or 64 * KiB + math.random(900 * KiB) end
        local id, rc = p.o:set(what)
        if id then
          stored[#stored + 1] = { id = id, what = what }
        else
          assert(rc == pool.EPOOLFULL, "unexpected code " .. tostring(rc))
        end
      end,
      function()
        if #stored == 0 then return end
        local s = stored[any(stored)]
        local v, rc = p.o:get(s.id)
        if not v then return assert(rc == pool.EPOOLFULL) end
        local blocks = p.borrow(v, s.what)
        C.tarn_value_release(v)
        if blocks then loans[#loans + 1] = blocks end
      end,
      function()
        if #stored < 20 then return end
        local s = table.remove(stored, any(stored))
        assert(p.o:delete(s.id) == 0)
      end,
      function() if #stored > 0 then p.o:evict(stored[any(stored)].id) end end,
      function() if #loans > 0 then verify(loans[any(loans)]) end end,
      function() if #loans > 8 then release(table.remove(loans, any(loans))) end end,
      function()
        if #stored == 0 then return end
        local s = stored[any(stored)]
        local ok, rc = p.o:has(s.id, s.what)
        assert(ok or rc == pool.EPOOLFULL)
      end,
      function() p.pump(pick) end,
    }
    for round = 1, rounds do
      ops[any(ops)]()
      if round % 20 == 0 then
        p.pump(round % 100 ~= 0 and pick or nil)
        p.o:check()
        p.h:check()
      end
      if round % 100 == 0 then for _, blocks in ipairs(loans) do verify(blocks) end end
    end
    for _, blocks in ipairs(loans) do verify(blocks) end
    p.settle(function() return p.o:stats().resident_bytes <= 12 * MiB end)
    for _, blocks in ipairs(loans) do
      verify(blocks)
      release(blocks)
    end
  end)
end)
