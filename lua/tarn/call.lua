-- Calls: a function sent to run elsewhere, with or without waiting for it.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local future = require "tarn.future"
local refs = require "tarn.refs"
local rpc = require "tarn.rpc"
local task = require "tarn.task"
local travel = require "tarn.travel"

local call = {}

local SMALL_STRING_BYTES = 1024 -- results up to this come with the response

local function here(pid) return pid == core.myid() end

---------------------------------------------------------------------------------------------------- asking

---Run fn(...) on a process and wait for its results. An error of fn is raised here: one of tarn's keeps its kind, any other is a
---RemoteError with the
---original as `cause`. A process that is lost meanwhile: WorkerLost. What cannot travel: NotSerializable, which names the path to it.
---@param pid integer the process; this one too
---@param fn function its upvalues travel by value, modules by name; the driver's globals do not
---@param ... any its arguments; a DRef travels as a reference
---@return any ... fn's results
function call.remotecall_fetch(pid, fn, ...)
  rpc.check_pid(pid, "tarn.remotecall_fetch")
  rpc.check_function(fn, "tarn.remotecall_fetch")
  if here(pid) then
    task.check("tarn.remotecall_fetch")
    return future.run(true, fn, ...):fetch()
  end
  return rpc.call("tarn.remotecall_fetch", pid, "call", fn, ...)
end

local function ask_start(what, pid, method, ...)
  if core.congested(pid) then rpc.make_room(pid, what) end
  local f = future.new()
  f.msgid = rpc.ask(f, pid, method, ...)
  return f
end

local function start(what, pid, fn, ...)
  if here(pid) then return future.run(true, fn, ...) end
  return ask_start(what, pid, "start", fn, ...)
end

---Start fn(...) on a process, without waiting. The results stay there until they are fetched; dropping the Future frees them.
---@param pid integer
---@param fn function
---@param ... any
---@return tarn.Future future
function call.remotecall(pid, fn, ...)
  rpc.check_pid(pid, "tarn.remotecall")
  rpc.check_function(fn, "tarn.remotecall")
  return start("tarn.remotecall", pid, fn, ...)
end

---Start fn(...) on a process and forget it. An error of fn is logged there.
---@param pid integer
---@param fn function
---@param ... any
function call.remote_do(pid, fn, ...)
  rpc.check_pid(pid, "tarn.remote_do")
  rpc.check_function(fn, "tarn.remote_do")
  if here(pid) then
    task.spawn({ done = rpc.log_failure }, fn, ...)
    return
  end
  if core.congested(pid) then rpc.make_room(pid, "tarn.remote_do") end
  core.notify(pid, "do", fn, ...)
end

-- Where most bytes of the DRefs among the arguments live; nil when there are none.
local function home_of(members, ...)
  local bytes, best = {}, nil
  for i = 1, select("#", ...) do
    local x = select(i, ...)
    if refs.is(x) and members[x.owner] then bytes[x.owner] = (bytes[x.owner] or 0) + x.size end
  end
  for pid, n in pairs(bytes) do
    if not best or n > bytes[best] or (n == bytes[best] and rpc.inflight[pid] < rpc.inflight[best]) then best = pid end
  end
  return best
end

local turn = 0 -- so that equally busy workers are taken in turn

