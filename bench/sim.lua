-- What clusters of hundreds and thousands of workers cost their driver, and what breaks first. The costs are measured in clusters of 8,
-- 32 and 100 workers on this machine (bench/lib/sim_measure.lua), fitted to what the protocol says they grow with, and compared with a
-- cluster of 64, which the fit has not seen. Argument: how often each is measured (default 3).
local case = require "bench.lib.case"
local fit = require "bench.lib.fit"
local grid = require "bench.lib.grid"
local peer = require "bench.lib.peer"
local process = require "spec.helper.process"
local stats = require "bench.lib.stats"
local uv = require "luv"

local SIZES, CHECK, ROUNDS = { 8, 32, 100 }, 64, tonumber(arg[1]) or 3
local LARGE = { 200, 1000, 10000 }
local EVERYWHERE_BYTES = 64 * 2 ^ 20
local JOIN_S = 30 -- connect_timeout_s, by default
local LINK_BYTES = 1.25e9 -- a second, of 10 Gbit/s

-- What quantities grow with.
local SHAPES = {
  one = function() return 1 end,
  n = function(n) return n end,
  others = function(n) return n - 2 end, -- three are lost, one after the other: the mean of those that are told
  pairs = function(n) return n * (n - 1) / 2 end,
  rounds = function(n) return math.log(n + 1) / math.log(2) end,
}

-- Each joining worker is told to all that are there, and those to it; a beat goes both ways on each connection once a second (silence_s =
-- 5); a loss is told to all, who are asked whether they had references of the lost, and answer; a large argument leaves the driver once
-- for each round of handing it on; in the exchange the driver hands each worker a reference of each other one.
local QUANTITIES = {
  { "join.messages", "join of all: messages", "n", "pairs" },
  { "join.bytes", "... bytes", "n", "pairs" },
  { "join.cpu_s", "... driver's processor, s", "n", "pairs" },
  { "driver.memory", "driver's memory for members, bytes", "n", "pairs" },
  { "driver.descriptors", "driver's descriptors", "n" },
  { "beat.messages", "idle, each second: messages", "n" },
  { "beat.bytes", "... bytes", "n" },
  { "beat.cpu_s", "... driver's processor, s", "one", "n" },
  { "loss.messages", "a worker is lost: messages", "others" },
  { "loss.bytes", "... bytes", "others" },
  { "loss.cpu_s", "... driver's processor, s", "one", "n" },
  { "everywhere_small.messages", "everywhere of 1 KB: messages", "n" },
  { "everywhere_small.bytes", "... bytes", "n" },
  { "everywhere_small.cpu_s", "... driver's processor, s", "one", "n" },
  { "everywhere_large.messages", "everywhere of 4 MiB: messages", "one", "n" },
  { "everywhere_large.sent_bytes", "... bytes sent", "one", "rounds" },
  { "everywhere_large.cpu_s", "... driver's processor, s", "n", "rounds" },
  { "all_to_all.messages", "1 KB from all to all: driver's messages", "n" },
  { "all_to_all.bytes", "... driver's bytes", "n", "pairs" },
  { "all_to_all.cpu_s", "... driver's processor, s", "n", "pairs" },
  { "worker.memory", "a worker that talks to all: memory, bytes", "n" },
  { "worker.descriptors", "... descriptors", "n" },
  { "worker.beat_cpu_s", "... idle, each second: its processor, s", "one", "n" },
}

local function progress(fmt, ...) io.stderr:write("  ", fmt:format(...), "\n") end

-- ---- measuring ----

local function run(count, what, into)
  local text = peer.run { uv.exepath(), "bench/lib/sim_measure.lua", count, what }
  for name, figure in text:gmatch "(%S+) (%S+)\n" do
    -- The workers' own figures are those of a cluster in which nobody has been connected before.
    local of_idle = name:find "^beat" ~= nil or name:find "^worker" ~= nil
    if of_idle == (what == "idle") then
      into[name] = into[name] or {}
      table.insert(into[name], tonumber(figure))
    end
  end
end

-- The figures of a cluster of that size, by name: medians.
local function measure(count)
  local lists, figures = {}, {}
  for _ = 1, ROUNDS do
    run(count, "work", lists)
    run(count, "idle", lists)
  end
  for name, list in pairs(lists) do figures[name] = stats.median(list) end
  for name in pairs(figures) do
    if name:find "^beat%." then figures[name] = figures[name] / figures.beats end
  end
  progress("%d workers", count)
  return figures
end

-- ---- the model ----

local function shapes_of(quantity, n)
  local row = {}
  for i = 3, #quantity do row[#row + 1] = SHAPES[quantity[i]](n) end
  return row
end

-- By name: a function of the number of workers.
local function make_model(measured)
  local model, coefficients = {}, {}
  for _, quantity in ipairs(QUANTITIES) do
    local rows, y = {}, {}
    for i, count in ipairs(SIZES) do
      rows[i] = shapes_of(quantity, count)
      y[i] = measured[count][quantity[1]]
      if not (y[i] and y[i] > 0) then error(("%s was not measured with %d workers"):format(quantity[1], count), 0) end
    end
    local found = fit.fit(rows, y)
    coefficients[quantity[1]] = found
    model[quantity[1]] = function(n)
      local sum = 0
      for i, shape in ipairs(shapes_of(quantity, n)) do sum = sum + found[i] * shape end
      return sum
    end
  end
  return model, coefficients
