-- Process 1's records of the objects with `remake` or `replicas`: who owns each, who has copies, how it is made. It appoints the new
-- owner when one is lost, sees that `remake` runs once, and that there are as many copies as were asked for. docs/REFERENCES.md, "Records".
--
-- What is done with an object (a move, a recovery, copying) is done by one task at a time, which has the record's lock. A loss of the
-- process that something waits for ends that wait, so no lock is kept by the dead.
local core = require "tarn.core"
local errors = require "tarn.errors"
local future = require "tarn.future"
local moving = require "tarn.moving"
local protect = require "tarn.protect"
local rpc = require "tarn.rpc"
local task = require "tarn.task"

local is_member = core.is_member

local DRIVER = 1
local COPYING = 4 -- objects that are copied at a time
local LOSS_S = 10  -- a closed connection is news of a loss after this at the latest

-- key -> record: origin, id, size: of the object's DRef; owner, moves: where it is; absent: process 1 owns it, without a value, since
-- process `lost` took the value along; about: what its owner must know (protect.lua); remake; replicas, copies: pid -> DRef, count;
-- lock, work: Futures; move: {from, to, done}, a migration that is under way; queued: to be copied.
local records = {}
local load = {}   -- pid -> copies there
local losses = {} -- pid -> Future, ready when it is lost

local directory = {} -- what other processes ask: functions(from, ...)

---------------------------------------------------------------------------------------------------- one at a time

local function acquire(r)
  while r.lock do r.lock:wait() end
  r.lock = future.new()
end

local function release(r)
  local lock = r.lock
  r.lock = nil
  future.succeed(lock)
end

local function locked(r, fn, ...)
  acquire(r)
  local ok, x = pcall(fn, r, ...)
  release(r)
  if not ok then error(x, 0) end
  return x
end

local function is_current(r) return records[r.key] == r end

---------------------------------------------------------------------------------------------------- copies

local function add_copy(r, pid, ref)
  r.copies[pid], r.count = ref, r.count + 1
  load[pid] = (load[pid] or 0) + 1
end

-- Its DRef, which is r's no more.
local function take_copy(r, pid)
  local ref = r.copies[pid]
  if ref then
    r.copies[pid], r.count = nil, r.count - 1
    load[pid] = load[pid] - 1
  end
  return ref
end

local function drop_copy(r, pid)
  local ref = take_copy(r, pid)
  if ref then core.ref_release(ref) end
end

local function forget(r)
  if is_current(r) then records[r.key] = nil end
  for pid in pairs(r.copies) do drop_copy(r, pid) end
end

---------------------------------------------------------------------------------------------------- a new owner

local function ref_of(r) return core.ref_of(r.origin, r.id, r.size, r.owner) end

-- Process 1 owns r from here on, without a value, and all others are asked to register with it. moves: none is known that is higher.
local function take_over(r, moves)
  local ref = ref_of(r)
  r.owner, r.moves, r.absent = DRIVER, math.max(moves, core.ref_moves(ref)) + 1, true
  protect.own(ref, r.about)
  core.ref_succeed(ref, DRIVER, r.moves, core.members())
  moving.stays(ref)
end

-- Process `to` owns r from here on: source is a copy there, or makes the value there.
local function appoint(r, to, source)
  local ref = ref_of(r)
  if to == DRIVER then
    protect.at(DRIVER, "restore", r.origin, r.id, r.size, source)
  else
    local ok, e = pcall(protect.at, to, "take", ref, source, r.about, r.moves + 1)
    if not ok then
      -- It may have been the owner for a moment, and others may have heard of that: what they hear of us next must be newer.
      if errors.iserror(e, "WorkerLost") then take_over(r, r.moves + 1) end
      error(e, 0)
    end
    protect.disown(ref)
    core.ref_leave(ref, to)
    r.owner, r.moves = to, core.ref_moves(ref)
    if not is_current(r) then pcall(protect.at, to, "discard", r.origin, r.id, r.size) end
  end
  r.absent = false
