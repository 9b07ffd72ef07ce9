-- Saved files as homes of values in the pool, by its C functions: what is mapped, what is read, what it costs, and that the sums hold.
local ffi = require("ffi")
local C = require("spec.helper.c")
local core = require("tarn.core")
local lfs = require("lfs")
local pool = require("spec.helper.pool")
local KiB, MiB = pool.KiB, pool.MiB

pcall(ffi.cdef, "int truncate(const char *path, int64_t size);")

local VERIFY, QUIET = 8, 4

describe("a saved file in the pool", function()
  local p, path

  before_each(function()
    p = pool.new(4 * MiB)
    path = os.tmpname()
    local large, small = tarn.array("double", 100000), tarn.array("double", 100)
    for i = 1, #large do large[i] = i end
    for i = 1, #small do small[i] = -i end
    core.save(path, { large, small, "text" })
  end)
  after_each(function()
    p:close()
    os.remove(path)
  end)

  local function open(flags) return p:open(path, flags) end

  local function doubles(v, i) return ffi.cast("const double *", C.tarn_value_block(v, i).data) end

  local function store(v)
    local id = ffi.new("uint64_t[1]")
    assert.equal(0, C.tarn_pool_set_value(p.pool, v, pool.WAIT, id, p.err))
    return id[0]
  end

  local function get(id, flags)
    local out = ffi.new("tarn_value_t *[1]")
    local rc = C.tarn_pool_get(p.pool, id, pool.WAIT + (flags or 0), out, p.err)
    if rc ~= 0 then return nil, rc end
    return out[0]
  end

  it("has its large blocks mapped and the rest read; nothing of it is on the spill file", function()
    local v = assert(open())
    assert.equal(2, C.tarn_value_block_count(v))
    assert.equal(99999, doubles(v, 0)[99998])
    assert.equal(-100, doubles(v, 1)[99])
    assert.equal(0, tonumber(ffi.cast("uintptr_t", C.tarn_value_block(v, 0).data)) % 64)
    local s = p:stats()
    assert.is_true(s.resident_bytes < 4 * KiB)
    assert.equal(0, s.spilled_bytes)
    p:check()
    C.tarn_value_release(v)
    assert.equal(0, p:stats().resident_bytes)
  end)

  it("keeps views valid after the value and the file are gone", function()
    local v = assert(open(VERIFY))
    local b = C.tarn_value_block(v, 0)
    assert.equal(0, C.tarn_block_map(b, p.err))
    local at = ffi.cast("const double *", b.data)
    C.tarn_value_release(v)
    os.remove(path)
    assert.equal(100000, at[99999])
    p:check()
    C.tarn_block_unmap(b)
  end)

  it("is evicted for nothing and read again, time after time", function()
    local v = assert(open())
    local id = store(v)
    C.tarn_value_release(v)
    for i = 1, 20 do
      local keep = assert(p:set({ tag = i, 3 * MiB }))
      assert.equal(0, p:delete(keep))
      local again = assert(get(id, i % 2 == 0 and QUIET or 0))
      assert.equal(-1, doubles(again, 1)[0])
      C.tarn_value_release(again)
      p:check()
    end
    assert.equal(0, p:delete(id))
  end)

  it("that was changed since is an error at the next opening, naming it", function()
    local id
    do
      local v = assert(open())
      id = store(v)
      C.tarn_value_release(v)
    end
    local name = ffi.new("char[4096]")
    assert.equal(0, C.tarn_pool_saved_path(p.pool, id, name, 4096))
    assert.equal(path, ffi.string(name))
    assert.equal(pool.ENOENT, C.tarn_pool_saved_path(p.pool, id, name, 3))
    lfs.touch(path, 1, 1)
    assert.same({ nil, pool.EIO }, { get(id) })
    assert.is_truthy(p:message():find(path, 1, true))
    os.remove(path)
    assert.same({ nil, pool.EIO }, { get(id) })
    assert.same({ nil, pool.EIO }, { open() })
    p:check()
  end)

  -- A call that wants live values encoded gives its records back before it comes again: that is no room for it.
  it("is opened when only live values can make way for it, however little is missing", function()
    for missing = 0, 6000, 50 do
      local q = pool.new(4 * MiB)
      local live, id = {}, ffi.new("uint64_t[1]")
      q.encode_wanted = function()
        while C.tarn_pool_next_live(q.pool, id) == 1 do
          local v = assert(q:value(live[tonumber(id[0])]))
          assert.equal(0, C.tarn_pool_encoded(q.pool, id[0], v, q.err))
          C.tarn_value_release(v)
        end
      end
      for i = 1, 5 do live[tonumber((assert(q:set_live(100 * KiB))))] = { tag = i, front = 100 } end
      q:set_limits(500 * KiB + missing, nil)
      C.tarn_value_release((assert(q:open(path))))
      q:close()
    end
  end)

  it("becomes the home of an object, wherever that was", function()
    for _, prepare in ipairs({
      function() return assert(p:set({ tag = 1, front = 100, MiB, 100 })) end,
      function()
        local id = assert(p:set({ tag = 2, front = 100 }))
        assert.equal(0, C.tarn_pool_evict(p.pool, id, p.err))
        return id
      end,
      function()
        local id = assert(p:set({ tag = 3, front = 100, 300 * KiB }))
        assert.equal(0, C.tarn_pool_evict(p.pool, id, p.err))
        return id
      end,
      function() return assert(p:set_live(MiB)) end,
    }) do
      local id = prepare()
      local v = assert(open())
      assert.equal(0, C.tarn_pool_rehome(p.pool, id, v, p.err))
      C.tarn_value_release(v)
      p:check()
      local s = p:stats()
      assert.equal(0, s.live_bytes)
      assert.equal(0, s.spilled_bytes)
      local again = assert(get(id))
      assert.equal(5, doubles(again, 0)[4])
      C.tarn_value_release(again)
      assert.equal(0, p:delete(id))
      assert.equal(pool.ENOENT, C.tarn_pool_rehome(p.pool, id, v, p.err))
    end
  end)

  it("is IOError for who copies it, and ends nothing, when it is cut short while it is being verified", function()
    local a = tarn.array("double", 4000000)
    for _ = 1, 5 do
      core.save(path, a)
      local v = assert(open())
      assert.equal(0, ffi.C.truncate(path, 4096))
      local rc = C.tarn_block_verify(C.tarn_value_block(v, 0), p.err)
      assert.is_true(rc == 0 or rc == pool.EIO) -- 0: it was quicker
      C.tarn_value_release(v)
      p:check()
    end
  end)

  it("is read where there are too many mappings, within the budget", function()
    C.tarn__mappings_at_most(p.pool, 1)
    local v = assert(open())
    assert.equal(100000, doubles(v, 0)[99999])
    assert.is_true(p:stats().resident_bytes >= 800000)
    C.tarn_value_release(v)
    assert.equal(0, p:stats().resident_bytes)
    core.save(path, tarn.array("double", 1000000))
    local _, rc = open()
    assert.equal(pool.EPOOLFULL, rc)
    C.tarn__mappings_at_most(p.pool, 0)
    v = assert(open())
    C.tarn_value_release(v)
  end)
end)

