-- The pool's calls as users type them. What another process holds is asked for through tarn.core, which C serves there.
local core = require "tarn.core"
local errors = require "tarn.errors"
local destructor = require "tarn.destructor"
local disk = require "tarn.disk"
local failure = require "tarn.failure"
local future = require "tarn.future"
local modules = require "tarn.modules"
local options = require "tarn.options"
local protect = require "tarn.protect"
local refs = require "tarn.refs"
local rpc = require "tarn.rpc"
local save = require "tarn.save"
local size = require "tarn.size"
local stand_in = require "tarn.stand_in"
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

---@class tarn.SetOptions
---@field size? integer|string what the value is to count for, in bytes or as "4MB". Default: tarn.approx_size
---@field destroyonevict? boolean under pressure it is dropped, not spilled; then reading it is a KeyError
---@field destructor? fun(key:string) called once on the owner when the object is gone; at an orderly exit too, not after a crash
---@field remake? fun():any gives the value anew when it was dropped, or lost with its owner; once, however many ask. It must not need the
--- object itself
---@field replicas? integer so many copies on other processes. A survivor becomes the owner when that is lost, and the copies are made up
--- again
local OPTIONS = { destroyonevict = true, size = true, destructor = true, remake = true, replicas = true }

-- The object's flags, and the options that only the owner's Lua can see to (nil: none of them).
local function parse(opts, what)
  if opts == nil then return 0 end
  options.check(opts, OPTIONS, what)
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

---Store a value in the pool of a process. Here: the value itself is kept, and typed values are sealed. Elsewhere: a copy is sent, and
---x stays writable.
---No room: PoolFull or DiskFull, with `needed` and `available`; nothing that was stored is lost.
---@param x any
---@param pid? integer the process that is to own it. Default: this one
---@param opts? tarn.SetOptions
---@return tarn.DRef ref when the last DRef to it anywhere is gone, so is the object
function pool.poolset(x, pid, opts)
  if pid == nil and opts == nil then return set(x) end
  if type(pid) == "table" then
    argument_error("tarn.poolset: the second argument is the id of the process that is to own the value (nil: this one);"
      .. " options are the third: tarn.poolset(x, nil, {...})")
  end
  local flags, more = parse(opts, "tarn.poolset")
  if place(pid, "tarn.poolset") then return set_here(x, flags, more) end
  task.check("tarn.poolset")
  if more then return rpc.call("tarn.poolset", pid, "poolset", x, flags, more) end
  rpc.make_room(pid, "tarn.poolset")
  return rpc.await("tarn.poolset", core.pool_set_at(pid, x, flags))
end

---The value of a DRef or FileRef. On the owner and in memory: the same object. Spilled: mapped, not copied. Elsewhere: large blocks
---are mapped on the same machine,
---sent over TCP from another; a plain table is a fresh copy each time. Deleted or dropped: KeyError. An owner that is lost: WorkerLost.
---@param ref tarn.DRef|tarn.FileRef
---@param opts? {code:boolean?,verify:boolean?} for a FileRef. code: the file may hold functions; verify: check all of a large file first
---@return any value
function pool.poolget(ref, opts)
  if opts ~= nil then save.options(opts, "tarn.poolget") end
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

---Forget an object and what was spilled of it. One that is unknown is no error. Views that were got stay readable. Of a FileRef: what
---has been read of the file
---here; the file stays.
---@param ref tarn.DRef|tarn.FileRef
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
stand_in.guard(debug.getregistry()["tarn.DRef"], core.ref_methods, "a DRef", "ref:get()")
stand_in.guard(debug.getregistry()["tarn.FileRef"], core.fileref_methods, "a FileRef", "ref:get()")

---------------------------------------------------------------------------------------------------- many at once

-- The list's items in a table of our own, and how many there are. The list may be a table that gives them by __index, which C does not ask;
-- and who has it may change it while we wait.
local function items_of(list, what)
  if type(list) ~= "table" then argument_error("%s: a list is needed, not %s", what, failure.describe(list)) end
  local items, n = {}, type(list.n) == "number" and list.n or #list
  for i = 1, n do items[i] = list[i] end
  return items, n