end

-- One of the copies becomes the object.
local function promote(r)
  for pid in pairs(r.copies) do
    local copy = take_copy(r, pid)
    local ok, e = pcall(appoint, r, pid, copy)
    core.ref_release(copy)
    if ok then return end
    core.log("debug", ("object %s: its copy on process %d is of no use: %s"):format(r.key, pid, tostring(e)))
  end
end

-- The owner is alive, or process 1 is it, or r is forgotten: what cannot be had again is lost with its owner.
local function settle(r)
  while is_current(r) and not is_member(r.owner) do
    if r.count == 0 and not r.remake then return forget(r) end
    r.lost = r.owner
    take_over(r, r.moves)
    promote(r)
  end
end

---------------------------------------------------------------------------------------------------- copying

local function choose(r, tried)
  local best
  for _, pid in ipairs(core.members()) do
    if pid ~= r.owner and not r.copies[pid] and not tried[pid] then
      -- Process 1 comes last: when it ends all end.
      if not best or best == DRIVER or (pid ~= DRIVER and (load[pid] or 0) < (load[best] or 0)) then best = pid end
    end
  end
  return best
end

local function replenish(r)
  local tried = {}
  settle(r)
  if not is_current(r) or r.absent then return end
  drop_copy(r, r.owner) -- it has moved to where a copy was
  while is_current(r) and r.count < r.replicas do
    local to = choose(r, tried)
    if not to then return end
    tried[to] = true
    local ok, copy = pcall(protect.at, r.owner, "copy", r.origin, r.id, r.size, to)
    if ok and copy and is_member(to) and is_current(r) then
      add_copy(r, to, copy)
    elseif ok and copy then
      core.ref_release(copy)
    elseif not is_member(r.owner) then
      settle(r)
      if r.absent then return end
    elseif errors.iserror(copy, "NotSerializable") then
      error(copy, 0)
    end
  end
end

local queue, running = {}, 0

local function work_off()
  while #queue > 0 do
    local r = table.remove(queue)
    r.queued = false
    if is_current(r) then
      local ok, e = pcall(locked, r, replenish)
      if not ok and not errors.iserror(e, "Cancelled") then core.log("error", ("object %s: copying: %s"):format(r.key, tostring(e))) end
    end
  end
end

local function queue_done() running = running - 1 end

-- See soon that r has its copies, and an owner.
local function look_after(r)
  if r.queued then return end
  r.queued = true
  table.insert(queue, r)
  if running < COPYING then
    running = running + 1
    task.spawn({ done = queue_done }, work_off)
  end
end

---------------------------------------------------------------------------------------------------- recovery

