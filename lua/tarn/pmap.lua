-- pmap: a function over a list, its items handed out as workers come free.
--
-- A batch of items is one request. How many batches a worker has at a time depends on how long they take: one when they are
-- long, so that nobody waits behind a slow one; more when they are short, so that none waits for the wire.
--
-- Where the caller does not say how many items make a batch, it is about a millisecond's worth, as the worker's items have taken
-- lately, but no more than a fair part of what is left. A guess may be wrong: a worker that has been at a batch for 5 ms finishes the
-- item and gives the others back.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local ffi = require "ffi"
local interrupt = require "tarn.interrupt"
local nil_global = require "tarn.nil_global"
local options = require "tarn.options"
local progress = require "tarn.progress"
local rpc = require "tarn.rpc"
local task = require "tarn.task"

pcall(ffi.cdef, "uint64_t tarn_clock_ns(void);") -- base/clock.h; specs may have declared it
local C = ffi.C

local pmap = {}

local LONG_S, SHORT_S = 0.05, 0.002
local FEW, MANY = 2, 16
local BATCH_S, GIVE_BACK_NS = 0.001, 5e6
local GROWTH, MOST = 4, 4096 -- of a batch, from one to the next of a worker; items
local SHARES = 4             -- of what is left, for each worker

---@class tarn.MapOptions
---@field workers? integer[] ids of the processes that work. Default: all workers
---@field batch? integer items that are sent at a time. Default: about a millisecond's worth
---@field retries? integer how often an item is tried elsewhere after its worker was lost. Default: 0
---@field progress? boolean|fun(done:integer,total:integer?) true: show how far it is, on standard error
---@field on_error? fun(err:any,item:any):any gives what stands in for the result of an item that failed
local OPTIONS = { workers = true, batch = true, retries = true, progress = true, on_error = true }

