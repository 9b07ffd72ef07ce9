-- Migration: an object changes its owner. The order of things, and why nothing is lost on the way: docs/REFERENCES.md.
local core = require "tarn.core"
local destructor = require "tarn.destructor"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local moving = require "tarn.moving"
local protect = require "tarn.protect"
local refs = require "tarn.refs"
local rpc = require "tarn.rpc"
local task = require "tarn.task"

local WHAT = "tarn.migrate"

---------------------------------------------------------------------------------------------------- the new owner

-- about: of an object with a record, see protect.lua; fn: another's destructor.
local function adopt_payload()
  local ref, copy, about, fn, from, moves = core.payload()
  moving.await_end(ref:key()) -- of handing it over from here, when it comes back before we have looked at the answer
  moving.await_told(ref)      -- it has been here before, and somebody still thinks so
  if protect.refuses(ref, from) then errors.raise("WorkerLost", ("process %d is lost"):format(from), { pid = from }) end
  local id = core.ref_adopt(ref, copy, from, moves)
  core.ref_release(copy)
  if about then protect.own(ref, about) end
  if fn then destructor.watch(id, ref:key(), fn) end
end

rpc.on_request["migrate.adopt"] = function(token, from, msgid) return rpc.serve(token, from, msgid, adopt_payload) end

-- The old owner has given up before it heard that we have it.
rpc.on_notify["migrate.undo"] = function(from)
  local ref = core.payload()
  if ref.owner ~= core.myid() then return end
  protect.disown(ref)
  destructor.leave(core.ref_local(ref))
  core.ref_disown(ref, from)
end

---------------------------------------------------------------------------------------------------- the owner

local function send(ref, to)
  local id = core.ref_local(ref)
  local copy = rpc.await(WHAT, core.pool_copy_at(ref, to))
  local ok, e = pcall(rpc.call, WHAT, to, "migrate.adopt", ref, copy, protect.get(ref), destructor.get(ref),
    core.myid(), core.ref_moves(ref) + 1)
  core.ref_release(copy)
  local ours = ref.owner == core.myid() -- else we have heard already that it has gone on from there
  if not ok and ours then
    pcall(core.notify, to, "migrate.undo", ref)
    error(e, 0)
  end
  local there = not ours or pcall(core.pool_size, ref) -- else it was deleted meanwhile
  destructor.leave(id)
  protect.disown(ref)
  core.ref_leave(ref, to)
  if not there then rpc.delete(WHAT, ref, core.pool_delete) end
  local moves = core.ref_moves(ref)
  moving.await_told(ref)
  return moves
end

-- Process 1 must know of a move of what it has a record of: it asks the one when the other is lost.
local function hand_over(ref, to)
  local key = ref:key()
  if not protect.get(ref) then return send(ref, to) end
  protect.ask("moving", key, to)
  local ok, moves = pcall(send, ref, to)
  protect.ask("moved", key, ok and moves or nil)
  if not ok then error(moves, 0) end
  return moves
end

local function move_alone(ref, to)
  if ref.owner ~= core.myid() then -- whoever asked us repeats it there
    errors.raise("Moved", WHAT .. ": the object is elsewhere", { needed = ref.owner, available = core.ref_moves(ref) })
  end
  if to == core.myid() then return end
  return hand_over(ref, to)
end

-- Returns how often it has moved then; nil when it is here.
local function move(ref, to)
  protect.ensure(ref)
  return moving.alone(ref:key(), move_alone, ref, to)
end

local function move_payload() return move(core.payload()) end

rpc.on_request.migrate = function(token, from, msgid) return rpc.serve(token, from, msgid, move_payload) end

---Make a process the owner of an object. References stay equal and keep their `key()`; their `owner` is current: when this returns,
---every holder
---has been told. Errors: WorkerLost, or PoolFull where it is to go; then it stays where it is.
---@param ref tarn.DRef
---@param pid integer
local function migrate(ref, pid)
  if not refs.is(ref) then errors.raise("ArgumentError", WHAT .. ": a DRef is needed, not " .. failure.describe(ref)) end
  rpc.check_pid(pid, WHAT)
  task.check(WHAT)
  while ref.owner ~= pid do
    local owner = ref.owner
    local ok, e
    if owner == core.myid() then
      ok, e = pcall(move, ref, pid)
    else
      ok, e = pcall(rpc.call, WHAT, owner, "migrate", ref, pid)
    end
    if ok then
      if e then core.ref_note(ref, pid, e) end -- a reference so new that its owner did not know of us yet
    elseif not rpc.has_moved(ref, e) then
      error(e, 0)
    end
  end
end

return migrate