describe("an object that is copied to disk", function()
  it("stays in memory, and is evicted later without being written again", function()
    local p = pool.new(8 * MiB)
    local what = { tag = 4, front = 77, 100, 300 * KiB, MiB }
    local id = assert(p:set(what))
    local resident = p:stats().resident_bytes
    assert.equal(0, C.tarn_pool_copy(p.pool, id, p.err))
    local s = p:stats()
    assert.equal(resident, s.resident_bytes)
    assert.equal(0, s.evictions)
    assert.is_true(s.spilled_bytes > MiB)
    p:check()
    assert.equal(0, C.tarn_pool_copy(p.pool, id, p.err))
    assert(p:has(id, what))
    p:check()
    assert.equal(resident, p:stats().resident_bytes)
    assert.equal(0, C.tarn_pool_evict(p.pool, id, p.err))
    assert.equal(0, p:stats().resident_bytes)
    assert.equal(s.spill_written_bytes, p:stats().spill_written_bytes)
    assert(p:has(id, what))
    assert.equal(pool.ENOENT, C.tarn_pool_copy(p.pool, id + 1, p.err))
    p:close()
  end)

  it("gives its memory when room is needed", function()
    local p = pool.new(4 * MiB)
    local ids = {}
    for i = 1, 12 do
      ids[i] = assert(p:set({ tag = i, MiB }))
      assert.equal(0, C.tarn_pool_copy(p.pool, ids[i], p.err))
      p:check()
    end
    for i = 1, 12 do assert(p:has(ids[i], { tag = i, MiB })) end
    p:close()
  end)
end)

describe("a watched object", function()
  it("may end in whatever way", function()
    local buffer = ffi.new("tarn_buf_t")
    C.tarn_buf_init(buffer, 1000)
    local p = pool.new(4 * MiB, { user = buffer })
    local id = assert(p:set({ tag = 1 }))
    assert.equal(0, C.tarn_pool_watch(p.pool, id))
    assert.equal(0, C.tarn_pool_watch(p.pool, id))
    assert.equal(0, p:delete(id))
    assert.equal(pool.ENOENT, C.tarn_pool_watch(p.pool, id))
    local dropped = assert(p:set({ tag = 2, MiB }, pool.WAIT + pool.DESTROY))
    assert.equal(0, C.tarn_pool_watch(p.pool, dropped))
    assert.equal(0, C.tarn_pool_watch(p.pool, (assert(p:set_live(1000)))))
    p:close()
    C.tarn_buf_release(buffer)
  end)
end)
