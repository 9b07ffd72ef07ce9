-- What is read back from the spill file or a saved file is verified, and prefetched, off the reader's thread.
local ffi = require("ffi")
local C = require("spec.helper.c")
local pool = require("spec.helper.pool")
local posix = require("spec.helper.posix")
local KiB, MiB = pool.KiB, pool.MiB
local VERIFIED, WAIT = 16, pool.WAIT


describe("what is read back", function()
  local p
  after_each(function() p:close() end)

  -- One byte at an offset of the spill file becomes another.
  local function spoil(offset) posix.spoil(posix.open_file("self", p.dir), offset) end

  local function corrupt(id, flags)
    local v, rc = p:get(id, flags)
    if v then C.tarn_value_release(v) end
    return rc == pool.ECORRUPT
  end

  -- A reader that waits for nothing gets it, and keeps it; and is told some time later.
  local function becomes_corrupt(id)
    local v, rc = p:get(id)
    local told = rc == pool.ECORRUPT
    for _ = 1, 5000 do
      if told then break end
      ffi.C.usleep(2000)
      told = corrupt(id)
    end
    if v then C.tarn_value_release(v) end
    return told and corrupt(id)
  end

  it("is Corrupt at once when a block of up to 1 MiB has changed, and its neighbours are not", function()
    p = pool.new(8 * MiB)
    local ids = {}
    for i, size in ipairs({ 64 * KiB, 300000, MiB }) do
      ids[i] = assert(p:set({ tag = i, size }))
      assert.equal(0, p:evict(ids[i]))
    end
    spoil(64 * KiB + 4096 + 200000) -- the second: after one page of front
    assert.is_true(corrupt(ids[2]))
    assert.matches("object 2: 300000 bytes at %d+ of the spill file in " .. p.dir:gsub("%p", "%%%0") .. " are not what was written",
      p:message())
    assert.is_true(corrupt(ids[2]))
    assert(p:has(ids[1], { tag = 1, 64 * KiB }))
    assert(p:has(ids[3], { tag = 3, MiB }))
    assert.equal(0, p:delete(ids[2]))
  end)

  it("is Corrupt from some moment on when a larger block has changed, and at once for who copies it", function()
    p = pool.new(32 * MiB)
    local what = { tag = 5, 20 * MiB + 100 }
    for _, at in ipairs({ 0, 5 * MiB + 77, 20 * MiB + 99 }) do
      local id = assert(p:set(what))
      assert.equal(0, p:evict(id))
      spoil(at)
      assert.is_true(becomes_corrupt(id), "at " .. at)
      assert.matches("20971620 bytes at 0 of the spill file", p:message())
      assert.equal(pool.ECORRUPT, C.tarn_pool_touch(p.pool, id, p.err))
      assert.equal(0, p:delete(id))

      id = assert(p:set(what))
      assert.equal(0, p:evict(id))
      spoil(at)
      assert.is_true(corrupt(id, WAIT + VERIFIED), "at " .. at)
      assert.equal(0, p:delete(id))

      id = assert(p:set(what))
      assert.equal(0, p:evict(id))
      spoil(at)
      local v = assert(p:get(id))
      assert.equal(pool.ECORRUPT, C.tarn_block_verify(C.tarn_value_block(v, 0), p.err))
      C.tarn_value_release(v)
      assert.equal(0, p:delete(id))
    end
  end)

  it("is not Corrupt when nothing has changed, whoever waits for it", function()
    p = pool.new(32 * MiB)
    for i, size in ipairs({ MiB + 1, 2 * MiB, 2 * MiB + 1, 17 * MiB - 5 }) do
      local what = { tag = i, size, 70 * KiB }
      local id = assert(p:set(what))
      for _ = 1, 3 do
        assert.equal(0, p:evict(id))
        local v = assert(p:get(id, WAIT + VERIFIED))
        pool.verify(v, what)
        C.tarn_value_release(v)
      end
      p:check()
    end
  end)

  it("says Again to who does not want to wait for the verification", function()
    p = pool.new(80 * MiB)
    local id = assert(p:set({ tag = 1, 64 * MiB }))
    assert.equal(0, p:evict(id))
    local _, rc = p:get(id, VERIFIED)
    assert.equal(pool.EAGAIN, rc)
    local v = assert(p:get(id, WAIT + VERIFIED))
    local w = assert(p:get(id, VERIFIED))
    C.tarn_value_release(v)
    C.tarn_value_release(w)
  end)

  for name, size in pairs({ small = 500 * KiB, large = 4 * MiB }) do
    it("is verified when a view has survived the eviction of its block, a " .. name .. " one", function()
      p = pool.new(16 * MiB)
      local what = { tag = 1, size }
      for _, spoilt in ipairs({ false, true }) do
        local id = assert(p:set(what))
        local v = assert(p:get(id))
        assert.equal(0, p:evict(id))
        if spoilt then
          spoil(100)
          assert.is_true(becomes_corrupt(id))
        else
          assert(p:has(id, what))
          assert.equal(0, C.tarn_block_verify(C.tarn_value_block(v, 0), p.err))
        end
        C.tarn_value_release(v)
        assert.equal(0, p:delete(id))
      end
    end)
  end

  it("is verified too when it was built in the file, larger than the budget", function()
    p = pool.new(2 * MiB)
    local what = { tag = 7, 9 * MiB }
    local id = assert(p:set(what))
    local v = assert(p:get(id, WAIT + VERIFIED))
    pool.verify(v, what)
    C.tarn_value_release(v)
    spoil(5 * MiB + 1)
    assert.is_true(becomes_corrupt(id))
    assert.equal(0, p:delete(id))
  end)

  it("goes on when its reader leaves, and comes back, while it is being looked at", function()
    p = pool.new(64 * MiB)
    local what = { tag = 3, 48 * MiB }
    local id = assert(p:set(what))
    assert.equal(0, p:evict(id))
    for _ = 1, 200 do
      local v = assert(p:get(id))
      C.tarn_value_release(v)
    end
    local v = assert(p:get(id, WAIT + VERIFIED))
    pool.verify(v, what)
    C.tarn_value_release(v)
    assert.equal(0, p:delete(id))
  end)
end)
