-- HTTP transfers: a task asks for one and waits, while others go on. C and libcurl do the work (runtime/net/fetch.h); their descriptor is
-- polled by the loop for as long as there are transfers. At most AT_ONCE are under way, others wait their turn. Connections are kept for
-- the next ones, but not for long.
local core = require "tarn.core"
local task = require "tarn.task"
local uv = require "luv"

local fetch = {}

local AT_ONCE = 16
local IDLE_S = 10
local STOPPING_MS = 2000 -- for what is to be sent while the process ends

local fetcher, poll, idle -- idle: the timer that ends them
local waiting = {} -- number -> {task}; then {reply}
local active = 0
local queue = {}   -- tasks that wait for their turn

local function fields(text)
  local found = {}
  for name, value in text:gmatch("\n([^:\r\n]+):[ \t]*([^\r\n]*)") do found[name:lower()] = value:gsub("%s+$", "") end
  return found
end

---Close all connections, unless something is under way.
function fetch.close()
  task.stop_timer(idle)
  idle = nil
  if not fetcher or active > 0 then return end
  poll:close()
  fetcher:close()
  fetcher, poll = nil, nil
end

local function leave()
  active = active - 1
  local t = table.remove(queue, 1)
  if t then
    active = active + 1 -- its turn is passed on
    task.wake(t, true)
  elseif active == 0 then
    poll:stop()
    idle = task.timer(IDLE_S, fetch.close)
  end
end

local function settle(number, status, headers, text, written, kind, message, passing)
  if not number then return false end
  local wait = waiting[number]
  waiting[number] = nil
  wait.reply = { status = status, headers = fields(headers), text = text, written = written, kind = kind, problem = message,
    passing = passing }
  leave()
  if wait.task then task.wake(wait.task, true) end
  return true
end

local function turn(timeout_ms)
  fetcher:run(timeout_ms)
  while settle(fetcher:next()) do end
end

local function on_readable() turn(0) end

local function open()
  task.stop_timer(idle)
  idle = nil
  if fetcher then return end
  local new = core.fetch_open()
  poll = assert(uv.new_poll(new:fd()))
  fetcher = new
end

local function leave_queue(t)
  for i, other in ipairs(queue) do
    if other == t then
      table.remove(queue, i)
      return
    end
  end
end

local function enter(t)
  if active < AT_ONCE then
    active = active + 1
    if active == 1 then poll:start("r", on_readable) end
    return
  end
  queue[#queue + 1] = t
  local ok, e = task.wait(leave_queue)
  if not ok then error(e, 0) end
end

local function cut(_, number)
  fetcher:cancel(number)
  waiting[number] = nil
  leave()
end

-- Wait for the reply here, without the loop, for a while; nil: none has come, and it is cut.
local function finish(wait, number)
  local deadline = core.clock() + STOPPING_MS / 1000
  while not wait.reply and core.clock() < deadline do turn(50) end
  if not wait.reply then cut(nil, number) end
  return wait.reply
end

-- A task that waits for a request that is not to be cut is cancelled: who has sent it finds the reply in it.
local function finish_whole(_, number, request)
  local wait = waiting[number]
  wait.task = nil
  request.late = finish(wait, number)
end

-- The process is ending, and nobody will be resumed.
local function send_now(request)
  local wait = {}
  local number = fetcher:start(request)
  waiting[number], active = wait, active + 1
  return finish(wait, number) or { status = 0, headers = {}, text = "", written = 0, kind = "IOError", problem = "the process is ending" }
end

---Send a request and wait for the reply. A task that is cancelled meanwhile cuts it. Raises IOError where libcurl is missing.
---@param request table see runtime/bind/remote.c; whole: when its task is cancelled the reply is waited for all the same, 2 s at most, and
--- is then in `late`: for what must not be left undone because nobody knows its name
---@param what string for errors, as "tarn.save"
---@return table reply {status (0: none came), headers (by lower-case name), text, written; problem, kind: it failed; passing: maybe only
--- this time}
function fetch.send(request, what)
  open()
  if task.stopping() then return send_now(request) end
  local t = task.check(what)
  enter(t)
  local ok, number = pcall(fetcher.start, fetcher, request)
  if not ok then
    leave()
    error(number, 0)
  end
  local wait = { task = t }
  waiting[number] = wait
  local good, e = task.wait(request.whole and finish_whole or cut, number, request)
  if not good then error(e, 0) end
  return wait.reply
end

return fetch