local function sources(r)
  local list = {}
  for _, copy in pairs(r.copies) do list[#list + 1] = copy end
  if r.remake then list[#list + 1] = r.remake end
  return list
end

-- The owner, which is alive, has its value again. False: it cannot have.
local function restore_there(r)
  local failed
  local list = sources(r)
  if #list == 0 then return protect.at(r.owner, "restore", r.origin, r.id, r.size) end
  for _, source in ipairs(list) do
    local ok, is_there = pcall(protect.at, r.owner, "restore", r.origin, r.id, r.size, source)
    if ok then return is_there end
    failed = is_there
  end
  if failed then error(failed, 0) end
  return false
end

-- A call to process pid has failed with e: wait for the news of its loss, if it is that. True: it is lost.
local function is_lost(pid, e)
  if is_member(pid) and errors.iserror(e, "WorkerLost") and e.pid == pid then
    losses[pid] = losses[pid] or future.new()
    losses[pid]:wait(LOSS_S)
  end
  return not is_member(pid)
end

-- r has an owner with a value, if possible, else raises why not. for_whom: who needs it. "again": a process was lost meanwhile.
local function restore(r, for_whom)
  settle(r)
  if not is_current(r) then return end
  local where = r.absent and for_whom or r.owner
  local ok, e
  if not r.absent then
    ok, e = pcall(restore_there, r)
  elseif r.remake then
    ok, e = pcall(appoint, r, where, r.remake)
  else
    ok, e = false, errors.new("WorkerLost", ("process %d is lost"):format(r.lost), { pid = r.lost })
  end
  if ok then
    look_after(r)
    return e ~= false
  end
  if is_lost(where, e) then return "again" end
  error(e, 0)
end

local function work_ended(watcher) watcher.record.work = nil end

local function start_restoring(r, from)
  r.work = future.run(true, locked, r, restore, from)
  future.watch(r.work, { ready = work_ended, record = r })
end

-- Process `from` has found that the owner, as it knows it, has no value, or is lost -> the owner to be asked, and by which move it came
-- there. nil: there is no record, or no way. All who ask at a time get the outcome of one attempt.
function directory.recover(from, key, owner, moves, without_value)
  while true do
    local r = records[key]
    if not r then return end
    if without_value then
      locked(r, settle)
      return r.owner, r.moves
    end
    if not r.work and not r.absent and is_member(r.owner) and (r.owner ~= owner or r.moves ~= moves) then
      return r.owner, r.moves
    end
    if not r.work then start_restoring(r, from) end
    local good = r.work:fetch()
    if not good then return end
    if good ~= "again" and is_current(r) then return r.owner, r.moves end
  end
end

---------------------------------------------------------------------------------------------------- what owners tell

-- The owner was lost while it handed r over: has the other one got it?
local function finish_move(r)
  local move = r.move
  local ok, ref, moves = pcall(protect.at, move.to, "claim", r.origin, r.id, r.size, move.from)
  if ok and ref then
    r.owner, r.moves = move.to, moves
    core.ref_succeed(ref, r.owner, r.moves, core.members())
    moving.stays(ref)
  end
  r.move = nil
  release(r)
  look_after(r)
end

-- A new object of process `origin`; what: remake, replicas, about. Its copies are made before this returns; what cannot
-- be copied is an error.
function directory.create(_, origin, id, size, what)
  local key = ("%d:%d"):format(origin, id)
  local r = {
    key = key, origin = origin, id = id, size = size, owner = origin, moves = 0, about = what.about, remake = what.remake,
    replicas = what.replicas or 0, copies = {}, count = 0,
  }
  records[key] = r
  if r.replicas == 0 and is_member(origin) then return end
  local ok, e = pcall(locked, r, replenish)
  if ok then return end
  forget(r)
  error(e, 0)
end

-- Nobody holds the object any more, or it is deleted.
function directory.ended(_, key)
  local r = records[key]
  if r then forget(r) end
end

function directory.flags(_, key, flags)
  local r = records[key]
  if r then r.about.flags = flags end
end

-- Its owner begins to hand it over to another process, or has ended that: it has moved (so often), or stays (moves is nil).
function directory.moving(from, key, to)
  local r = records[key]
  if not r then return end
  acquire(r)
  r.move = { from = from, to = to }
  if not is_member(from) then finish_move(r) end
end

function directory.moved(_, key, moves)
  local r = records[key]
  if not r or not r.move then return end
  if moves then r.owner, r.moves = r.move.to, moves end
  r.move = nil
  release(r)
  look_after(r)
end

---------------------------------------------------------------------------------------------------- who comes and goes

rpc.watch("lost", function(pid)
  load[pid] = nil
  if losses[pid] then future.succeed(losses[pid]) end
  losses[pid] = nil
  for _, r in pairs(records) do
    local had_copy = r.copies[pid] ~= nil
    if had_copy then
      r.copies[pid], r.count = nil, r.count - 1
    end
    if r.move and r.move.from == pid then
      task.spawn({ done = rpc.log_failure }, finish_move, r)
    elseif had_copy or r.owner == pid then
      look_after(r)
    end
  end
end)

rpc.watch("joined", function()
  for _, r in pairs(records) do
    if r.count < r.replicas then look_after(r) end
  end
end)

if core.myid() == DRIVER then protect.serve_directory(directory) end

return records