end

local function not_a_ref(list, i, what) argument_error("%s: item %d is no DRef but %s", what, i, failure.describe(list[i])) end

-- Ask for each of these; results[i] of the gathering will be for list[i].
local function ask_each(all, list, numbers, ask, what)
  for _, i in ipairs(numbers) do
    if not here(list[i].owner) then -- it may have come here: see complete
      rpc.make_room(list[i].owner, what)
      all:add(i, ask(list[i]))
    end
  end
end

-- Ask about the small objects of each owner, many to a message: an answer becomes results[part] of its part, {list of numbers, from, to}.
local function ask_small(all, list, groups, ask, what)
  local parts, most = {}, core.many_max
  for owner, numbers in pairs(groups) do
    for from = 1, #numbers, most do
      local to = math.min(from + most - 1, #numbers)
      local part = { numbers, from, to }
      rpc.make_room(owner, what)
      all:add(part, ask(owner, list, numbers, from, to))
      parts[#parts + 1] = part
    end
  end
  return parts
end

-- The answers of the parts that have come, to where they belong. Returns the numbers of those that have to be asked for alone.
local function spread(results, parts)
  local rest = {}
  for _, part in ipairs(parts) do
    local numbers, from, values = part[1], part[2], results[part] or {}
    results[part] = nil
    for k = from, part[3] do
      local i, value = numbers and numbers[k] or k, values[k - from + 1]
      if value == nil then rest[#rest + 1] = i else results[i] = value end
    end
  end
  return rest
end

-- What is here, or was not found where it was thought to be, by one(ref).
local function complete(list, n, results, failed, one)
  results.n = n
  for i = 1, n do
    if failed[i] or (results[i] == nil and here(list[i].owner)) then results[i] = one(list[i]) end
  end
  return results
end

---Store every item of a list: all are under way at once, small ones up to 512 to a message.
---@param list table with a field n if items may be nil
---@param pid? integer Default: this process
---@return tarn.DRef[] refs
function pool.poolset_all(list, pid)
  local what = "tarn.poolset_all"
  local items, n = items_of(list, what)
  if place(pid, what) then
    local results = {}
    for i = 1, n do results[i] = core.pool_set(items[i], 0) end
    return results
  end
  task.check(what)
  local all, parts, i = rpc.gather(), {}, 1
  while i <= n do
    rpc.make_room(pid, what)
    local msgid, count, alone = core.pool_set_all_at(pid, items, i, n)
    if alone then
      all:add(i, msgid)
    else
      local part = { false, i, i + count - 1 }
      all:add(part, msgid)
      parts[#parts + 1] = part
    end
    i = i + count
  end
  for _, number in ipairs(spread(all:wait(what), parts)) do
    rpc.make_room(pid, what)
    all:add(number, core.pool_set_at(pid, items[number], 0))
  end
  return all:wait(what)
end

---The values of many DRefs. Small ones come up to 512 to a message.
---@param list tarn.DRef[]
---@return table values in the same order; the field n is their count
function pool.poolget_all(list)
  local what = "tarn.poolget_all"
  local items, n = items_of(list, what)
  local small, large = core.refs_by_owner(items, n)
  if not large then not_a_ref(items, small, what) end
  if next(small) or large[1] then task.check(what) end
  local all = rpc.gather()
  local parts = ask_small(all, items, small, core.pool_get_all_at, what)
  ask_each(all, items, large, core.pool_get_at, what)
  local rest = spread(all:wait_all(what), parts)
  ask_each(all, items, rest, core.pool_get_at, what)
  local results, failed = all:wait_all(what)
  return complete(items, n, results, failed, pool.poolget)
end

---Forget many objects, up to 512 to a message.
---@param list tarn.DRef[]
function pool.pooldelete_all(list)
  local what = "tarn.pooldelete_all"
  local items, n = items_of(list, what)
  local elsewhere, more = core.refs_by_owner(items, n, true)
  if not more then not_a_ref(items, elsewhere, what) end
  if next(elsewhere) then task.check(what) end
  local all = rpc.gather()
  local parts = ask_small(all, items, elsewhere, core.pool_delete_all_at, what)
  local rest = spread(all:wait_all(what), parts)
  ask_each(all, items, rest, core.pool_delete_at, what)
  local results, failed = all:wait_all(what)
  complete(items, n, results, failed, pool.pooldelete)
end

---------------------------------------------------------------------------------------------------- jobs at the data

local function on_value(fn, ref, ...) return fn(rpc.get("tarn.access", ref), ...) end
jit.off(on_value) -- what is compiled would keep fn (docs/REFERENCES.md)
local function on_value_here(...) return future.run(true, on_value, ...):fetch() end
local function on_value_payload() return on_value(core.payload()) end

function rpc.on_request.access(token, from, msgid) return rpc.serve(token, from, msgid, on_value_payload) end

---Run fn(value, ...) on the owner of an object: work where the data are.
---@param fn fun(value:any,...):any
---@param ref tarn.DRef
---@param ... any
---@return any ... fn's results
function pool.access(fn, ref, ...)
  rpc.check_function(fn, "tarn.access")
  check_ref(ref, "tarn.access")
  task.check("tarn.access")
  return rpc.call_owner("tarn.access", ref, on_value_here, "access", fn, ref, ...)
end

local function set_flag(ref, flag)
  protect.ensure(ref)
  core.pool_destroy_on_evict(ref, flag)
  protect.set_flags(ref, flag and DESTROY_ON_EVICT or 0)
end

local function set_flag_payload() set_flag(core.payload()) end

function rpc.on_request.destroyonevict(token, from, msgid) return rpc.serve(token, from, msgid, set_flag_payload) end

---Say what becomes of an object under pressure.
---@param ref tarn.DRef
---@param flag boolean true: it is dropped; false: it is spilled
function pool.destroyonevict(ref, flag)
  check_ref(ref, "tarn.destroyonevict")
  if type(flag) ~= "boolean" then argument_error("tarn.destroyonevict: true or false is needed, not %s", failure.describe(flag)) end
  rpc.call_owner("tarn.destroyonevict", ref, set_flag, "destroyonevict", ref, flag)
end

---------------------------------------------------------------------------------------------------- the whole pool

local function limits(what, pid, memory, on_disk)
  if place(pid, what) then return core.pool_limits(memory, on_disk) end
  task.check(what)
  local both = rpc.await(what, core.pool_limits_at(pid, memory, on_disk))
  return tonumber(both[1]), tonumber(both[2])
end

---The memory that a process may use for data. With n, set it first; what does not fit any more is spilled.
---@param n? integer|string bytes, or "512MB"
---@param pid? integer Default: this process
---@return number bytes
function pool.max_memsize(n, pid)
  if n ~= nil then n = size.parse(n, "tarn.max_memsize") end
  return (limits("tarn.max_memsize", pid, n, nil))
end

---The bytes that a process may spill. With n, set it first.
---@param n? number|string bytes, or "10GB"; math.huge: no bound
---@param pid? integer Default: this process
---@return number bytes math.huge: no bound
function pool.max_disksize(n, pid)
  if n ~= nil and n ~= math.huge then n = size.parse(n, "tarn.max_disksize") end
  local _, bytes = limits("tarn.max_disksize", pid, nil, n)
  return bytes < UNLIMITED and bytes or math.huge
end

---The figures of a process's pool.
---@param pid? integer Default: this process
---@return tarn.Stats stats
function pool.poolstats(pid)
  if place(pid, "tarn.poolstats") then return core.pool_stats() end
  task.check("tarn.poolstats")
  return rpc.await("tarn.poolstats", core.pool_stats_at(pid))
end

---What a value counts for in the pool: exactly the elements' bytes for arrays and other columns.
---@param x any
---@return number bytes
function pool.approx_size(x) return (core.approx_size(x)) end

---Delete every object of this process, and what was spilled of them. The pool stays usable.
function pool.cleanup()
  disk.forget_all()
  modules.forget_all()
  protect.clear()
  core.pool_clear()
end

pool.migrate = require "tarn.migrate"

for _, name in ipairs { "movetodisk", "copytodisk", "savetodisk", "deletefromdisk", "who_has_read" } do pool[name] = disk[name] end

return pool
