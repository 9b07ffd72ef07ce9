-- Requests between processes, both ends, on tarn.core: what is sent and awaited, and the dispatcher of what arrives.
--
-- The hot path is one no-op call: request, one table for the job, a coroutine used before, reply. Nothing else is allocated.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local task = require "tarn.task"

local rpc = {
  on_request = {}, -- method -> function(token, from_pid, msgid), called outside any task; must see to one reply
  on_notify = {},  -- method -> function(from_pid), called outside any task
  inflight = {},   -- pid -> requests of jobs that this process has sent there and that are not answered
}

local request, forget, payload, reply = core.request, core.forget, core.payload, core.reply
local pending = {}  -- msgid -> the task that waits for it, or an object with a method answered(ok, ...)
local draining = {} -- pid -> tasks that wait until less is queued to it
local jobs = {}     -- from_pid * 2^32 + msgid -> what can be cancelled: a task, or an object with a method cancel()
local inflight = setmetatable(rpc.inflight, { __index = function() return 0 end })

local PIDS = 4294967296

---------------------------------------------------------------------------------------------------- asking

function rpc.check_pid(pid, what)
  if type(pid) ~= "number" or pid < 1 or pid % 1 ~= 0 then
    errors.raise("ArgumentError", ("%s: a process id is a whole number, not %s"):format(what, failure.describe(pid)))
  end
end

function rpc.check_function(fn, what)
  if type(fn) ~= "function" then
    errors.raise("ArgumentError", ("%s: a function is needed, not %s"):format(what, failure.describe(fn)))
  end
end

local function stop_draining(t, pid) draining[pid][t] = nil end

local function raise_unless(ok, ...)
  if ok then return ... end
  error((...), 0)
end

-- Suspends while too much is queued to that process.
function rpc.make_room(pid, what)
  while core.congested(pid) do
    local t = task.check(what)
    draining[pid] = draining[pid] or {}
    draining[pid][t] = true
    raise_unless(task.wait(stop_draining, pid))
  end
end

local function drained(pid)
  local waiting = draining[pid]
  draining[pid] = nil
  for t in pairs(waiting or {}) do task.wake(t, true) end
end

local function give_up(_, msgid, pid)
  pending[msgid] = nil
  inflight[pid] = inflight[pid] - 1
  forget(msgid)
  core.notify(pid, "cancel", msgid)
end

-- Ask and wait for the results; what: the caller's name, for messages.
function rpc.call(what, pid, method, ...)
  local t = task.check(what)
  if core.congested(pid) then rpc.make_room(pid, what) end
  local msgid = request(pid, method, ...)
  pending[msgid] = t
  inflight[pid] = inflight[pid] + 1
  return raise_unless(task.wait(give_up, msgid, pid))
end

-- Ask; waiter:answered(ok, ...) is called outside any task when the response is there. Returns the msgid.
function rpc.ask(waiter, pid, method, ...)
  local msgid = request(pid, method, ...)
  waiter.pid = pid
  pending[msgid] = waiter
  inflight[pid] = inflight[pid] + 1
  return msgid
end

-- The response is not wanted any more, nor the work.
function rpc.drop(pid, msgid)
  if pending[msgid] then give_up(nil, msgid, pid) end
end

function rpc.cancel(pid, msgid) core.notify(pid, "cancel", msgid) end

local function forget_response(_, msgid, timer)
  pending[msgid] = nil
  forget(msgid)
  task.stop_timer(timer)
end

local function expired(wait)
  local t = wait.task
  if pending[wait.msgid] == t and task.abandon(t) then task.wake(t, false, wait.error) end
end

local function answered(t, timer, ...)
  t.keep = nil
  task.stop_timer(timer)
  return ...
end

