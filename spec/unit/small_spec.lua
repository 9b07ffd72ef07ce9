-- Small objects: what one costs, what becomes of it while it is read, written, deleted, and the packs that hold many.
local ffi = require "ffi"
local C = require "spec.helper.c"
local pool = require "spec.helper.pool"
local posix = require "spec.helper.posix"
local MiB, KiB = pool.MiB, pool.KiB

pcall(ffi.cdef, "void tarn_alloc_fail_at(uint64_t countdown);")
pcall(ffi.cdef, "int tarn_pool_copy(tarn_pool_t *pool, uint64_t id, tarn_error_t *err);")

describe("small objects", function()
  local p
  after_each(function()
    p:close()
    p = nil
  end)

  -- C memory beyond the payload for each of n objects, the C library's own bytes (8 a piece) included.
  local function overhead(n, what, payload, use)
    local before = tonumber(C.tarn_alloc_bytes())
    for i = 1, n do
      what.tag = i % 50
      assert(p:set(what))
    end
    if use then use() end
    p:check()
    return (tonumber(C.tarn_alloc_bytes()) - before + 8 * n) / n - payload
  end

  for _, size in ipairs({ 9, 100, 1000 }) do
    it(("cost at most 96 bytes each beyond their %d when they are in memory"):format(size), function()
      p = pool.new(600 * MiB)
      for _, n in ipairs({ 30000, 50000 }) do
        local each = overhead(n, { front = size }, size)
        assert.is_true(each <= 96, ("%d objects of %d bytes: %.1f more each"):format(n, size, each))
        C.tarn_pool_clear(p.pool)
      end
    end)
  end

  for _, what in ipairs({ { front = 100 }, { front = 60, 80 }, { front = 90, 40, 8, 1000 } }) do
    it(("cost at most 96 bytes each when they are spilled, with %d blocks"):format(#what), function()
      p = pool.new(200 * MiB)
      assert.equal(0, p:evict(assert(p:set({ tag = 1, front = 10 })))) -- the spill thread has its buffers
      local each = overhead(40000, what, 0, function()
        C.tarn_pool_set_limits(p.pool, ffi.new("uint64_t[1]", MiB), nil) -- less than the records
        p:quiet()
      end)
      assert.equal(0, p:stats().resident_bytes)
      assert.is_true(each <= 96, ("%.1f each"):format(each))
    end)
  end

  it("of several pieces are the same after they were out, and while they are read", function()
    p = pool.new(4 * MiB)
    local whats, ids = {}, {}
    for i = 1, 300 do
      whats[i] = { tag = i, front = 30 + i, i, 0, i * 7, 60000 - i * 190 }
      ids[i] = assert(p:set(whats[i]))
    end
    for i = 1, 300 do
      if i % 3 == 0 then assert.equal(0, p:evict(ids[i])) end
      assert(p:has(ids[i], whats[i]))
    end
    for i = 1, 300, 7 do
      local v, w = assert(p:get(ids[i])), assert(p:get(ids[i]))
      assert.equal(0, p:evict(ids[i]))
      pool.verify(v, whats[i])
      C.tarn_value_release(v)
      pool.verify(w, whats[i])
      assert.equal(0, p:delete(ids[i]))
      pool.verify(w, whats[i])
      C.tarn_value_release(w)
      p:check()
    end
  end)

  it("share a block as long as there are two of it, wherever the first one is", function()
    p = pool.new(2 * MiB)
    local v = assert(p:value({ tag = 3, 1000, 2000 }))
    local id = ffi.new("uint64_t[1]")
    local ids = {}
    for i = 1, 3 do
      assert.equal(0, C.tarn_pool_set_value(p.pool, v, pool.WAIT, id, p.err))
      ids[i] = id[0]
    end
    C.tarn_value_release(v)
    p:check()
    assert.equal(0, p:evict(ids[1]))
    assert(p:has(ids[2], { tag = 3, 1000, 2000 }))
    assert.equal(0, p:delete(ids[2]))
    assert(p:has(ids[1], { tag = 3, 1000, 2000 }))
    for i = 1, 5 do assert(p:set({ tag = i, 900 * KiB })) end
    assert(p:has(ids[3], { tag = 3, 1000, 2000 }))
    p:check()
  end)

  it("are written once, and evicted for nothing after they were read back", function()
    p = pool.new(2 * MiB)
    local id = assert(p:set({ tag = 1, front = 500, 300 }))
    assert.equal(0, p:evict(id))
    local written = p:stats().spill_written_bytes
    for _ = 1, 5 do
      assert(p:has(id, { tag = 1, front = 500, 300 }))
      assert.equal(0, p:evict(id))
      assert.equal(0, p:stats().resident_bytes)
    end
    assert.equal(written, p:stats().spill_written_bytes)
  end)

  it("stay in memory when they are copied to disk", function()
    p = pool.new(2 * MiB)
    local id = assert(p:set({ tag = 1, front = 500 }))
    assert.equal(0, C.tarn_pool_copy(p.pool, id, p.err))
    local s = p:stats()
    assert.is_true(s.resident_bytes > 500 and s.spilled_bytes == 500)
    assert(p:has(id, { tag = 1, front = 500 }))
  end)

  it("survive allocations that fail while they are read, evicted and deleted", function()
    p = pool.new(2 * MiB)
    local what = { tag = 5, front = 300, 200, 700 }
    for n = 1, 40 do
      local id = assert(p:set(what))
      C.tarn_alloc_fail_at(n)
      p:evict(id)
      local ok, rc = p:has(id, what)
      assert(ok or rc == pool.ENOMEM, rc)
      C.tarn_alloc_fail_at(0)
      p:check()
      assert(p:has(id, what))
      assert.equal(0, p:delete(id))
    end
  end)
end)

describe("packs", function()
  local p
  after_each(function()
    p:close()
    p = nil
  end)

  -- What the spill file takes on disk, as the file system counts.
  local function blocks_on_disk()
    local pipe = io.popen("stat -L -c '%b %B' " .. posix.open_file(posix.getpid(), p.dir))
    local count, unit = pipe:read("*n", "*n")
    pipe:close()
    return count * unit
  end

  it("give space back when most of what they hold is deleted, and what is left is right", function()
    p = pool.new(8 * MiB)
    local whats, ids, n = {}, {}, 60000
    math.randomseed(11)
    for i = 1, n do
      whats[i] = { tag = i % 1000, front = math.random(200, 8000) }
      ids[i] = assert(p:set(whats[i]))
      if i > 10 then -- one in a hundred lives long, the others a few thousand sets
        local old = i - math.random(2000, 4000)
        if old > 0 and ids[old] and old % 100 ~= 0 then
          assert.equal(0, p:delete(ids[old]))
          ids[old] = nil
        end
      end
      if i % 10000 == 0 then
        local s = p:stats()
        local most = 1.3 * s.spilled_bytes + 64 * MiB
        assert.is_true(blocks_on_disk() <= most, ("%d on disk, %d live"):format(blocks_on_disk(), s.spilled_bytes))
      end
    end
    for i = 1, n do
      if ids[i] and i % 100 ~= 0 then assert.equal(0, p:delete(ids[i])) end
    end
    p:quiet()
    p:check()
    local s = p:stats()
    assert.is_true(s.disk_bytes <= 1.3 * s.spilled_bytes + 32 * MiB, ("%d used for %d"):format(s.disk_bytes, s.spilled_bytes))
    for i = 100, n, 100 do
      if ids[i] then assert(p:has(ids[i], whats[i])) end
    end
  end)

  it("are not written anew where all that they hold lives", function()
    p = pool.new(4 * MiB)
    local what, ids = { tag = 3, front = 4000 }, {}
    for i = 1, 16000 do ids[i] = assert(p:set(what)) end -- 61 MiB
    p:quiet()
    local written = p:stats().spill_written_bytes
    for i = 1, 8000 do -- half of them go, but for one in a hundred
      if i % 100 ~= 0 then assert.equal(0, p:delete(ids[i])) end
    end
    p:quiet()
    local moved = p:stats().spill_written_bytes - written
    assert.is_true(moved > 0 and moved < 3 * MiB, ("%.1f MiB were written to move 0.3"):format(moved / MiB))
    for i = 100, 16000, 100 do assert(p:has(ids[i], what)) end
  end)

  it("are left alone where their bytes are not what was written, and a get says so", function()
    p = pool.new(4 * MiB)
    local ids, what = {}, { tag = 9, front = 4000 }
    for i = 1, 16000 do ids[i] = assert(p:set(what)) end
    p:quiet()
    local file = assert(io.open(posix.open_file("self", p.dir), "r+b"))
    file:seek("set", 16 + 2000) -- in the first record of the file
    file:write("other bytes")
    file:close()
    for i = 1, 16000 do
      if i % 50 ~= 1 then assert.equal(0, p:delete(ids[i])) end
    end
    p:quiet()
    local bad = 0
    for i = 1, 16000, 50 do
      local ok, rc = p:has(ids[i], what)
      if not ok then
        assert.equal(pool.ECORRUPT, rc)
        assert.matches("object " .. tonumber(ids[i]) .. ", are not what was written", p:message())
        bad = bad + 1
      end
    end
    assert.equal(1, bad)
    p:check()
  end)
end)
