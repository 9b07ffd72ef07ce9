-- Membership as users see it: processes are added, removed and listed; who comes and goes is told.
--
-- A worker that is being started counts as a member for C from its joining, and for users from when addprocs is done with it.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local future = require "tarn.future"
local job = require "tarn.job"
local launch = require "tarn.launch"
local rpc = require "tarn.rpc"
local task = require "tarn.task"

local cluster = {}

local DRIVER = 1
local STOP_TIMEOUT_S = 10
local STEADY_S = 10 -- one that has lived for so long is replaced at once
local RESPAWN_MIN_S, RESPAWN_MAX_S = 0.1, 30

-- The driver's records of the workers it has started: spec (what they were started with), host (of spec.hosts), process (what
-- carries its standard streams), and pid once joined; batch while addprocs waits for it; ready; gone: a Future, ready when it has ended and
-- is no member; removed: by rmprocs; delay: seconds before it was respawned.
local by_pid = {}
-- What launchers have started, by number: number, os_pid, label, records (of its workers), exited (why it has ended).
local processes = {}

local function argument_error(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end

---------------------------------------------------------------------------------------------------- who there is

---The ids of all processes, sorted. The driver is 1.
---@return integer[] ids
function cluster.procs()
  local list = {}
  for _, pid in ipairs(core.members()) do
    local record = by_pid[pid]
    if not record or not record.batch then list[#list + 1] = pid end
  end
  return list
end

---What its machine calls a process: the number that ps, kill and a debugger want. A process that is not there is an ArgumentError.
---@param pid? integer the process. Default: this one
---@return integer os_pid
function cluster.os_pid(pid)
  if pid ~= nil then rpc.check_pid(pid, "tarn.os_pid") end
  return core.os_pid(pid) or argument_error("tarn.os_pid: there is no process %d (tarn.procs() lists those there are)", pid)
end

---The ids of all workers, sorted.
---@return integer[] ids
function cluster.workers()
  local list = cluster.procs()
  if list[1] == DRIVER then table.remove(list, 1) end
  return list
end

---How many processes there are, the driver included.
---@return integer count
function cluster.nprocs() return #cluster.procs() end

---How many workers there are.
---@return integer count
function cluster.nworkers() return #cluster.workers() end

---------------------------------------------------------------------------------------------------- who comes and goes

local handlers = { joined = {}, lost = {} }

local function log_handler(_, ok, e)
  if not ok then core.log("error", "tarn.on: " .. failure.text(e)) end
end

local function tell(event, ...)
  for _, fn in ipairs(handlers[event]) do task.spawn({ done = log_handler }, fn, ...) end
end

---Have fn(id) called here for each worker that joins, or fn(id, reason) for each that is lost. Each call is a task of its own.
---@param event "joined"|"lost"
---@param fn fun(id:integer,reason:string?) the reason is a text such as "killed by signal 9, perhaps out of memory" or "silent for 5 s"
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

local function batch_failed(batch, message, pid)
  batch.failed = batch.failed or errors.new("WorkerLost", "tarn.addprocs: " .. message, { pid = pid })
  wake_batch(batch)
end

-- Some of the workers will not come. With partial that is noted, and the others are waited for.
local function batch_misses(batch, label, workers, message)
  message = message:sub(1, #label) == label and message or label .. ": " .. message
  if not batch.spec.partial then return batch_failed(batch, message) end
  table.insert(batch.missing, { host = label, workers = workers, message = message })
  core.log("warn", "tarn.addprocs: " .. message)
  batch.waiting = batch.waiting - workers
  if batch.waiting == 0 then wake_batch(batch) end
end

-- One that was started for a batch has ended, before addprocs was done with it.
local function record_failed(record, reason)
  local batch, process = record.batch, record.process
  if record.dropped then return end
  reason = reason:gsub("\n", ": ", 1)
  if record.ready or not process.label then
    local what = process.label or ("a worker (process %d of this machine)"):format(process.os_pid)
    if record.ready then return batch_failed(batch, ("%s has been lost again: %s"):format(what, reason), record.pid) end
    if not batch.spec.partial then return batch_failed(batch, ("%s has ended before it was ready: %s"):format(what, reason), record.pid) end
  end
  record.dropped = true
  batch_misses(batch, process.label or "this machine", 1, reason)
end

local function check_gone(record)
  local process = record.process
  if not (process.exited or record.lost and #process.records > 1) or record.pid and not record.lost then return end
  if process.exited then processes[process.number] = nil end
  future.succeed(record.gone)
end

local respawn_if_asked

local function take_record(process)
  for _, record in ipairs(process and process.records or {}) do
    if not record.pid then return record end
  end
end

rpc.watch("joined", function(pid, number)
  local record = take_record(processes[number])
  if record then
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
    if record.batch then return record_failed(record, reason) end
    respawn_if_asked(record)
  end
  tell("lost", pid, reason)
end)

rpc.watch("exited", function(number, reason)
  local process = processes[number]
  if not process then return end
  process.exited = reason
  if process.on_exit then process.on_exit(process) end
  for _, record in ipairs(process.records) do
    check_gone(record)
    if record.batch then record_failed(record, reason) end
  end
end)

---------------------------------------------------------------------------------------------------- adding

-- End what carries this worker, unless there are others behind it that go on.
local function end_process(record)
  local process = record.process
  for _, other in ipairs(process.records) do
    if other ~= record and not other.gone:ready() and not other.ending then return end
  end
  record.spec.launcher.stop(process)
end

-- Workers that are not wanted after all: told to stop where they have joined, else ended; then waited for.
local function stop_records(records)
  for _, record in ipairs(records) do record.ending = true end
  for _, record in ipairs(records) do
    if record.pid and not record.lost then
      core.stop(record.pid)
    elseif not record.process.exited then
      end_process(record)
    end
  end
  for _, record in ipairs(records) do
    if not record.gone:wait(STOP_TIMEOUT_S) then end_process(record) end
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
  if batch.failed then error(batch.failed, 0) end
end

-- Wait until every worker of the batch is ready that is to come; raises what has gone wrong.
local function await_batch(batch, timeout_s)
  local timer = task.timer(timeout_s, batch_late, batch)
  while (batch.waiting > 0 or batch.starting) and not batch.failed and not batch.late do
    batch.task = task.check("tarn.addprocs")
    local ok, e = task.wait(forget_batch, batch, timer)
    if not ok then error(e, 0) end
  end
  task.stop_timer(timer)
  check_batch(batch)
end

-- What a launcher has raised says in which call that was.
local function with_context(e)
  if not errors.iserror(e) or e.message:find("^tarn%.addprocs: ") then return e end
  return errors.new(e.kind, "tarn.addprocs: " .. e.message, e)
end

local function launcher_ended(watcher, f)
  local batch = watcher.batch
  batch.starting = nil
  if f.state == "failed" then batch.failed = batch.failed or with_context(f.err) end
  wake_batch(batch)
end

-- Has the launcher start n workers, in a task of its own.
local function start_batch(batch, n, hosts)
  local spec = batch.spec
  local function spawned(process, workers)
    process.records = {}
    processes[process.number] = process
    for i = 1, workers do
      local record = { process = process, spec = spec, host = process.label or "", batch = batch, gone = future.new(),
        started = core.clock(), delay = batch.delay }
      process.records[i] = record
      table.insert(batch, record)
    end
  end
  local function failed(label, workers, message)
    if not batch.job.closed then batch_misses(batch, label, workers, message) end
  end
  batch.job = job.new(spec, n, hosts, { spawned = spawned, failed = failed })
  batch.starting = future.run(false, spec.launcher.start, batch.job)
  future.watch(batch.starting, { ready = launcher_ended, batch = batch })
end

local function close_batch(batch)
  batch.job.closed = true
  if batch.starting then batch.starting:cancel() end
end

-- Those that are not ready within the time. With partial the others stay.
local function drop_late(batch)
  if batch.waiting == 0 then return end
  local late, said = {}, ("%d of %d workers not ready within %g s"):format(batch.waiting, batch.n, batch.spec.timeout_s)
  for _, record in ipairs(batch) do
    if not record.ready and not record.dropped then late[#late + 1] = record end
  end
  for _, record in ipairs(late) do record.dropped = true end
  stop_records(late)
  for _, record in ipairs(late) do
    local words = (record.process.exited or ""):match("\n(.*)")
    if words then said = ("%s: %s: %s"):format(said, record.process.label or "a worker", words) end
  end
  if not batch.spec.partial or #late == #batch then error(errors.new("Timeout", "tarn.addprocs: " .. said), 0) end
  table.insert(batch.missing, { workers = batch.waiting, message = said })
end

-- Those that are ready: in the order of their hosts, and of their ids on each.
local function list_ready(batch, pids)
  local place, hosts = {}, batch.spec.hosts or {}
  for i = #hosts, 1, -1 do place[hosts[i].name] = i end
  local ready = {}
  for _, record in ipairs(batch) do
    if record.ready and not record.dropped then ready[#ready + 1] = record end
  end
  table.sort(ready, function(a, b)
    local at, other = place[a.host] or 0, place[b.host] or 0
    if at ~= other then return at < other end
    return a.pid < b.pid
  end)
  for i, record in ipairs(ready) do pids[i] = record.pid end
end

local function set_up(batch, pids)
  local spec = batch.spec
  await_batch(batch, spec.timeout_s)
  close_batch(batch)
  drop_late(batch)
  list_ready(batch, pids)
  if #pids == 0 then error(errors.new("WorkerLost", "tarn.addprocs: " .. batch.missing[1].message), 0) end
  if spec.disk then
    local all = rpc.gather()
    for i, pid in ipairs(pids) do all:add(i, core.pool_limits_at(pid, nil, spec.disk)) end
    all:wait("tarn.addprocs")
  end
  if spec.init then require("tarn.call").on_each("tarn.addprocs: init", pids, spec.init) end
  check_batch(batch)
end

-- Which connections are encrypted is the same for all of a cluster: what the first workers were started with holds while there are any.
local agreed_tls, starts = nil, 0

local function agree_on_tls(spec)
  if starts == 0 and not next(processes) and not next(by_pid) then
    agreed_tls = core.options.tls
    if spec.tls ~= nil then agreed_tls = spec.tls end
    core.set_tls(agreed_tls)
  elseif spec.tls ~= nil and spec.tls ~= agreed_tls then
    argument_error("tarn.addprocs: tls = %s, but there are workers that were started with %s: it is the same for all", spec.tls,
      agreed_tls == nil and "the default" or ("tls = %s"):format(agreed_tls))
  end
  spec.tls = agreed_tls
end

local function start(n, spec, hosts, delay)
  local batch, pids = { n = n, waiting = n, spec = spec, missing = {}, delay = delay or 0 }, {}
  agree_on_tls(spec)
  starts = starts + 1
  start_batch(batch, n, hosts)
  local ok, e = pcall(set_up, batch, pids)
  starts = starts - 1
  close_batch(batch)
  if not ok then
    stop_records(batch)
    error(e, 0)
  end
  for _, record in ipairs(batch) do record.batch = nil end
  for _, pid in ipairs(pids) do tell("joined", pid) end
  if spec.partial then return pids, batch.missing end
  return pids
end

---Start workers and wait until all are ready. On the driver only. `where` is how many, or a list of hosts such as {"alpha*4",
---"user@beta"}, where they
---are started by ssh. docs/LAUNCHERS.md has the launchers, and the options that each of them adds to these.
---Errors: ArgumentError; WorkerLost with the words of what could not be started; Timeout. Those that had started are then stopped.
---@param where integer|string[] how many workers, or on which hosts
---@param opts? tarn.ProcsOptions
---@return integer[] ids in the order of the hosts
---@return table[]|nil missing with `partial` only: what could not be started, {host, workers, message} each
function cluster.addprocs(where, opts)
  if core.myid() ~= DRIVER then argument_error("tarn.addprocs: only the driver (process 1) adds processes") end
  local spec = launch.check(where, opts)
  task.check("tarn.addprocs")
  return start(spec.n, spec, spec.hosts)
end

-- Another one in the place of one that is lost, in a task of its own. What keeps failing is tried less and less often.
local function respawn(lost)
  local delay = core.clock() - lost.started < STEADY_S and math.max(2 * lost.delay, RESPAWN_MIN_S) or 0
  local hosts = lost.spec.hosts and { { name = lost.host, n = 1 } }
  while true do
    delay = math.min(delay, RESPAWN_MAX_S)
    task.sleep(delay)
    local ok, result = pcall(start, 1, lost.spec, hosts, delay)
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

---Stop workers and wait until they are gone. What they own is lost, unless it was migrated. On the driver only.
---@param ... integer their ids
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
  for _, record in ipairs(records) do record.ending = true end
  for _, record in ipairs(records) do
    if not record.gone:wait(STOP_TIMEOUT_S) then
      end_process(record)
      record.gone:wait(STOP_TIMEOUT_S)
    end
  end
end

return cluster