-- Wait for the response to a msgid that tarn.core gave: true and the results, or false and the error. Later than timeout_s: a Timeout
-- error. keep: not to be collected meanwhile.
local function await(what, msgid, timeout_s, keep)
  local t = task.check(what)
  pending[msgid], t.keep = t, keep
  local timer
  if timeout_s then
    local late = errors.new("Timeout", ("%s: not there within %g s"):format(what, timeout_s))
    timer = task.timer(timeout_s, expired, { task = t, msgid = msgid, error = late })
  end
  return answered(t, timer, task.wait(forget_response, msgid, timer))
end

-- The same; an error is raised.
function rpc.await(what, msgid, timeout_s) return raise_unless(await(what, msgid, timeout_s)) end

---------------------------------------------------------------------------------------------------- asking the owner of an object

-- Is e the answer that the object of ref is elsewhere by now? Then ref.owner says where, and it is to be asked there.
function rpc.has_moved(ref, e)
  if not errors.iserror(e, "Moved") then return false end
  core.ref_note(ref, e.needed, e.available or 0)
  return true
end

-- rpc.recover(ref, e, without_value), which protect.lua sets: a call at the owner of ref has failed with e; is it to be repeated?

-- Values that are dropped again before they have been read are made again so often.
local RECOVERIES = 20

-- An object that is lost is named.
local function name_lost(ref, e)
  if not errors.iserror(e, "WorkerLost") then return e end
  return errors.new("WorkerLost", ("object %s: %s"):format(ref:key(), failure.tostring(e.message)), e)
end

-- As await, where nothing may suspend: this process's Lua waits, its service goes on.
local function await_here(_, msgid)
  local ok, x = core.wait(msgid)
  if ok then return true, x end
  return false, failure.received(x)
end

-- The owner has answered that another process has the bytes: true and the value from there, or false, an error, and whether to ask the
-- owner again, which will name another.
local function get_elsewhere(await_one, what, ref, source, timeout_s)
  local owner = ref.owner
  local ok, x = await_one(what, core.spread_get(ref, source), timeout_s, ref)
  local again = not ok and source ~= owner and not errors.iserror(x, "Cancelled") and not errors.iserror(x, "Timeout")
  return ok, x, again
end

-- ask(ref, may) gives a msgid: what the owner of ref answers, which may be that another process is to be asked. take_here(ref) is the
-- answer when that is this process.
local function ask_owner(what, ask, take_here, ref, timeout_s, without_value)
  local recoveries, failures = 0, 0
  while true do
    local ok, x
    local again = false
    if ref.owner == core.myid() then
      ok, x = pcall(take_here, ref)
    else
      ok, x = await(what, ask(ref, failures < RECOVERIES), timeout_s, ref)
      if not ok and errors.iserror(x, "Elsewhere") then ok, x, again = get_elsewhere(await, what, ref, x.needed, timeout_s) end
    end
    if ok then return x end
    if again then
      failures = failures + 1
    elseif not rpc.has_moved(ref, x) then
      recoveries = recoveries + 1
      if recoveries > RECOVERIES or not rpc.recover(ref, x, without_value) then error(name_lost(ref, x), 0) end
    end
  end
end

-- The value of a DRef.
function rpc.get(what, ref, timeout_s) return ask_owner(what, core.pool_get_at, core.pool_get, ref, timeout_s) end

-- The same where nothing may suspend, of an object that another process has and that does not move.
function rpc.get_waiting(what, ref)
  local failures = 0
  while true do
    local again = false
    local ok, x = await_here(what, core.pool_get_at(ref, failures < RECOVERIES))
    if not ok and errors.iserror(x, "Elsewhere") then ok, x, again = get_elsewhere(await_here, what, ref, x.needed) end
    if ok then return x end
    if not again then error(name_lost(ref, x), 0) end
    failures = failures + 1
  end
end

-- Delete the object of a DRef. delete_here(ref) does it on its owner.
function rpc.delete(what, ref, delete_here) ask_owner(what, core.pool_delete_at, delete_here, ref, nil, true) end

