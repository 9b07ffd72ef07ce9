-- Watches worker processes from outside while they work: memory and disk against the bounds of the pool, and plots of both.
local footprint = require "spec.helper.footprint"
local plot = require "bench.lib.plot"
local tarn = require "tarn"
local uv = require "luv"

local watch = {}
watch.__index = watch

local MB = 1e6
local MEMORY_SLACK, DISK_SLACK, DISK_FACTOR = 32 * MB, 64 * MB, 1.3

-- ids: workers, all with the budget in bytes. name: of the plots, build/soak-NAME-memory.svg and -disk.svg.
function watch.new(name, ids, budget)
  local self = setmetatable({ name = name, budget = budget, processes = {}, start = uv.hrtime(), said = 0, samples = 0 }, watch)
  for i, id in ipairs(ids) do
    self.processes[i] = { id = id, pid = tarn.remotecall_fetch(id, uv.os_getpid), peak = 0, over_memory = -math.huge,
      over_disk = -math.huge, memory = {}, disk = {}, memory_bound = {}, disk_bound = {} }
  end
  return self
end

function watch:seconds() return (uv.hrtime() - self.start) / 1e9 end

-- One look at each. The bounds move with the heap and with what is spilled: the larger of the figures before and after counts.
function watch:sample()
  local at = self:seconds()
  self.samples = self.samples + 1
  for _, p in ipairs(self.processes) do
    local before = tarn.poolstats(p.id)
    local memory, disk = footprint.memory(p.pid), footprint.disk(p.pid)
    local after = tarn.poolstats(p.id)
    local heap = math.max(before.lua_bytes, after.lua_bytes)
    local spilled = math.max(before.spilled_bytes, after.spilled_bytes)
    local memory_bound, disk_bound = self.budget + heap + MEMORY_SLACK, DISK_FACTOR * spilled + DISK_SLACK
    p.over_memory = math.max(p.over_memory, memory - memory_bound)
    p.over_disk = math.max(p.over_disk, disk - disk_bound)
    p.peak = math.max(p.peak, memory)
    local function note(line, bytes) line[#line + 1] = { at, bytes / MB } end
    note(p.memory, memory)
    note(p.memory_bound, memory_bound)
    note(p.disk, disk)
    note(p.disk_bound, disk_bound)
    p.last = ("memory %.0f of %.0f MB, Lua heap %.0f MB, disk %.0f of %.0f MB, %d objects"):format(memory / MB,
      memory_bound / MB, heap / MB, disk / MB, disk_bound / MB, after.objects)
  end
end

-- A line for each process, at most every ten seconds.
function watch:say(what)
  local at = self:seconds()
  if at - self.said < 10 then return end
  self.said = at
  for _, p in ipairs(self.processes) do
    io.stderr:write(("%4.0f s  process %d: %s%s\n"):format(at, p.id, p.last, what and "; " .. what or ""))
  end
end

-- Sample every pause seconds until all of the futures have ended; raises what they raised.
function watch:until_done(futures, pause, progress)
  for _, future in ipairs(futures) do
    while not future:wait(pause) do
      self:sample()
      self:say(progress and progress())
    end
    self:sample()
  end
  local results = {}
  for i, future in ipairs(futures) do results[i] = future:fetch() end
  return results
end

function watch:plot()
  local function lines(...)
    local list = {}
    for _, p in ipairs(self.processes) do
      for _, field in ipairs { ... } do
        local line = p[field]
        line.name = ("process %d: %s"):format(p.id, (field:gsub("_", "'s ")))
        line.dashed = field:match("bound") ~= nil
        list[#list + 1] = line
      end
    end
    return list
  end
  local function write(which)
    local path = ("build/soak-%s-%s.svg"):format(self.name, which)
    local drawn = plot.write { path = path, title = ("soak %s: %s"):format(self.name, which), x = "seconds", y = "MB",
      lines = lines(which, which .. "_bound") }
    if drawn then print("plot: " .. path) end
  end
  write("memory")
  write("disk")
end

-- Problems found, as a list of texts.
function watch:problems()
  local list = {}
  for _, p in ipairs(self.processes) do
    if p.over_memory > 0 then
      list[#list + 1] = ("process %d: memory was %.1f MB above budget + Lua heap + 32 MB"):format(p.id, p.over_memory / MB)
    end
    if p.over_disk > 0 then
      list[#list + 1] = ("process %d: disk was %.1f MB above 1.3 x spilled + 64 MB"):format(p.id, p.over_disk / MB)
    end
  end
  return list
end

-- Print what was seen; end the process with status 1 when a bound was crossed.
function watch:finish()
  self:plot()
  for _, p in ipairs(self.processes) do
    print(("process %d: %d samples, peak of memory %.1f MB, %.1f MB below its bound; disk %.1f MB below its bound"):format(p.id,
      self.samples, p.peak / MB, -p.over_memory / MB, -p.over_disk / MB))
  end
  local problems = self:problems()
  for _, text in ipairs(problems) do io.stderr:write("FAILED: ", text, "\n") end
  if #problems > 0 then os.exit(1) end
end

return watch
