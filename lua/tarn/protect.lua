-- Objects that outlive their value, or its owner: those with `remake` or `replicas`. Process 1 has a record of each (record.lua). Here is
-- what every process does: as the owner of such an object, as the one that is to become it, and as one that has found it missing.
-- docs/REFERENCES.md, "Records".
local core = require "tarn.core"
local destructor = require "tarn.destructor"
local errors = require "tarn.errors"
local moving = require "tarn.moving"
local refs = require "tarn.refs"
local rpc = require "tarn.rpc"
local task = require "tarn.task"

local protect = {}

local WHAT = "tarn.poolset"
local DRIVER = 1

-- key -> what the owner must know of an object of ours that has a record: flags and size for its pool, destructor
local mine = {}
-- key -> the process that was to hand an object over to us, and is lost: what still comes of that is refused
local refused = {}

local directory -- on process 1: record.lua's functions(from, ...)

-- record.lua tells what process 1 answers.
function protect.serve_directory(functions) directory = functions end

-- Ask process 1.
local function ask(name, ...)
  if core.myid() == DRIVER then return directory[name](DRIVER, ...) end
  return rpc.call(WHAT, DRIVER, "record", name, ...)
end
protect.ask = ask

local function directory_payload(from)
  local function run(name, ...) return directory[name](from, ...) end
  return run(core.payload())
end

function rpc.on_request.record(token, from, msgid)
  return rpc.serve(token, from, msgid, function() return directory_payload(from) end)
end

---------------------------------------------------------------------------------------------------- an owner's objects

-- What is to be known of the object of ref, if it is ours and has a record.
function protect.get(ref) return mine[ref:key()] end

-- The object of ref is ours, and has a record.
function protect.own(ref, about)
  mine[ref:key()] = about
  core.ref_record(ref)
end

-- It is ours no more.
function protect.disown(ref) mine[ref:key()] = nil end

local function run_destructor(key, about)
  if about.destructor then task.spawn({ done = destructor.log_failure }, about.destructor, key) end
end

-- Its record is gone before its destructor runs: so nobody brings it back, and the destructor runs at most once.
local function end_record(key, about)
  ask("ended", key)
  run_destructor(key, about)
end

local function ended(origin, id)
  local key = ("%d:%d"):format(origin, id)
  local about = mine[key]
  mine[key] = nil
  if about then task.spawn({ done = destructor.log_failure }, end_record, key, about) end
end

rpc.on_notify["record.ended"] = function() ended(core.payload()) end

-- Store x here, with a record (what it is about: record.lua) -> DRef.
function protect.set(x, flags, more)
  if more.remake and core.myid() == DRIVER then core.encode(more.remake) end -- elsewhere it travels now: what cannot is refused
  local ref = core.pool_set(x, flags, more.size)
  local about = { flags = flags, size = more.size, destructor = more.destructor }
  protect.own(ref, about)
  local key = ref:key()
  local ok, e = pcall(ask, "create", core.myid(), ref.id, ref.size, { remake = more.remake, replicas = more.replicas, about = about })
  if not ok then
    mine[key] = nil
    core.ref_unrecord(core.myid(), ref.id)
    core.pool_delete(ref)
    error(e, 0)
  end
  return ref
end

local function delete(ref, key)
  local about = mine[key]
  if about then
    mine[key] = nil
    ask("ended", key)
    core.ref_unrecord(tonumber(key:match("^%d+")), ref.id)
  end
  if ref.owner == core.myid() then core.pool_delete(ref) end
  if about then run_destructor(key, about) end
end

-- Delete an object of ours that has a record.
function protect.delete(ref)
  local key = ref:key()
  moving.alone(key, delete, ref, key)
end

local function delete_payload(origin_of)
  local id, origin = core.payload()
  if type(id) == "string" then origin, id = id:match("^(%d+):(%d+)$") end -- a foreign client's
  local ref = core.ref_of(tonumber(origin) or origin_of, tonumber(id), 0, core.myid())
  protect.delete(ref)
  if ref.owner ~= core.myid() then -- it moved away meanwhile
    errors.raise("Moved", "tarn.pooldelete: the object is elsewhere", { needed = ref.owner, available = core.ref_moves(ref) })
  end
  return true
end

-- C serves it, but for objects with a record.
rpc.on_request["pool.delete"] = function(token, from, msgid)
  return rpc.serve(token, from, msgid, function() return delete_payload(core.myid()) end)
end

-- Delete all objects here that have a record, soon.
function protect.clear()
  local all = mine
  mine = {}
  for key, about in pairs(all) do
    local origin, id = key:match("^(%d+):(%d+)$")
    core.ref_unrecord(tonumber(origin), tonumber(id))
    task.spawn({ done = destructor.log_failure }, end_record, key, about)
  end
