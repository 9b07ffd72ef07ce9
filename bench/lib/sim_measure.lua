-- A cluster of so many workers on this machine, and what each thing that it does costs its driver: for bench/sim.lua, which runs this in a
-- process of its own for each size. Arguments: how many workers, "work" or "idle". Prints a line for each figure: its name, and the figure.
local core = require "tarn.core"
local exchange = require "bench.lib.exchange"
local footprint = require "spec.helper.footprint"
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local stats = require "bench.lib.stats"
local tarn = require "tarn"
local uv = require "luv"

local COUNT, WHAT = tonumber(arg[1]), arg[2]
local LARGE_BYTES = 4 * 2 ^ 20
local SILENCE_S = WHAT == "idle" and 2 or 1000 -- where something else is measured there are no beats
local BEATS = 5                                -- within it

local function seconds(t) return t.sec + t.usec / 1e6 end

-- Processor time of all threads of a process, in seconds.
local function processor_time(pid)
  local sum, folder = 0, ("/proc/%d/task"):format(pid)
  for name in lfs.dir(folder) do
    local text = name:match("^%d+$") and process.read_file(("%s/%s/schedstat"):format(folder, name))
    sum = sum + (text and tonumber(text:match("^%d+")) / 1e9 or 0)
  end
  return sum
end

-- What the driver has spent until now.
local function spent()
  local came, sent = core.messages()
  local pool, usage = tarn.poolstats(), uv.getrusage()
  return { messages = came + sent, bytes = pool.tcp_in_bytes + pool.tcp_out_bytes, sent_bytes = pool.tcp_out_bytes,
    cpu_s = seconds(usage.utime) + seconds(usage.stime) }
end

-- Until nothing comes or goes any more; where there are beats all the time: a while.
local function settle()
  if WHAT == "idle" then return tarn.sleep(0.5) end
  local before
  repeat
    before = spent().messages
    tarn.sleep(0.15)
  until spent().messages == before
end

local function say(name, figure) print(("%s %.17g"):format(name, figure)) end

-- Run fn so many times; what one of them costs, by name.
local function measure(name, times, fn, quiet)
  local before = spent()
  for i = 1, times do fn(i) end
  if not quiet then settle() end
  local after = spent()
  for what, figure in pairs(after) do say(name .. "." .. what, (figure - before[what]) / times) end
end

local function join()
  local own = uv.os_getpid()
  local memory, fds, ids = footprint.anonymous(own), footprint.descriptors(own), nil
  measure("join", 1, function() ids = tarn.addprocs(COUNT, { map = false, memory = "64MiB", silence_s = SILENCE_S }) end)
  say("driver.memory", footprint.anonymous(own) - memory)
  say("driver.descriptors", footprint.descriptors(own) - fds)
  return ids
end

local function call_each(others)
  for _, id in ipairs(others) do assert(tarn.remotecall_fetch(id, tarn.myid) == id) end
end

-- One connection for each pair: what a worker has grown by then.
local function connect_all(ids, pids)
  local memory, fds = stats.mean(pids, footprint.anonymous), stats.mean(pids, footprint.descriptors)
  for i, id in ipairs(ids) do tarn.remotecall_fetch(id, call_each, { unpack(ids, i + 1) }) end
  settle()
  say("worker.memory", stats.mean(pids, footprint.anonymous) - memory)
  say("worker.descriptors", stats.mean(pids, footprint.descriptors) - fds)
end

-- Each worker holds a reference of the driver's: when one is lost, all others are asked whether it has passed that on to them.
local function lose(pids, count)
  local lost, ref = 0, tarn.poolset { "held by all" }
  for _ = 1, 2 do
    tarn.everywhere(function() for _ = 1, 2 do collectgarbage() end end)
    settle() -- what is dropped is said
  end
  tarn.everywhere(function(r) _G.held = r end, ref)
  settle()
  tarn.on("lost", function() lost = lost + 1 end)
  measure("loss", count, function(i)
    posix.kill(pids[i], posix.SIGKILL)
    while lost < i do tarn.sleep(0.005) end
    settle()
  end)
end

local function work(ids, pids)
  local small = ("x"):rep(1000)
  local function nothing(x) return #x end
  tarn.everywhere(nothing, small)
  measure("everywhere_small", 10, function() tarn.everywhere(nothing, small) end)
  local large = tarn.array("uint8_t", LARGE_BYTES)
  tarn.everywhere(nothing, large)
  measure("everywhere_large", 3, function() tarn.everywhere(nothing, large) end)
  say("large_bytes", LARGE_BYTES)
  tarn.sleep(3) -- copies are dropped
  connect_all(ids, pids)
  exchange(ids, 0)
  measure("all_to_all", 2, function(turn) exchange(ids, turn) end)
  lose(pids, 3)
end

local function idle(ids, pids)
  local beats = 10
  local function rest() tarn.sleep(beats * SILENCE_S / BEATS) end
  measure("beat", 1, rest, true)
  say("beats", beats)
  connect_all(ids, pids)
  local before = stats.mean(pids, processor_time)
  rest()
  say("worker.beat_cpu_s", (stats.mean(pids, processor_time) - before) / beats)
end

tarn.max_memsize("512MiB")
settle()
local ids, pids = join(), {}
for i, id in ipairs(ids) do pids[i] = tarn.remotecall_fetch(id, uv.os_getpid) end
settle()
if WHAT == "idle" then idle(ids, pids) else work(ids, pids) end
