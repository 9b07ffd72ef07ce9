-- A model of the pool, a table of descriptions, and operations that are done to both. Two pools, which lend to each other. Whatever
-- a pool has acknowledged is there and right, or is denied with a typed error that the model allows. Every step is drawn from
-- math.random, so a seed tells all of a run but the moments at which the spill threads work.
local ffi = require("ffi")
local C = require("spec.helper.c")
local faults = require("spec.helper.faults")
local lending = require("spec.helper.lending")
local pool = require("spec.helper.pool")

local KiB, MiB = pool.KiB, pool.MiB
local random = math.random
local NO_LIMIT = 0xffffffffffffffffULL

local Model = {}
Model.__index = Model
local M = {}

-- Codes that may be met: where there is no room, and where something is made to fail.
local FULL = { [pool.EPOOLFULL] = true, [pool.EDISKFULL] = true }
local BROKEN = { [pool.EPOOLFULL] = true, [pool.EDISKFULL] = true, [pool.EIO] = true, [pool.ENOMEM] = true }

---------------------------------------------------------------------------------------------------- live values: what Lua would do

local function object_of(set, id)
  for _, o in ipairs(set) do
    if o.id == id then return o end
  end
end

local function encode(p, o)
  local v = p:value(o.what)
  if not v then return false end
  local rc = C.tarn_pool_encoded(p.pool, o.id, v, p.err)
  C.tarn_value_release(v)
  if rc == 0 then o.live = nil end
  return rc == 0
end

local function make_room(p, set)
  local id = ffi.new("uint64_t[1]")
  while C.tarn_pool_next_live(p.pool, id) == 1 do
    local o = object_of(set, id[0])
    if not o then
      -- Stored a moment ago and not known here yet: it cannot be, since storing returns first.
      error("an object that nobody has stored is to be encoded")
    end
    if not encode(p, o) then C.tarn_pool_pin_live(p.pool, id[0]) end
  end
end

---------------------------------------------------------------------------------------------------- what is known

-- opts: memory, disk (bytes), faults (true: some calls are made to fail on the way).
function M.new(opts)
  local self = setmetatable({ memory = opts.memory, disk = opts.disk, faults = opts.faults }, Model)
  self.sets, self.views, self.loans, self.files = { {}, {} }, {}, {}, {}
  self.dir, self.count = os.tmpname(), 0
  os.remove(self.dir)
  self.semaphore = pool.semaphore() -- for callbacks, which nobody waits for here
  self.pools = {}
  for i = 1, 2 do
    local p = pool.new(opts.memory, { disk = opts.disk, semaphore = self.semaphore, patience = 1e6 })
    p.encode_wanted = function() make_room(p, self.sets[i]) end
    self.pools[i] = p
  end
  self.link = lending.link(self.pools[1], self.pools[2])
  return self
end

function Model:pick_pool()
  local i = random(2)
  return self.pools[i], self.sets[i], i
end

