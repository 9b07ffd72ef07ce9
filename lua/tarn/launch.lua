-- The arguments of addprocs, checked: how many workers and where, what the launcher is told, and what becomes of its workers.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local local_launcher = require "tarn.launcher.local" -- now, while there are descriptors to read it with
local options = require "tarn.options"
local size = require "tarn.size"
local task = require "tarn.task"

local launch = {}

local CONNECT_TIMEOUT_S = 30
local TIME_MIN_S, TIME_MAX_S = 0.1, 1e6 -- of silence, of idleness
local PROCS_MAX = 4096

local function argument_error(fmt, ...) errors.raise("ArgumentError", "tarn.addprocs: " .. fmt:format(...)) end

---@class tarn.ProcsOptions
---@field memory? integer|string memory for data of each worker, in bytes or as "512MB". Default: as -m says, else a share of what its
--- machine has
---@field disk? integer|string bytes that each worker may spill. Default: no bound
---@field spill_dir? string where spilled bytes live. Default: as -d says
---@field launcher? string|table "local", "ssh", "slurm", "command", another `tarn.launcher.NAME`, or a table with `start` and `stop`
---@field listen? string where the workers listen, ADDR:PORT. Default: loopback, or the address by which they reach the driver
---@field respawn? boolean a worker that is lost is replaced by a new one, with a new id
---@field env? table<string,string> environment variables to set
---@field init? string|function run on each worker before addprocs returns
---@field silence_s? number unheard for so many seconds is lost. Default: 5
---@field idle_s? number a connection between two workers that is not used for so many seconds is closed, until it is needed again.
--- Default: 300
---@field map? boolean false: never map another process's memory, copy over TCP. Default: as --no-map says
---@field tls? boolean true: encrypt all connections; false: none. Alike for all workers. Default: --tls, --no-tls, else between machines
---@field partial? boolean do without workers that cannot be started, and tell which as a second result
---@field connect_timeout_s? number all must be ready within it. Default: 30, for Slurm 600
---@field tarn? string the program there. Default: the path that it has here
local OPTIONS = {
  memory = true, disk = true, spill_dir = true, launcher = true, env = true, init = true, connect_timeout_s = true, tarn = true,
  map = true, tls = true, listen = true, silence_s = true, idle_s = true, respawn = true, partial = true,
}

---------------------------------------------------------------------------------------------------- how many, and where

local function check_count(n)
  if type(n) ~= "number" or n % 1 ~= 0 or n < 1 or n > PROCS_MAX then
    argument_error("the number of workers is a whole number from 1 to %d, not %s", PROCS_MAX, failure.describe(n))
  end
  return n
end

-- "user@host*3" as {name = "user@host", n = 3}. A name must not look like an option to the program that it is given to.
local function check_host(text)
  local name, n
  if type(text) == "string" then
    name, n = text:match("^([^%s*]+)%*(%d+)$")
    name = name or text:match("^([^%s*]+)$")
    name = name and name:gsub("%[(.-)%]", "%1")
  end
  if not name or name:find("^%-") or name:find("@%-") or name:find("@$") then
    argument_error("a host is HOST, USER@HOST or either with *N, not %s", failure.describe(text))
  end
  return { name = name, n = check_count(tonumber(n or 1)) }
end

local function check_hosts(list)
  local hosts, n = {}, 0
  for i, text in ipairs(list) do
    hosts[i] = check_host(text)
    n = n + hosts[i].n
  end
  for key in pairs(list) do
    if type(key) == "string" then
      argument_error("first comes the number of workers, or a list of hosts; options such as '%s' are the second argument", key)
    end
  end
  if #hosts == 0 then argument_error("the list of hosts is empty") end
  return hosts, check_count(n)
end