function call.least_busy(pids)
  local best
  turn = turn + 1
  for i = 1, #pids do
    local pid = pids[(i + turn) % #pids + 1]
    if not best or rpc.inflight[pid] < rpc.inflight[best] then best = pid end
  end
  return best
end

---Start fn(...) where most bytes of its DRef arguments live, else on the least busy worker. fn gets the DRefs themselves.
---@param fn function
---@param ... any
---@return tarn.Future future
function call.spawn(fn, ...)
  rpc.check_function(fn, "tarn.spawn")
  local cluster = require "tarn.cluster"
  local members = {}
  for _, pid in ipairs(cluster.procs()) do members[pid] = true end
  local pid = home_of(members, ...)
  if not pid then
    local workers = cluster.workers()
    pid = #workers > 0 and call.least_busy(workers) or core.myid()
  end
  return start("tarn.spawn", pid, fn, ...)
end

-- One error for what went wrong on one or more processes.
local function failed_on(what, pids, failures)
  local e = failure.received(failures[pids[1]])
  local where = {}
  for i, pid in ipairs(pids) do where[i] = tostring(pid) end
  local message = ("%s: failed on process%s %s: %s"):format(what, #where > 1 and "es" or "", table.concat(where, ", "),
    failure.tostring(e.message))
  return errors.new(e.kind, message, { pid = pids[1], traceback = e.traceback, path = e.path, cause = e, failures = failures })
end

---Run a function, or a text of Lua, on every process, the driver included. Fails if any failed: the error's `failures` has all of them
---by id.
---@param fn function|string
---@param ... any
---@return table<integer,any> results the first result of each process, by its id
function call.everywhere(fn, ...)
  if type(fn) == "string" then
    local chunk, problem = loadstring(fn, "=everywhere")
    if not chunk then errors.raise("ArgumentError", "tarn.everywhere: " .. problem) end
    fn = chunk
  end
  rpc.check_function(fn, "tarn.everywhere")
  return call.on_each("tarn.everywhere", require("tarn.cluster").procs(), fn, ...)
end

-- With more processes than this, what is large is not sent to each: they read it, and may have it from each other (docs/PROTOCOL.md).
local MANY = 8

-- ref: to fn and the arguments, which are read from there; nil: they are sent along.
local function start_one(what, pid, ref, fn, ...)
  if not ref or here(pid) then return start(what, pid, fn, ...) end
  return ask_start(what, pid, "start.read", ref, select("#", ...))
end

-- The same on the given processes.
function call.on_each(what, pids, fn, ...)
  task.check(what)
  local futures, results, failed, failures = {}, {}, {}, {}
  local ref = #pids > MANY and core.pool_set_list(fn, ...) or nil -- nil: they are small, too
  for _, pid in ipairs(pids) do
    local ok, f = pcall(start_one, what, pid, ref, fn, ...)
    if not ok then
      for _, other in pairs(futures) do other:cancel() end
      error(f, 0)
    end
    futures[pid] = f
  end
  for _, pid in ipairs(pids) do
    local ok, value = pcall(futures[pid].fetch, futures[pid])
    if ok then
      results[pid] = value
    elseif futures[pid].state then
      failed[#failed + 1], failures[pid] = pid, value
    else
      error(value, 0) -- this task was cancelled
    end
  end
  if ref then core.pool_delete(ref) end
  if #failed > 0 then error(failed_on(what, failed, failures), 0) end
  return results
end

---What x stands for: a Future's results, a DRef's or FileRef's value, anything else as it is.
---@param x any
---@param ... any for a Future, timeout_s; for a FileRef, the options of poolget
---@return any ...
function call.fetch(x, ...)
  if future.is(x) then return x:fetch(...) end
  if refs.is(x) or refs.is_file(x) then return x:get(...) end
  return x
end

---------------------------------------------------------------------------------------------------- serving

-- Does a result come with the response?
local function is_small(x)
  local kind = type(x)
  return kind == "nil" or kind == "boolean" or kind == "number" or (kind == "string" and #x <= SMALL_STRING_BYTES)
    or refs.is(x) or refs.is_file(x) or future.is(x)
end

call.is_small = is_small

local function all_small(n, ...)
  for i = 1, n do
    if not is_small((select(i, ...))) then return false end
  end
  return true
end

local function store(n, ...)
  if n == 1 then return core.pool_set((...), 0) end
  return core.pool_set({ n = n, ... }, 0)
end

-- Small results go along; others stay in the pool, and the DRef goes.
local function reply_kept(token, msgid, n, ...)
  if all_small(n, ...) then return core.reply(token, msgid, true, ...) end
  local ref = store(n, ...)
  core.reply(token, msgid, false, n, ref)
  core.ref_release(ref) -- who has asked holds it, not we
end

local function keep_results(t, ok, ...)
  rpc.job_ended(t, ok)
  if not ok then return rpc.refuse(t.token, t.msgid, (...), rpc.located(t.traceback, t.fn_called)) end
  local sent, e = pcall(reply_kept, t.token, t.msgid, select("#", ...), ...)
  if not sent then return rpc.refuse(t.token, t.msgid, e) end
end

function rpc.on_request.start(token, from, msgid) return rpc.serve(token, from, msgid, rpc.run_payload, keep_results) end

-- The function and its arguments are in an object: see start_one.
local function run_read(ref, n)
  local list = rpc.get("tarn.everywhere", ref)
  core.ref_release(ref)
  return rpc.invoke(unpack(list, 1, n + 1))
end

local function run_read_payload() return run_read(core.payload()) end

rpc.on_request["start.read"] = function(token, from, msgid) return rpc.serve(token, from, msgid, run_read_payload, keep_results) end

-- A Future that is waited for from another process: answered when it is ready.
local function answer_waiter(waiter, f)
  local token, msgid = waiter.token, waiter.msgid
  rpc.no_cancel(waiter.from, msgid)
  if f.state == "failed" then return rpc.refuse(token, msgid, f.err) end
  local sent, e
  if f.values then
    sent, e = pcall(reply_kept, token, msgid, f.n, unpack(f.values, 1, f.n))
  else
    future.share(f)
    sent, e = pcall(core.reply, token, msgid, false, f.n, f.ref)
  end
  if not sent then return rpc.refuse(token, msgid, e) end
end

function call.answer_when_ready(f, token, from, msgid)
  future.watch(f, { ready = answer_waiter, token = token, from = from, msgid = msgid })
end

rpc.on_request["future.wait"] = function(token, from, msgid)
  local f, e = travel.exported(core.payload())
  if not f then return rpc.refuse(token, msgid, e) end
  rpc.on_cancel(from, msgid, f)
  call.answer_when_ready(f, token, from, msgid)
end

return call
