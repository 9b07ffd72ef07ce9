local ffi = require("ffi")
local C = require("spec.helper.c")
local pool = require("spec.helper.pool")
local posix = require("spec.helper.posix")
local KiB, MiB = pool.KiB, pool.MiB

describe("a pool", function()
  local p
  after_each(function() p:close() end)

  it("gives back what was stored, under ids that are never used again", function()
    p = pool.new(8 * MiB)
    local what = { tag = 4, front = 77, 0, 1, 64, 65535, 65536, 300000 }
    local id = assert(p:set(what))
    assert.equal(1, tonumber(id))
    assert(p:has(id, what))
    local size = ffi.new("uint64_t[1]")
    assert.equal(0, C.tarn_pool_size_of(p.pool, id, size))
    assert.equal(77 + 1 + 64 + 65535 + 65536 + 300000, tonumber(size[0]))
    assert.equal(0, p:delete(id))
    assert.equal(pool.ENOENT, p:delete(id))
    assert.same({ false, pool.ENOENT }, { p:has(id, what) })
    assert.equal(2, tonumber(assert(p:set({ tag = 1 }))))
  end)

  it("keeps views readable after deletion", function()
    p = pool.new(4 * MiB)
    local what = { tag = 6, front = 100, MiB, 100 }
    local id = assert(p:set(what))
    local v = assert(p:get(id))
    local b = C.tarn_value_block(v, 0)
    assert.equal(0, C.tarn_block_map(b, p.err))
    assert.equal(0, p:delete(id))
    for i = 1, 10 do assert(p:set({ tag = i, MiB })) end
    pool.verify(v, what)
    C.tarn_value_release(v)
    assert.is_true(pool.holds(b.data, MiB, 7))
    C.tarn_block_unmap_later(b)
    assert.is_true(pool.holds(b.data, MiB, 7))
    C.tarn_pool_boundary(p.pool)
  end)

  it("zeroes blocks, aligned to 64, whatever memory they get", function()
    p = pool.new(4 * MiB)
    for _ = 1, 3 do
      for _, size in ipairs({ 1, 1000, 65535, 65536, 100000, 1000000 }) do
        local b = assert(p:block(size, nil, pool.ZERO + pool.WAIT))
        assert(tonumber(ffi.cast("uintptr_t", b.data)) % 64 == 0)
        for i = 0, size - 1 do assert(b.data[i] == 0) end
        ffi.C.memset(b.data, 255, size)
        C.tarn_block_unmap(b)
        C.tarn_block_release(b)
      end
    end
  end)

  it("never holds more than its budget", function()
    p = pool.new(4 * MiB)
    local ids = {}
    for i = 1, 60 do
      ids[i] = assert(p:set({ tag = i, front = 100, 50 * KiB + i * 5000 }))
      local s = p:stats()
      assert(s.resident_bytes + s.live_bytes <= 4 * MiB)
      p:check()
    end
    for i = 1, 60 do assert(p:has(ids[i], { tag = i, front = 100, 50 * KiB + i * 5000 })) end
  end)

  it("says PoolFull, too, while messages are under way that do not leave, or leave nothing", function()
    p = pool.new(1 * MiB, { patience = 1e7 })
    local held = assert(p:block(900 * KiB, 1))
    local messages = ffi.new("tarn_message_t[2]") -- of what is held
    for i = 0, 1 do assert.equal(0, C.tarn_pool_sending(p.pool, 1, messages[i])) end
    assert.equal(pool.EPOOLFULL, (select(2, p:block(300 * KiB, 2))))
    C.tarn_pool_sent(p.pool, messages[0])
    assert.equal(pool.EPOOLFULL, (select(2, p:block(300 * KiB, 2))))
    C.tarn_pool_sent(p.pool, messages[1])
    assert.equal(pool.EPOOLFULL, (select(2, p:block(300 * KiB, 2))))
    C.tarn_block_unmap(held)
    C.tarn_block_release(held)
    local b = assert(p:block(300 * KiB, 2))
    C.tarn_block_unmap(b)
    C.tarn_block_release(b)
  end)

  it("does not wait for a message that does not leave, whatever leaves by another connection", function()
    p = pool.new(1 * MiB, { patience = 3e9 })
    local held = assert(p:block(900 * KiB, 1))
    local stuck, other = ffi.new("tarn_message_t"), ffi.new("tarn_message_t")
    assert.equal(0, C.tarn_pool_sending(p.pool, 1, stuck))
    assert.equal(pool.EPOOLFULL, (select(2, p:block(300 * KiB, 2)))) -- after its patience
    assert.equal(0, C.tarn_pool_sending(p.pool, 2, other))
    C.tarn_pool_sent(p.pool, other)
    local begun = posix.now()
    assert.equal(pool.EPOOLFULL, (select(2, p:block(300 * KiB, 2))))
    assert.is_true(posix.now() - begun < 2)
    C.tarn_pool_sent(p.pool, stuck)
    C.tarn_block_unmap(held)
    C.tarn_block_release(held)
  end)

  it("does not wait for messages before who asks has tried what else makes room", function()
    p = pool.new(1 * MiB, { patience = 1e15 })
    local held, message = assert(p:block(900 * KiB, 1)), ffi.new("tarn_message_t")
    assert.equal(0, C.tarn_pool_sending(p.pool, 1, message))
    assert.equal(pool.EPOOLFULL, (select(2, p:block(300 * KiB, 2, pool.WAIT + pool.SOON))))
    C.tarn_pool_sent(p.pool, message)
    C.tarn_block_unmap(held)
    C.tarn_block_release(held)
  end)

  it("says PoolFull when nothing can be evicted, and all of it is still there", function()
    p = pool.new(2 * MiB)
    local blocks = {}
    local rc
    while true do
      local b
      b, rc = p:block(300 * KiB, #blocks + 1)
      if not b then break end
      blocks[#blocks + 1] = b
    end
    assert.equal(pool.EPOOLFULL, rc)
    assert.is_true(p.err.needed >= 300 * KiB and p.err.available < 300 * KiB)
    assert.equal(6, #blocks)
    for i, b in ipairs(blocks) do assert.is_true(pool.holds(b.data, 300 * KiB, i)) end
    for _, b in ipairs(blocks) do
      C.tarn_block_unmap(b)
      C.tarn_block_release(b)
    end
    local b = assert(p:block(MiB))
    C.tarn_block_unmap(b)
    C.tarn_block_release(b)
  end)

  it("refuses a live value that is larger than the budget", function()
    p = pool.new(MiB)
    assert.equal(pool.EPOOLFULL, select(2, p:set_live(2 * MiB)))
    assert.equal(0, p:stats().live_bytes)
  end)

  it("answers EAGAIN to one that does not wait, and calls on_room when it is worth trying again", function()
    local told = pool.semaphore()
    p = pool.new(2 * MiB, { semaphore = told })
    local id = assert(p:set({ tag = 1, 1.5 * MiB }))
    assert.equal(pool.EAGAIN, select(2, p:block(MiB, nil, 0)))
    assert.is_true(pool.posted(told))
    local b = assert(p:block(MiB, nil, 0))
    C.tarn_block_unmap(b)
    C.tarn_block_release(b)
    assert(p:has(id, { tag = 1, 1.5 * MiB }))
  end)

  it("drops the anchor of a live value that is deleted", function()
    local told = pool.bytes.buf()
    p = pool.new(2 * MiB, { user = told })
    for i = 1, 300 do assert.equal(i, C.tarn_pool_live_tag(p.pool, assert(p:set_live(10)), i % 2 == 0)) end
    assert.equal(0, tonumber(told.capacity))
    assert.equal(0, p:delete(300))
    assert.is_true(told.capacity >= 300)
    local v, rc = p:get(1)
    assert.is_nil(v)
    assert.equal(0, rc)
  end)

  it("takes the encoded form of a live value, unless it has been deleted", function()
    p = pool.new(2 * MiB)
    local id, gone = assert(p:set_live(100000)), assert(p:set_live(5))
    assert.equal(pool.ENEEDLUA, p:evict(id))
    local v = assert(p:value({ tag = 8, front = 400, 70 * KiB }))
    assert.equal(0, C.tarn_pool_encoded(p.pool, id, v, p.err))
    assert.is_true(C.tarn_pool_encoded(p.pool, id, v, p.err) < 0)
    assert.equal(0, p:delete(gone))
    assert.equal(0, C.tarn_pool_live_tag(p.pool, id, true))
    assert.equal(0, C.tarn_pool_live_tag(p.pool, gone, true))
    assert.equal(pool.ENOENT, C.tarn_pool_encoded(p.pool, gone, v, p.err))
    C.tarn_value_release(v)
    assert.equal(0, p:stats().live_bytes)
    assert(p:has(id, { tag = 8, front = 400, 70 * KiB }))
    assert.equal(0, p:evict(id))
    assert(p:has(id, { tag = 8, front = 400, 70 * KiB }))
  end)

  it("evicts at once when its budget is lowered", function()
    p = pool.new(8 * MiB)
    local ids = {}
    for i = 1, 7 do ids[i] = assert(p:set({ tag = i, MiB })) end
    C.tarn_pool_set_limits(p.pool, ffi.new("uint64_t[1]", 3 * MiB), nil)
    p:becomes(function(s) return s.resident_bytes <= 3 * MiB end)
    for i = 1, 7 do assert(p:has(ids[i], { tag = i, MiB })) end
  end)

  it("holds many more small objects than fit in memory", function()
    p = pool.new(2 * MiB)
    local ids = {}
    for i = 1, 12000 do ids[i] = assert(p:set({ tag = i, front = 700 })) end
    for i = 1, 12000, 11 do assert(p:has(ids[i], { tag = i, front = 700 })) end
    for i = 1, 12000, 5 do assert.equal(0, p:delete(ids[i])) end
    p:check()
  end)

  it("is emptied by clear and usable after it", function()
    p = pool.new(2 * MiB)
    for round = 1, 3 do
      for i = 1, 8 do assert(p:set({ tag = i, front = 1000, 500 * KiB })) end
      assert(p:set_live(100))
      C.tarn_pool_clear(p.pool)
      p:quiet()
      local s = p:stats()
      assert.same({ 0, 0, 0, 0 }, { s.objects, s.resident_bytes, s.spilled_bytes, s.live_bytes }, "round " .. round)
    end
  end)

  it("survives every allocation failing in turn", function()
    p = pool.new(2 * MiB)
    for n = 1, 400 do
      C.tarn_alloc_fail_at(n)
      local out, id = ffi.new("tarn_block_t *[1]"), ffi.new("uint64_t[1]")
      local rc = C.tarn_block_create(p.pool, 1000 + n * 700, pool.WAIT, out, p.err)
      if rc == 0 then
        local front = C.tarn_malloc(50)
        if front == nil then front = C.tarn_malloc(50) end
        ffi.C.memset(front, 1, 50)
        local v = ffi.new("tarn_value_t *[1]")
        rc = C.tarn_value_create(p.pool, front, 50, out, 1, v, p.err)
        if rc == 0 then
          C.tarn_pool_set_value(p.pool, v[0], pool.WAIT, id, p.err)
          C.tarn_value_release(v[0])
        else
          C.tarn_free(front)
          C.tarn_block_unmap(out[0])
          C.tarn_block_release(out[0])
        end
      end
      C.tarn_alloc_fail_at(0)
      p:check()
    end
    assert(p:set({ tag = 1, MiB }))
  end)
end)
