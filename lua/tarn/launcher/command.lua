-- Starts workers by a command that carries their standard streams: docker run -i, kubectl run -i, qrsh, another ssh. Options:
--
--   command    the command, a list of words. "{worker}" as a word of its own stands for the words of the worker's command, "{command}"
--              anywhere for the same as one text for a shell, "{host}" for the host, "{n}" for the number of workers
--   together   true: the command is run once for all workers of a host (it gives each the same standard input), not once for each
--   address    the address by which they see this machine; default: that on the way to the host, or without hosts loopback
local errors = require "tarn.errors"
local failure = require "tarn.failure"

local launcher = { options = { command = "table", together = "boolean", address = "string" } }

local function argument_error(fmt, ...) errors.raise("ArgumentError", "tarn.addprocs: " .. fmt:format(...)) end

---A command for the shell of another machine, in one text.
---@param argv string[]
function launcher.quote(argv)
  local words = {}
  for i, text in ipairs(argv) do words[i] = text:find("^[%w_%-./:=,+@%%]+$") and text or "'" .. text:gsub("'", "'\\''") .. "'" end
  return table.concat(words, " ")
end

local function fill(template, worker, host, n)
  local words = { host = host, n = tostring(n), command = launcher.quote(worker) }
  local argv = {}
  for _, part in ipairs(template) do
    if type(part) ~= "string" then argument_error("command is a list of strings, not of %s", failure.describe(part)) end
    if part == "{worker}" then
      for _, word in ipairs(worker) do argv[#argv + 1] = word end
    else
      argv[#argv + 1] = part:gsub("{(%l+)}", function(name)
        return words[name] or argument_error("command: there is no %s here for '{%s}'", name, name)
      end)
    end
  end
  return argv
end

local function start_on(job, host, n)
  local options = job.options
  local address = options.address and job:reach(options.address) or host and job:route(host) or nil
  local each = options.together and n or 1
  local argv = fill(options.command, job:command(n), host, each)
  for _ = 1, n, each do job:spawn { argv = argv, label = host or options.command[1], address = address, workers = each } end
end

function launcher.start(job)
  local command = job.options.command
  if not command or #command == 0 then argument_error("the command launcher needs command = {\"program\", ..., \"{worker}\"}") end
  if not job.hosts then return start_on(job, nil, job.n) end
  for _, host in ipairs(job.hosts) do
    local ok, e = pcall(start_on, job, host.name:match("[^@]+$"), host.n)
    if not ok then
      if errors.iserror(e, "ArgumentError") then error(e, 0) end
      job:fail(host.name, host.n, e)
    end
  end
end

function launcher.stop(process) process:kill() end

return launcher
