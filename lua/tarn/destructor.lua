-- Destructors: functions that are called once, on the owner, when their object is gone: deleted, dropped under pressure, or left at
-- an orderly end of the process. C tells which watched objects are gone; what is called gets the object's key.
local core = require "tarn.core"
local failure = require "tarn.failure"
local task = require "tarn.task"

local destructor = {}

local kept = {} -- id -> {fn, key}, until it is called

-- Take it out, so that it is called once.
local function take(id)
  local d = kept[id]
  kept[id] = nil
  return d
end

-- What a task that calls one ends with.
local function log_failure(_, ok, e)
  if not ok then core.log("error", "destructor: " .. failure.text(failure.outgoing(e))) end
end

destructor.log_failure = log_failure

local function call(id)
  local d = take(id)
  if d then d.fn(d.key) end
end
jit.off(call) -- what is compiled would keep d.fn (docs/REFERENCES.md)

-- Call fn(key) when our object of that number is gone. False: it is already, and nothing is called.
function destructor.watch(id, key, fn)
  if not core.pool_watch(id) then return false end
  kept[id] = { fn = fn, key = key }
  return true
end

-- The same for the object of ref, which is ours; called at once when it is gone.
function destructor.set(ref, fn)
  local id = core.ref_local(ref)
  if not destructor.watch(id, ref:key(), fn) then
    kept[id] = { fn = fn, key = ref:key() }
    task.spawn({ done = log_failure }, call, id)
  end
end

-- The function that is to be called for the object of ref, which is ours; nil: none.
function destructor.get(ref)
  local d = kept[core.ref_local(ref)]
  return d and d.fn
end

-- Our object of that number has moved away: nothing is to be called here.
function destructor.leave(id) kept[id] = nil end

-- Some watched objects are gone. Called by the host between tasks.
function destructor.deleted()
  for _, id in ipairs(core.pool_deleted()) do task.spawn({ done = log_failure }, call, id) end
end

-- The process ends: all that are left, in the order of their objects. They cannot wait for anything any more.
function destructor.run_all()
  local ids = {}
  for id in pairs(kept) do ids[#ids + 1] = id end
  table.sort(ids)
  for _, id in ipairs(ids) do log_failure(nil, pcall(call, id)) end
end

return destructor
