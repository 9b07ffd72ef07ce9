-- Membership as users see it: processes are added, removed and listed; who comes and goes is told.
--
-- A worker that is being started counts as a member for C from its joining, and for users from when addprocs is done with it.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local future = require "tarn.future"
local launch = require "tarn.launch"
local rpc = require "tarn.rpc"
local task = require "tarn.task"

local cluster = {}

local DRIVER = 1
local STOP_TIMEOUT_S = 10
local PROCS_MAX = 4096
local STEADY_S = 10 -- one that has lived for so long is replaced at once
local RESPAWN_MIN_S, RESPAWN_MAX_S = 0.1, 30

-- The driver's records of the workers it has started: os_pid, spec (what they were started with), and pid once joined; batch while
-- addprocs waits for them; gone: a Future, ready when the process has ended and is no member; removed: by rmprocs; delay: seconds
-- before it was respawned.
local by_os_pid, by_pid = {}, {}

local function argument_error(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end

---------------------------------------------------------------------------------------------------- who there is

-- Ids of all processes, sorted.
function cluster.procs()
  local list = {}
  for _, pid in ipairs(core.members()) do
    local record = by_pid[pid]
    if not record or not record.batch then list[#list + 1] = pid end
  end
  return list
end

function cluster.workers()
  local list = cluster.procs()
  if list[1] == DRIVER then table.remove(list, 1) end
  return list
end

function cluster.nprocs() return #cluster.procs() end
function cluster.nworkers() return #cluster.workers() end

---------------------------------------------------------------------------------------------------- who comes and goes

local handlers = { joined = {}, lost = {} }

local function log_handler(_, ok, e)
  if not ok then core.log("error", "tarn.on: " .. failure.text(e)) end
end

local function tell(event, ...)
  for _, fn in ipairs(handlers[event]) do task.spawn({ done = log_handler }, fn, ...) end
end

-- Call fn(id) for each process that joins, fn(id, reason) for each that is lost.
function cluster.on(event, fn)
  if not handlers[event] then argument_error("tarn.on: there are the events 'joined' and 'lost', not %s", failure.describe(event)) end
  rpc.check_function(fn, "tarn.on")
  table.insert(handlers[event], fn)
end

local function wake_batch(batch)
  local t = batch.task
  batch.task = nil
  if t then task.wake(t, true) end
end

local function batch_failed(record, reason)
  local batch = record.batch
  if not batch.failed then batch.failed = { record = record, reason = reason } end
  wake_batch(batch)
end

local function check_gone(record)
  if record.exited and (record.lost or not record.pid) then
    by_os_pid[record.os_pid] = nil
    future.succeed(record.gone)
  end
end

local respawn_if_asked

rpc.watch("joined", function(pid, os_pid)
  local record = by_os_pid[os_pid]
  if record and not record.pid then
    record.pid = pid
    by_pid[pid] = record
  else
    tell("joined", pid)
  end
end)

rpc.on_notify.ready = function(pid)
  local record = by_pid[pid]
  local batch = record and record.batch
  if not batch or record.ready then return end
  record.ready = true
  batch.waiting = batch.waiting - 1
  if batch.waiting == 0 then wake_batch(batch) end
end

rpc.watch("lost", function(pid, reason)
  local record = by_pid[pid]
  by_pid[pid] = nil
  if record then
    record.lost = reason
    check_gone(record)
    if record.batch then return batch_failed(record, reason) end
    respawn_if_asked(record)
  end
  tell("lost", pid, reason)
end)

rpc.watch("exited", function(os_pid, _, reason)
  local record = by_os_pid[os_pid]
  if not record then return end
  record.exited = reason
  check_gone(record)
  if record.batch then batch_failed(record, reason) end
end)

---------------------------------------------------------------------------------------------------- adding

local function check_count(n)
  if type(n) ~= "number" or n % 1 ~= 0 or n < 1 or n > PROCS_MAX then
    argument_error("tarn.addprocs: the number of workers is a whole number from 1 to %d, not %s", PROCS_MAX, failure.describe(n))
  end
end

local function stop_batch(batch)
  for _, record in ipairs(batch) do
    if not record.exited then
      if record.pid and not record.lost then core.stop(record.pid) else record.spec.launcher.stop(record.os_pid) end
    end
  end
  for _, record in ipairs(batch) do
    if not record.gone:wait(STOP_TIMEOUT_S) then record.spec.launcher.stop(record.os_pid) end
  end
end

local function forget_batch(_, batch, timer)
  batch.task = nil
  task.stop_timer(timer)
end

local function batch_late(batch)
  batch.late = true
  wake_batch(batch)
end

local function check_batch(batch)
  if not batch.failed then return end
  local record, reason = batch.failed.record, batch.failed.reason
  local message = ("tarn.addprocs: a worker (process %d of this machine) has ended before it was ready: %s"):format(record.os_pid, reason)
  error(errors.new("WorkerLost", message, { pid = record.pid }), 0)
end

-- Wait until every worker of the batch is ready; raises what has gone wrong.
local function await_batch(batch, timeout_s)
  local timer = task.timer(timeout_s, batch_late, batch)
  while batch.waiting > 0 and not batch.failed and not batch.late do
    batch.task = task.check("tarn.addprocs")
    local ok, e = task.wait(forget_batch, batch, timer)
    if not ok then error(e, 0) end
  end
  task.stop_timer(timer)
  check_batch(batch)
  if batch.waiting > 0 then
    error(errors.new("Timeout", ("tarn.addprocs: %d of %d workers not ready within %g s"):format(batch.waiting, #batch, timeout_s)), 0)
  end
end

local function start_batch(batch, n, spec, delay)
  for i = 1, n do
    local os_pid = spec.launcher.start(spec)
    local record = { os_pid = os_pid, spec = spec, batch = batch, gone = future.new(), started = core.clock(), delay = delay or 0 }
    batch[i], by_os_pid[os_pid] = record, record
  end
end

local function set_up(batch, pids, spec)
  await_batch(batch, spec.timeout_s)
  for i, record in ipairs(batch) do pids[i] = record.pid end
  table.sort(pids)
  if spec.disk then
    local all = rpc.gather()
    for i, pid in ipairs(pids) do all:add(i, core.pool_limits_at(pid, nil, spec.disk)) end
    all:wait("tarn.addprocs")
  end
  if spec.init then require("tarn.call").on_each("tarn.addprocs: init", pids, spec.init) end
  check_batch(batch)
end

local function start(n, spec, delay)
  local batch, pids = { waiting = n }, {}
  local ok, e = pcall(start_batch, batch, n, spec, delay)
  if ok then ok, e = pcall(set_up, batch, pids, spec) end
  if not ok then
    stop_batch(batch)
    error(e, 0)
  end
  for _, record in ipairs(batch) do record.batch = nil end
  for _, pid in ipairs(pids) do tell("joined", pid) end
  return pids
end

-- Start n workers on this machine; returns their ids once all are ready.
function cluster.addprocs(n, opts)
  if core.myid() ~= DRIVER then argument_error("tarn.addprocs: only the driver (process 1) adds processes") end
  check_count(n)
  local spec = launch.check(n, opts)
  task.check("tarn.addprocs")
  return start(n, spec)
end

-- Another one in the place of one that is lost, in a task of its own. What keeps failing is tried less and less often.
local function respawn(lost)
  local delay = core.clock() - lost.started < STEADY_S and math.max(2 * lost.delay, RESPAWN_MIN_S) or 0
  while true do
    delay = math.min(delay, RESPAWN_MAX_S)
    task.sleep(delay)
    local ok, result = pcall(start, 1, lost.spec, delay)
    if ok then
      core.log("info", ("process %d is in the place of process %d"):format(result[1], lost.pid))
      return
    end
    if errors.iserror(result, "Cancelled") then error(result, 0) end
    core.log("error", ("process %d is not replaced yet: %s"):format(lost.pid, failure.text(result)))
    delay = math.max(2 * delay, RESPAWN_MIN_S)
  end
end

local function log_respawn(_, ok, e)
  if not ok and not errors.iserror(e, "Cancelled") then core.log("error", "respawn: " .. failure.text(e)) end
end

function respawn_if_asked(record)
  if record.spec.respawn and not record.removed then task.spawn({ done = log_respawn }, respawn, record) end
end

---------------------------------------------------------------------------------------------------- removing

local function check_removable(pid)
  rpc.check_pid(pid, "tarn.rmprocs")
  if pid == DRIVER then argument_error("tarn.rmprocs: process 1 is the driver; os.exit ends it") end
  for _, member in ipairs(cluster.workers()) do
    if member == pid then return end
  end
  argument_error("tarn.rmprocs: there is no process %d", pid)
end

-- Stop workers, and wait until they are gone. What they own is lost.
function cluster.rmprocs(...)
  if core.myid() ~= DRIVER then argument_error("tarn.rmprocs: only the driver (process 1) removes processes") end
  local pids = { ... }
  for _, pid in ipairs(pids) do check_removable(pid) end
  task.check("tarn.rmprocs")
  local records = {}
  for i, pid in ipairs(pids) do
    records[i] = by_pid[pid]
    records[i].removed = true
    core.stop(pid)
  end
  for _, record in ipairs(records) do
    if not record.gone:wait(STOP_TIMEOUT_S) then
      record.spec.launcher.stop(record.os_pid)
      record.gone:wait(STOP_TIMEOUT_S)
    end
  end
end

return cluster
