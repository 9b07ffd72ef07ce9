-- The pool's calls as users type them. What another process holds is asked for through tarn.core, which C serves there.
local core = require "tarn.core"
local errors = require "tarn.errors"
local destructor = require "tarn.destructor"
local disk = require "tarn.disk"
local failure = require "tarn.failure"
local future = require "tarn.future"
local protect = require "tarn.protect"
local refs = require "tarn.refs"
local rpc = require "tarn.rpc"
local size = require "tarn.size"
local task = require "tarn.task"

local pool = {}
local set, get_here = core.pool_set, core.pool_get_here

local DESTROY_ON_EVICT = 1
local UNLIMITED = 2 ^ 63

local function argument_error(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end

local function check_ref(ref, what)
  if not refs.is(ref) then argument_error("%s: a DRef is needed, not %s", what, failure.describe(ref)) end
end

local function here(pid) return pid == nil or pid == core.myid() end

local function place(pid, what)
  if pid ~= nil then rpc.check_pid(pid, what) end
  return here(pid)
end

local OPTIONS = { destroyonevict = true, size = true, destructor = true, remake = true, replicas = true }

-- The object's flags, and the options that only the owner's Lua can see to (nil: none of them).
local function parse(opts, what)
  if opts == nil then return 0 end
  if type(opts) ~= "table" then argument_error("%s: options are a table, not %s", what, failure.describe(opts)) end
  for name in pairs(opts) do
    if not OPTIONS[name] then argument_error("%s: unknown option '%s'", what, tostring(name)) end
  end
  local flags = opts.destroyonevict and DESTROY_ON_EVICT or 0
  if opts.size == nil and opts.destructor == nil and opts.remake == nil and opts.replicas == nil then return flags end
  local said = opts.size ~= nil and size.parse(opts.size, what .. ": size") or nil
  if opts.destructor ~= nil then rpc.check_function(opts.destructor, what .. ": destructor") end
  if opts.remake ~= nil then rpc.check_function(opts.remake, what .. ": remake") end
  local n = opts.replicas
  if n ~= nil and (type(n) ~= "number" or n % 1 ~= 0 or n < 0) then
    argument_error("%s: replicas is a whole number, not %s", what, failure.describe(n))
  end
  return flags, { size = said, destructor = opts.destructor, remake = opts.remake, replicas = n and n > 0 and n or nil }
end

---------------------------------------------------------------------------------------------------- one object

local function set_here(x, flags, more)
  if more and (more.remake or more.replicas) then return protect.set(x, flags, more) end
  local ref = core.pool_set(x, flags, more and more.size)
  if more and more.destructor then destructor.set(ref, more.destructor) end
  return ref
end

local function set_payload() return set_here(core.payload()) end

function rpc.on_request.poolset(token, from, msgid) return rpc.serve(token, from, msgid, set_payload) end

---Store x on process pid (default: here) -> DRef. opts:
---  size            what x is to count for, in bytes or as "4MB"
---  destroyonevict  under pressure it is dropped, not spilled
---  destructor      fn(key), called once on the owner when the object is gone
---  remake          fn(), gives the value anew when it was dropped, or lost with its owner: on the owner while that lives, else on
---                  who asks first; once, however many ask at a time. Its error is raised by all. It must not need the object itself
---  replicas        so many copies on other processes, there when this returns; fewer, when there are fewer processes or no room.
---                  A survivor becomes the owner when that is lost, and what is lacking then is made up for
---@param x any
---@param pid? integer
---@param opts? table
function pool.poolset(x, pid, opts)
  if pid == nil and opts == nil then return set(x) end
  local flags, more = parse(opts, "tarn.poolset")
  if place(pid, "tarn.poolset") then return set_here(x, flags, more) end
  task.check("tarn.poolset")
  if more then return rpc.call("tarn.poolset", pid, "poolset", x, flags, more) end
  rpc.make_room(pid, "tarn.poolset")
  return rpc.await("tarn.poolset", core.pool_set_at(pid, x, flags))
end

-- The value of a DRef or FileRef. opts (FileRefs): code = true allows functions, verify = true checks all of a large file first.
function pool.poolget(ref, opts)
  local is_here, x = get_here(ref)
  if is_here then return x end
  if refs.is_file(ref) then
    local inner = core.fileref_ref(ref)
    if inner then return pool.poolget(inner) end
    return disk.get(ref, opts)
  end
  check_ref(ref, "tarn.poolget")
  task.check("tarn.poolget")
  return rpc.get("tarn.poolget", ref)
end

-- Delete an object of ours.
local function delete_here(ref)
  if protect.get(ref) then return protect.delete(ref) end
  core.pool_delete(ref)
end

-- Forget an object. Of a FileRef: what has been read of the file here; the file stays.
function pool.pooldelete(ref)
  if refs.is_file(ref) then
    local inner = core.fileref_ref(ref)
    if not inner then return disk.forget(ref) end
    ref = inner
  end
  check_ref(ref, "tarn.pooldelete")
  if here(ref.owner) and not protect.get(ref) then
    core.pool_delete(ref)
    return
  end
  task.check("tarn.pooldelete")
  rpc.delete("tarn.pooldelete", ref, delete_here)
end

core.ref_methods.get, core.ref_methods.delete = pool.poolget, pool.pooldelete
core.fileref_methods.get, core.fileref_methods.delete = pool.poolget, pool.pooldelete

---------------------------------------------------------------------------------------------------- many at once

local function count_of(list, what)
  if type(list) ~= "table" then argument_error("%s: a list is needed, not %s", what, failure.describe(list)) end
  return type(list.n) == "number" and list.n or #list
end

local function check_refs(list, what)
  local n = count_of(list, what)
  for i = 1, n do
    if not refs.is(list[i]) then argument_error("%s: item %d is no DRef but %s", what, i, failure.describe(list[i])) end
  end
  return n
end

-- Store every item of a list on process pid -> list of DRefs.
function pool.poolset_all(list, pid)
  local what = "tarn.poolset_all"
  local n, results = count_of(list, what), {}
  if place(pid, what) then
    for i = 1, n do results[i] = core.pool_set(list[i], 0) end
    return results
  end
  task.check(what)
  local all = rpc.gather()
  for i = 1, n do
    rpc.make_room(pid, what)
    all:add(i, core.pool_set_at(pid, list[i], 0))
  end
  return all:wait(what)
end

-- Ask for all that is elsewhere, take what is here, then wait; results[i] for list[i], and their count n. one: the same for a single one,
-- which looks for what is not where it was.
local function for_all(list, what, ask, one)
  local n = check_refs(list, what)
  local all, elsewhere = rpc.gather(), false
  for i = 1, n do
    local ref = list[i]
    if not here(ref.owner) then
      if not elsewhere then task.check(what) end
      elsewhere = true
      rpc.make_room(ref.owner, what)
      all:add(i, ask(ref))
    end
  end
  local results, failed = all:wait_all(what)
  results.n = n
  for i = 1, n do
    if failed[i] or (results[i] == nil and here(list[i].owner)) then results[i] = one(list[i]) end
  end
  return results
end

function pool.poolget_all(list) return for_all(list, "tarn.poolget_all", core.pool_get_at, pool.poolget) end

function pool.pooldelete_all(list) for_all(list, "tarn.pooldelete_all", core.pool_delete_at, pool.pooldelete) end

---------------------------------------------------------------------------------------------------- jobs at the data

local function on_value(fn, ref, ...) return fn(rpc.get("tarn.access", ref), ...) end
local function on_value_payload() return on_value(core.payload()) end

function rpc.on_request.access(token, from, msgid) return rpc.serve(token, from, msgid, on_value_payload) end

-- Run fn(value, ...) on the owner of ref.
function pool.access(fn, ref, ...)
  rpc.check_function(fn, "tarn.access")
  check_ref(ref, "tarn.access")
  task.check("tarn.access")
  if here(ref.owner) then return future.run(true, on_value, fn, ref, ...):fetch() end
  return rpc.call_owner("tarn.access", ref, "access", fn, ref, ...)
end

local function set_flag(ref, flag)
  protect.ensure(ref)
  core.pool_destroy_on_evict(ref, flag)
  protect.set_flags(ref, flag and DESTROY_ON_EVICT or 0)
end

local function set_flag_payload() set_flag(core.payload()) end

function rpc.on_request.destroyonevict(token, from, msgid) return rpc.serve(token, from, msgid, set_flag_payload) end

-- true: under pressure the object is dropped, not spilled.
function pool.destroyonevict(ref, flag)
  check_ref(ref, "tarn.destroyonevict")
  if type(flag) ~= "boolean" then argument_error("tarn.destroyonevict: true or false is needed, not %s", failure.describe(flag)) end
  if here(ref.owner) then
    set_flag(ref, flag)
  else
    rpc.call_owner("tarn.destroyonevict", ref, "destroyonevict", ref, flag)
  end
end

---------------------------------------------------------------------------------------------------- the whole pool

local function limits(what, pid, memory, on_disk)
  if place(pid, what) then return core.pool_limits(memory, on_disk) end
  task.check(what)
  local both = rpc.await(what, core.pool_limits_at(pid, memory, on_disk))
  return tonumber(both[1]), tonumber(both[2])
end

-- The budget in bytes of process pid (default: here); with n, set it first.
function pool.max_memsize(n, pid)
  if n ~= nil then n = size.parse(n, "tarn.max_memsize") end
  return (limits("tarn.max_memsize", pid, n, nil))
end

function pool.max_disksize(n, pid)
  if n ~= nil then n = size.parse(n, "tarn.max_disksize") end
  local _, bytes = limits("tarn.max_disksize", pid, nil, n)
  return bytes < UNLIMITED and bytes or math.huge
end

function pool.poolstats(pid)
  if place(pid, "tarn.poolstats") then return core.pool_stats() end
  task.check("tarn.poolstats")
  return rpc.await("tarn.poolstats", core.pool_stats_at(pid))
end

function pool.approx_size(x) return (core.approx_size(x)) end

-- Delete every object of this process, and what was spilled of them.
function pool.cleanup()
  disk.forget_all()
  protect.clear()
  core.pool_clear()
end

pool.migrate = require "tarn.migrate"

for _, name in ipairs { "movetodisk", "copytodisk", "savetodisk", "deletefromdisk", "who_has_read" } do pool[name] = disk[name] end

return pool
