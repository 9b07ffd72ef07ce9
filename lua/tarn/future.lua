-- Futures: the result of a job or of a local task, there or yet to come.
--
-- What a job has returned stays with the worker, in its pool: the response brings a DRef to it (small plain values come along
-- at once). The first fetch takes the value over and lets go of it there; so does the end of a Future that nobody has fetched, which
-- is the end of its DRef.
--
-- A Future that travels before it is ready becomes, where it arrives, one that waits for the process that sent it.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local many_closures = require "tarn.many_closures"
local rpc = require "tarn.rpc"
local stand_in = require "tarn.stand_in"
local task = require "tarn.task"

---The result of a job or of a local task, there or yet to come. It may travel, inside other values too.
---@class tarn.Future
local Future = {}
Future.__index = Future

-- Fields: state (nil, "done", "failed"); n and values or ref when done, err when failed; watchers while not: a set.
-- pid and msgid: whom to tell when it is cancelled; task: a local one; travelled: others may fetch it too; fetching: so many do.
local FIELDS = {}
for name in ("state n values ref err watchers pid msgid task travelled fetching"):gmatch("%a+") do FIELDS[name] = true end
stand_in.guard(Future, Future, "a Future", "future:fetch()", FIELDS)

local future = { Future = Future }

function future.new() return setmetatable({}, Future) end

function future.is(x) return type(x) == "table" and getmetatable(x) == Future end

function Future:__tostring() return ("Future: %s"):format(self.state or "waiting") end

local function settle(f, state)
  f.state = state
  local watchers = f.watchers
  f.watchers, f.task, f.msgid = nil, nil, nil
  if watchers then
    for watcher in pairs(watchers) do watcher:ready(f) end
  end
end

function future.succeed(f, ...)
  if f.state then return end
  f.n, f.values = select("#", ...), { ... }
  settle(f, "done")
end

-- Its n results are in the pool, as ref.
function future.succeed_stored(f, n, ref)
  if f.state then return end
  f.n, f.ref, f.travelled = n, ref, true
  settle(f, "done")
end

function future.fail(f, e)
  if f.state then return end
  f.err = e
  settle(f, "failed")
end

---------------------------------------------------------------------------------------------------- results

-- f travels, and its DRef: others may fetch too.
function future.share(f) f.travelled = true end

local function take_answer(f, with_values, ...)
  if with_values then return future.succeed(f, ...) end
  f.n, f.ref = ...
  settle(f, "done")
end

---The response of the request "start" or "future.wait" is there: see rpc.ask. It brings true and the values, or false, their count
---and a DRef.
---@package
function Future:answered(ok, ...)
  if ok then return take_answer(self, ...) end
  return future.fail(self, (...))
end

-- watcher:ready(f) is called once when f is ready, which may be now; it must not suspend. A table of its own for each watch, not a closure,
-- which compiled code would keep, and with it f's values (docs/REFERENCES.md).
function future.watch(f, watcher)
  if f.state then return watcher:ready(f) end
  f.watchers = f.watchers or {}
  f.watchers[watcher] = true
end

local function follow_ready(follower, other)
  local f = follower.future
  if other.state == "failed" then return future.fail(f, other.err) end
  if other.values then return future.succeed(f, unpack(other.values, 1, other.n)) end
  return future.succeed_stored(f, other.n, other.ref)
end

-- f becomes what other is, as soon as that is ready.
function future.follow(f, other) future.watch(other, { ready = follow_ready, future = f }) end

function future.unwatch(f, watcher)
  if f.watchers then f.watchers[watcher] = nil end
end

local function check(self, what)
  if not future.is(self) then
    errors.raise("ArgumentError", ("%s: a Future is needed (call it with a colon), not %s"):format(what, failure.describe(self)))
  end
end

---------------------------------------------------------------------------------------------------- waiting

---Is it there, or has it failed?
---@return boolean ready
function Future:ready()
  check(self, "future:ready")
  return self.state ~= nil
end

local function stop_waiting(_, f, wait)
  future.unwatch(f, wait)
  task.stop_timer(wait.timer)
end

local function too_late(wait)
  if task.abandon(wait.task) then task.wake(wait.task, true) end
end

local function wait_ready(wait)
  task.stop_timer(wait.timer)
  task.wake(wait.task, true)
end

local function wait_for(f, timeout_s, what)
  local t = task.check(what)
  if f.state then return true end
  if timeout_s == 0 then
    task.sleep(0) -- lets what has arrived be seen
    return f.state ~= nil
  end
  local wait = { ready = wait_ready, task = t }
  if timeout_s then wait.timer = task.timer(timeout_s, too_late, wait) end
  future.watch(f, wait)
  local ok, e = task.wait(stop_waiting, f, wait)
  if not ok then error(e, 0) end
  return f.state ~= nil
end

---Wait until it is ready. Raises no error of the job's.
---@param timeout_s? number default: for as long as it takes
---@return boolean ready false after timeout_s without
function Future:wait(timeout_s)
  check(self, "future:wait")
  return wait_for(self, task.check_seconds(timeout_s, "future:wait"), "future:wait")
