-- What pmap{progress = true} shows on standard error: on a terminal a few lines that are redrawn in place, elsewhere a plain line now and
-- then.
--
-- On a terminal the cursor rests on an empty line above what is drawn, so that whatever is printed meanwhile scrolls by above it; C erases
-- what stands below before it prints a worker's line (lua/tarn/below.lua).
local below = require "tarn.below"
local core = require "tarn.core"
local task = require "tarn.task"
local uv = require "luv"

local REDRAW_S = 0.1
local PLAIN_S, PLAIN_MIN_S = 10, 1 -- between plain lines: so long, or a tenth of the work, but no less than this
local RATE_S = 10                  -- the rate is that of the last seconds
local WORKERS_MAX, BAR = 8, 24
local ERASE = "\r\27[J"

local Display = {}
Display.__index = Display

local progress = {}

local shown = {} -- displays on the terminal, oldest first
local tty, timer, drawn_at

---------------------------------------------------------------------------------------------------- texts

local function duration(s)
  if s < 9.95 then return ("%.1f s"):format(s) end
  if s < 99.5 then return ("%.0f s"):format(s) end
  local minutes = math.floor(s / 60 + 0.5)
  if minutes < 100 then return ("%d min"):format(minutes) end
  return ("%d h %02d min"):format(math.floor(minutes / 60), minutes % 60)
end
progress.duration = duration

local function rate_text(rate) return (rate < 9.95 and "%.2g/s" or "%.0f/s"):format(rate) end

-- Items a second lately; nil before there are any.
local function rate_of(self, now)
  local samples = self.samples
  while samples[2] and samples[2].at < now - RATE_S do table.remove(samples, 1) end
  local seconds, items = now - samples[1].at, self.run.done - samples[1].done
  if now - samples[#samples].at > 0.5 then samples[#samples + 1] = { at = now, done = self.run.done } end
  if items > 0 and seconds > 0 then return items / seconds end
end

-- "37/100 (37%)", "12/s", "5 s left"
local function figures(self, now)
  local run, rate = self.run, rate_of(self, now)
  local list = { run.total and ("%d/%d (%d%%)"):format(run.done, run.total, run.done * 100 / math.max(run.total, 1)) or tostring(run.done) }
  if rate then
    list[#list + 1] = rate_text(rate)
    if run.total and run.total > run.done then list[#list + 1] = duration((run.total - run.done) / rate) .. " left" end
  end
  return list
end

local function count_busy(run)
  local busy, lost = 0, 0
  for _, worker in ipairs(run.workers) do
    if worker.lost then lost = lost + 1 elseif worker.inflight > 0 then busy = busy + 1 end
  end
  return busy, lost
end

local function busy_text(run)
  local busy, lost = count_busy(run)
  local text = ("%d of %d workers busy"):format(busy, #run.workers)
  return lost > 0 and ("%s, %d lost"):format(text, lost) or text
end

-- What all that was done says, at the end.
local function outcome(self, ok)
  local run, seconds = self.run, core.clock() - self.began
  local text = ("%s: %s in %s"):format(self.title, run.total and run.done < run.total and ("%d of %d done"):format(run.done, run.total)
    or run.done .. " done", duration(seconds))
  if run.done > 0 and seconds > 0 then text = ("%s, %s"):format(text, rate_text(run.done / seconds)) end
  return ok and text or text .. ", then it failed"
end

---------------------------------------------------------------------------------------------------- on a terminal

local function bar(run, width)
  if not run.total or width < 10 then return nil end
  local full = math.floor(width * run.done / math.max(run.total, 1))
  return ("[%s%s]"):format(("="):rep(full), (" "):rep(width - full))
end

local function worker_line(worker, now)
  local state = "idle"
  if worker.lost then
    state = "lost"
  elseif worker.inflight > 0 then
    state = ("busy for %s"):format(duration(now - math.max(worker.sent_at, worker.last_answer or 0)))
  end
  return ("  [%d] %6d done, %s"):format(worker.pid, worker.done, state)
end

local function lines_of(self, now, most)
  local run = self.run
  local list = figures(self, now)
  table.insert(list, 2, bar(run, BAR))
  local lines = { ("%s: %s"):format(self.title, table.concat(list, "  ")) }
  local workers = #run.workers <= most and #run.workers or most - 1
  for i = 1, workers do lines[#lines + 1] = worker_line(run.workers[i], now) end
  if workers < #run.workers then lines[#lines + 1] = ("  ... %s"):format(busy_text(run)) end
  return lines
end

local function draw()
  local now, text = core.clock(), { ERASE }
  drawn_at = now
  local columns, rows = tty:get_winsize()
  if not rows or columns < 10 or rows < 4 then columns, rows = 80, 24 end
  local most = math.max(math.min(WORKERS_MAX, math.floor((rows - 3) / #shown) - 1), 1)
  for _, display in ipairs(shown) do
    for _, line in ipairs(lines_of(display, now, most)) do
      if #text < rows - 1 then text[#text + 1] = "\n" .. line:sub(1, columns - 1) end
    end
  end
  if #text > 1 then text[#text + 1] = ("\27[%dA\r"):format(#text - 1) end
  io.stdout:flush()
  io.stderr:write(table.concat(text))
end

local function tick()
  draw()
  timer = task.timer(REDRAW_S, tick)
end

local function add(self)
  shown[#shown + 1] = self
  if #shown > 1 then return end
  tty = uv.new_tty(2, false)
  below.add(draw)
  tick()
end

local function remove(self)
  for i, display in ipairs(shown) do
    if display == self then table.remove(shown, i) end
  end
  io.stderr:write(ERASE)
  if #shown > 0 then return end
  task.stop_timer(timer)
  below.remove(draw)
  tty:close()
  tty = nil
end

---------------------------------------------------------------------------------------------------- elsewhere

local function plain(self, now)
  local run = self.run
  local since, tenth = now - self.said_at, run.total and run.done - self.said_done >= run.total / 10
  if since < PLAIN_MIN_S or not (tenth or since >= PLAIN_S) then return end
  self.said_at, self.said_done = now, run.done
  local list = figures(self, now)
  list[#list + 1] = busy_text(run)
  io.stderr:write(self.title, ": ", table.concat(list, ", "), "\n")
end

local function plain_tick(self)
  plain(self, core.clock())
  self.timer = task.timer(PLAIN_MIN_S, plain_tick, self)
end

---------------------------------------------------------------------------------------------------- the display

---Show how far a run has come.
---@param run table done, total (or nil), workers: list of {pid, done, inflight, sent_at, last_answer, lost}
---@param title string
---@return table display :update() after something is done, :close(ok) at the end
function progress.show(run, title)
  local now = core.clock()
  local self = setmetatable({ run = run, title = title, began = now, said_at = now, said_done = 0,
    samples = { { at = now, done = 0 } }, is_terminal = uv.guess_handle(2) == "tty" and os.getenv("TERM") ~= "dumb" }, Display)
  if self.is_terminal then add(self) else plain_tick(self) end
  return self
end

-- The timer does not fire while this process computes.
function Display:update()
  local now = core.clock()
  if not self.is_terminal then return plain(self, now) end
  if now - drawn_at >= REDRAW_S then draw() end
end

-- Show it no more.
function Display:hide()
  if self.closed then return end
  self.closed = true
  if self.is_terminal then remove(self) else task.stop_timer(self.timer) end
end

-- The same, and say what has been done.
function Display:close(ok)
  if self.closed then return end
  self:hide()
  io.stdout:flush()
  io.stderr:write(outcome(self, ok), "\n")
end

return progress
