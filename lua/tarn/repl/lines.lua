-- Lines from standard input as they come: from a pipe or a file, or from a terminal where there is no readline.
local task = require "tarn.task"
local uv = require "luv"

local lines = {}

local stream, text, ended, waiting

local function on_bytes(problem, bytes)
  if problem or not bytes then ended = true else text = text .. bytes end
  local t = waiting
  waiting = nil
  if t then task.wake(t, true) end
end

function lines.open()
  text, ended = "", false
  local kind = uv.guess_handle(0)
  if kind == "file" then
    text, ended = io.read("*a") or "", true
    return
  end
  stream = kind == "tty" and uv.new_tty(0, true) or uv.new_pipe(false)
  if kind ~= "tty" then stream:open(0) end
  stream:read_start(on_bytes)
end

local function not_waiting() waiting = nil end

-- The next line, nil at the end. Suspends.
function lines.read(prompt)
  io.stdout:write(prompt)
  io.stdout:flush()
  while true do
    local line, rest = text:match("^([^\n]*)\n(.*)$")
    if line then
      text = rest
      return line
    end
    if ended then
      line, text = text, ""
      return line ~= "" and line or nil
    end
    waiting = task.check("tarn's prompt")
    local ok, e = task.wait(not_waiting)
    if not ok then error(e, 0) end
  end
end

function lines.discard() end

function lines.close()
  if stream then stream:close() end
  stream = nil
end

return lines
