-- The prompt: lines typed, run one after the other as tasks, in this process or, with --connect, in process 1 of another cluster.
local core = require "tarn.core"
local errors = require "tarn.errors"
local evaluate = require "tarn.repl.evaluate"
local failure = require "tarn.failure"
local future = require "tarn.future"
local interrupt = require "tarn.interrupt"
local uv = require "luv"
local words = require "tarn.repl.words"

local repl = {}

local PROMPT, MORE = "> ", ">> "

---------------------------------------------------------------------------------------------------- from a terminal

local function report(ok, text)
  if not text then return end
  local file = ok and io.stdout or io.stderr
  file:write(text, "\n")
  file:flush()
end

-- What is to be run: lines until they make a chunk. nil: the end; false: nothing.
local function read_chunk(input, session)
  local text = input.read(PROMPT, session.complete)
  if not text then return text end
  local chunk, more, problem = evaluate.compile(text)
  while not chunk and more do
    local line = input.read(MORE, session.complete)
    if not line then return line end
    text = text .. "\n" .. line
    chunk, more, problem = evaluate.compile(text)
  end
  return text, problem
end

-- True and a text, false and what went wrong; raises when the session is over.
local function run(session, state, text)
  state.running = future.run(false, session.run, text)
  local ok, done, shown = pcall(state.running.fetch, state.running)
  local given_up = state.running.state ~= nil -- else it is the prompt's own task that was cancelled
  state.running = nil
  if core.interrupt_take() ~= 0 then core.interrupt_done() end -- it was meant for what is over
  if ok then return done, shown end
  if errors.iserror(done, "Cancelled") and given_up then return false, "interrupted" end
  error(done, 0)
end

-- True: who typed has said so; else the input is at its end.
local function converse(input, session, history, state)
  while true do
    local text, problem = read_chunk(input, session)
    if text == nil then return end
    if text and text:find("%S") then
      history.add(text)
      local word = words.of(text)
      if word == "help" then
        report(true, words.HELP)
      elseif word then
        return true
      elseif problem then
        report(false, problem)
      else
        report(run(session, state, text))
      end
    end
  end
end

local NO_HISTORY = { open = function() end, add = function() end, close = function() end }

local function at_terminal(session, title)
  local input, history = require "tarn.repl.editor", require "tarn.repl.history"
  if not input.open() then
    input, history = require "tarn.repl.lines", NO_HISTORY
    input.open()
  end
  history.open()
  local state = {}
  interrupt.handle(function()
    core.interrupt_done()
    if not state.running then return input.discard() end
    io.stdout:write("\n") -- below the terminal's ^C
    session.cancel(state.running)
  end)
  print(title .. "; help says what can be typed; Ctrl-D ends it")
  local ok, e = pcall(converse, input, session, history, state)
  interrupt.handle(nil)
  input.close()
  history.close()
  if not ok then error(e, 0) end
  if not e then print() end
end

---------------------------------------------------------------------------------------------------- from elsewhere

local function print_results(ok, ...)
  if not ok then
    io.stderr:write((...), "\n")
  elseif select("#", ...) > 0 then
    print(...)
  end
  io.stdout:flush()
end

-- Lines from a pipe: what they give is printed as print does it, for programs to read.
local function from_pipe(session)
  local input = require "tarn.repl.lines"
  input.open()
  while true do
    local text, problem = read_chunk({ read = function() return input.read("") end }, {})
    if not text then break end
    local word = words.of(text)
    if word == "help" then
      report(true, words.HELP)
    elseif word then
      break
    elseif problem then
      io.stderr:write(problem, "\n")
    elseif session then
      report(session.run(text))
    else
      print_results(evaluate.run((evaluate.compile(text))))
    end
  end
  input.close()
end

---------------------------------------------------------------------------------------------------- the call

---Read and run until the end of the input. In a task. The exit status.
function repl.run()
  local options = core.options
  local session, title
  if options.connect then
    session = require "tarn.repl.attach"
    local ok, e = pcall(session.open, options.connect, options.secret_file)
    if not ok then
      if errors.iserror(e, "Cancelled") then error(e, 0) end
      io.stderr:write("tarn: ", errors.iserror(e) and e.message or failure.tostring(e), "\n")
      return 1
    end
    title = e
  else
    title = ("tarn %s, process %d"):format(core.version, core.myid())
  end
  local ok, e
  if uv.guess_handle(0) == "tty" then
    ok, e = pcall(at_terminal, session or require "tarn.repl.here", title)
  else
    ok, e = pcall(from_pipe, session)
  end
  if session then session.close() end
  if ok then return 0 end
  if not options.connect or not errors.iserror(e, "IOError") then error(e, 0) end
  io.stderr:write("tarn: ", e.message, "\n")
  return 1
end

return repl
