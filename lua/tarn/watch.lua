-- What the commands that look at a running cluster have in common: their options, and the connection.
local client = require "tarn.client"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local observer = require "tarn.observer"

local watch = {}

local function usage_error(command, fmt, ...)
  error({ usage = ("tarn %s: %s (tarn %s --help)"):format(command, fmt:format(...), command) }, 0)
end

---The options of a command line. known: {["--name"] = "value" or "flag" or "seconds" or "port"}; a first argument without a dash is
---that of --connect.
---@return table options by name, without the dashes, "-" as "_"
function watch.options(command, known, ...)
  local list, options, i = { ... }, {}, 1
  while list[i] do
    local name, value = list[i]:match("^(%-%-[%w%-]+)=(.*)$")
    name = name or list[i]
    if name:sub(1, 1) ~= "-" and not options.connect then name, value = "--connect", name end
    local kind = known[name]
    if not kind then usage_error(command, "unknown option '%s'", name) end
    if kind == "flag" then
      value = true
    elseif not value then
      i = i + 1
      value = list[i]
      if not value then usage_error(command, "%s needs a value", name) end
    end
    if kind == "seconds" and not (tonumber(value) and tonumber(value) >= 0.1 and tonumber(value) <= 3600) then
      usage_error(command, "%s: '%s' is not a time of 0.1 to 3600 seconds", name, value)
    elseif kind == "port" and not (value:match("^%d+$") and tonumber(value) <= 65535) then
      usage_error(command, "%s: '%s' is not a port", name, value)
    end
    options[name:sub(3):gsub("-", "_")] = tonumber(value) and kind ~= "value" and tonumber(value) or value
    i = i + 1
  end
  return options
end

---An observer of the cluster that the options name. Suspends; raises.
function watch.open(command, options)
  if not options.connect or not options.secret_file then
    usage_error(command, "--connect HOST:PORT and --secret-file FILE are needed: a script's print(tarn.address(), tarn.secret_file())"
      .. " tells them")
  end
  return observer.new(client.connect(options.connect, client.read_secret(options.secret_file)))
end

local function run_with_options(command, known, usage, fn, ...)
  local options = watch.options(command, known, ...)
  if options.help then
    io.write(usage)
  else
    fn(options)
  end
end

---Run a command, fn(options), or print its usage: its exit status. What it raises is one line on standard error: 2 for its usage, 1 for the
---rest.
---@param known table its options, --help among them
function watch.run(command, known, usage, fn, ...)
  local ok, e = pcall(run_with_options, command, known, usage, fn, ...)
  if ok then return 0 end
  io.stdout:flush()
  if type(e) == "table" and e.usage then
    io.stderr:write(e.usage, "\n")
    return 2
  end
  local text = errors.iserror(e) and failure.tostring(e.message) or failure.text(e)
  io.stderr:write(("tarn %s: %s\n"):format(command, (text:gsub("^%(command line%):1: ", "")))) -- which is the caller, to tarn
  return 1
end

return watch
