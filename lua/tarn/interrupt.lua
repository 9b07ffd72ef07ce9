-- What Ctrl-C (or SIGTERM, SIGHUP) does in the driver, once: what runs is cancelled, a summary says what it was, and the process ends in
-- order with status 128 + the signal's number. At a prompt it ends what was typed, and not the process. Twice is C's (host/interrupt.c).
local core = require "tarn.core"
local rpc = require "tarn.rpc"

local interrupt = {}

local SIGINT = 2
local began = core.clock()
local handler     -- of the prompt
local reports = {} -- functions that give a line for the summary, or nil

-- fn(): called from now on instead of ending the process, for SIGINT; nil: no more. The caller calls core.interrupt_done().
function interrupt.handle(fn)
  handler = fn
  core.interrupt_stays(fn ~= nil)
end

-- Have fn() give a line of the summary, until interrupt.forget(fn).
function interrupt.report(fn) reports[fn] = true end
function interrupt.forget(fn) reports[fn] = nil end

local function plural(n, what) return ("%d %s%s"):format(n, what, n == 1 and "" or "s") end

local function summary(signal)
  local calls = 0
  for _, n in pairs(rpc.inflight) do calls = calls + n end
  local workers = #core.members() - 1
  local lines = { ("%s after %.1f s: %s cancelled, %s told to stop%s"):format(signal == SIGINT and "interrupted" or "told to end",
    core.clock() - began, plural(calls, "call"), plural(workers, "worker"), signal == SIGINT and " (Ctrl-C again: at once)" or "") }
  for fn in pairs(reports) do lines[#lines + 1] = fn() end
  io.stdout:flush()
  io.stderr:write("tarn: ", table.concat(lines, "\ntarn: "), "\n")
end

local function finish(signal)
  summary(signal)
  core.exit(128 + signal)
end

-- Called outside any task when a signal has arrived.
function interrupt.arrived()
  local signal = core.interrupt_take()
  if signal == 0 then return end
  if handler and signal == SIGINT then return handler() end
  finish(signal)
end

-- The main task has failed: was it for that reason? Then the process ends so.
function interrupt.was_reason()
  local signal = core.interrupt_take()
  if signal == 0 then return false end
  finish(signal)
  return true
end

return interrupt
