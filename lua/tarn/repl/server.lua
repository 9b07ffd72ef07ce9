-- The end in process 1 of a prompt elsewhere (`tarn -i --connect`): what foreign clients call by `eval`. What was typed runs here in a task
-- of its own, and is asked for until it is done; what it prints goes to who typed it.
local core = require "tarn.core"
local complete = require "tarn.repl.complete"
local errors = require "tarn.errors"
local evaluate = require "tarn.repl.evaluate"
local future = require "tarn.future"
local task = require "tarn.task"

local server = {}

local FORGOTTEN_S = 30 -- unasked for so long, it is cancelled

local running, last = {}, 0 -- number -> {future, out, timer}

local function forget(number)
  local one = running[number]
  running[number] = nil
  if not one then return end
  task.stop_timer(one.timer)
  one.future:cancel()
end

local function keep(number)
  local one = running[number]
  task.stop_timer(one.timer)
  one.timer = task.timer(FORGOTTEN_S, forget, number)
end

-- The globals, but print and io.write, which write into `out` as long as somebody asks for it.
local function environment(out)
  local function write(...)
    if out.closed then return io.stdout:write(...) end
    for i = 1, select("#", ...) do out[#out + 1] = tostring((select(i, ...))) end
    future.succeed(out.news)
  end
  local function say(...)
    local texts = {}
    for i = 1, select("#", ...) do texts[i] = tostring((select(i, ...))) end
    write(table.concat(texts, "\t"), "\n")
  end
  return setmetatable({ print = say, io = setmetatable({ write = write }, { __index = io }) }, { __index = _G, __newindex = _G })
end

---Begin to run what was typed.
---@return number to ask for it by
function server.start(source)
  local chunk, _, problem = evaluate.compile(source)
  if not chunk then errors.raise("ArgumentError", problem) end
  last = last + 1
  local out = { news = future.new() }
  setfenv(chunk, environment(out))
  running[last] = { out = out, future = future.run(false, evaluate.text, chunk) }
  keep(last)
  return last
end

local function tell(watcher) future.succeed(watcher.news) end

---What has become of it, as soon as there are news or after so many seconds: what it has printed since; when done, ok and the text to be
---shown.
---@return table {out, done, ok, text}
function server.poll(number, seconds)
  local one = running[number]
  if not one then errors.raise("KeyError", "nothing runs under that number (any more)") end
  keep(number)
  local out = one.out
  local watcher = { ready = tell, news = out.news }
  future.watch(one.future, watcher)
  out.news:wait(seconds)
  future.unwatch(one.future, watcher)
  local done = one.future:ready()
  local answer = { out = table.concat(out), done = done }
  for i = #out, 1, -1 do out[i] = nil end
  out.news = future.new()
  if not done then return answer end
  out.closed = true
  answer.ok, answer.text = one.future:fetch()
  forget(number)
  return answer
end

function server.cancel(number)
  local one = running[number]
  return one ~= nil and one.future:cancel()
end

function server.complete(before)
  local list, prefix = complete.candidates(before)
  return { list = list, prefix = prefix }
end

function server.hello() return { version = core.version, id = core.myid(), workers = #core.members() - 1 } end

return server