local function argument_error(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end

---------------------------------------------------------------------------------------------------- on the worker

-- What is compiled of a loop keeps the functions that it calls, and their upvalues, for as long as the process lives. So those of the user
-- are called from functions that are not compiled; they themselves are (docs/REFERENCES.md).

local function is_late(started) return tonumber(C.tarn_clock_ns()) - started > GIVE_BACK_NS end

-- Apply fn to each of the n items: {[i] = error} or nil, the results, and how many it has been applied to. all: go on after an error.
-- may_stop: give back what is left after a while.
local function apply(fn, all, n, items, may_stop)
  local results, failures, traceback = {}, nil, nil
  local started = tonumber(C.tarn_clock_ns())
  local function on_error(e)
    traceback = debug.traceback("", 2):sub(2)
    nil_global.note(e, 2)
    return e
  end
  for i = 1, n do
    local ok, result = xpcall(fn, on_error, items[i])
    if ok then
      results[i] = result
    elseif errors.iserror(result, "Cancelled") then
      error(result, 0)
    else
      failures = failures or {}
      failures[i] = failure.outgoing(failure.raised(result), rpc.located(traceback, fn))
      if not all then break end
    end
    if may_stop and i < n and is_late(started) then return failures, results, i end
  end
  return failures, results, n
end
jit.off(apply)

local function noted(failures, ...)
  if failures then task.current().failed = true end
  return failures, ...
end

local function apply_job(fn, ...)
  rpc.job_begins(fn)
  return noted(apply(fn, ...))
end

local function apply_payload() return apply_job(core.payload()) end

function rpc.on_request.map(token, from, msgid) return rpc.serve(token, from, msgid, apply_payload) end

---------------------------------------------------------------------------------------------------- the batches

-- One request on its way: the indices of its items and the items.
local Batch = {}
Batch.__index = Batch

function Batch:answered(ok, failures, results, count)
  local run = self.run
  self.ok = ok
  if ok then
    self.failures, self.results, self.count = failures, results, count
  else
    self.err = failures
  end
  run.answered[#run.answered + 1] = self
  local t = run.task
  run.task = nil
  if t then task.wake(t, true) end
end

local function local_done(t, ...) t.batch:answered(...) end

-- What could not travel lies in an item of the batch, or in the result of one: say which of the whole list. The path ends with what the
-- message of the request "map", or its answer, has there.
local function name_item(batch, e)
  if not errors.iserror(e, "NotSerializable") or type(e.path) ~= "string" then return e end
  local path = e.path:gsub("element (%d+) of value 4$", function(i) return ("item %d of the list"):format(batch.first + i - 1) end)
  path = path:gsub("element (%d+) of result 2$", function(i) return ("the result of item %d"):format(batch.first + i - 1) end)
  local from, to = e.message:find(e.path, 1, true)
  if from then e.path, e.message = path, e.message:sub(1, from - 1) .. path .. e.message:sub(to + 1) end
  return e
end

local function send(run, worker, batch)
  batch.worker, batch.sent, batch.answered_at = worker, core.clock(), nil
  if worker.inflight == 0 then worker.sent_at = batch.sent end
  worker.inflight = worker.inflight + 1
  local all, may_stop = run.on_error ~= nil, run.batch == nil
  if worker.pid == core.myid() then
    batch.task = task.spawn({ done = local_done, batch = batch }, apply, run.fn, all, batch.n, batch.items, may_stop)
  else
    local sent, result = pcall(rpc.ask, batch, worker.pid, "map", run.fn, all, batch.n, batch.items, may_stop)
    if sent then
      batch.msgid = result
    elseif errors.iserror(result, "WorkerLost") then
      batch:answered(false, result)
    else
      error(name_item(batch, result), 0)
    end
  end
  run.outstanding[batch] = true
end

local function drop_all(run)
  for batch in pairs(run.outstanding) do
    if batch.msgid then rpc.drop(batch.worker.pid, batch.msgid) else task.cancel(batch.task) end
  end
  run.outstanding = {}
end

---------------------------------------------------------------------------------------------------- handing out

local function batch_size(run, worker)
  if run.batch then return run.batch end
  local size = worker.each and math.floor(BATCH_S / worker.each) or 1
  size = math.min(size, GROWTH * worker.size, MOST)
  if run.total then size = math.min(size, math.ceil((run.total - run.taken) / (SHARES * #run.workers))) end
  return math.max(size, 1)
end

local function next_batch(run, worker)
  local again = table.remove(run.again)
  if again or run.exhausted then return again end
  local batch = setmetatable({ run = run, first = run.taken + 1, n = 0, items = {}, tries = 0 }, Batch)
  local size = batch_size(run, worker)
  while batch.n < size do
    local has, item = run.pull(run, run.taken + 1)
    if not has then
      run.exhausted = true
      break
    end
    run.taken = run.taken + 1
    batch.n = batch.n + 1
    batch.items[batch.n] = item
  end
  return batch.n > 0 and batch or nil
end

-- What the worker has given back of a batch is the next to be handed out.
local function put_back(run, batch)
  local rest = { run = run, first = batch.first + batch.count, n = batch.n - batch.count, items = {}, tries = batch.tries }
  for i = 1, rest.n do rest.items[i] = batch.items[batch.count + i] end
  batch.n = batch.count
  table.insert(run.again, setmetatable(rest, Batch))
end

-- How many batches a worker may have, from how long one has taken it lately.
local function depth(worker)
  local seconds = worker.seconds
  if not seconds or seconds > LONG_S then return 1 end
  return seconds > SHORT_S and FEW or MANY
end

local function free_worker(run)
  local best
  for _, worker in ipairs(run.workers) do
    if not worker.lost and worker.inflight < depth(worker) and (not best or worker.inflight < best.inflight)
      and not core.congested(worker.pid) then
      best = worker
    end
  end
  return best
end

local function hand_out(run)
  while true do
    local worker = free_worker(run)
    local batch = worker and next_batch(run, worker)
    if not batch then return end
    send(run, worker, batch)
  end
end

---------------------------------------------------------------------------------------------------- taking in

local function note_time(batch)
  local worker, now = batch.worker, core.clock()
  -- Batches queue behind each other at the worker: what one took is the time since it was sent, or since the one before was answered.
  local seconds = now - math.max(batch.sent, worker.last_answer or 0)
  worker.last_answer = now
  worker.seconds = worker.seconds and worker.seconds * 0.7 + seconds * 0.3 or seconds
  local each = seconds / batch.n
  worker.each = worker.each and worker.each * 0.7 + each * 0.3 or each
  worker.size = batch.n
end

local function item_failed(run, batch, i, e)
  if not run.on_error then error(e, 0) end
  run.results[batch.first + i - 1] = run.on_error(e, batch.items[i])
end
jit.off(item_failed)

local function tell_progress(run) run.progress(run.done, run.total) end
jit.off(tell_progress)

-- Has the worker of the batch been lost? A job may also raise a WorkerLost of its own, about another.
local function is_lost(batch)
  if batch.ok or batch.worker.pid == core.myid() or not errors.iserror(batch.err, "WorkerLost") then return false end
  if batch.err.pid == batch.worker.pid then return true end
  for _, pid in ipairs(core.members()) do
    if pid == batch.worker.pid then return false end
  end
  return true
end

-- True when the batch will be tried elsewhere.
local function try_elsewhere(run, batch)
  batch.worker.lost = true
  if batch.tries >= run.retries then return false end
  for _, worker in ipairs(run.workers) do
    if not worker.lost then
      batch.tries, batch.results, batch.failures, batch.msgid = batch.tries + 1, nil, nil, nil
      batch.err = nil
      table.insert(run.again, 1, batch)
      return true
    end
  end
  return false
end

local function take_in(run, batch)
  run.outstanding[batch] = nil
  local worker = batch.worker
  worker.inflight = worker.inflight - 1
  if is_lost(batch) and try_elsewhere(run, batch) then return end
  if batch.count and batch.count < batch.n then put_back(run, batch) end
  note_time(batch)
  for i = 1, batch.n do
    local e = batch.err or (batch.failures and batch.failures[i])
    if e then
      item_failed(run, batch, i, name_item(batch, failure.received(e)))
    else
      run.results[batch.first + i - 1] = batch.results[i]
    end
  end
  run.done, worker.done = run.done + batch.n, worker.done + batch.n
  if run.progress then tell_progress(run) end
end

local function stop_listening(_, run) run.task = nil end

local function await_answer(run)
  run.task = task.check("tarn.pmap")
  local ok, e = task.wait(stop_listening, run)
  if not ok then error(e, 0) end
end

local function all_lost(run)
  for _, worker in ipairs(run.workers) do
    if not worker.lost then return false end
  end
  return true
end

local function run_all(run)
  while true do
    hand_out(run)
    if run.display then run.display:update() end
    if not next(run.outstanding) and not run.answered[1] then
      if run.exhausted and #run.again == 0 then return end
      if all_lost(run) then error(errors.new("WorkerLost", "pmap: all its workers are lost"), 0) end
      task.sleep(0.001) -- all workers are congested
    elseif not run.answered[1] then
      await_answer(run)
    end
    local answered = run.answered
    run.answered = {}
    for i = 1, #answered do take_in(run, answered[i]) end
  end
end

---------------------------------------------------------------------------------------------------- the call

local function pull_called(run)
  local item = run.list()
  return item ~= nil, item
end
jit.off(pull_called)

local function pull_listed(run, i)
  if i > run.total then return false end
  return true, run.list[i]
end

-- How the next item is had, and how many there are, if that is known.
local function source(list)
  if type(list) == "function" then return pull_called end
  if type(list) ~= "table" and type(list) ~= "cdata" and type(list) ~= "userdata" then
    argument_error("tarn.pmap: a list or an iterator is needed, not %s", failure.describe(list))
  end
  local n = type(list) == "table" and rawget(list, "n") or nil
  if type(n) ~= "number" then n = #list end
  if n == 0 and type(list) == "table" and next(list) ~= nil then
    argument_error("tarn.pmap: a list is needed, not a table with other keys than 1, 2, 3...")
  end
  return pull_listed, n
end

local function check_count(opts, name, default, least)
  local n = opts[name]
  if n == nil then return default end
  if type(n) ~= "number" or n % 1 ~= 0 or n < least then
    argument_error("tarn.pmap: %s is a whole number of at least %d, not %s", name, least, failure.describe(n))
  end
  return n
end

local function pick_workers(list)
  if list == nil then
    list = require("tarn.cluster").workers()
    if #list == 0 then list = { core.myid() } end
  end
  if type(list) ~= "table" or #list == 0 then
    argument_error("tarn.pmap: workers is a list of process ids, not %s", failure.describe(list))
  end
  local workers = {}
  for i, pid in ipairs(list) do
    rpc.check_pid(pid, "tarn.pmap: workers")
    workers[i] = { pid = pid, inflight = 0, size = 1, done = 0 }
  end
  return workers
end

local function check_callback(opts, name)
  local fn = opts[name]
  if fn == nil or fn == false then return nil end
  if type(fn) ~= "function" then
    argument_error("tarn.pmap: %s is %sa function, not %s", name, name == "progress" and "true or " or "",
      failure.describe(fn))
  end
  return fn
end

-- "pmap (sweep.lua:12)"
local function title()
  local place = (errors.place() or ""):match("([^/]+)$")
  return place and ("pmap (%s)"):format(place) or "pmap"
end

-- For the summary after Ctrl-C.
local function report(run)
  if run.display then run.display:hide() end
  return run.total and ("%s: %d of %d done"):format(run.title, run.done, run.total) or ("%s: %d done"):format(run.title, run.done)
end

local function run_shown(run, show)
  local function reporter() return report(run) end
  run.title = title()
  interrupt.report(reporter)
  if show then run.display = progress.show(run, run.title) end
  local ok, e = pcall(run_all, run)
  if not core.interrupt_pending() then interrupt.forget(reporter) end -- else the summary is still to come
  if run.display then run.display:close(ok) end
  if not ok then
    drop_all(run)
    error(e, 0)
  end
end

---Call fn(item) for every item of a list, on workers as they come free, and return the first results in their order; the field `n` is
---their count.
---Without workers the driver does it. The first error is raised and the rest is cancelled, unless there is `on_error`.
---@param fn fun(item:any):any
---@param list table|function|tarn.Column a list, a column, or an iterator of items
---@param opts? tarn.MapOptions
---@return table results
function pmap.pmap(fn, list, opts)
  rpc.check_function(fn, "tarn.pmap")
  opts = options.check(opts, OPTIONS, "tarn.pmap")
  local pull, total = source(list)
  local show = opts.progress == true
  local run = {
    fn = fn, list = list, pull = pull, total = total, workers = pick_workers(opts.workers), batch = check_count(opts, "batch", nil, 1),
    retries = check_count(opts, "retries", 0, 0), progress = not show and check_callback(opts, "progress") or nil,
    on_error = check_callback(opts, "on_error"),
    results = {}, taken = 0, done = 0, again = {}, answered = {}, outstanding = {},
  }
  task.check("tarn.pmap")
  run_shown(run, show)
  run.results.n = run.taken
  return run.results
end

return pmap
