-- Migration: an object changes its owner. The order of things, and why nothing is lost on the way: docs/REFERENCES.md.
local core = require "tarn.core"
local destructor = require "tarn.destructor"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local future = require "tarn.future"
local refs = require "tarn.refs"
local rpc = require "tarn.rpc"
local task = require "tarn.task"

local WHAT = "tarn.migrate"

local moving = {}  -- key of an object of ours that is being moved -> Future, ready when that is over
local telling = {} -- key of one that has left, whose holders are being told -> Future, ready when all have understood

rpc.on_notify["migrate.told"] = function()
  local key = ("%d:%d"):format(core.payload())
  local f = telling[key]
  telling[key] = nil
  if f then future.succeed(f) end
end

-- Wait until all who hold an object that has left here know where it is.
local function await_told(ref)
  while core.ref_telling(ref) do
    local key = ref:key()
    telling[key] = telling[key] or future.new()
    telling[key]:wait()
  end
end

---------------------------------------------------------------------------------------------------- the new owner

local function adopt_payload()
  local ref, copy, fn, from, moves = core.payload()
  await_told(ref) -- it has been here before, and somebody still thinks so
  local id = core.ref_adopt(ref, copy, from, moves)
  core.ref_release(copy)
  if fn then destructor.watch(id, ref:key(), fn) end
end

rpc.on_request["migrate.adopt"] = function(token, from, msgid) return rpc.serve(token, from, msgid, adopt_payload) end

-- The old owner has given up before it heard that we have it.
rpc.on_notify["migrate.undo"] = function(from)
  local ref = core.payload()
  if ref.owner ~= core.myid() then return end
  destructor.take(ref)
  core.ref_disown(ref, from)
end

---------------------------------------------------------------------------------------------------- the owner

local function hand_over(ref, to)
  local copy = rpc.await(WHAT, core.pool_copy_at(ref, to))
  local ok, e = pcall(rpc.call, WHAT, to, "migrate.adopt", ref, copy, destructor.get(ref), core.myid(),
    core.ref_moves(ref) + 1)
  core.ref_release(copy)
  if not ok then
    pcall(core.notify, to, "migrate.undo", ref)
    error(e, 0)
  end
  local there = pcall(core.pool_size, ref) -- else it was deleted meanwhile
  destructor.take(ref)
  core.ref_leave(ref, to)
  if not there then rpc.ask_owner(WHAT, core.pool_delete_at, ref) end
  local moves = core.ref_moves(ref)
  await_told(ref)
  return moves
end

-- Returns how often it has moved then; nil when it is here.
local function move(ref, to)
  local key = ref:key()
  while moving[key] do moving[key]:wait() end
  if ref.owner ~= core.myid() then errors.raise("Moved", WHAT .. ": the object is elsewhere", { needed = ref.owner, available = core.ref_moves(ref) }) end
  if to == core.myid() then return end
  local f = future.new()
  moving[key] = f
  local ok, e = pcall(hand_over, ref, to)
  moving[key] = nil
  future.succeed(f)
  if not ok then error(e, 0) end
  return e
end

local function move_payload() return move(core.payload()) end

rpc.on_request.migrate = function(token, from, msgid) return rpc.serve(token, from, msgid, move_payload) end

---Make process pid the owner of an object. Its references stay as they are; when this returns, all who hold one know. An owner or a pid
---that is lost: WorkerLost; no room there: PoolFull; then the object stays where it is.
---@param ref userdata
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
