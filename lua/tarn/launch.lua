-- The options of addprocs, checked: what the launcher is told, and what becomes of its workers.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local local_launcher = require "tarn.launcher.local" -- now, while there are descriptors to read it with
local size = require "tarn.size"
local task = require "tarn.task"

local launch = {}

local CONNECT_TIMEOUT_S = 30
local SILENCE_MIN_S, SILENCE_MAX_S = 0.1, 1e6

local function argument_error(fmt, ...) errors.raise("ArgumentError", "tarn.addprocs: " .. fmt:format(...)) end

local OPTIONS = {
  memory = true, disk = true, spill_dir = true, launcher = true, env = true, init = true, connect_timeout_s = true, tarn = true,
  map = true, listen = true, silence_s = true, respawn = true,
}

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

local function find_launcher(x)
  if x == nil then return local_launcher end
  if type(x) == "string" then
    local ok, found = pcall(require, "tarn.launcher." .. x)
    if not ok then argument_error("no launcher '%s': %s", x, failure.tostring(found)) end
    x = found
  end
  if type(x) ~= "table" or type(x.start) ~= "function" or type(x.stop) ~= "function" then
    argument_error("a launcher is a name or a table with start and stop")
  end
  return x
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

local function check_silence(seconds)
  if seconds == nil then return end
  if type(seconds) ~= "number" or not (seconds >= SILENCE_MIN_S and seconds <= SILENCE_MAX_S) then
    argument_error("silence_s is a number of seconds from %g to %g, not %s", SILENCE_MIN_S, SILENCE_MAX_S, failure.describe(seconds))
  end
  return seconds
end

-- n: how many there will be. Unknown and wrong options are ArgumentErrors.
function launch.check(n, opts)
  if opts ~= nil and type(opts) ~= "table" then argument_error("options are a table, not %s", failure.describe(opts)) end
  opts = opts or {}
  for name in pairs(opts) do
    if not OPTIONS[name] then argument_error("unknown option '%s'", tostring(name)) end
  end
  local spec = { launcher = find_launcher(opts.launcher), env = check_env(opts.env), init = check_init(opts.init) }
  spec.tarn = check_text(opts, "tarn")
  spec.listen = check_text(opts, "listen") or core.options.listen
  spec.map = check_flag(opts, "map", core.options.map)
  spec.respawn = check_flag(opts, "respawn", false)
  spec.silence_s = check_silence(opts.silence_s)
  spec.timeout_s = task.check_seconds(opts.connect_timeout_s, "tarn.addprocs: connect_timeout_s") or CONNECT_TIMEOUT_S
  spec.spill_dir = check_text(opts, "spill_dir") or core.options.spill_dir
  spec.memory = opts.memory ~= nil and size.parse(opts.memory, "tarn.addprocs: memory") or core.options.memory
  spec.disk = opts.disk ~= nil and size.parse(opts.disk, "tarn.addprocs: disk") or nil
  if not spec.memory then
    spec.memory = local_launcher.default_memory(#core.members() + n)
  end
  return spec
end

return launch
