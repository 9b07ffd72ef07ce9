-- What a launcher's start is handed: what to start, and the means to do so. docs/LAUNCHERS.md is the contract.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local uv = require "luv"
local task = require "tarn.task"

---What the `start` of a launcher of one's own is handed. docs/LAUNCHERS.md has the contract.
---@class tarn.Job
---@field n integer how many workers
---@field hosts {name:string,n:integer}[]|nil where
---@field options table the launcher's own options, checked
---@field env table<string,string>|nil variables to set
---@field timeout_s number the time for all of it
local Job = {}
Job.__index = Job

---What job:spawn has started.
---@class tarn.JobProcess
---@field number integer by which the driver knows it
---@field os_pid integer
---@field label string|nil
---@field kill fun(self:tarn.JobProcess) end it at once, and what it has started here
local Process = {}
Process.__index = Process

-- End it at once, and what it has started here.
function Process:kill() core.kill(self.number) end

local job = {}

-- spec: as launch.check gives it; n workers, on hosts (nil: the launcher's choice). events: spawned(process, workers), failed(label,
-- workers, message).
function job.new(spec, n, hosts, events)
  return setmetatable({ n = n, hosts = hosts, options = spec.options, env = spec.env, tarn = spec.tarn, timeout_s = spec.timeout_s,
    spec = spec, events = events }, Job)
end

local function check(self, what)
  if getmetatable(self) ~= Job then errors.raise("ArgumentError", what .. ": call it with a colon, on the job that start was given") end
end

---The command of a worker.
---@param share? integer how many workers its machine will have: the default of their memory depends on it
---@return string[] argv
function Job:command(share)
  check(self, "job:command")
  local spec = self.spec
  local argv = { spec.tarn, "worker" }
  local function add(...)
    for _, text in ipairs { ... } do argv[#argv + 1] = text end
  end
  if spec.memory then
    add("-m", ("%.0f"):format(spec.memory))
  elseif share then
    add("-p", ("%d"):format(share))
  end
  if spec.spill_dir then add("-d", spec.spill_dir) end
  if spec.listen then add("--listen", spec.listen) end
  if spec.silence_s then add("--silence", ("%.3f"):format(spec.silence_s)) end
  if spec.idle_s then add("--idle", ("%.3f"):format(spec.idle_s)) end
  if spec.map == false then add("--no-map") end
  if spec.tls ~= nil then add(spec.tls and "--tls" or "--no-tls") end
  return argv
end

---Start a program of this machine that is a worker, or that carries its standard streams to workers elsewhere. Its standard input gets
---the first line (address and
---secret) and is held open.
---@param what tarn.JobSpawn
---@return tarn.JobProcess process
function Job:spawn(what)
  check(self, "job:spawn")
  if self.closed then error(errors.new("Cancelled", "tarn.addprocs is over: nothing more is started"), 0) end
  if type(what) ~= "table" or type(what.argv) ~= "table" then
    errors.raise("ArgumentError", "job:spawn: a table with argv is needed, not " .. failure.describe(what))
  end
  local workers = what.workers or 1
  local number, os_pid = core.spawn { argv = what.argv, env = what.env or self.env, label = what.label, address = what.address,
    several = workers > 1 }
  local process = setmetatable({ number = number, os_pid = os_pid, label = what.label, on_exit = what.on_exit }, Process)
  self.events.spawned(process, workers)
  return process
end

---These workers will not come. With `partial` the others go on, else addprocs fails.
---@param label string the host
---@param workers integer how many
---@param why any an error, or a text
function Job:fail(label, workers, why)
  check(self, "job:fail")
  self.events.failed(label, workers, errors.iserror(why) and why.message or failure.tostring(why))
end

---The address of this process for workers elsewhere, which see this machine as ip. It listens there from now on, if it did not yet.
---@param ip string
---@return string address HOST:PORT
function Job:reach(ip)
  check(self, "job:reach")
  return core.reach(ip)
end

local function look_up(name)
  local t = task.check("job:route")
  local function found(problem, list) task.wake(t, true, list and list[1] and list[1].addr or { problem = problem }) end
  local request, problem = uv.getaddrinfo(name, nil, { socktype = "dgram" }, found)
  if not request then errors.raise("IOError", ("host '%s': %s"):format(name, problem)) end
  local ok, x = task.wait(function() uv.cancel(request) end)
  if not ok then error(x, 0) end
  if type(x) == "table" then errors.raise("IOError", ("host '%s': %s"):format(name, x.problem)) end
  return x
end

---The address of this process for workers on a host: that of this machine on the way there. May suspend.
---@param host string a name or an address
---@return string address HOST:PORT
---@return boolean loopback true: the way stays on this machine
function Job:route(host)
  check(self, "job:route")
  local ip = look_up(host)
  local socket = uv.new_udp()
  local ok, problem = socket:connect(ip, 9) -- sends nothing: the system only chooses the way
  local name = ok and socket:getsockname()
  socket:close()
  if not name then errors.raise("IOError", ("no way from here to host '%s' (%s): %s"):format(host, ip, tostring(problem))) end
  return core.reach(name.ip), name.ip:find("^127%.") ~= nil or name.ip == "::1"
end

return job
