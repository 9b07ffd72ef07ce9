-- Tasks: the one module that suspends and resumes coroutines.
--
-- A task is a coroutine that the scheduler runs. What waits inside it (a call, a timer) yields SUSPEND up to the scheduler and is
-- resumed with (true, values...) or (false, error). Coroutines of the user's own may stand in between: coroutine.resume and .wrap are
-- replaced by versions that hand SUSPEND on outwards and the answer inwards. Coroutines whose task has ended are used again.
--
-- Three rules. Only dispatch and step (no task running) resume tasks; callbacks wake them, which puts them into the ready queue. A
-- wait checks that it may suspend before it does anything else. A wait that is cut short runs its clean-up first.
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local many_closures = require "tarn.many_closures"
local nil_global = require "tarn.nil_global"
local uv = require "luv"

local task = {}

local create, resume, yield = coroutine.create, coroutine.resume, coroutine.yield
local status, running, isyieldable = coroutine.status, coroutine.running, coroutine.isyieldable

local SUSPEND, IDLE = {}, {} -- what a coroutine yields to the scheduler: I wait; I am free for another task
local SLICE = 1000         -- tasks resumed by one step
local IDLE_COROUTINES = 256

local current              -- the task that runs, nil outside
local idle, idle_count = {}, 0
local alive = {}           -- tasks that have suspended and not ended
local ready, first, last = {}, 1, 0
local stopping, parked = false, false

function task.current() return current end

---------------------------------------------------------------------------------------------------- the user's own coroutines

local inside = setmetatable({}, { __mode = "k" }) -- coroutines that wait within a task
local relay

local function cannot_suspend(what)
  return errors.new("ArgumentError", what .. ": Lua cannot suspend here (in a sort comparator, a gsub callback, a finalizer, a serializer,"
    .. " while a module is being loaded, or in a luv callback); do it before or after, or start a task for it with tarn.async(fn, ...)")
end

local function relay_inwards(co, ...)
  inside[co] = nil
  return relay(co, resume(co, ...))
end

function relay(co, ...)
  local ok, mark = ...
  if mark ~= SUSPEND or not ok then return ... end
  if not current or not isyieldable() then
    if current then task.abandon(current) end
    return relay(co, resume(co, false, cannot_suspend("tarn"))) -- raised where it tried to wait
  end
  inside[co] = true
  return relay_inwards(co, yield(SUSPEND))
end

local function resume_through(co, ...)
  if inside[co] then return false, "cannot resume non-suspended coroutine" end
  return relay(co, resume(co, ...))
end

local function unwrap(ok, ...)
  if ok then return ... end
  error((...), 0)
end

local function wrap_through(f)
  local co = create(f)
  return function(...) return unwrap(resume_through(co, ...)) end
end
many_closures(wrap_through, function() end)

local function yield_checked(...)
  if current and running() == current.co then error("attempt to yield from outside a coroutine", 2) end
  return yield(...)
end

local function status_through(co)
  if inside[co] then return "normal" end
  return status(co)
end

-- Once, before any user code.
function task.install()
  -- luacheck: push ignore 122
  coroutine.resume, coroutine.wrap = resume_through, wrap_through
  coroutine.yield, coroutine.status = yield_checked, status_through
  -- luacheck: pop
end

---------------------------------------------------------------------------------------------------- running

-- Keeps the traceback of what is raised in a task; it cannot be made after the stack is gone.
local function on_error(e)
  current.traceback = debug.traceback("", 2):sub(2)
  nil_global.note(e, 2)
  return e
end

local function ended(ok, ...)
  local t = current
  t.ended = true
  if ok then t:done(true, ...) else t:done(false, failure.raised((...))) end
end

-- Overwrites what ended calls have left on the stack: the collector takes for alive whatever lies within a frame, and the next
-- task's frames would come to lie over it. Not compiled: the compiler leaves out what nobody reads.
local scrub = loadstring("local " .. ("_,"):rep(190) .. "_", debug.getinfo(1, "S").source)
jit.off(scrub)

