-- Every system call of the pool and every allocation fails in turn, in every way, until a workload passes without one: whatever was
-- acknowledged is still there and right, each error is one that the fault explains, and the sums hold.
local ffi = require("ffi")
local C = require("spec.helper.c")
local faults = require("spec.helper.faults")
local lending = require("spec.helper.lending")
local pool = require("spec.helper.pool")
local KiB, MiB = pool.KiB, pool.MiB

-- What a workload has been told: objects that are there, views and loans that are open.
local function new_run(path)
  local self = { kept = {}, views = {}, codes = {} }
  self.link = lending.link(pool.new(1 * MiB, { patience = 2e6 }), pool.new(1 * MiB, { patience = 2e6 }))
  self.p = self.link.o
  self.path = path
  return self
end

local function failed(self, rc)
  self.codes[rc] = true
  return nil
end

local function set(self, what)
  local id, rc = self.p:set(what)
  if not id then return failed(self, rc) end
  self.kept[#self.kept + 1] = { id = id, what = what }
  return self.kept[#self.kept]
end

local function get(self, o)
  if not o then return nil end
  local v, rc = self.p:get(o.id)
  if not v then return failed(self, rc) end
  pool.verify(v, o.what)
  return v
end

local function look(self, o)
  local v = get(self, o)
  if v then C.tarn_value_release(v) end
end

local function evict(self, o)
  if not o then return end
  local rc = self.p:evict(o.id)
  if rc ~= 0 then failed(self, rc) end
end

local function view(self, o)
  local v = get(self, o)
  if v then self.views[#self.views + 1] = { v, o.what } end
end

local SAVED = { tag = 77, front = 200, saved = true, 100, 70 * KiB, 100 * KiB }

-- A little of everything, on about three times the budget.
local function workload(self)
  local p = self.p
  local first = set(self, { tag = 1, front = 300, 200 * KiB, 5000 })
  view(self, first)
  local small = {}
  for i = 1, 12 do small[i] = set(self, { tag = 100 + i, front = 700 * i }) end
  for i = 2, 6 do set(self, { tag = i * 5, front = 100, 150 * KiB, 66 * KiB }) end
  evict(self, first)
  for i = 1, 12, 3 do evict(self, small[i]) end
  view(self, small[1])
  look(self, self.kept[2])
  if first then
    local rc = p:copy(first.id)
    if rc ~= 0 then failed(self, rc) end
  end
  set(self, { tag = 60, 1.5 * MiB }) -- more than the budget
  set(self, { tag = 61, front = 90 * KiB })
  local v, rc = p:open(self.path, 8)
  if v then
    pool.verify(v, SAVED)
    local o = set(self, { tag = 62, front = 50 })
    if o then
      rc = C.tarn_pool_rehome(p.pool, o.id, v, p.err)
      if rc == 0 then o.what = SAVED else failed(self, rc) end
    end
    C.tarn_value_release(v)
  else
    failed(self, rc)
  end
  for _, k in ipairs({ 3, 9, 14 }) do -- lent from memory or from the file, moved while it is mapped
    local o = self.kept[k]
    v = get(self, o)
    local blocks = v and self.link.borrow(v, o.what) -- else the value would be sent
    if v then C.tarn_value_release(v) end
    if blocks then
      evict(self, o)
      self.link.pump()
      lending.verify(blocks)
      self.loans = self.loans or {}
      table.insert(self.loans, blocks)
    end
  end
  self.link.pump()
  for i = 7, 9 do set(self, { tag = i * 5, front = 100, 100 * KiB }) end
  if small[2] then
    assert(p:delete(small[2].id) == 0)
    for i, o in ipairs(self.kept) do
      if o == small[2] then table.remove(self.kept, i) end
    end
  end
end

-- The fault is over: all that was acknowledged is there, views are what they were, room is found.
local function verify(self)
  local p = self.p
  p:check()
  self.link.h:check()
  for _, it in ipairs(self.views) do
    pool.verify(it[1], it[2])
    C.tarn_value_release(it[1])
  end
  for _, blocks in ipairs(self.loans or {}) do
    lending.verify(blocks)
    lending.release(blocks)
  end
  self.link.settle(function() return p:stats().lent_bytes == 0 end)
  for _, o in ipairs(self.kept) do
    local ok, rc = p:has(o.id, o.what)
    assert(ok, ("an object is lost: %s %s"):format(tostring(rc), p:message()))
  end
  assert(p:set({ tag = 250, 700 * KiB })) -- nobody has to be told that room is back
  p:check()
  self.link.close()
end

local KINDS = {
  { "mmap", faults.MMAP, { faults.ENOMEM } },
  { "munmap", faults.MUNMAP, { faults.ENOMEM } },
  { "writing", faults.WRITE, { faults.ENOSPC, faults.EIO } },
  { "reading", faults.READ, { faults.EIO } },
  { "reserving", faults.ALLOCATE, { faults.ENOSPC, faults.EIO } },
  { "punching", faults.PUNCH, { faults.EOPNOTSUPP } },
  { "opening", faults.OPEN, { faults.EMFILE, faults.EACCES } },
  { "fstat", faults.STAT, { faults.EIO } },
  { "names", faults.NAME, { faults.EACCES } },
}

-- What each errno may become; nothing at all where it can be done without.
local EXPLAINS = {
  [faults.ENOSPC] = { [pool.EDISKFULL] = true },
  [faults.EIO] = { [pool.EIO] = true },
  [faults.EACCES] = { [pool.EIO] = true },
  [faults.EMFILE] = { [pool.EIO] = true },
  [faults.ENOMEM] = { [pool.ENOMEM] = true },
  [faults.EOPNOTSUPP] = {},
}

describe("a pool survives", function()
  local path
  before_each(function()
    path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    file:write(pool.file(SAVED))
    file:close()
  end)
  after_each(function() os.remove(path) end)

  it("a workload without faults", function()
    local self = new_run(path)
    workload(self)
    assert.same({}, self.codes)
    assert.equal(23, #self.kept)
    verify(self)
  end)

  for _, kind in ipairs(KINDS) do
    for _, errno in ipairs(kind[3]) do
      it(("%s that fails: errno %d, each call in turn"):format(kind[1], errno), function()
        faults.sweep(function(n)
          local self = new_run(path)
          faults.at(kind[2], n, errno)
          workload(self)
          self.link.settle(function() return true end)
          local count = faults.stop()
          for code in pairs(self.codes) do
            assert(EXPLAINS[errno][code], ("call %d: errno %d became code %d: %s"):format(n, errno, code, self.p:message()))
          end
          verify(self)
          return count
        end)
      end)
    end
    it(kind[1] .. " that fails for good, until it does not", function()
      for _, n in ipairs({ 1, 5, 12, 25 }) do
        local errno = kind[3][1]
        local self = new_run(path)
        faults.at(kind[2], n, errno, 1e9)
        workload(self)
        faults.stop()
        for code in pairs(self.codes) do assert(EXPLAINS[errno][code] or code == pool.EPOOLFULL, "code " .. code) end
        verify(self)
      end
    end)
  end

  local HARMLESS = {
    { "interrupted calls", faults.WRITE + faults.READ + faults.ALLOCATE + faults.PUNCH + faults.OPEN, faults.EINTR, 500 },
    { "reads and writes that do a part of what was asked, always", faults.WRITE + faults.READ, faults.PART, 1e9 },
    { "a file system without O_TMPFILE", faults.OPEN, faults.EOPNOTSUPP, 1 },
    { "a file system without fallocate", faults.ALLOCATE, faults.EOPNOTSUPP, 1e9 },
  }
  for _, case in ipairs(HARMLESS) do
    it(case[1] .. " as if nothing were the matter", function()
      local self = new_run(path)
      faults.at(case[2], 1, case[3], case[4])
      workload(self)
      assert.is_true(faults.stop() > 0)
      assert.same({}, self.codes)
      verify(self)
    end)
  end

  it("every allocation failing in turn", function()
    local before
    faults.sweep(function(n)
      local self = new_run(path)
      faults.alloc_at(n)
      local ok, e = pcall(workload, self)
      local count = faults.alloc_stop()
      assert(ok, e)
      for code in pairs(self.codes) do assert(code == pool.ENOMEM or code == pool.EPOOLFULL, "code " .. code .. " " .. self.p:message()) end
      verify(self)
      self = nil -- luacheck: ignore
      collectgarbage()
      before = before or tonumber(C.tarn_alloc_bytes())
      assert(tonumber(C.tarn_alloc_bytes()) - before < 20000, ("allocation %d: C memory is left"):format(n))
      return count
    end)
  end)

  it("being made while anything fails", function()
    local config = ffi.new("tarn_pool_config_t", { max_memsize = MiB, max_disksize = MiB })
    config.spill_dir = "/tmp"
    local function make()
      local out, err = ffi.new("tarn_pool_t *[1]"), ffi.new("tarn_error_t")
      local rc = C.tarn_pool_create(config, out, err)
      if rc == 0 then
        C.tarn_pool_destroy(out[0])
      else
        assert(err.code == rc and err.message[0] ~= 0)
      end
      return rc
    end
    for _, errno in ipairs({ faults.ENOMEM, faults.EMFILE }) do
      faults.sweep(function(n)
        faults.at(faults.MMAP + faults.OPEN + faults.TRUNCATE, n, errno)
        make()
        return faults.stop()
      end)
    end
    faults.sweep(function(n)
      faults.alloc_at(n)
      make()
      return faults.alloc_stop()
    end)
    assert.equal(0, make())
  end)
end)
