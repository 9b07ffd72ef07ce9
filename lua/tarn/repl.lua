-- Lines typed at a terminal, run one after the other as tasks of the driver.
local core = require "tarn.core"
local failure = require "tarn.failure"
local task = require "tarn.task"
local uv = require "luv"

local repl = {}

local function open_input()
  if uv.guess_handle(0) == "tty" then return uv.new_tty(0, true) end
  if uv.guess_handle(0) == "file" then return nil end
  local pipe = uv.new_pipe(false)
  pipe:open(0)
  return pipe
end

local function not_waiting(_, input) input.task = nil end

-- The next line, nil at the end. Suspends.
local function next_line(input)
  while true do
    local line, rest = input.text:match("^([^\n]*)\n(.*)$")
    if line then
      input.text = rest
      return line
    end
    if input.ended then
      line = input.text
      input.text = ""
      return line ~= "" and line or nil
    end
    input.task = task.check("tarn's prompt")
    local ok, e = task.wait(not_waiting, input)
    if not ok then error(e, 0) end
  end
end

local function start_reading(input)
  if not input.stream then
    input.text, input.ended = io.read("*a") or "", true
    return
  end
  input.stream:read_start(function(problem, bytes)
    if problem or not bytes then input.ended = true else input.text = input.text .. bytes end
    local t = input.task
    input.task = nil
    if t then task.wake(t, true) end
  end)
end

-- A chunk for what was typed; nil, and whether more lines are needed.
local function compile(text)
  text = text:gsub("^=", "return ")
  local chunk = loadstring("return " .. text, "=stdin")
  if chunk then return chunk end
  local problem
  chunk, problem = loadstring(text, "=stdin")
  if chunk then return chunk end
  return nil, problem:find("'<eof>'", 1, true) ~= nil, problem
end

local function show(ok, ...)
  if not ok then
    io.stderr:write(failure.text((...)), "\n")
  elseif select("#", ...) > 0 then
    print(...)
  end
end

local function prompt(input, text)
  if input.is_terminal then
    io.stdout:write(text)
    io.stdout:flush()
  end
end

-- Read and run until the end of the input. In a task.
function repl.run()
  local input = { text = "", stream = open_input() }
  input.is_terminal = input.stream ~= nil and uv.guess_handle(0) == "tty"
  start_reading(input)
  if input.is_terminal then print(("tarn %s, process %d; end with Ctrl-D"):format(core.version, core.myid())) end
  while true do
    prompt(input, "> ")
    local text = next_line(input)
    if not text then break end
    local chunk, more, problem = compile(text)
    while not chunk and more do
      prompt(input, ">> ")
      local line = next_line(input)
      if not line then break end
      text = text .. "\n" .. line
      chunk, more, problem = compile(text)
    end
    if chunk then show(pcall(chunk)) else io.stderr:write(problem, "\n") end
    io.stdout:flush()
  end
  prompt(input, "\n")
  if input.stream then input.stream:close() end
end

return repl
