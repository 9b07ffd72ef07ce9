-- tarn top: what the processes of a running cluster do, in a terminal; redrawn in place, or printed once.
local core = require "tarn.core"
local observer = require "tarn.observer"
local task = require "tarn.task"
local uv = require "luv"
local watch = require "tarn.watch"

local top = {}

local INTERVAL_S = 1
local FIRST_S = 0.2 -- between the two looks from which the first rates are

local USAGE = [[
usage: tarn top [--connect] HOST:PORT --secret-file FILE [options]
What the processes of a running cluster do. It only looks; q or Ctrl-C ends it, not the cluster.
  --connect HOST:PORT   one of its processes: what tarn.address() says there
  --secret-file FILE    what tarn.secret_file() says there
  --interval SECONDS    between two looks (default 1)
  --once                print one table and end
docs/OPERATIONS.md says what the columns mean.
]]

---------------------------------------------------------------------------------------------------- the table

---Bytes or a count in at most 5 characters: "999", "1.5K", "20M"; K is 1000. No number: "-".
function top.amount(n)
  if type(n) ~= "number" or n ~= n then return "-" end
  if n == math.huge then return "none" end
  if n < 999.5 then return ("%.0f"):format(n) end
  local unit = 0
  repeat
    n, unit = n / 1000, unit + 1
  until n < 999.5 or unit == 6
  return (n < 9.95 and "%.1f%s" or "%.0f%s"):format(n, ("KMGTPE"):sub(unit, unit))
end

local function percent(share) return share and ("%.0f%%"):format(100 * share) or "-" end

local function state_of(p) return p.failure and "no answer" or p.busy and "busy" or "idle" end

local function pair(a, b) return top.amount(a) .. "/" .. top.amount(b) end