-- rpc.call at the owner of ref, which goes along in the arguments; run_here(...) where that is this process, perhaps since a moment ago.
function rpc.call_owner(what, ref, run_here, method, ...)
  while true do
    if ref.owner == core.myid() then return run_here(...) end
    if not core.is_member(ref.owner) then rpc.recover(ref, errors.new("WorkerLost", "its owner is lost"), false) end
    local results = { pcall(rpc.call, what, ref.owner, method, ...) }
    if results[1] then return unpack(results, 2, table.maxn(results)) end
    if not rpc.has_moved(ref, results[2]) then error(results[2], 0) end
  end
end

---------------------------------------------------------------------------------------------------- many at once

local Gather = {}
Gather.__index = Gather

-- Collects the responses to many requests, each added as soon as it was sent.
function rpc.gather() return setmetatable({ results = {}, errors = {}, msgids = {}, left = 0 }, Gather) end

local function gathered(one, ok, x)
  local all = one.all
  all.msgids[one.msgid] = nil
  all.left = all.left - 1
  if ok then
    all.results[one.i] = x
  else
    all.errors[one.i] = x
    all.failed, all.err = true, all.failed and all.err or x
  end
  local t = all.task
  if t and (all.left == 0 or all.failed) then
    all.task = nil
    task.wake(t, true)
  end
end

-- The response to msgid (of tarn.core) becomes results[i].
function Gather:add(i, msgid)
  self.left, self.msgids[msgid] = self.left + 1, true
  pending[msgid] = { all = self, i = i, msgid = msgid, answered = gathered }
end

function Gather:drop()
  for msgid in pairs(self.msgids) do
    pending[msgid] = nil
    forget(msgid)
  end
  self.msgids = {}
end

local function stop_gathering(_, all) all.task = nil end

-- Wait for all that was added, or, if so asked, for the first that fails.
local function await_all(all, what, until_failed)
  while all.left > 0 and not (until_failed and all.failed) do
    all.task = task.check(what)
    local ok, e = task.wait(stop_gathering, all)
    if not ok then
      all:drop()
      error(e, 0)
    end
  end
end

-- Wait for all that was added: the results, and for those that failed the errors, by the same numbers.
function Gather:wait_all(what)
  await_all(self, what, false)
  return self.results, self.errors
end

-- Wait for all that was added: the results. The first error is raised, the rest is forgotten.
function Gather:wait(what)
  await_all(self, what, true)
  if self.failed then
    self:drop()
    error(self.err, 0)
  end
  return self.results
end

---------------------------------------------------------------------------------------------------- answers that arrive

local function decoded(ok, good, ...)
  if not good then return false, (...) end -- the payload could not be decoded
  if ok then return true, ... end
  return false, failure.received((...))
end

local function on_response(msgid, ok)
  local waiter = pending[msgid]
  if not waiter then return end
  pending[msgid] = nil
  if waiter.answered then
    if waiter.pid then inflight[waiter.pid] = inflight[waiter.pid] - 1 end
    return waiter:answered(decoded(ok, pcall(payload)))
  end
  -- A task. rpc.call's, when its clean-up is give_up: it was counted.
  if waiter.cleanup == give_up then inflight[waiter.cleanup_b] = inflight[waiter.cleanup_b] - 1 end
  return task.answer(waiter, decoded(ok, pcall(payload)))
end

---------------------------------------------------------------------------------------------------- jobs: serving

-- Answer with an error. A process that is ending says nothing: who waits is told that it is lost.
function rpc.refuse(token, msgid, e, traceback)
  if task.stopping() then return end
  core.reply_error(token, msgid, failure.outgoing(e, traceback))
end

-- The traceback of a job of fn that has failed; where a tail call has left nothing of it, at least which function it was.
function rpc.located(traceback, fn)
  traceback = failure.trim(traceback)
  if type(traceback) ~= "string" or traceback:find("\n", 1, true) or type(fn) ~= "function" then return traceback end
  local info = debug.getinfo(fn, "S")
  return ("%s\n\t%s:%d: in the job's function, by a tail call"):format(traceback, info.short_src, info.linedefined)
end

