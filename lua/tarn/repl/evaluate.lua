-- What is typed becomes a chunk, and the chunk a text: its results, Futures fetched, or what went wrong, with the frames that are the
-- user's.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local future = require "tarn.future"
local show = require "tarn.repl.show"

local evaluate = {}

---A chunk for what was typed; nil, whether more lines are needed, and the problem.
---@param source string
function evaluate.compile(source)
  source = source:gsub("^%s*=", "return ")
  local chunk = loadstring("return " .. source, "=stdin")
  if chunk then return chunk end
  local problem
  chunk, problem = loadstring(source, "=stdin")
  if chunk then return chunk end
  return nil, problem:find("'<eof>'", 1, true) ~= nil, problem
end

-- Frames that say more than the place that the message begins with: more than one, or that of the call whose error is another process's.
local function says_more(traceback, is_remote)
  local frames = 0
  for line in traceback:gmatch("\n([^\n]+)") do
    if not line:find("[C]: ", 1, true) then frames = frames + 1 end
  end
  return frames > (is_remote and 0 or 1)
end

---What is said of an error: its own text, with remote frames, then those of this process.
---@param e any
---@param traceback string|nil where it was raised here
function evaluate.problem(e, traceback)
  if errors.iserror(e, "Cancelled") then return "interrupted" end
  local text = failure.readable(e)
  traceback = failure.trim(traceback)
  local is_remote = errors.iserror(e) and e.traceback ~= nil and e.pid ~= core.myid()
  if traceback and says_more(traceback, is_remote) and not text:find(traceback, 1, true) then
    text = ("%s\n%s%s"):format(text, is_remote and ("process %d, "):format(core.myid()) or "", traceback)
  end
  return text
end

local function fetched(...)
  local n, list = select("#", ...), { ... }
  for i = 1, n do
    -- Several results of one Future: as many values.
    if future.is(list[i]) then
      if n == 1 then return list[i]:fetch() end
      list[i] = list[i]:fetch()
    end
  end
  return unpack(list, 1, n)
end

-- Run the chunk, in a task: true and its results, Futures fetched; or false and the text of what went wrong.
---@param chunk function
function evaluate.run(chunk)
  local traceback
  local function on_error(e)
    traceback = debug.traceback("", 2):sub(2)
    return e
  end
  local function finish(ok, ...)
    if ok then return true, ... end
    return false, evaluate.problem(failure.raised((...)), traceback)
  end
  local function fetch_all(ok, ...)
    if not ok then return false, ... end
    return xpcall(fetched, on_error, ...)
  end
  return finish(fetch_all(xpcall(chunk, on_error)))
end

local function shown(ok, ...)
  if not ok then return false, (...) end
  local n = select("#", ...)
  if n == 0 then return true, nil end
  return true, show.values(n, ...)
end

-- The same; the results as one text, nil when there are none.
function evaluate.text(chunk) return shown(evaluate.run(chunk)) end

return evaluate