local function pick(list) return list[random(#list)] end

function Model:allow(p, rc, what)
  local allowed = self.faults and BROKEN or FULL
  assert(allowed[rc], ("%s: code %s (%s)"):format(what, tostring(rc), p:message()))
  if rc == pool.ENOMEM then return end
  assert(p.err.code == rc and p.err.message[0] ~= 0, what .. ": an error without a story")
  if FULL[rc] then assert(p.err.needed > 0, what .. ": " .. p:message() .. ": how much is needed?") end
end

-- A description of something to store.
local function some(self)
  self.count = self.count + 1
  local what = { tag = random(1000), front = random(8) == 1 and random(64 * KiB, 150 * KiB) or random(1, 3000) }
  local most = self.memory / 4
  for i = 1, random(0, 3) do what[i] = random() < 0.5 and random(0, 60000) or random(64 * KiB, math.max(64 * KiB, most)) end
  return what
end

---------------------------------------------------------------------------------------------------- operations

function Model:store()
  local p, set = self:pick_pool()
  local what = some(self)
  local destroy = random(12) == 1
  local flags = pool.WAIT + (destroy and pool.DESTROY or 0)
  local id, rc = p:set(what, flags)
  if not id then return self:allow(p, rc, "set") end
  set[#set + 1] = { id = id, what = what, may_go = destroy }
end

-- Larger than the budget: it is built in the spill file.
function Model:store_huge()
  local p, set = self:pick_pool()
  if random(4) ~= 1 then return end
  local what = { tag = random(1000), self.memory + random(MiB) }
  local id, rc = p:set(what)
  if not id then return self:allow(p, rc, "set of more than the budget") end
  set[#set + 1] = { id = id, what = what }
end

function Model:store_live()
  local p, set = self:pick_pool()
  local what = { tag = random(1000), front = random(1, 20000) }
  local destroy = random(8) == 1
  local id, rc = p:set_live(what.front + random(0, 1000), pool.WAIT + (destroy and pool.DESTROY or 0))
  if not id then return self:allow(p, rc, "set of a live value") end
  set[#set + 1] = { id = id, what = what, live = true, may_go = destroy }
end

local function forget(set, o)
  for i, other in ipairs(set) do
    if other == o then return table.remove(set, i) end
  end
end

-- The value of o, retained; nil when it is live, gone, or there is no room.
function Model:open(p, set, o, flags)
  local v, rc = p:get(o.id, flags)
  if v then
    pool.verify(v, o.what)
    return v
  end
  if rc == 0 then
    assert(o.live, "an object that was encoded is live again")
  elseif rc == pool.ENOENT then
    assert(o.may_go, "an object is gone")
    forget(set, o)
  elseif not (o.file and self:file_is_gone(o, rc)) then
    self:allow(p, rc, "get")
  end
end

function Model:get()
  local p, set, i = self:pick_pool()
  if #set == 0 then return end
  local o = pick(set)
  local v = self:open(p, set, o, pool.WAIT + (random(4) == 1 and 4 or 0))
  if not v then return end
  if #self.views < 10 and random() < 0.4 then
    self.views[#self.views + 1] = { v = v, what = o.what, i = i }
  else
    C.tarn_value_release(v)
  end
end

-- A view of one block that outlives its value, and is unmapped at a boundary.
function Model:hold_block()
  local p, set = self:pick_pool()
  if #set == 0 or #self.views >= 10 then return end
  local o = pick(set)
  local v = #o.what > 0 and self:open(p, set, o)
  if not v then return end
  local k = random(#o.what)
  local b = C.tarn_value_block(v, k - 1)
  if C.tarn_block_map(b, p.err) == 0 then self.views[#self.views + 1] = { b = b, size = o.what[k], tag = o.what.tag + k } end
  C.tarn_value_release(v)
end

local function verify_view(view)
  if view.v then return pool.verify(view.v, view.what) end
  assert(pool.holds(view.b.data, view.size, view.tag), "a block has changed under its view")
end

local function drop_view(view)
  verify_view(view)
  if view.v then return C.tarn_value_release(view.v) end
  if random(2) == 1 then return C.tarn_block_unmap(view.b) end
  C.tarn_block_unmap_later(view.b)
  assert(pool.holds(view.b.data, view.size, view.tag), "a block has changed before the boundary")
end

function Model:look()
  for _, view in ipairs(self.views) do verify_view(view) end
  for _, blocks in ipairs(self.loans) do lending.verify(blocks) end
end

function Model:let_go()
  if #self.views > 0 then drop_view(table.remove(self.views, random(#self.views))) end
end

function Model:boundary() C.tarn_pool_boundary(self:pick_pool().pool) end

function Model:delete()
  local p, set = self:pick_pool()
  if #set == 0 then return end
  local o = table.remove(set, random(#set))
  local rc = p:delete(o.id)
  assert(rc == 0 or (rc == pool.ENOENT and o.may_go), "delete")
end

local function write_out(self, call, name)
  local p, set = self:pick_pool()
  if #set == 0 then return end
  local o = pick(set)
  local rc = call(p, o.id)
  if rc == pool.ENEEDLUA then
    assert(o.live, name .. ": it is encoded already")
    if not encode(p, o) then return end
    rc = call(p, o.id)
  end
  if rc == 0 then return end
  if rc == pool.ENOENT and o.may_go then return forget(set, o) end
  self:allow(p, rc, name)
end

function Model:evict() write_out(self, function(p, id) return p:evict(id) end, "evict") end
function Model:copy() write_out(self, function(p, id) return p:copy(id) end, "copy") end

function Model:set_destroy()
  local p, set = self:pick_pool()
  if #set == 0 then return end
  local o, flag = pick(set), random(6) == 1
  local rc = C.tarn_pool_set_destroy_on_evict(p.pool, o.id, flag)
  if rc ~= 0 then
    assert(rc == pool.ENOENT and o.may_go)
    return forget(set, o)
  end
  if flag then o.may_go = true end -- and even when it is taken back: it may be gone already
end

function Model:set_limits()
  local p, set = self:pick_pool()
  local memory = random(3) == 1 and self.memory or math.floor(self.memory * (0.4 + random()))
  local disk = random(2) == 1 and self.disk or nil
  if random(3) == 1 then disk = random(0, 8) * MiB end
  p:set_limits(memory, disk)
  make_room(p, set)
end

-- The object moves into a file of the user's: its home from then on.
function Model:move_to_file()
  local p, set, i = self:pick_pool()
  if #set == 0 then return end
  local what = some(self)
  what.front, what.saved = math.min(what.front, 60000), true
  local path = ("%s-%d-%d"):format(self.dir, i, self.count)
  faults.alloc_stop() -- what is made here is not under test
  local file = assert(io.open(path, "wb"))
  file:write(pool.file(what))
  file:close()
  local v, rc = p:open(path, random(2) == 1 and 8 or 0)
  if not v then
    os.remove(path)
    return self:allow(p, rc, "opening a saved file")
  end
  pool.verify(v, what)
  local o = pick(set)
  rc = C.tarn_pool_rehome(p.pool, o.id, v, p.err)
  C.tarn_value_release(v)
  if rc == 0 then
    o.what, o.file, o.live = what, path, nil
    self.files[path] = true
    return
  end
  os.remove(path)
  if rc == pool.ENOENT then
    assert(o.may_go)
    return forget(set, o)
  end
  self:allow(p, rc, "rehome")
end

-- A user may do to his files what he likes.
function Model:file_is_gone(o, rc) return self.files[o.file] == nil and rc == pool.EIO end

function Model:remove_file()
  local path = next(self.files)
  if not path or random(5) > 1 then return end
  os.remove(path)
  self.files[path] = nil
end

function Model:lend()
  local p, set, i = self:pick_pool()
  if #set == 0 or #self.loans >= 12 then return end
  local o = pick(set)
  local v = self:open(p, set, o)
  if not v then return end
  local blocks, rc = self.link.borrow(v, o.what, i)
  C.tarn_value_release(v)
  if blocks then
    self.loans[#self.loans + 1] = blocks
  else
    assert(rc == -2 or BROKEN[rc], "lend: code " .. tostring(rc)) -- -2: nothing of it can be lent
  end
end

function Model:return_loan()
  if #self.loans == 0 then return end
  local blocks = table.remove(self.loans, random(#self.loans))
  lending.verify(blocks)
  lending.release(blocks)
end

function Model:pump() self.link.pump(random(3) > 1 and function() return random(2) == 1 end or nil) end

function Model:lose_connection() self.link.lose() end

local ERRNOS = {
  [faults.MMAP] = { faults.ENOMEM },
  [faults.WRITE] = { faults.ENOSPC, faults.EIO, faults.PART, faults.EINTR },
  [faults.READ] = { faults.EIO, faults.PART, faults.EINTR },
  [faults.ALLOCATE] = { faults.ENOSPC, faults.EIO, faults.EINTR },
  [faults.PUNCH] = { faults.EOPNOTSUPP, faults.EIO, faults.EINTR },
  [faults.OPEN] = { faults.EMFILE, faults.EACCES },
  [faults.STAT] = { faults.EIO },
}
local KINDS = {}
for kind in pairs(ERRNOS) do KINDS[#KINDS + 1] = kind end
table.sort(KINDS)

function Model:break_something()
  if not self.faults then return end
  if random(3) == 1 then
    faults.alloc_at(random(30))
  else
    local kind = pick(KINDS)
    faults.at(kind, random(6), pick(ERRNOS[kind]), random(3))
  end
end

function Model.mend()
  faults.stop()
  faults.alloc_stop()
end

---------------------------------------------------------------------------------------------------- a run

local WEIGHTS = { store = 22, store_huge = 2, store_live = 10, get = 20, hold_block = 5, look = 3, let_go = 9, boundary = 3, delete = 9,
  evict = 8, copy = 4, set_destroy = 2, set_limits = 2, move_to_file = 2, remove_file = 1, lend = 6, return_loan = 4, pump = 6,
  lose_connection = 1, break_something = 5, mend = 4 }
local names, total = {}, 0
for name in pairs(WEIGHTS) do names[#names + 1] = name end
table.sort(names)
for _, name in ipairs(names) do total = total + WEIGHTS[name] end

local function draw()
  local n = random(total)
  for _, name in ipairs(names) do
    n = n - WEIGHTS[name]
    if n <= 0 then return name end
  end
end

function Model:check()
  for i, p in ipairs(self.pools) do
    local rc = C.tarn__pool_check(p.pool)
    assert(rc == 0, ("the sums of pool %d are wrong: check %d"):format(i, rc))
  end
end

-- One random operation; its name.
function Model:step()
  self.last = draw()
  self[self.last](self)
  self:check()
  return self.last
end

-- Nothing fails any more and there is room: everything that was acknowledged is there, and right.
function Model:settle()
  self.mend()
  for _, view in ipairs(self.views) do drop_view(view) end
  for _, blocks in ipairs(self.loans) do
    lending.verify(blocks)
    lending.release(blocks)
  end
  self.views, self.loans = {}, {}
  -- A holder that had no memory for its answer when it was asked for a loan is asked again when the connection is the next.
  if self.faults then self.link.lose() end
  for i, p in ipairs(self.pools) do
    C.tarn_pool_boundary(p.pool)
    p:set_limits(self.memory, NO_LIMIT)
    self.link.settle(function() return p:stats().lent_bytes == 0 end)
    make_room(p, self.sets[i])
  end
  self.faults = false
  for i, p in ipairs(self.pools) do
    local set = self.sets[i]
    for k = #set, 1, -1 do
      local o = set[k]
      local v = self:open(p, set, o)
      if v then C.tarn_value_release(v) end
    end
    self:check()
    -- Nothing is held by anybody: there is room for half of the budget.
    local id, rc = p:set({ tag = 1, math.floor(self.memory / 2) })
    assert(id, "the pool is wedged: " .. tostring(rc) .. " " .. p:message())
  end
end

function Model:close()
  self.mend()
  self.link.close()
  for path in pairs(self.files) do os.remove(path) end
end

-- A whole run of one seed. Raises what is wrong, with the seed and the step.
function M.run(seed, steps)
  math.randomseed(seed)
  local disk = random(3) == 1 and random(2, 12) * MiB or NO_LIMIT
  local self = M.new({ memory = random(8, 24) * 128 * KiB, disk = disk, faults = seed % 2 == 0 })
  local at = 0
  local ok, e = xpcall(function()
    for i = 1, steps or 400 do
      at = i
      self:step()
    end
    at = -1
    self:settle()
  end, debug.traceback)
  self.mend()
  M.last = self -- what has failed stays as it is: its threads go on
  if not ok then error(("seed %d, step %d (%s): %s"):format(seed, at, tostring(self.last), tostring(e)), 0) end
  self:close()
end

return M