end

-- The flag is to be the same where the object is next.
function protect.set_flags(ref, flags)
  local about = mine[ref:key()]
  if not about then return end
  about.flags = flags
  ask("flags", ref:key(), flags)
end

-- The cluster ends in order: the destructors that are left run here.
local cluster_ends = core.myid() == DRIVER
rpc.on_notify["record.cluster_ends"] = function() cluster_ends = true end

function protect.run_all()
  if not cluster_ends then return end
  if core.myid() == DRIVER then
    for _, pid in ipairs(core.members()) do
      if pid ~= DRIVER then core.notify(pid, "record.cluster_ends") end
    end
  end
  for key, about in pairs(mine) do
    if about.destructor then destructor.log_failure(nil, pcall(about.destructor, key)) end
  end
end

---------------------------------------------------------------------------------------------------- what process 1 asks of owners

local owner = {} -- called in a task, by record.lua through protect.at

local function has_value(ref) return (pcall(core.pool_size, ref)) end

-- The value to be stored: source makes it, or is a copy.
local function stored(source, about)
  if refs.is(source) then
    if source.owner == core.myid() then return source end
    return core.pool_set(rpc.get(WHAT, source), about.flags, about.size)
  end
  return core.pool_set(source(), about.flags, about.size)
end
jit.off(stored) -- what is compiled would keep source (docs/REFERENCES.md)

-- Our object of that name gets its value again, if it has none. False: it is not ours, or there is no source.
function owner.restore(origin, id, size, source)
  local ref = core.ref_of(origin, id, size, core.myid())
  local about = mine[ref:key()]
  if not about or ref.owner ~= core.myid() then return false end
  if has_value(ref) then return true end
  if not source then return false end
  local copy = stored(source, about)
  if mine[ref:key()] ~= about then return false end -- deleted meanwhile
  core.ref_adopt(ref, copy, 0, core.ref_moves(ref))
  if copy ~= source then core.ref_release(copy) end
  return true
end

-- We become the owner of ref, whose value is made by source, or is a copy.
function owner.take(ref, source, about, moves)
  local copy = stored(source, about)
  moving.await_told(ref)
  core.ref_adopt(ref, copy, DRIVER, moves)
  protect.own(ref, about)
  if copy ~= source then core.ref_release(copy) end
end

-- A copy of our object on another process -> its DRef.
function owner.copy(origin, id, size, to)
  local ref = core.ref_of(origin, id, size, core.myid())
  if ref.owner ~= core.myid() then return false end
  return rpc.await(WHAT, core.pool_copy_at(ref, to))
end

-- Has the lost process `from` handed that object over to us? Its DRef; else false, and it never will.
function owner.claim(origin, id, size, from)
  local ref = core.ref_of(origin, id, size, from)
  if mine[ref:key()] then return ref, core.ref_moves(ref) end
  refused[ref:key()] = from
  return false
end

function protect.refuses(ref, from) return refused[ref:key()] == from end

-- Its record has ended while it was on its way here: so has the object, and its destructor has run.
function owner.discard(origin, id, size)
  local ref = core.ref_of(origin, id, size, core.myid())
  mine[ref:key()] = nil
  core.ref_unrecord(origin, id)
  core.pool_delete(ref)
end

-- Call owner[name](...) on process pid.
function protect.at(pid, name, ...)
  if pid == core.myid() then return owner[name](...) end
  return rpc.call(WHAT, pid, "protect." .. name, ...)
end

-- A copy is process 1's alone.
local function reply_copy(t, ok, copy)
  rpc.reply_results(t, ok, copy)
  if ok and copy then core.ref_release(copy) end
end

for name, fn in pairs(owner) do
  local function payload() return fn(core.payload()) end
  local done = name == "copy" and reply_copy or nil
  rpc.on_request["protect." .. name] = function(token, from, msgid) return rpc.serve(token, from, msgid, payload, done) end
end

---------------------------------------------------------------------------------------------------- who misses a value

-- A call at the owner of ref has failed with e: has process 1 a record of the object, and it can be had again (from where ref.owner says
-- then)? without_value: who is the owner is all that is wanted. What goes wrong when it is brought back is raised.
function protect.recover(ref, e, without_value)
  if not errors.iserror(e, "KeyError") and not errors.iserror(e, "WorkerLost") then return false end
  local pid, moves = ask("recover", ref:key(), ref.owner, core.ref_moves(ref), without_value)
  if not pid then return false end
  core.ref_note(ref, pid, moves)
  return true
end
rpc.recover = protect.recover

-- See that an object of ours that is to be used has its value.
function protect.ensure(ref)
  if mine[ref:key()] and not has_value(ref) then
    protect.recover(ref, errors.new("KeyError", "it was dropped"))
  end
end

return protect
