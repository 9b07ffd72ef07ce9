-- What is different in tarn's Lua from plain LuaJIT: no nested event loop, an exit in order, and no standard input for jobs.
local core = require "tarn.core"
local errors = require "tarn.errors"
local task = require "tarn.task"
local uv = require "luv"

local sandbox = {}

local function run_refused()
  errors.raise("ArgumentError", "uv.run: tarn runs the loop; leave the call out, and wait with tarn.sleep, future:fetch() or future:wait()")
end

local function exit_status(code)
  if code == nil or code == true then return 0 end
  if code == false then return 1 end
  return tonumber(code) or 1
end

-- Ends the process in order; never returns. The driver's stops the cluster, a job's that worker.
local function exit(code)
  io.stdout:flush()
  io.stderr:flush()
  core.exit(exit_status(code))
  task.park()
end

-- On every process, before user code.
function sandbox.install()
  task.install()
  uv.run = run_refused
  os.exit = exit -- luacheck: ignore 122
end

---------------------------------------------------------------------------------------------------- a worker's standard input

local MESSAGE = "a worker has no standard input: read in the driver and pass the data to the job, or open a file by its name"

local function refuse(what) errors.raise("ArgumentError", what .. ": " .. MESSAGE) end

-- Stands for io.stdin: reading from it raises.
local function standard_input(real)
  local methods = {}
  function methods.read() refuse("io.stdin:read") end
  function methods.lines() refuse("io.stdin:lines") end
  function methods.close() return true end
  function methods.seek() return nil, "Illegal seek", 29 end
  function methods.setvbuf() return true end
  function methods.flush() return true end
  function methods.write() return nil, "Bad file descriptor", 9 end
  local proxy = newproxy(true)
  local metatable = getmetatable(proxy)
  metatable.__index = methods
  metatable.__tostring = function() return tostring(real) end
  return proxy
end

-- luacheck: push ignore 122
function sandbox.install_worker()
  io.stdout:setvbuf("line")
  local real = io.stdin
  local proxy = standard_input(real)
  local read, lines, input, kind = io.read, io.lines, io.input, io.type
  io.stdin = proxy
  function io.read(...)
    if input() == real then refuse("io.read") end
    return read(...)
  end
  function io.lines(name, ...)
    if name == nil and input() == real then refuse("io.lines") end
    return lines(name, ...)
  end
  function io.input(file)
    if file == proxy then file = real end
    local now = file == nil and input() or input(file)
    return now == real and proxy or now
  end
  function io.type(x)
    if x == proxy then return "file" end
    return kind(x)
  end
end
-- luacheck: pop

return sandbox