local function peers(p)
  local list, clients, met = {}, 0, {}
  for _, c in ipairs(p.connections) do
    if c[2] then
      clients = clients + 1
    elseif not met[c[1]] then
      met[c[1]] = true -- each may have connected to the other
      list[#list + 1] = c[1]
    end
  end
  table.sort(list)
  if clients > 0 then list[#list + 1] = clients .. (clients == 1 and " client" or " clients") end
  return table.concat(list, ",")
end

local function amount(field) return function(p) return top.amount(p[field]) end end

-- The columns: heading, and the text of a process. Left: aligned so.
local COLUMNS = {
  { "ID", function(p) return tostring(p.id) end },
  { "HOST", function(p) return p.host end, left = true },
  { "PID", function(p) return tostring(p.os_pid) end },
  { "STATE", state_of, left = true, always = true },
  { "BUSY", function(p) return percent(p.busy_share) end },
  { "CPU", function(p) return percent(p.cpu_share) end },
  { "JOBS", function(p) return tostring(p.jobs_running) end },
  { "QUEUE", amount "queued" },
  { "DONE/s", amount "jobs_s" },
  { "FAILED", amount "jobs_failed" },
  { "USED/BUDGET", function(p) return pair(observer.used(p), p.max_memsize) end },
  { "MEM", function(p) return top.amount(p.anonymous_bytes + p.memory_file_bytes) end },
  { "LIVE", amount "live_bytes" },
  { "RESID", amount "resident_bytes" },
  { "RECVD", amount "received_bytes" },
  { "FLIGHT", function(p) return top.amount(p.inflight_bytes + p.queued_bytes) end },
  { "LUA", amount "lua_bytes" },
  { "SHARED", amount "lent_bytes" },
  { "SPILLED", amount "spilled_bytes" },
  { "FREE", amount "disk_free_bytes" },
  { "SET/s", amount "sets_s" },
  { "GET/s", amount "gets_s" },
  { "SPILL/s", amount "spill_written_s" },
  { "TCP IN/OUT", function(p) return pair(p.tcp_in_s, p.tcp_out_s) end },
  { "MAP IN/OUT", function(p) return pair(p.mapped_in_s, p.mapped_out_s) end },
  { "CONNECTED", peers, left = true },
}

---The table as lines of text: headings, then a process a line. A process that has not answered has a line that says so.
---@param processes table[] of observer:look
---@return string[]
function top.table(processes)
  local rows, widths = { {} }, {}
  for c, column in ipairs(COLUMNS) do rows[1][c] = column[1] end
  for i, p in ipairs(processes) do
    local row = {}
    for c, column in ipairs(COLUMNS) do row[c] = (not p.failure or column.always or c == 1) and column[2](p) or "" end
    rows[i + 1] = row
  end
  for c in ipairs(COLUMNS) do
    widths[c] = 0
    for _, row in ipairs(rows) do widths[c] = math.max(widths[c], #row[c]) end
  end
  for i, row in ipairs(rows) do
    for c, column in ipairs(COLUMNS) do row[c] = ("%" .. (column.left and "-" or "") .. widths[c] .. "s"):format(row[c]) end
    rows[i] = table.concat(row, "  "):gsub("%s+$", "")
  end
  return rows
end

---One line about the cluster.
function top.summary(processes, address)
  local sums, busy, failed = {}, 0, 0
  for _, p in ipairs(processes) do
    if p.failure then
      failed = failed + 1
    else
      busy = busy + (p.busy and 1 or 0)
      for _, name in ipairs { "jobs_running", "jobs_s", "max_memsize", "spilled_bytes", "objects" } do
        sums[name] = (sums[name] or 0) + (p[name] or 0)
      end
      sums.used = (sums.used or 0) + observer.used(p)
    end
  end
  return ("tarn %s at %s: %d processes, %d busy%s; %d jobs run, %s/s done; %s objects, %s of %s in memory, %s spilled"):format(core.version,
    address, #processes, busy, failed > 0 and (", %d without an answer"):format(failed) or "", sums.jobs_running or 0,
    top.amount(sums.jobs_s), top.amount(sums.objects), top.amount(sums.used), top.amount(sums.max_memsize), top.amount(sums.spilled_bytes))
end

---------------------------------------------------------------------------------------------------- the terminal

local Screen = {}
Screen.__index = Screen

local ENTER, LEAVE = "\27[?1049h\27[?25l\27[?7l", "\27[?7h\27[?25h\27[?1049l" -- another screen, no cursor, long lines are cut; and back

local function stop(self)
  self.ended = true
  local t = self.task
  self.task = nil
  if t and task.abandon(t) then task.wake(t, true) end
end

-- Take the terminal over; q, Ctrl-C and signals that mean an end end it. Nil: standard output is none.
local function open_screen()
  if uv.guess_handle(1) ~= "tty" then return nil end
  local self = setmetatable({ out = uv.new_tty(1, false), signals = {} }, Screen)
  for _, name in ipairs { "sigint", "sigterm", "sighup" } do
    local signal = uv.new_signal()
    signal:start(name, function() stop(self) end)
    self.signals[#self.signals + 1] = signal
  end
  if uv.guess_handle(0) == "tty" then
    self.input = uv.new_tty(0, true)
    self.input:set_mode(1)
    self.input:read_start(function(problem, keys)
      if problem or not keys or keys:find("[qQ\3\4]") then stop(self) end
    end)
  end
  self.out:write(ENTER)
  return self
end

function Screen:draw(lines)
  local _, height = self.out:get_winsize()
  local parts = { "\27[H" }
  if not height or height == 0 then height = 24 end -- a terminal that does not know
  for i = 1, math.min(#lines, height) do parts[#parts + 1] = (i > 1 and "\r\n" or "") .. lines[i] .. "\27[K" end
  parts[#parts + 1] = "\27[J"
  self.out:write(table.concat(parts))
end

local function on_pause_over(self)
  local t = self.task
  self.task = nil
  if t and task.abandon(t) then task.wake(t, true) end
end

-- Wait; less when it is ended meanwhile.
function Screen:pause(seconds)
  if self.ended then return end
  self.task = task.check("tarn top")
  local timer = task.timer(seconds, on_pause_over, self)
  local ok, e = task.wait(function() self.task = nil end)
  task.stop_timer(timer)
  if not ok then error(e, 0) end
end

function Screen:close()
  if self.input then
    self.input:set_mode(0)
    self.input:close()
  end
  for _, signal in ipairs(self.signals) do signal:close() end
  self.out:try_write(LEAVE)
  self.out:close()
end

local function lines_of(processes, address)
  local lines = { top.summary(processes, address), "" }
  for _, line in ipairs(top.table(processes)) do lines[#lines + 1] = line end
  return lines
end

local function draw_all(screen, looker, options)
  local pause = FIRST_S
  while not screen.ended do
    screen:draw(lines_of(looker:look(), options.connect))
    screen:pause(pause)
    pause = options.interval or INTERVAL_S
  end
end

local function print_all(looker, options)
  looker:look()
  task.sleep(FIRST_S)
  while true do
    io.write(table.concat(lines_of(looker:look(), options.connect), "\n"), "\n")
    io.flush()
    if options.once then return end
    io.write("\n")
    task.sleep(options.interval or INTERVAL_S)
  end
end

local OPTIONS = { ["--connect"] = "value", ["--secret-file"] = "value", ["--interval"] = "seconds", ["--once"] = "flag",
  ["--help"] = "flag" }

local function show(options)
  local looker = watch.open("top", options)
  local screen = not options.once and open_screen()
  if not screen then return print_all(looker, options) end
  local ok, e = pcall(draw_all, screen, looker, options)
  screen:close()
  if not ok then error(e, 0) end
end

---The command, with its arguments: the exit status.
function top.run(...) return watch.run("top", OPTIONS, USAGE, show, ...) end

return top
