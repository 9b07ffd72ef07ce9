-- Membership as users see it: processes are added, removed and listed; who comes and goes is told.
--
-- A worker that is being started counts as a member for C from its joining, and for users from when addprocs is done with it.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local future = require "tarn.future"
local rpc = require "tarn.rpc"
local size = require "tarn.size"
local task = require "tarn.task"

local cluster = {}

local DRIVER = 1
local CONNECT_TIMEOUT_S = 30
local STOP_TIMEOUT_S = 10
local PROCS_MAX = 4096

-- The driver's records of the workers it has started: os_pid, launcher, and pid once joined; batch while addprocs waits for them; gone: a
-- Future, ready when the process has ended and is no member.
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

local OPTIONS = {
  memory = true, disk = true, spill_dir = true, launcher = true, env = true, init = true, connect_timeout_s = true, tarn = true,
  map = true, listen = true,
}

local function check_env(env)
  if env == nil then return end
  if type(env) ~= "table" then argument_error("tarn.addprocs: env must be a table {NAME = value}, not %s", failure.describe(env)) end
  local copy = {}
  for name, value in pairs(env) do
    if type(name) ~= "string" or name == "" or name:find("[=%z]") or (type(value) ~= "string" and type(value) ~= "number") then
      argument_error("tarn.addprocs: env must be a table {NAME = value}")
    end
    copy[name] = tostring(value)
  end
  return copy
end

local function check_text(opts, name)
  local x = opts[name]
  if x ~= nil and type(x) ~= "string" then argument_error("tarn.addprocs: %s must be a string, not %s", name, failure.describe(x)) end
  return x
end

local function find_launcher(x)
  if x == nil then x = "local" end
  if type(x) == "string" then
    local ok, found = pcall(require, "tarn.launcher." .. x)
    if not ok then argument_error("tarn.addprocs: no launcher '%s': %s", x, failure.tostring(found)) end
    x = found
  end
  if type(x) ~= "table" or type(x.start) ~= "function" or type(x.stop) ~= "function" then
    argument_error("tarn.addprocs: a launcher is a name or a table with start and stop")
  end
  return x
end

local function check_init(init)
  if init == nil or type(init) == "function" then return init end
  if type(init) ~= "string" then argument_error("tarn.addprocs: init must be a function or code, not %s", failure.describe(init)) end
  local chunk, problem = loadstring(init, "=init")
  if not chunk then argument_error("tarn.addprocs: init: %s", problem) end
  return chunk
end

local function check_count(n)
  if type(n) ~= "number" or n % 1 ~= 0 or n < 1 or n > PROCS_MAX then
    argument_error("tarn.addprocs: the number of workers is a whole number from 1 to %d, not %s", PROCS_MAX, failure.describe(n))
  end
end

-- What the launcher is told, from addprocs' options.
local function check_options(n, opts)
  if opts ~= nil and type(opts) ~= "table" then argument_error("tarn.addprocs: options are a table, not %s", failure.describe(opts)) end
  opts = opts or {}
  for name in pairs(opts) do
    if not OPTIONS[name] then argument_error("tarn.addprocs: unknown option '%s'", tostring(name)) end
  end
  local spec = { launcher = find_launcher(opts.launcher), env = check_env(opts.env), init = check_init(opts.init) }
  spec.tarn = check_text(opts, "tarn")
  spec.listen = check_text(opts, "listen") or core.options.listen
  spec.map = opts.map
  if spec.map == nil then spec.map = core.options.map end
  if type(spec.map) ~= "boolean" then argument_error("tarn.addprocs: map must be true or false, not %s", failure.describe(spec.map)) end
  spec.timeout_s = task.check_seconds(opts.connect_timeout_s, "tarn.addprocs: connect_timeout_s") or CONNECT_TIMEOUT_S
  spec.spill_dir = check_text(opts, "spill_dir") or core.options.spill_dir
  spec.memory = opts.memory ~= nil and size.parse(opts.memory, "tarn.addprocs: memory") or core.options.memory
  spec.disk = opts.disk ~= nil and size.parse(opts.disk, "tarn.addprocs: disk") or nil
  if not spec.memory then
    spec.memory = require("tarn.launcher.local").default_memory(#core.members() + n)
  end
  return spec
end

local function stop_batch(batch)
  for _, record in ipairs(batch) do
    if not record.exited then
      if record.pid and not record.lost then core.stop(record.pid) else record.launcher.stop(record.os_pid) end
    end
  end
  for _, record in ipairs(batch) do
    if not record.gone:wait(STOP_TIMEOUT_S) then record.launcher.stop(record.os_pid) end
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

local function start_batch(batch, n, spec)
  for i = 1, n do
    local os_pid = spec.launcher.start(spec)
    local record = { os_pid = os_pid, launcher = spec.launcher, batch = batch, gone = future.new() }
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

-- Start n workers on this machine; returns their ids once all are ready.
function cluster.addprocs(n, opts)
  if core.myid() ~= DRIVER then argument_error("tarn.addprocs: only the driver (process 1) adds processes") end
  check_count(n)
  local spec = check_options(n, opts)
  task.check("tarn.addprocs")
  local batch, pids = { waiting = n }, {}
  local ok, e = pcall(start_batch, batch, n, spec)
  if ok then ok, e = pcall(set_up, batch, pids, spec) end
  if not ok then
    stop_batch(batch)
    error(e, 0)
  end
  for _, record in ipairs(batch) do record.batch = nil end
  for _, pid in ipairs(pids) do tell("joined", pid) end
  return pids
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
    core.stop(pid)
  end
  for _, record in ipairs(records) do
    if not record.gone:wait(STOP_TIMEOUT_S) then
      record.launcher.stop(record.os_pid)
      record.gone:wait(STOP_TIMEOUT_S)
    end
  end
end

return cluster
