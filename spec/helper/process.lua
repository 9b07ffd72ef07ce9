-- Runs programs, tarn first of all, as real child processes with deadlines. Every run carries a mark in its environment, so that
-- whatever it has started can be found in /proc, wherever it went.
local lfs = require "lfs"
local posix = require "spec.helper.posix"

local M = {}

local MARK = "TARN_SPEC_RUN"
local root = lfs.currentdir()

local function tarn_program()
  local named = os.getenv("TARN_BIN")
  if named then return named end
  local self = posix.readlink("/proc/self/exe") or ""
  return self:match("/tarn$") and self or root .. "/build/tarn"
end

M.root = root
M.tarn_path = tarn_program()
-- Sanitized builds are slower: deadlines of specs are multiplied by this.
M.patience = tonumber(os.getenv("TARN_SPEC_PATIENCE") or "1")

local runs = 0
local function new_mark()
  runs = runs + 1
  return posix.getpid() .. "-" .. runs
end

local function read_file(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text
end
M.read_file = read_file

function M.write_file(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

-- Pids of running processes whose environment has the mark (nil: that of any run of this program).
function M.marked(mark)
  local wanted = mark and ("\0" .. MARK .. "=" .. mark .. "\0") or ("\0" .. MARK .. "=" .. posix.getpid() .. "-")
  local pids = {}
  for name in lfs.dir("/proc") do
    local pid = tonumber(name)
    local environ = pid and read_file("/proc/" .. name .. "/environ")
    if environ and ("\0" .. environ):find(wanted, 1, true) then pids[#pids + 1] = pid end
  end
  return pids
end

-- Wait until no process has the mark: true, or false and the pids that are left.
function M.gone(mark, seconds)
  local deadline = posix.now() + seconds
  while true do
    local pids = M.marked(mark)
    if #pids == 0 then return true end
    if posix.now() >= deadline then return false, pids end
    local fd = posix.pidfd(pids[1])
    if fd then
      posix.poll({ fd }, deadline)
      posix.close(fd)
    end
  end
end

-- For messages: "4711 (tarn worker)".
function M.describe(pids)
  local texts = {}
  for _, pid in ipairs(pids) do
    local line = (read_file("/proc/" .. pid .. "/cmdline") or ""):gsub("%z", " ")
    texts[#texts + 1] = pid .. " (" .. line:sub(1, 60) .. ")"
  end
  return table.concat(texts, ", ")
end

local temporary = {}
-- A new directory, removed after the spec (spec.helper.leaks looks into it first).
function M.tmpdir()
  local path = posix.mkdtemp()
  temporary[#temporary + 1] = path
  return path
end

function M.take_tmpdirs()
  local list = temporary
  temporary = {}
  return list
end

function M.remove_tree(path)
  for name in lfs.dir(path) do
    if name ~= "." and name ~= ".." then
      local sub = path .. "/" .. name
      if lfs.symlinkattributes(sub, "mode") == "directory" then
        M.remove_tree(sub)
      else
        os.remove(sub)
      end
    end
  end
  lfs.rmdir(path)
end

local Process = {}
Process.__index = Process
local unfinished = {} -- processes that nobody has waited for

-- Start argv. opts: cwd (default: a new temporary directory), env, stdin (a string, given whole and closed; nil keeps it open for :write),
-- terminal (the path of one, instead of the pipes).
function M.start(argv, opts)
  opts = opts or {}
  local mark = new_mark()
  local env = { [MARK] = mark }
  for name, value in pairs(opts.env or {}) do env[name] = value end
  local cwd = opts.cwd or M.tmpdir()
  local started = posix.now()
  local pid, stdin, stdout, stderr = posix.spawn(argv, cwd, env, opts.terminal)
  local self = setmetatable({ pid = pid, mark = mark, cwd = cwd, argv = argv, started = started, stdin = stdin, out = "", err = "",
    open = { [stdout] = "out", [stderr] = "err" }, pidfd = posix.pidfd(pid), seen = 0 }, Process)
  unfinished[self] = true
  if opts.stdin then
    self:write(opts.stdin)
    self:close_stdin()
  end
  return self
end

-- The same for tarn: arguments after the program's name.
function M.start_tarn(args, opts)
  local argv = { M.tarn_path }
  for _, arg in ipairs(args) do argv[#argv + 1] = arg end
  return M.start(argv, opts)
end

function Process:write(bytes) return posix.write(self.stdin, bytes) end

function Process:close_stdin()
  if self.stdin then
    posix.close(self.stdin)
    self.stdin = nil
  end
end

-- Take in what is there to read, waiting for it until the deadline; false at the deadline.
function Process:_pump(deadline)
  local fds = {}
  for fd in pairs(self.open) do fds[#fds + 1] = fd end
  if self.pidfd then fds[#fds + 1] = self.pidfd end
  if #fds == 0 then return false end
  local ready = posix.poll(fds, deadline)
  for fd in pairs(ready) do
    local name = self.open[fd]
    if name then
      local bytes = posix.read(fd) or ""
      if bytes == "" then
        posix.close(fd)
        self.open[fd] = nil
      else
        self[name] = self[name] .. bytes
      end
    elseif fd == self.pidfd then
      self.code, self.signal = posix.wait(self.pid, true)
      self.seconds = posix.now() - self.started
      posix.close(fd)
      self.pidfd = nil
    end
  end
  return next(ready) ~= nil
end

function Process:_fail(what)
  self:destroy()
  local text = ("%s: %s\n--- stdout\n%s\n--- stderr\n%s"):format(table.concat(self.argv, " "), what, self.out:sub(-2000),
    self.err:sub(-2000))
  error(text, 3)
end

-- The next line of standard output, without its newline. Fails the spec when none comes in time.
function Process:line(timeout_s)
  local seconds = (timeout_s or 10) * M.patience
  local deadline = posix.now() + seconds
  while true do
    local stop = self.out:find("\n", self.seen + 1, true)
    if stop then
      local line = self.out:sub(self.seen + 1, stop - 1)
      self.seen = stop
      return line
    end
    if not next(self.open) then self:_fail("ended without another line") end
    if not self:_pump(deadline) and posix.now() >= deadline then self:_fail(("no line within %g s"):format(seconds)) end
  end
end

-- Wait until standard error has a match of the pattern; returns its captures.
function Process:await_stderr(pattern, timeout_s)
  local seconds = (timeout_s or 10) * M.patience
  local deadline = posix.now() + seconds
  while not self.err:find(pattern) do
    if not self:_pump(deadline) then self:_fail(("standard error had no %q within %g s"):format(pattern, seconds)) end
  end
  return self.err:match(pattern)
end

-- Wait for the end: self with code (or signal), out, err, seconds. Kills it and fails the spec at the deadline.
function Process:wait(timeout_s)
  local seconds = (timeout_s or 30) * M.patience
  local deadline = posix.now() + seconds
  while self.pidfd do
    if not self:_pump(deadline) and posix.now() >= deadline then self:_fail(("still running after %g s"):format(seconds)) end
  end
  -- Its output ends when the last process that holds it has ended, which must be soon.
  deadline = posix.now() + 3 * M.patience
  while next(self.open) do
    if not self:_pump(deadline) then self:_fail("ended, but its output is still open in another process") end
  end
  self:close_stdin()
  unfinished[self] = nil
  return self
end

function Process:kill(signal) return posix.kill(self.pid, signal or posix.SIGKILL) end

-- Kill it, and what it has started, by pid.
function Process:destroy()
  if self.pidfd then posix.kill(self.pid) end
  for _, pid in ipairs(M.marked(self.mark)) do posix.kill(pid) end
  if self.pidfd then
    self.code, self.signal = posix.wait(self.pid, true)
    posix.close(self.pidfd)
    self.pidfd = nil
  end
  for fd in pairs(self.open) do posix.close(fd) end
  self.open = {}
  if self.terminal_fd then posix.close(self.terminal_fd) end
  self.terminal_fd = nil
  self:close_stdin()
  unfinished[self] = nil
end

-- It is for more than one spec: a failed one does not end it.
function Process:keep() unfinished[self] = nil end

-- After a spec that failed: end what it had no chance to wait for.
function M.abandon()
  for process in pairs(unfinished) do process:destroy() end
end

-- Run to the end. opts as for start, and timeout_s.
function M.run(argv, opts)
  opts = opts or {}
  local process = M.start(argv, { cwd = opts.cwd, env = opts.env, stdin = opts.stdin or "" })
  return process:wait(opts.timeout_s)
end

function M.run_tarn(args, opts)
  local argv = { M.tarn_path }
  for _, arg in ipairs(args) do argv[#argv + 1] = arg end
  return M.run(argv, opts)
end

-- In driver source: SERVE .. "()" goes on until the standard input ends, and SERVE .. "(fn)" calls fn with each line of it meanwhile.
M.SERVE = (" dofile %q "):format(M.root .. "/spec/helper/input.lua")

-- Driver source as a script file in a new directory: tarn's arguments, and that directory.
local function script_of(source, opts)
  local cwd = opts.cwd or M.tmpdir()
  local hosts = os.getenv "TARN_SPEC_HOSTS" -- where spec/peers/core_spec.lua wants the workers of drivers to be
  local args = hosts and { "--hosts", hosts } or {}
  for _, arg in ipairs(opts.args or {}) do args[#args + 1] = arg end
  args[#args + 1] = M.write_file(cwd .. "/driver.lua", source)
  return args, cwd
end

-- Run driver source to its end. opts.args: options before the script.
function M.run_script(source, opts)
  opts = opts or {}
  local args, cwd = script_of(source, opts)
  return M.run_tarn(args, { cwd = cwd, env = opts.env, stdin = opts.stdin, timeout_s = opts.timeout_s })
end

-- The same without waiting for its end.
function M.start_script(source, opts)
  opts = opts or {}
  local args, cwd = script_of(source, opts)
  return M.start_tarn(args, { cwd = cwd, env = opts.env })
end

-- The lines of a text.
function M.lines(text)
  local list = {}
  for line in text:gmatch("[^\n]+") do list[#list + 1] = line end
  return list
end

return M
