-- Programs that launchers run for themselves: what they print is for tarn, not for the user.
local errors = require "tarn.errors"
local task = require "tarn.task"
local uv = require "luv"

local subprocess = {}

local Subprocess = {}
Subprocess.__index = Subprocess

local function wake(self)
  local t = self.task
  self.task = nil
  if t then task.wake(t, true) end
end

local function close(handle)
  if handle and not handle:is_closing() then handle:close() end
end

-- It has ended once its exit status is known and all it had to say was read, or soon after: what it has left behind may hold its output.
local GRACE_MS = 500

local function settle(self)
  if not self.code or self.open > 0 or self.ended then return end
  self.ended = true
  close(self.grace)
  close(self.stdin)
  wake(self)
end

local function give_up(self)
  for _, pipe in ipairs(self.pipes) do close(pipe) end
  self.open = 0
  settle(self)
end

local function read(self, pipe, name)
  self.open = self.open + 1
  pipe:read_start(function(_, bytes)
    if bytes then
      self[name] = self[name] .. bytes
      return wake(self)
    end
    close(pipe)
    self.open = self.open - 1
    settle(self)
  end)
end

---Start a program, with standard input held open.
---@param argv string[]
---@return table process out, err (so far), code (once it has ended); :match, :wait, :kill
function subprocess.start(argv)
  local self = setmetatable({ argv = argv, out = "", err = "", open = 0 }, Subprocess)
  self.stdin = uv.new_pipe(false)
  self.pipes = { uv.new_pipe(false), uv.new_pipe(false) }
  local function on_exit(code, signal)
    self.code = signal ~= 0 and 128 + signal or code
    close(self.handle)
    if self.open > 0 then
      self.grace = uv.new_timer()
      self.grace:start(GRACE_MS, 0, function() give_up(self) end)
    end
    settle(self)
  end
  local args = { unpack(argv, 2) }
  local handle, pid = uv.spawn(argv[1], { args = args, stdio = { self.stdin, self.pipes[1], self.pipes[2] } }, on_exit)
  if not handle then
    close(self.stdin)
    for _, pipe in ipairs(self.pipes) do close(pipe) end
    errors.raise("IOError", ("cannot start %s: %s"):format(argv[1], pid))
  end
  self.handle, self.pid = handle, pid
  -- It must not outlive this process: where there is no more loop to wait for it, the end of the Lua state ends it.
  self.guard = newproxy(true)
  getmetatable(self.guard).__gc = function() self:kill("sigterm") end
  read(self, self.pipes[1], "out")
  read(self, self.pipes[2], "err")
  return self
end

local function stop_waiting(_, self) self.task = nil end

local function pause(self)
  self.task = task.check(self.argv[1])
  local ok, e = task.wait(stop_waiting, self)
  if not ok then error(e, 0) end
end

-- The captures of the pattern in its output, as soon as that has it; nil when it has ended without. For one task at a time.
function Subprocess:match(pattern)
  while not self.out:find(pattern) and not self.ended do pause(self) end
  return self.out:match(pattern)
end

-- Wait for its end: its exit status, 128 + n after signal n.
function Subprocess:wait()
  while not self.ended do pause(self) end
  return self.code
end

function Subprocess:kill(signal)
  if not self.code then uv.kill(self.pid, signal or "sigkill") end
end

-- End it in order, if it is one that ends with its input too. ssh (9.2 at least) may overlook a signal that comes while it is about to
-- wait, until something else comes, 15 s later perhaps: the end of its input does.
function Subprocess:stop()
  self:kill("sigterm")
  close(self.stdin)
end

---Run a program to its end. A task that is cancelled meanwhile ends it.
---@param argv string[]
---@param input string|nil what it reads
---@return integer code
---@return string out
---@return string err
function subprocess.run(argv, input)
  local process = subprocess.start(argv)
  if input then process.stdin:write(input) end
  process.stdin:shutdown()
  local ok, e = pcall(process.wait, process)
  if not ok then
    process:kill()
    error(e, 0)
  end
  return process.code, process.out, process.err
end

-- What a program that failed has said, in one text: its standard error, or its exit status.
function subprocess.complaint(process)
  local text = process.err:gsub("\r", ""):gsub("%s+$", "")
  return text ~= "" and text or ("%s exited with status %d"):format(process.argv[1], process.code)
end

return subprocess