local function call(fn, ...) ended(xpcall(fn, on_error, ...)) end
jit.off(call) -- what is compiled would keep fn (docs/REFERENCES.md)

-- What a coroutine runs: one task after the other. Nothing of the last one is left in this frame while it is idle.
local function body()
  while true do
    call(yield(IDLE))
    scrub()
  end
end
jit.off(body)

-- Resume t, whose answer is (ok, values...); for a new one these are fn and its arguments.
local function run(t, ...)
  local before = current
  current = t
  local ok, mark = resume(t.co, ...)
  current = before
  if mark == IDLE then
    if t.alive then alive[t] = nil end
    if idle_count < IDLE_COROUTINES then
      idle_count = idle_count + 1
      idle[idle_count] = t.co
    end
    t.co = false
  elseif ok then
    if not t.alive then
      t.alive = true
      alive[t] = true
    end
  else
    alive[t] = nil
    t.co, t.ended = false, true
    error(mark, 0) -- done() failed: a bug, which the host logs
  end
end

-- Begin t = {done = function(t, ok, ...) end, ...} with fn(...). It runs at once, until it first suspends: only where no task runs.
-- done is called in the task's coroutine and must not suspend.
function task.begin(t, fn, ...)
  if idle_count > 0 then
    t.co = idle[idle_count]
    idle[idle_count] = nil
    idle_count = idle_count - 1
  else
    t.co = create(body)
    resume(t.co) -- up to where it is idle
  end
  return run(t, fn, ...)
end

-- Resume a waiting task at once, with (true, values...) or (false, error): only where no task runs.
function task.answer(t, ...)
  if stopping then return end
  t.cleanup, t.cleanup_a, t.cleanup_b = nil, nil, nil
  return run(t, ...)
end

-- The same soon, with at most one value.
function task.wake(t, ok, value)
  t.cleanup, t.cleanup_a, t.cleanup_b = nil, nil, nil
  t.woken, t.wake_ok, t.wake_value = true, ok, value
  last = last + 1
  ready[last] = t
end

local function pack(...) return { n = select("#", ...), ... } end

local function begin_later(t, fn, args) return task.begin(t, fn, unpack(args, 1, args.n)) end

-- Begin a task soon, from wherever.
function task.spawn(t, fn, ...)
  t.fn, t.args = fn, pack(...)
  last = last + 1
  ready[last] = t
  return t
end

-- Run ready tasks; true when more are ready.
function task.step()
  local stop = math.min(last, first + SLICE - 1)
  while first <= stop do
    local t = ready[first]
    ready[first] = nil
    first = first + 1
    if stopping then
      t.ended = true
    elseif t.fn then
      local fn, args = t.fn, t.args
      t.fn, t.args = nil, nil
      begin_later(t, fn, args)
    elseif t.woken then
      local ok, value = t.wake_ok, t.wake_value
      t.woken, t.wake_value, t.cleanup = false, nil, nil
      run(t, ok, value)
    end
  end
  if first > last then first, last = 1, 0 end
  return first <= last
end

---------------------------------------------------------------------------------------------------- waiting

local function cancelled() return errors.new("Cancelled", "the task was cancelled") end

-- May the current task suspend? Call it before a wait is set up; raises if not, or when the task was cancelled. what: for the message.
function task.check(what)
  local t = current
  if not t or not isyieldable() then
    local e = cannot_suspend(what)
    errors.raise(e.kind, e.message)
  end
  if stopping then
    while true do yield(SUSPEND) end -- never resumed
  end
  if t.cancelling then
    t.cancelling = nil
    error(cancelled(), 0)
  end
  return t
end

-- Suspend the current task; returns what it is answered with: true, values... or false, error. cleanup(t, a, b) is called first if
-- the wait is cut short. After task.check only.
function task.wait(cleanup, a, b)
  local t = current
  t.cleanup, t.cleanup_a, t.cleanup_b = cleanup, a, b
  return yield(SUSPEND)