end

-- Take the value over from the pool it is in. Tasks that fetch at the same time each get it; the last one lets go of it, at once
-- when nobody else has the DRef.
local function take_over(f, timeout_s)
  local ref = f.ref
  f.fetching = (f.fetching or 0) + 1
  local ok, x = pcall(rpc.get, "future:fetch", ref, timeout_s)
  f.fetching = f.fetching - 1
  if not ok then error(x, 0) end
  if not f.values then f.values = f.n == 1 and { x } or x end
  if f.fetching == 0 and f.ref then
    f.ref = nil
    if not f.travelled then core.ref_release(ref) end
  end
end

---Wait for the results and return them; raise the job's error if it has failed. May be called more than once. Not ready in time: Timeout.
---@param timeout_s? number
---@return any ... the results
function Future:fetch(timeout_s)
  check(self, "future:fetch")
  timeout_s = task.check_seconds(timeout_s, "future:fetch")
  if not self.state then
    local started = core.clock()
    if not wait_for(self, timeout_s, "future:fetch") then
      error(errors.new("Timeout", ("future:fetch: not ready within %g s"):format(timeout_s)), 0)
    end
    if timeout_s then timeout_s = math.max(timeout_s - (core.clock() - started), 0.001) end
  end
  if self.state == "failed" then error(self.err, 0) end
  if not self.values then take_over(self, timeout_s) end
  return unpack(self.values, 1, self.n)
end

---Ask for the job to be given up. It gets a Cancelled error when it next suspends; one that computes is not interrupted.
---@return boolean asked false if it was ready already
function Future:cancel()
  check(self, "future:cancel")
  if self.state then return false end
  if self.task then
    task.cancel(self.task)
  elseif self.msgid then
    rpc.cancel(self.pid, self.msgid)
  end
  return true
end

---------------------------------------------------------------------------------------------------- local tasks

local function settle_task(t, ok, ...)
  if ok then return future.succeed(t.future, ...) end
  local e = (...)
  if t.remote then e = failure.of(e, t.traceback) end
  return future.fail(t.future, e)
end

-- Run fn(...) as a local task. remote: its errors are made into tarn errors, as a job's are.
function future.run(remote, fn, ...)
  local f = future.new()
  f.task = task.spawn({ done = settle_task, future = f, remote = remote }, fn, ...)
  return f
end

---Start fn(...) as a task of this process.
---@param fn function
---@param ... any
---@return tarn.Future future
function future.async(fn, ...)
  rpc.check_function(fn, "tarn.async")
  return future.run(false, fn, ...)
end

---fn's results, or a Timeout error after so many seconds; fn is then cancelled.
---@param seconds number
---@param fn function
---@param ... any
---@return any ... fn's results
function future.timeout(seconds, fn, ...)
  if seconds == nil then errors.raise("ArgumentError", "tarn.timeout: seconds must be a number, not nil") end
  seconds = task.check_seconds(seconds, "tarn.timeout")
  rpc.check_function(fn, "tarn.timeout")
  task.check("tarn.timeout")
  local f = future.run(false, fn, ...)
  local ok, in_time = pcall(wait_for, f, math.max(seconds, 0.001), "tarn.timeout")
  if not ok or not in_time then f:cancel() end
  if not ok then error(in_time, 0) end
  if not in_time then error(errors.new("Timeout", ("tarn.timeout: not done within %g s"):format(seconds)), 0) end
  return f:fetch()
end

local function stop_listening(_, state) state.task = nil end

local function listed_ready(listed, f)
  local state = listed.state
  state.ready[#state.ready + 1] = f
  local t = state.task
  state.task = nil
  if t then task.wake(t, true) end
end

local function next_ready(state)
  if state.left == 0 then return nil end
  while not state.ready[state.first] do
    state.task = task.check("tarn.as_completed")
    local ok, e = task.wait(stop_listening, state)
    if not ok then error(e, 0) end
  end
  local f = state.ready[state.first]
  state.ready[state.first] = false
  state.first, state.left = state.first + 1, state.left - 1
  return f
end

local function iterator(state)
  return function() return next_ready(state) end
end
many_closures(iterator)

---Iterate over Futures in the order in which they become ready: `for future in tarn.as_completed(list) do`.
---@param list tarn.Future[]
---@return fun():tarn.Future? iterator
function future.as_completed(list)
  if type(list) ~= "table" then
    errors.raise("ArgumentError", "tarn.as_completed: a list of Futures is needed, not " .. failure.describe(list))
  end
  local state = { ready = {}, first = 1, left = #list }
  for i = 1, #list do
    if not future.is(list[i]) then
      errors.raise("ArgumentError", ("tarn.as_completed: item %d is no Future but %s"):format(i, failure.describe(list[i])))
    end
  end
  for _, f in ipairs(list) do future.watch(f, { ready = listed_ready, state = state }) end
  return iterator(state)
end

return future
