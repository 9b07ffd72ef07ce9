-- Where the host enters Lua: see tarn.core. Sets a process up, runs the driver's script, hands events and turns on.
setfenv(1, require "tarn.environment")
local sound = require("tarn.sound_pairs")() -- before anything else is compiled
local below = require "tarn.below"
local core = require "tarn.core"
local destructor = require "tarn.destructor"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local interrupt = require "tarn.interrupt"
local protect = require "tarn.protect"
local rpc = require "tarn.rpc"
local sandbox = require "tarn.sandbox"
local task = require "tarn.task"

-- A loop over columns has a trace for each of their types. LuaJIT's own bounds (1000 traces, 512 KiB) are soon full: it would throw all
-- away and compile again and again.
require("jit.opt").start("maxtrace=8000", "maxmcode=16384")
if not sound then
  core.log("warn", "this LuaJIT loses elements in compiled loops over pairs: nothing is compiled, which is slow"
    .. " (Debian 12: install libluajit2-5.1-2)")
  jit.off()
end

local boot = { dispatch = rpc.dispatch, deleted = destructor.deleted, interrupt = interrupt.arrived, redraw = below.redraw }

boot.step = task.step

-- The process ends in order: tasks first, then what objects have asked to be called.
function boot.stop()
  task.stop()
  destructor.run_all()
  protect.run_all()
end

local function load_main(options)
  if options.code then return loadstring(options.code, "=(command line)") end
  if options.script == "-" then return loadfile() end
  if options.script then return loadfile(options.script) end
  return function() end
end

local function report(text)
  io.stdout:flush()
  io.stderr:write("tarn: ", text, "\n")
end

-- The driver's main task: its exit status.
local function main()
  local options = core.options
  local chunk, problem = load_main(options)
  if not chunk then
    report(problem)
    return 1
  end
  local args = options.arg or {}
  _G.arg = args
  if options.procs then require("tarn.cluster").addprocs(options.procs) end
  local nameless = { chunk } -- so that a traceback says "in main chunk", and not by what name it is called here
  nameless[#nameless](unpack(args))
  if options.interactive then return require("tarn.repl").run() end
  return 0
end

local function describe(e, traceback)
  if e == nil then return "the script raised nil" end
  local text = failure.text(e, traceback)
  traceback = failure.trim(traceback)
  if errors.iserror(e) and traceback and traceback:find("\n", 1, true) and not text:find(traceback, 1, true) then
    text = text .. "\n" .. traceback
  end
  return text
end

local function main_done(t, ok, result)
  if task.ending() then return end -- os.exit has been called
  if not ok and interrupt.was_reason() then return end
  if not ok then report(describe(result, t.traceback)) end
  io.stdout:flush()
  core.exit(ok and result or 1)
end

function boot.start()
  sandbox.install()
  _G.tarn = require "tarn"
  require("tarn.foreign").install()
  if core.options.worker then
    sandbox.install_worker()
    require("tarn.modules").install()
    core.started()
    core.ready()
  else
    require "tarn.modules"
    core.started()
    task.spawn({ done = main_done }, main)
  end
end

return boot