end

-- Cut the wait of t short, if it is in one: true, and it must be woken or resumed.
function task.abandon(t)
  local cleanup = t.cleanup
  if not cleanup then return false end
  t.cleanup = nil
  cleanup(t, t.cleanup_a, t.cleanup_b)
  return true
end

-- The task gets a Cancelled error from the wait it is in, else from its next.
function task.cancel(t)
  if t.ended then return end
  if t.fn then -- not begun
    t.fn, t.args = function() error(cancelled(), 0) end, { n = 0 }
  elseif t ~= current and task.abandon(t) then
    task.wake(t, false, cancelled())
  else
    t.cancelling = true
  end
end

-- The process is ending: the current task never runs again. Where Lua cannot suspend an error has to do.
function task.park()
  local t = current
  parked = true
  if t then t.ended, t.parked = true, true end
  if not t or not isyieldable() then error("os.exit: the process is ending", 0) end
  while true do yield(SUSPEND) end
end

---------------------------------------------------------------------------------------------------- timers

local handles = {}         -- timers of luv that nobody uses
local MAX_MS = 2 ^ 52

local function on_timer(slot)
  local timer = slot.timer
  slot.timer = nil
  handles[#handles + 1] = slot
  if timer then
    timer.slot = nil
    timer.fn(timer.a)
  end
end

-- Call fn(a) after so many seconds, outside of any task. Returns what task.stop_timer takes (at any time, also later).
function task.timer(seconds, fn, a)
  local slot = table.remove(handles)
  if not slot then
    slot = { handle = uv.new_timer() }
    slot.fired = function() on_timer(slot) end
  end
  local timer = { slot = slot, fn = fn, a = a }
  slot.timer = timer
  uv.update_time() -- the loop's clock stands still while a task computes
  slot.handle:start(math.min(math.max(math.ceil(seconds * 1000), 0), MAX_MS), 0, slot.fired)
  return timer
end

function task.stop_timer(timer)
  local slot = timer and timer.slot
  if slot then
    timer.slot, slot.timer = nil, nil
    slot.handle:stop()
    handles[#handles + 1] = slot
  end
end

-- seconds as an argument: a number of at least 0; nil stays nil.
function task.check_seconds(seconds, what)
  if seconds == nil then return nil end
  if type(seconds) ~= "number" or seconds ~= seconds then
    errors.raise("ArgumentError", ("%s: seconds must be a number, not %s"):format(what, failure.describe(seconds)))
  end
  return seconds > 0 and seconds or 0
end

local function stop_sleeping(_, timer) task.stop_timer(timer) end
local function not_woken(t) t.woken = false end
local function on_slept(t) task.wake(t, true) end

local function answered(ok, ...)
  if ok then return ... end
  error((...), 0)
end

---A pause of this task; others go on. 0: let others run once.
---@param seconds? number default: 0
function task.sleep(seconds)
  seconds = task.check_seconds(seconds == nil and 0 or seconds, "tarn.sleep")
  local t = task.check("tarn.sleep")
  if seconds == 0 then
    task.wake(t, true)
    return answered(task.wait(not_woken))
  end
  return answered(task.wait(stop_sleeping, task.timer(seconds, on_slept, t)))
end

---------------------------------------------------------------------------------------------------- the end

function task.stopping() return stopping end
function task.ending() return stopping or parked end

-- Cancel all that is left: each gets Cancelled once, and never runs again after it has next suspended.
function task.stop()
  if stopping then return end
  local left = {}
  for t in pairs(alive) do left[#left + 1] = t end
  stopping = true
  ready, first, last = {}, 1, 0
  for _, t in ipairs(left) do
    if t.co and not t.parked and not t.ended then
      task.abandon(t)
      run(t, false, cancelled())
    end
  end
end

return task
