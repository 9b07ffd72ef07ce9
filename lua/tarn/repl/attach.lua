-- A prompt's session in process 1 of a cluster that runs: a foreign client (docs/PROTOCOL.md), whose lines are evaluated there, with the
-- globals and workers of that process. Nothing of the cluster depends on this one: its end is the end of what it has left running.
local client = require "tarn.client"
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local task = require "tarn.task"

local attach = {}

local POLL_S = 2
local connection, number, cancelling

local function ask(name, ...)
  return connection:ask("eval", ("return require('tarn.repl.server').%s(...)"):format(name), { ... })
end

-- The same, however long process 1 computes.
local function ask_patiently(said, name, ...)
  while true do
    local ok, x = pcall(ask, name, ...)
    if ok then return x end
    if not errors.iserror(x, "Timeout") then error(x, 0) end
    if name == "start" then error(errors.new("Timeout", x.message .. " (process 1 computes?); it may run what was typed later"), 0) end
    if not said.waiting then
      said.waiting = true
      io.stderr:write("tarn: ", connection.address, " does not answer (it computes?); still waiting, Ctrl-C stops that\n")
    end
  end
end

---Connect. Raises what is wrong, as one text.
---@param address string HOST:PORT of process 1
---@param secret_path string|nil a file as tarn.secret_file() gives
---@return string title what the prompt says first
function attach.open(address, secret_path)
  secret_path = secret_path or os.getenv("TARN_SECRET_FILE")
  if not secret_path then
    errors.raise("ArgumentError",
      "--connect needs the cluster's secret: --secret-file FILE, where FILE is what tarn.secret_file() gives in the driver")
  end
  connection = client.connect(address, client.read_secret(secret_path))
  local hello = ask("hello")
  if hello.id ~= 1 then
    errors.raise("ArgumentError", ("%s is process %d: connect to process 1, whose tarn.address() it is"):format(address, hello.id))
  end
  return ("tarn %s, process 1 at %s, %d worker%s"):format(hello.version, address, hello.workers, hello.workers == 1 and "" or "s")
end

function attach.complete(before)
  local ok, answer = pcall(ask, "complete", before)
  if not ok then return {}, "" end
  return answer.list, answer.prefix
end

function attach.run(source)
  local said = {}
  cancelling, number = nil, nil
  number = ask_patiently(said, "start", source)
  while true do
    local answer = ask_patiently(said, "poll", number, POLL_S)
    io.stdout:write(answer.out)
    io.stdout:flush()
    if answer.done then
      number = nil
      return answer.ok, answer.text
    end
  end
end

local function log_nothing(_, ok, e)
  if not ok then core.log("debug", "cancelling: " .. failure.text(e)) end
end

-- Once: cancel it there. Again: wait for it no longer.
function attach.cancel(running)
  if cancelling or not number then
    running:cancel()
  else
    cancelling = true
    task.spawn({ done = log_nothing }, ask, "cancel", number)
  end
end

function attach.close()
  if connection then connection:close() end
end

return attach