end

local function formula(quantity, found)
  local parts = {}
  for i, c in ipairs(found) do
    local shape = quantity[i + 2]
    if c ~= 0 then parts[#parts + 1] = shape == "one" and ("%.3g"):format(c) or ("%.3g %s"):format(c, shape) end
  end
  return table.concat(parts, " + ")
end

-- Of a value of 64 MiB: the part of 4 MiB's cost that goes with its bytes is that many times as large.
local function everywhere_64(model, large_bytes, found)
  local times = EVERYWHERE_BYTES / large_bytes
  return {
    { "everywhere of 64 MiB: bytes sent", function(n) return times * model["everywhere_large.sent_bytes"](n) end },
    { "... driver's processor, s", function(n)
      return found["everywhere_large.cpu_s"][1] * n + times * found["everywhere_large.cpu_s"][2] * SHAPES.rounds(n)
    end },
    { "... s over 10 Gbit/s, if that is the limit", function(n)
      return math.ceil(SHAPES.rounds(n)) * EVERYWHERE_BYTES / LINK_BYTES
    end },
    { "... and if the driver sent it to each", function(n) return n * EVERYWHERE_BYTES / LINK_BYTES end },
  }
end

-- ---- what breaks first ----

-- The least number of workers for which the function is at least that.
local function reaches(fn, limit)
  local low, high = 1, 2
  while fn(high) < limit and high < 2 ^ 40 do low, high = high, high * 2 end
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    if fn(middle) < limit then low = middle else high = middle end
  end
  return high
end

local function limits(model)
  local open_files = tonumber(process.read_file("/proc/self/limits"):match("Max open files%s+(%d+)"))
  local memory = tonumber(process.read_file("/proc/meminfo"):match("MemTotal:%s*(%d+)")) * 1024
  local list = {}
  local function add(name, quantity, limit)
    list[#list + 1] = { n = reaches(model[quantity], limit), name = name }
  end
  for _, count in ipairs { 1024, open_files } do
    add(("the driver's descriptors (ulimit -n %d)"):format(count), "driver.descriptors", count)
    add(("descriptors of a worker that talks to all (ulimit -n %d)"):format(count), "worker.descriptors", count)
  end
  add("joining all at once takes the driver connect_timeout_s (30 s) of processor time", "join.cpu_s", JOIN_S)
  add("heartbeats take the driver a processor", "beat.cpu_s", 1)
  add("heartbeats take a worker that talks to all a tenth of one", "worker.beat_cpu_s", 0.1)
  add(("the driver's members take half of this machine's memory (%.3g GB)"):format(memory / 1e9), "driver.memory", memory / 2)
  add("the connections of a worker that talks to all take 1 GiB", "worker.memory", 2 ^ 30)
  add("telling of a loss takes the driver a beat's time (1 s)", "loss.cpu_s", 1)
  table.sort(list, function(a, b) return a.n < b.n end)
  return list
end

-- ---- the tables ----

local function right(column) return column > 1 end

local function print_check(model, measured)
  local lines, kept = { { "", "predicted", "measured", "difference" } }, {}
  for _, quantity in ipairs(QUANTITIES) do
    local predicted, found = model[quantity[1]](CHECK), measured[quantity[1]]
    kept[quantity[1]] = { predicted = predicted, measured = found }
    lines[#lines + 1] = { quantity[2], grid.number(predicted), grid.number(found), ("%+.0f%%"):format((predicted / found - 1) * 100) }
  end
  print(("\n%d workers, which the fit has not seen"):format(CHECK))
  grid.print(lines, right)
  return kept
end

local function print_predictions(model, found, extra)
  local lines, kept = { { "" } }, {}
  for _, n in ipairs(LARGE) do table.insert(lines[1], ("%d"):format(n)) end
  table.insert(lines[1], "  of n workers")
  local function add(name, fn, text)
    local line = { name }
    kept[name] = {}
    for _, n in ipairs(LARGE) do
      line[#line + 1] = grid.number(fn(n))
      kept[name][tostring(n)] = fn(n)
    end
    line[#line + 1] = text and "  " .. text
    lines[#lines + 1] = line
  end
  for _, quantity in ipairs(QUANTITIES) do add(quantity[2], model[quantity[1]], formula(quantity, found[quantity[1]])) end
  for _, row in ipairs(extra) do add(row[1], row[2]) end
  print "\npredicted (pairs: n (n - 1) / 2; rounds: log2 (n + 1))"
  grid.print(lines, function(column) return column > 1 and column < #LARGE + 2 end)
  return kept
end

local function print_limits(list)
  local lines = { { "workers", "" } }
  for _, limit in ipairs(list) do lines[#lines + 1] = { ("%d"):format(limit.n), limit.name } end
  print "\nwhat breaks first"
  grid.print(lines, function(column) return column == 1 end)
end

local TITLE = "what larger clusters cost their driver"
io.stderr:write("sim: ", TITLE, "\n")
local measured = {}
for _, count in ipairs(SIZES) do measured[count] = measure(count) end
local check = measure(CHECK)
local model, found = make_model(measured)
local list = limits(model)
print("\nsim: " .. TITLE)
local compared = print_check(model, check)
local predicted = print_predictions(model, found, everywhere_64(model, check.large_bytes, found))
print_limits(list)
case.keep("sim", { title = TITLE, check = compared, predicted = predicted, limits = list })
