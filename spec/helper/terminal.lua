-- A program at a real terminal: keys are typed, and what stands on the screen afterwards is looked at. The screen knows the few control
-- sequences that tarn and readline use.
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

local Terminal = {}
Terminal.__index = Terminal

local M = { CTRL_C = "\3", CTRL_D = "\4", TAB = "\t", UP = "\27[A", ENTER = "\r" }

local ROWS, COLUMNS = 24, 100

-- Start a program at a terminal. opts: cwd, env, as for process.start.
function M.start(argv, opts)
  opts = opts or {}
  local fd, path = posix.open_terminal(ROWS, COLUMNS)
  local env = { TERM = "xterm", INPUTRC = "/dev/null" }
  for name, value in pairs(opts.env or {}) do env[name] = value end
  local child = process.start(argv, { cwd = opts.cwd, env = env, terminal = path })
  child.terminal_fd = fd -- its end, if the spec fails, closes that too
  return setmetatable({ fd = fd, child = child, lines = { "" }, x = 0, y = 1, rest = "", raw = "" }, Terminal)
end

-- The same for tarn: arguments after the program's name.
function M.start_tarn(args, opts) return M.start({ process.tarn_path, unpack(args) }, opts) end

---------------------------------------------------------------------------------------------------- the screen

local function goto_row(self, y)
  self.y = math.max(y, 1)
  while #self.lines < self.y do self.lines[#self.lines + 1] = "" end
end

local controls = {}
function controls.A(self, n) goto_row(self, self.y - math.max(n, 1)) end
function controls.B(self, n) goto_row(self, self.y + math.max(n, 1)) end
function controls.C(self, n) self.x = self.x + math.max(n, 1) end
function controls.D(self, n) self.x = math.max(self.x - math.max(n, 1), 0) end
function controls.K(self) self.lines[self.y] = self.lines[self.y]:sub(1, self.x) end
function controls.J(self)
  controls.K(self)
  for y = self.y + 1, #self.lines do self.lines[y] = nil end
end
function controls.P(self, n) -- delete characters
  local line = self.lines[self.y]
  self.lines[self.y] = line:sub(1, self.x) .. line:sub(self.x + 1 + math.max(n, 1))
end
controls["@"] = function(self, n) -- insert blanks
  local line = self.lines[self.y]
  self.lines[self.y] = line:sub(1, self.x) .. (" "):rep(math.max(n, 1)) .. line:sub(self.x + 1)
end

local function put(self, c)
  if self.x >= COLUMNS then
    self.x = 0
    goto_row(self, self.y + 1)
  end
  local line = self.lines[self.y]
  line = line .. (" "):rep(self.x - #line)
  self.lines[self.y] = line:sub(1, self.x) .. c .. line:sub(self.x + 2)
  self.x = self.x + 1
end

local function show(self, bytes)
  local text, at = self.rest .. bytes, 1
  while at <= #text do
    local c = text:sub(at, at)
    if c == "\27" then
      local n, letter, stop = text:match("^\27%[%??(%d*)[%d;]*([%a@])()", at)
      if not stop then break end -- more is to come
      local control = controls[letter]
      if control then control(self, tonumber(n) or 0) end
      at = stop
    else
      if c == "\r" then
        self.x = 0
      elseif c == "\n" then
        goto_row(self, self.y + 1)
      elseif c == "\b" then
        self.x = math.max(self.x - 1, 0)
      elseif c ~= "\a" then
        put(self, c)
      end
      at = at + 1
    end
  end
  self.rest = text:sub(at)
end

---------------------------------------------------------------------------------------------------- using it

function Terminal:type(...)
  for _, keys in ipairs { ... } do posix.write(self.fd, keys) end
end

-- All that stands on the screen, and has scrolled away above it; no blanks at the ends of lines.
function Terminal:text() return ((table.concat(self.lines, "\n") .. "\n"):gsub(" +\n", "\n"):gsub("\n+$", "")) end

local function fail(self, what)
  local text = ("%s: %s\n--- screen\n%s"):format(table.concat(self.child.argv, " "), what, self:text())
  self:close()
  error(text, 3)
end

local function take(self)
  local bytes = posix.read(self.fd) -- an error when the last program has left
  self.ended = not bytes or bytes == ""
  if self.ended then return end
  self.raw = self.raw .. bytes
  show(self, bytes)
end

-- Wait until the screen has a match of the pattern; its captures.
function Terminal:await(pattern, timeout_s)
  local seconds = (timeout_s or 10) * process.patience
  local deadline = posix.now() + seconds
  while not self:text():find(pattern) do
    if self.ended then fail(self, ("ended without %q"):format(pattern)) end
    if not next(posix.poll({ self.fd }, deadline)) then fail(self, ("no %q within %g s"):format(pattern, seconds)) end
    take(self)
  end
  return self:text():match(pattern)
end

-- Wait for the end: the process, with code or signal. What it has said last is on the screen.
function Terminal:wait(timeout_s)
  local deadline = posix.now() + (timeout_s or 20) * process.patience
  while not self.ended do
    if not next(posix.poll({ self.fd }, deadline)) then fail(self, "still running") end
    take(self)
  end
  local child = self.child:wait(timeout_s)
  self:close()
  return child
end

function Terminal:close()
  if self.fd and self.child.terminal_fd then posix.close(self.fd) end
  self.fd, self.child.terminal_fd = nil, nil
  if self.child.pidfd then self.child:destroy() end
end

return M
