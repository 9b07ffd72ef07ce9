local ffi = require("ffi")
local C = require("spec.helper.c")
local pool = require("spec.helper.pool")
local faults = require("spec.helper.faults")
local posix = require("spec.helper.posix")
local process = require("spec.helper.process")
local KiB, MiB = pool.KiB, pool.MiB
local VERIFIED = 16 -- TARN_GET_VERIFIED

describe("spilling", function()
  local p
  after_each(function()
    faults.stop() -- what failed in between must not make the next ones hang
    p:close()
  end)

  it("keeps every view readable at its address", function()
    p = pool.new(4 * MiB)
    local what = { tag = 1, front = 500, 2 * MiB, 100 * KiB, 3000 }
    local id = assert(p:set(what))
    local v = assert(p:get(id))
    local b = C.tarn_value_block(v, 0)
    local address = b.data
    local resident = p:stats().resident_bytes
    assert.equal(0, p:evict(id))
    assert.is_true(p:stats().resident_bytes <= resident - 2 * MiB)
    assert.is_true(b.data == address)
    pool.verify(v, what)
    for i = 1, 20 do assert(p:set({ tag = i, MiB })) end -- whatever reuses the memory
    pool.verify(v, what)
    assert.equal(0, p:delete(id))
    for i = 1, 20 do assert(p:set({ tag = i, MiB })) end
    pool.verify(v, what)
    C.tarn_value_release(v)
    p:check()
  end)

  it("lets memory be used again after the last view is gone", function()
    p = pool.new(4 * MiB)
    for round = 1, 30 do
      local what = { tag = round, 3 * MiB }
      local id = assert(p:set(what))
      local v = assert(p:get(id))
      assert.equal(0, p:evict(id))
      pool.verify(v, what)
      C.tarn_value_release(v)
      assert(p:has(id, what))
      p:check()
    end
  end)

  it("writes an object once, and evicts it again for nothing", function()
    p = pool.new(4 * MiB)
    local what = { tag = 9, front = 2000, MiB, 5000 }
    local id = assert(p:set(what))
    assert.equal(0, p:evict(id))
    local written = p:stats().spill_written_bytes
    assert.is_true(written >= MiB + 7000)
    for _ = 1, 5 do
      assert(p:has(id, what))
      assert.equal(0, p:evict(id))
    end
    assert.equal(written, p:stats().spill_written_bytes)
    assert.equal(0, p:stats().resident_bytes)
  end)

  it("packs small objects many to a write, and frees a pack with its last one", function()
    p = pool.new(2 * MiB)
    local ids = {}
    for i = 1, 3000 do ids[i] = assert(p:set({ tag = i, front = 1500 })) end
    p:quiet()
    local s = p:stats()
    assert.is_true(s.spill_written_bytes < s.evictions * 1700, s.spill_written_bytes / s.evictions)
    for i = 1, 3000, 7 do assert(p:has(ids[i], { tag = i, front = 1500 })) end
    for i = 1, 3000 do assert.equal(0, p:delete(ids[i])) end
    p:quiet()
    assert.equal(0, p:stats().disk_bytes)
  end)

  it("maps large fronts and reads small ones, both as they were", function()
    p = pool.new(2 * MiB)
    local ids = {}
    for i, size in ipairs({ 1, 100, 4096, 65535, 65536, 65537, 900000 }) do
      local what = { tag = i, front = size }
      ids[i] = { assert(p:set(what)), what }
      assert.equal(0, p:evict(ids[i][1]))
    end
    assert.equal(0, p:stats().resident_bytes)
    for _, it in ipairs(ids) do assert(p:has(it[1], it[2])) end
  end)

  it("stores a plain value larger than the budget", function()
    p = pool.new(1 * MiB)
    local what = { tag = 3, front = 5 * MiB }
    local id = assert(p:set(what))
    assert(p:has(id, what))
    p:quiet()
    assert.equal(0, p:evict(id))
    assert(p:has(id, what))
  end)

  it("builds a block larger than the budget in the file", function()
    p = pool.new(1 * MiB)
    local b = assert(p:block(10 * MiB, nil, pool.ZERO))
    for i = 0, 10 * MiB - 1, 4001 do assert(b.data[i] == 0) end
    C.tarn_block_unmap(b)
    C.tarn_block_release(b)
    local what = { tag = 4, 10 * MiB, 70 * KiB }
    local id = assert(p:set(what))
    assert.is_true(p:stats().disk_bytes >= 10 * MiB)
    assert.is_true(p:stats().resident_bytes <= 1 * MiB)
    assert(p:has(id, what))
    assert.equal(0, p:evict(id))
    assert(p:has(id, what))
  end)

  it("counts and writes a block that two objects share once", function()
    p = pool.new(4 * MiB)
    local b = assert(p:block(MiB, 5))
    local ids = {}
    for i = 1, 2 do
      assert.equal(0, C.tarn_block_map(b, p.err))
      C.tarn_block_retain(b)
      local front = ffi.cast("uint8_t *", C.tarn_malloc(10))
      ffi.copy(front, "0123456789", 10)
      local out = ffi.new("tarn_value_t *[1]")
      local blocks = ffi.new("tarn_block_t *[1]", b)
      assert.equal(0, C.tarn_value_create(p.pool, front, 10, blocks, 1, out, p.err))
      local id = ffi.new("uint64_t[1]")
      assert.equal(0, C.tarn_pool_set_value(p.pool, out[0], 0, id, p.err))
      C.tarn_value_release(out[0])
      ids[i] = id[0]
    end
    C.tarn_block_unmap(b)
    C.tarn_block_release(b)
    assert.is_true(p:stats().resident_bytes < 1.1 * MiB)
    assert.equal(0, p:evict(ids[1]))
    assert.equal(0, p:delete(ids[1]))
    assert.equal(0, p:evict(ids[2]))
    assert.is_true(p:stats().spill_written_bytes < 1.1 * MiB)
    local v = assert(p:get(ids[2]))
    assert.is_true(pool.holds(C.tarn_value_block(v, 0).data, MiB, 5))
    C.tarn_value_release(v)
  end)

  it("stops at max_disksize with the figures, and everything is still there", function()
    p = pool.new(2 * MiB, { disk = 4 * MiB })
    local ids, rc = {}, nil
    for i = 1, 20 do
      local id
      id, rc = p:set({ tag = i * 3, MiB })
      if not id then break end
      ids[i] = id
    end
    assert.equal(pool.EDISKFULL, rc)
    assert.matches("spill file in .* is full", p:message())
    assert.is_true(p.err.needed >= MiB)
    assert.is_true(#ids >= 4)
    for i, id in ipairs(ids) do assert(p:has(id, { tag = i * 3, MiB })) end
    for i = 1, #ids - 1 do assert.equal(0, p:delete(ids[i])) end
    assert(p:set({ tag = 99, MiB })) -- a later attempt
    local more = 8 * MiB
    C.tarn_pool_set_limits(p.pool, nil, ffi.new("uint64_t[1]", more))
    for i = 1, 5 do assert(p:set({ tag = i, MiB })) end
  end)

  it("says which directory it could not use", function()
    p = pool.new(1 * MiB, { dir = "/proc/nowhere/deeper" })
    local id = assert(p:set({ tag = 1, 800 * KiB }))
    assert.equal(pool.EIO, p:evict(id))
    assert.matches("/proc/nowhere", p:message())
    local _, rc = p:set({ tag = 2, 800 * KiB })
    assert.equal(pool.EIO, rc)
    assert(p:has(id, { tag = 1, 800 * KiB }))
  end)

  it("leaves nothing behind in the directory it made", function()
    p = pool.new(1 * MiB)
    local id = assert(p:set({ tag = 1, 500 * KiB }))
    assert.equal(0, p:evict(id))
    assert.is_nil(io.open(p.dir))
  end)

  -- Several processes have one spill directory; who has made it removes it, which another may be about to use.
  for name, errno in pairs({ ENOENT = faults.ENOENT, EPERM = faults.EPERM }) do
    it("makes the directory again when it has gone meanwhile: " .. name, function()
      p = pool.new(1 * MiB)
      local id = assert(p:set({ tag = 1, 500 * KiB }))
      faults.at(faults.OPEN, 1, errno, 4) -- without a name, and with one
      assert.equal(0, p:evict(id), p:message())
      assert.equal(4, faults.stop())
      assert(p:has(id, { tag = 1, 500 * KiB }))
    end)
  end

  it("makes the directory again however often another process removes it", function()
    local dir = pool.spill_dir()
    local remover = process.start_tarn({ "-e", ([[
      local ffi = require "ffi"
      ffi.cdef "int rmdir(const char *path);"
      print "begun" io.stdout:flush()
      while true do ffi.C.rmdir(%q) end
    ]]):format(dir) })
    assert.equal("begun", remover:line())
    for round = 1, 200 do
      p = pool.new(1 * MiB, { dir = round % 2 == 0 and dir or dir .. "/" })
      local id = assert(p:set({ tag = round, 70 * KiB }))
      assert.equal(0, p:evict(id), p:message())
      p:close()
    end
    remover:kill()
    remover:wait()
  end)

  it("says Corrupt when the bytes of a small object have changed on disk", function()
    p = pool.new(2 * MiB)
    local id, other = assert(p:set({ tag = 1, front = 300 })), assert(p:set({ tag = 2, front = 300 }))
    assert.equal(0, p:evict(id))
    assert.equal(0, p:evict(other))
    local file = assert(io.open(posix.open_file("self", p.dir), "r+b"))
    file:seek("set", 150) -- the first pack is the first thing in the file
    file:write("other bytes")
    file:close()
    assert.same({ false, pool.ECORRUPT }, { p:has(id, {}) })
    assert.matches("not what was written", p:message())
    assert(p:has(other, { tag = 2, front = 300 }))
  end)

  it("takes no mapping for each block that is read back", function()
    local function mappings()
      local n = 0
      for _ in io.lines("/proc/self/maps") do n = n + 1 end
      return n
    end
    p = pool.new(8 * MiB)
    local ids, views = {}, {}
    for i = 1, 1000 do ids[i] = assert(p:set({ tag = i % 90, 64 * KiB })) end
    local before = mappings()
    for i = 1, 1000, 2 do views[i] = assert(p:get(ids[i])) end
    assert.is_true(mappings() < before + 150) -- those of the last that are in memory may be evicted, in any order
    for i, v in pairs(views) do
      pool.verify(v, { tag = i % 90, 64 * KiB })
      C.tarn_value_release(v)
    end
  end)

  for _, kind in ipairs({ { "writing", faults.WRITE }, { "reserving space", faults.ALLOCATE } }) do
    it("keeps everything when " .. kind[1] .. " fails, says so, and tries again later", function()
      p = pool.new(2 * MiB)
      local a = assert(p:set({ tag = 1, front = 300, MiB }))
      faults.at(kind[2], 1, faults.ENOSPC, 1000)
      assert.equal(pool.EDISKFULL, p:evict(a))
      assert.matches("spill_dir of addprocs, name another%): No space left", p:message())
      local _, rc = p:set({ tag = 2, 1.5 * MiB })
      assert.equal(pool.EDISKFULL, rc)
      assert.is_true(p.err.needed > 0)
      assert(p:has(a, { tag = 1, front = 300, MiB }))
      faults.at(kind[2], 1, faults.EIO, 1000)
      assert.equal(pool.EIO, p:evict(a))
      faults.stop()
      assert(p:set({ tag = 2, 1.5 * MiB }))
      assert(p:has(a, { tag = 1, front = 300, MiB }))
    end)
  end

  it("tells one that did not wait, too", function()
    p = pool.new(2 * MiB)
    assert(p:set({ tag = 1, 1.5 * MiB }))
    faults.at(faults.WRITE, 1, faults.ENOSPC, 1000)
    local _, rc = p:block(MiB, nil, 0)
    assert.equal(pool.EAGAIN, rc)
    p:quiet()
    _, rc = p:block(MiB, nil, 0)
    assert.equal(pool.EDISKFULL, rc)
    faults.stop()
    assert(p:set({ tag = 2, MiB }))
  end)

  it("says IOError when a small object cannot be read back, once", function()
    p = pool.new(2 * MiB)
    local id = assert(p:set({ tag = 1, front = 300 }))
    assert.equal(0, p:evict(id))
    faults.at(faults.READ, 1, faults.EIO)
    assert.same({ false, pool.EIO }, { p:has(id, {}) })
    assert(p:has(id, { tag = 1, front = 300 }))
  end)

  it("keeps the memory of a view that the file cannot be mapped over", function()
    p = pool.new(4 * MiB)
    assert.equal(0, p:evict(assert(p:set({ tag = 3, front = 100 })))) -- has the file opened
    local what = { tag = 1, 2 * MiB }
    local id = assert(p:set(what))
    local v = assert(p:get(id))
    faults.at(faults.MMAP, 1, faults.ENOMEM)
    assert.equal(0, p:evict(id))
    assert.is_true(p:stats().resident_bytes >= 2 * MiB)
    pool.verify(v, what)
    C.tarn_value_release(v)
    assert.equal(0, p:stats().resident_bytes)
    assert(p:has(id, what))
  end)

  it("maps each block on its own where there are no addresses for the whole file, and reads it where it cannot be mapped", function()
    p = pool.new(16 * MiB)
    faults.at(faults.MMAP, 1, faults.ENOMEM)
    local what = { tag = 1, 2 * MiB, 70 * KiB, 3 * MiB }
    local id = assert(p:set(what))
    assert.equal(0, p:evict(id))
    assert(p:has(id, what))
    local v = assert(p:get(id, pool.WAIT + VERIFIED))
    C.tarn_value_release(v) -- and nobody is at it any more
    assert.is_true(p:stats().resident_bytes < KiB)
    faults.at(faults.MMAP, 1, faults.ENOMEM, 1000)
    v = assert(p:get(id))
    pool.verify(v, what)
    assert.is_true(p:stats().resident_bytes >= 5 * MiB)
    p:check()
    C.tarn_value_release(v)
    assert.is_true(p:stats().resident_bytes < KiB)
    -- within the budget, like anything else
    local more = assert(p:set({ tag = 2, front = 7 * MiB })) -- cannot be evicted while it is read
    local w = assert(p:get(more))
    local lower = 9 * MiB
    C.tarn_pool_set_limits(p.pool, ffi.new("uint64_t[1]", lower), nil)
    local _, rc = p:get(id)
    assert.equal(pool.EPOOLFULL, rc)
    C.tarn_value_release(w)
    assert(p:has(id, what))
    faults.stop()
    assert(p:has(id, what))
  end)

  it("leaves the rest of the process its mappings: what may not be mapped over stays, until it is unmapped", function()
    p = pool.new(8 * MiB)
    C.tarn__mappings_at_most(p.pool, 1)
    local what = { tag = 1, MiB, 100 * KiB }
    local id = assert(p:set(what))
    local v = assert(p:get(id))
    assert.equal(0, p:evict(id))
    assert.is_true(p:stats().resident_bytes >= MiB)
    pool.verify(v, what)
    for i = 1, 20 do assert(p:set({ tag = i, MiB })) end
    pool.verify(v, what)
    C.tarn_value_release(v)
    p:check()
    assert(p:has(id, what))
    C.tarn__mappings_at_most(p.pool, 0)
    v = assert(p:get(id))
    pool.verify(v, what)
    C.tarn_value_release(v)
  end)

  it("survives memory that cannot be punched", function()
    p = pool.new(2 * MiB)
    faults.at(faults.PUNCH, 1, faults.EOPNOTSUPP, 50)
    for i = 1, 10 do p:set({ tag = i, i * 100 * KiB }) end
    faults.stop()
    p:check()
    assert(p:set({ tag = 50, MiB }))
  end)
end)