-- The current task begins to run fn as a job, which observers see; job_ended(t, ok) is due. t.failed: it has, whatever it returns.
function rpc.job_begins(fn)
  local t = task.current()
  t.fn_called = fn -- for messages: a tail call leaves no other trace of where the job is
  if type(fn) == "function" and not t.job then t.job = core.job_begin(fn) end
end

local function job_ended(t, ok)
  if t.key then jobs[t.key] = nil end
  if t.job then core.job_end(t.job, ok and not t.failed) end
end
rpc.job_ended = job_ended

-- A job's task is done: answer with its results. Field of the task: token, msgid, key, job.
local function reply_results(t, ok, ...)
  job_ended(t, ok)
  if ok then
    local sent, e = pcall(reply, t.token, t.msgid, ...)
    if sent then return end
    return rpc.refuse(t.token, t.msgid, e)
  end
  return rpc.refuse(t.token, t.msgid, (...), rpc.located(t.traceback, t.fn_called))
end

rpc.reply_results = reply_results

-- Serve a request by a job: a task that runs work(), which takes core.payload() and returns the results. done: instead of reply_results.
function rpc.serve(token, from, msgid, work, done)
  local t = { done = done or reply_results, token = token, msgid = msgid, key = false, co = false, cleanup = false }
  task.begin(t, work)
  if not t.ended then
    t.key = from * PIDS + msgid
    jobs[t.key] = t
  end
end

-- Make a request that no task serves cancellable: target:cancel().
function rpc.on_cancel(from, msgid, target) jobs[from * PIDS + msgid] = target end
function rpc.no_cancel(from, msgid) jobs[from * PIDS + msgid] = nil end

local function invoke(fn, ...)
  if type(fn) ~= "function" then
    errors.raise("ArgumentError", "call: a function is needed, not " .. failure.describe(fn))
  end
  rpc.job_begins(fn)
  return fn(...)
end
jit.off(invoke) -- what is compiled would keep fn (docs/REFERENCES.md)

rpc.invoke = invoke

local function run_payload() return invoke(payload()) end

function rpc.on_request.call(token, from, msgid) return rpc.serve(token, from, msgid, run_payload) end
rpc.run_payload = run_payload

rpc.on_notify["cancel"] = function(from)
  local key = from * PIDS + payload()
  local job = jobs[key]
  if not job then return end
  if job.cancel then
    job:cancel()
  else
    task.cancel(job)
  end
end

local function log_failure(_, ok, e)
  if not ok then core.log("error", "remote_do: " .. failure.text(failure.outgoing(e))) end
end

local function done_without_answer(t, ok, e)
  job_ended(t, ok)
  log_failure(t, ok, e)
end

rpc.on_notify["do"] = function()
  task.begin({ done = done_without_answer }, run_payload)
end
rpc.log_failure = log_failure

---------------------------------------------------------------------------------------------------- the dispatcher

local watchers = {} -- kind -> functions(...), for joined, lost, exited

-- Call fn(...) for each event of a kind: "joined", "lost", "exited".
function rpc.watch(kind, fn)
  watchers[kind] = watchers[kind] or {}
  table.insert(watchers[kind], fn)
end

local function dispatch_other(kind, ...)
  if kind == "drained" or kind == "lost" then drained((...)) end
  for _, fn in ipairs(watchers[kind] or {}) do fn(...) end
end

function rpc.dispatch(kind, a, b, c, d)
  if kind == "request" then
    local serve = rpc.on_request[d]
    if serve then return serve(a, b, c) end
    return rpc.refuse(a, c, errors.new("ProtocolError", ("no method '%s'"):format(tostring(d))))
  elseif kind == "response" then
    return on_response(a, b)
  elseif kind == "notify" then
    local serve = rpc.on_notify[b]
    if serve then return serve(a) end
    return core.log("debug", ("process %s: no notification '%s'"):format(tostring(a), tostring(b)))
  end
  return dispatch_other(kind, a, b, c, d)
end

return rpc
