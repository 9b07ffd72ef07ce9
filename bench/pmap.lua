-- 100,000 trivial items over 2 workers: tarn.pmap by itself and with batches, Python's multiprocessing.Pool with chunks of its
-- choosing, and Dask's map of a part of them.
local case = require "bench.lib.case"
local dask = require "bench.lib.dask"
local peer = require "bench.lib.peer"
local process = require "spec.helper.process"
local tarn = require "tarn"

local ITEMS, WORKERS = 100000, 2

local PYTHON = [[
import multiprocessing, time
def double(x): return x * 2
if __name__ == "__main__":
    with multiprocessing.Pool(%d) as pool:
        pool.map(double, range(1000))
        start = time.perf_counter()
        results = pool.map(double, range(%d))
        took = time.perf_counter() - start
        assert results == [x * 2 for x in range(%d)]
        print(%d / took)
]]

-- Of so many items: all of them would take minutes.
local DASK_ITEMS = 5000
local DASK = [[
def double(x): return x * 2

def main(client, items):
    items = int(items)
    client.gather(client.map(double, range(100)))
    start = time.perf_counter()
    results = client.gather(client.map(double, range(items), pure=False))
    took = time.perf_counter() - start
    assert results == [x * 2 for x in range(items)]
    print(items / took)
]]

local function double(x) return x * 2 end

local function ours(list, batch)
  local start = peer.now()
  local results = tarn.pmap(double, list, { batch = batch })
  local rate = #list / (peer.now() - start)
  for i = 1, #list do
    if results[i] ~= list[i] * 2 then error("result " .. i .. " is wrong", 0) end
  end
  return rate
end

local function python()
  if not peer.here("python3") then return nil end
  local script = process.write_file(peer.tmpdir() .. "/pool.py", PYTHON:format(WORKERS, ITEMS, ITEMS, ITEMS))
  return function() return peer.figure { "python3", script } end
end

case.run("pmap", "100,000 items of no work over 2 workers", function(c)
  tarn.addprocs(WORKERS)
  local list = {}
  for i = 1, ITEMS do list[i] = i end
  local script = dask.script(DASK, WORKERS)
  local theirs = {
    { "multiprocessing.Pool", python(), aim = 1 },
    { "Dask map", script and function() return tonumber(script(DASK_ITEMS)) end, aim = 100 },
  }
  c:compare { name = "as it comes", unit = "items/s", ours = function() return ours(list, nil) end, theirs = theirs }
  c:compare { name = "batches of 1,000", unit = "items/s", ours = function() return ours(list, 1000) end, theirs = theirs }
end)
