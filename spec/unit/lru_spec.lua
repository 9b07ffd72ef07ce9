local ffi = require("ffi")
local C = require("spec.helper.c")
local pool = require("spec.helper.pool")
local KiB, MiB = pool.KiB, pool.MiB

describe("the order of eviction", function()
  local p
  before_each(function() p = pool.new(8 * MiB) end)
  after_each(function() p:close() end)

  -- Objects of 1 MiB; which are on disk shows by whether reading one maps bytes back.
  local function fill(n)
    local ids = {}
    for i = 1, n do ids[i] = assert(p:set({ tag = i * 10, MiB })) end
    return ids
  end
  local function is_spilled(id, tag)
    local before = p:stats().mapped_back_bytes
    assert(p:has(id, { tag = tag, MiB }))
    return p:stats().mapped_back_bytes - before >= MiB
  end

  it("is least recently used first", function()
    local ids = fill(6)
    assert.equal(0, p:stats().evictions)
    assert(p:has(ids[1], { tag = 10, MiB }))
    assert.equal(0, C.tarn_pool_touch(p.pool, ids[2], p.err))
    ids[7], ids[8] = p:set({ tag = 70, MiB }), p:set({ tag = 80, MiB })
    p:quiet()
    assert.is_false(is_spilled(ids[8], 80))
    assert.is_false(is_spilled(ids[1], 10))
    assert.is_false(is_spilled(ids[2], 20))
    assert.is_true(is_spilled(ids[3], 30))
  end)

  it("takes a little more than is needed, not everything", function()
    fill(9)
    p:quiet()
    local s = p:stats()
    assert.is_true(s.evictions >= 1 and s.evictions <= 4, s.evictions)
    assert.is_true(s.resident_bytes <= 8 * MiB)
  end)

  it("drops what is to be destroyed, without writing it", function()
    local a = assert(p:set({ tag = 1, 4 * MiB }, pool.WAIT + pool.DESTROY))
    local b = assert(p:set({ tag = 2, 2 * MiB }))
    local c = assert(p:set({ tag = 3, 4 * MiB }))
    assert.same({ false, pool.ENOENT }, { p:has(a, {}) })
    p:quiet()
    assert.equal(0, p:stats().spill_written_bytes)
    assert(p:has(b, { tag = 2, 2 * MiB }) and p:has(c, { tag = 3, 4 * MiB }))
    assert.equal(0, C.tarn_pool_set_destroy_on_evict(p.pool, b, true))
    assert.equal(0, C.tarn_pool_touch(p.pool, c, p.err))
    assert(p:set({ tag = 4, 3 * MiB }))
    assert.equal(pool.ENOENT, C.tarn_pool_touch(p.pool, b, p.err))
  end)

  it("asks Lua for live values in that order, and for no more than are needed", function()
    local live = {}
    for i = 1, 7 do live[i] = assert(p:set_live(MiB)) end
    local block, rc = p:block(3 * MiB)
    assert.is_nil(block)
    assert.equal(pool.ENEEDLUA, rc)
    local id = ffi.new("uint64_t[1]")
    local asked = {}
    while C.tarn_pool_next_live(p.pool, id) == 1 do
      asked[#asked + 1] = tonumber(id[0])
      local v = assert(p:value({ tag = 5, front = 1000 }))
      assert.equal(0, C.tarn_pool_encoded(p.pool, id[0], v, p.err))
      C.tarn_value_release(v)
    end
    assert.same({ tonumber(live[1]), tonumber(live[2]), tonumber(live[3]) }, { asked[1], asked[2], asked[3] })
    assert.is_true(#asked <= 4)
    block = assert(p:block(3 * MiB))
    C.tarn_block_unmap(block)
    C.tarn_block_release(block)
    assert(p:has(live[1], { tag = 5, front = 1000 }))
  end)

  it("passes over what cannot be encoded, and says PoolFull when nothing else is left", function()
    local live = {}
    for i = 1, 7 do live[i] = assert(p:set_live(MiB)) end
    local id = ffi.new("uint64_t[1]")
    assert.equal(pool.ENEEDLUA, select(2, p:block(4 * MiB)))
    while C.tarn_pool_next_live(p.pool, id) == 1 do C.tarn_pool_pin_live(p.pool, id[0]) end
    assert.equal(pool.EPOOLFULL, select(2, p:block(4 * MiB)))
    assert.equal(4 * MiB, math.floor(tonumber(p.err.needed) / MiB) * MiB)
    assert.is_true(tonumber(p.err.available) < 1.1 * MiB)
    assert.equal(7, p:stats().objects)
    for i = 1, 7 do assert.equal(0, p:delete(live[i])) end
  end)

  it("does not evict what a reader holds from under it, and evicts it when it is let go", function()
    local held, ids = {}, {}
    for i = 1, 60 do
      ids[i] = assert(p:set({ tag = i, front = 60 * KiB, 30 * KiB }))
      held[i] = assert(p:get(ids[i]))
    end
    local _, rc = p:set({ tag = 100, 6 * MiB })
    assert.equal(pool.EPOOLFULL, rc)
    for i = 1, 60 do pool.verify(held[i], { tag = i, front = 60 * KiB, 30 * KiB }) end
    for i = 1, 60 do C.tarn_value_release(held[i]) end
    assert(p:set({ tag = 100, 6 * MiB }))
    for i = 1, 60 do assert(p:has(ids[i], { tag = i, front = 60 * KiB, 30 * KiB })) end
  end)
end)