-- n workers on the hosts that the command line has named: filled one after the other, and from the start again.
local function share_out(n, text)
  local list = {}
  for part in (text .. ","):gmatch("([^,]*),") do list[#list + 1] = part end
  local hosts, turns = {}, check_hosts(list)
  local left, i = n, 0
  while left > 0 do
    local turn = turns[i % #turns + 1]
    local host = hosts[i % #turns + 1] or { name = turn.name, n = 0 }
    local take = math.min(turn.n, left)
    host.n, left = host.n + take, left - take
    hosts[i % #turns + 1] = host
    i = i + 1
  end
  return hosts
end

---------------------------------------------------------------------------------------------------- options

local function check_env(env)
  if env == nil then return end
  if type(env) ~= "table" then argument_error("env must be a table {NAME = value}, not %s", failure.describe(env)) end
  local copy = {}
  for name, value in pairs(env) do
    if type(name) ~= "string" or name == "" or name:find("[=%z]") or (type(value) ~= "string" and type(value) ~= "number") then
      argument_error("env must be a table {NAME = value}")
    end
    copy[name] = tostring(value)
  end
  return copy
end

local function check_text(opts, name)
  local x = opts[name]
  if x ~= nil and type(x) ~= "string" then argument_error("%s must be a string, not %s", name, failure.describe(x)) end
  return x
end

local LAUNCHERS = { "command", "local", "slurm", "ssh" }

local function find_launcher(x)
  if type(x) == "string" then
    local ok, found = pcall(require, "tarn.launcher." .. x)
    if not ok then
      found = failure.tostring(found)
      -- Lua's list of the files that it has looked for says less than what there is.
      if found:find(("module 'tarn.launcher.%s' not found"):format(x), 1, true) then
        found = ("there are %s, and modules tarn.launcher.NAME of your own on package.path"):format(table.concat(LAUNCHERS, ", "))
      end
      argument_error("no launcher '%s': %s", x, found)
    end
    x = found
  end
  if type(x) ~= "table" or type(x.start) ~= "function" or type(x.stop) ~= "function" then
    argument_error("a launcher is a name or a table with start and stop")
  end
  return x
end

local function check_listen(opts)
  local text = check_text(opts, "listen")
  local port = text and (text:match("^%[.+%]:(%d+)$") or text:match("^[^:]+:(%d+)$"))
  if text and not (port and tonumber(port) <= 65535) then
    argument_error("listen: '%s' is not HOST:PORT (such as 0.0.0.0:0; port 0 is any that is free)", text)
  end
  return text
end

local function check_init(init)
  if init == nil or type(init) == "function" then return init end
  if type(init) ~= "string" then argument_error("init must be a function or code, not %s", failure.describe(init)) end
  local chunk, problem = loadstring(init, "=init")
  if not chunk then argument_error("init: %s", problem) end
  return chunk
end

local function check_flag(opts, name, default)
  local x = opts[name]
  if x == nil then return default end
  if type(x) ~= "boolean" then argument_error("%s must be true or false, not %s", name, failure.describe(x)) end
  return x
end

local function check_time(opts, name)
  local seconds = opts[name]
  if seconds == nil then return end
  if type(seconds) ~= "number" or not (seconds >= TIME_MIN_S and seconds <= TIME_MAX_S) then
    argument_error("%s is a number of seconds from %g to %g, not %s", name, TIME_MIN_S, TIME_MAX_S, failure.describe(seconds))
  end
  return seconds
end

-- The launcher's own options: its table `options` has their types by name.
local function check_own(opts, launcher)
  local own, known, types = {}, {}, launcher.options or {}
  for name in pairs(OPTIONS) do known[name] = true end
  for name in pairs(types) do known[name] = true end
  for name, x in pairs(options.check(opts, known, "tarn.addprocs")) do
    if types[name] and type(x) ~= types[name] then argument_error("%s must be a %s, not %s", name, types[name], failure.describe(x)) end
    own[name] = types[name] and x
  end
  return own
end

-- Where workers listen when nobody has said: as the command line says for processes here, and for those elsewhere if that is
-- "everywhere". The port is this process's alone.
local function inherited_listen(is_local)
  local host = core.options.listen and core.options.listen:match("^(.*):%d+$")
  if host and (is_local or host == "0.0.0.0" or host == "[::]") then return host .. ":0" end
end

---Check what addprocs was given. Unknown and wrong options are ArgumentErrors.
---@param where integer|string[] how many workers, or on which hosts
---@param opts table|nil
---@return table spec launcher, n, hosts (nil: the launcher's choice), options (the launcher's own), the others by their names
function launch.check(where, opts)
  if opts ~= nil and type(opts) ~= "table" then argument_error("options are a table, not %s", failure.describe(opts)) end
  opts = opts or {}
  local spec = {}
  local by_name = opts.launcher
  if type(where) == "table" then
    spec.hosts, spec.n = check_hosts(where)
    by_name = by_name or "ssh"
  else
    spec.n = check_count(where)
    by_name = by_name or core.options.launcher or core.options.hosts and "ssh" or "local"
    if core.options.hosts and by_name ~= "local" then spec.hosts = share_out(spec.n, core.options.hosts) end
  end
  spec.launcher = find_launcher(by_name)
  local is_local = spec.launcher == local_launcher
  if is_local and spec.hosts then argument_error("the local launcher starts workers here, not on '%s'", spec.hosts[1].name) end
  spec.options = check_own(opts, spec.launcher)
  spec.env, spec.init = check_env(opts.env), check_init(opts.init)
  spec.tarn = check_text(opts, "tarn") or core.options.exe
  spec.listen = check_listen(opts) or inherited_listen(is_local)
  spec.map = check_flag(opts, "map", core.options.map)
  spec.tls = check_flag(opts, "tls") -- nil: what holds for the workers that there are, or what the command line says
  spec.respawn = check_flag(opts, "respawn", false)
  spec.partial = check_flag(opts, "partial", false)
  spec.silence_s, spec.idle_s = check_time(opts, "silence_s"), check_time(opts, "idle_s")
  spec.timeout_s = task.check_seconds(opts.connect_timeout_s, "tarn.addprocs: connect_timeout_s") or spec.launcher.timeout_s
    or CONNECT_TIMEOUT_S
  spec.spill_dir = check_text(opts, "spill_dir") or core.options.spill_dir
  spec.memory = opts.memory ~= nil and size.memory(opts.memory, "tarn.addprocs: memory") or core.options.memory
  spec.disk = opts.disk ~= nil and size.parse(opts.disk, "tarn.addprocs: disk") or nil
  if is_local and not spec.memory then spec.memory = spec.launcher.default_memory(#core.members() + spec.n) end
  return spec
end

return launch
