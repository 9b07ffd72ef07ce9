-- One array of 256 MiB here, read by 4 workers: how long until all have it, and until all have added it up; and how much memory all
-- processes have together then, beyond what they had before there was an array. Beside Dask, which scatters an array of NumPy to all of
-- its workers.
local case = require "bench.lib.case"
local dask = require "bench.lib.dask"
local footprint = require "spec.helper.footprint"
local peer = require "bench.lib.peer"
local tarn = require "tarn"
local uv = require "luv"

local BYTES, WORKERS = 256 * 2 ^ 20, 4
local DOUBLES = BYTES / 8
local SUM = DOUBLES * (DOUBLES - 1) / 2 -- of 0, 1, 2..., exact in a double in any order: every part of it is below 2^53

-- Prints the seconds until all have it, those until all have added it up, and the bytes of memory.
local DASK = [=[
import numpy

def ends(array):
    return [float(array[0]), float(array[-1])]

def total(array):
    return float(array.sum())

def proportional(pids):
    kib = 0
    for pid in pids:
        with open("/proc/%d/smaps_rollup" % pid) as file:
            kib += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return kib * 1024

def main(client, doubles, expected):
    pids = [os.getpid()] + list(client.run(os.getpid).values())
    before = proportional(pids)
    array = numpy.arange(int(doubles), dtype="float64")
    workers = list(client.scheduler_info()["workers"])
    start = time.perf_counter()
    future = client.scatter(array, broadcast=True)
    def on_all(function):
        return client.gather([client.submit(function, future, workers=[w], pure=False) for w in workers])
    assert on_all(ends) == [[0.0, float(doubles) - 1]] * len(workers)
    got = time.perf_counter() - start
    assert on_all(total) == [float(expected)] * len(workers)
    print(got, time.perf_counter() - start, proportional(pids) - before)
]=]

local function make()
  local array = tarn.array("double", DOUBLES)
  local p = array:ptr()
  for i = 0, DOUBLES - 1 do p[i] = i end
  return tarn.poolset(array)
end

-- On a worker, which keeps what it has got from one call to the next.
local function ends(ref)
  local array = tarn.poolget(ref)
  _G.held = array
  return { array[1], array[#array] }
end

local function total()
  local p, sum = _G.held:ptr(), 0
  for i = 0, #_G.held - 1 do sum = sum + p[i] end
  return sum
end

local function let_go()
  _G.held = nil
  collectgarbage()
end

local function memory(pids)
  local sum = 0
  for _, pid in ipairs(pids) do sum = sum + footprint.proportional(pid) end
  return sum
end

-- Of one round: ms until all have it, ms until all have added it up, memory in arrays.
local function ours(ids, pids, before)
  local ref = make()
  local start = peer.now()
  local function on_all(fn, ...)
    local jobs, results = {}, {}
    for i, id in ipairs(ids) do jobs[i] = tarn.remotecall(id, fn, ...) end
    for i, job in ipairs(jobs) do results[i] = job:fetch() end
    return results
  end
  for _, pair in ipairs(on_all(ends, ref)) do
    if pair[1] ~= 0 or pair[2] ~= DOUBLES - 1 then error("what was got is not what was made", 0) end
  end
  local got = peer.now() - start
  for _, sum in ipairs(on_all(total)) do
    if sum ~= SUM then error(("a worker's sum is %.17g"):format(sum), 0) end
  end
  local added = peer.now() - start
  local grown = memory(pids) - before
  tarn.pooldelete(ref)
  on_all(let_go)
  while tarn.poolstats().lent_bytes > 0 do tarn.sleep(0.001) end
  return { got * 1e3, added * 1e3, grown / BYTES }
end

local function dask_rounds()
  local script = dask.script(DASK, WORKERS, "numpy")
  if not script then return nil end
  return function()
    local got, added, bytes = script(("%d"):format(DOUBLES), ("%.17g"):format(SUM)):match("(%S+) (%S+) (%S+)")
    return { got * 1e3, added * 1e3, bytes / BYTES }
  end
end

case.run("fanout", "an array of 256 MiB, read by 4 workers", function(c)
  tarn.max_memsize("1GiB")
  local ids, pids = tarn.addprocs(WORKERS), { uv.os_getpid() }
  for _, id in ipairs(ids) do pids[#pids + 1] = tarn.remotecall_fetch(id, uv.os_getpid) end
  local before = memory(pids)
  c:compare_several({
    { name = "until all have it", unit = "ms", less = true, aim = 10 },
    { name = "until all have added it up", unit = "ms", less = true, aim = 10 },
    { name = "memory of all processes together", unit = "arrays", less = true, limit = 1.1 },
  }, { ours = function() return ours(ids, pids, before) end, theirs = { { "Dask scatter", dask_rounds() } } })
end)
