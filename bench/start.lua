-- From the start of a driver to the result of a job on each of its four workers, and to its end, by the clock on the wall; beside Erlang
-- with four peers, Python's multiprocessing and Dask. Then what each worker more costs, up to 32.
local case = require "bench.lib.case"
local dask = require "bench.lib.dask"
local erlang = require "bench.lib.erlang"
local peer = require "bench.lib.peer"
local process = require "spec.helper.process"
local uv = require "luv"

local FEW, MANY = 4, 32

local TARN = [[
  local sum = 0
  for _, id in ipairs(tarn.workers()) do sum = sum + tarn.remotecall_fetch(id, function(n) return n + 1 end, 0) end
  print(sum)
]]

local ERLANG = [[
#!/usr/bin/env escript
%%! -noshell -sname tarnbench@localhost -setcookie tarnbench
main([Workers]) ->
  Start = fun(I) -> {ok, _, Node} = peer:start_link(#{name => list_to_atom("tarnpeer" ++ integer_to_list(I)), host => "localhost",
    args => ["-setcookie", "tarnbench"]}), Node end,
  Nodes = [Start(I) || I <- lists:seq(1, list_to_integer(Workers))],
  io:format("~w~n", [lists:sum([erpc:call(Node, erlang, abs, [-1]) || Node <- Nodes])]).
]]

local POOL = [[
import multiprocessing, sys
def add(n): return n + 1
if __name__ == "__main__":
    workers = int(sys.argv[1])
    with multiprocessing.Pool(workers) as pool: print(sum(pool.map(add, [0] * workers, chunksize=1)))
]]

local DASK = [[
def add(n): return n + 1

def main(client):
    workers = list(client.scheduler_info()["workers"])
    print(sum(client.gather([client.submit(add, 0, workers=[w], pure=False) for w in workers])))
]]

-- Milliseconds that run(workers) takes; it prints a sum of ones.
local function timed(run, workers)
  return run and function()
    local start = peer.now()
    local text = run(workers)
    assert(tonumber(text) == workers, text)
    return (peer.now() - start) * 1e3
  end
end

local function tarn_once(workers) return peer.run { uv.exepath(), "-p", workers, "-e", TARN } end

local function python()
  if not peer.here("python3") then return nil end
  local script = process.write_file(peer.tmpdir() .. "/pool.py", POOL)
  return function(workers) return peer.run { "python3", script, workers } end
end

local function each_added()
  local few, many = timed(tarn_once, FEW), timed(tarn_once, MANY)
  local before = few()
  return (many() - before) / (MANY - FEW)
end

case.run("start", "a driver with its workers, from its start to its end, a job on each of them", function(c)
  local script = dask.script(DASK, FEW)
  c:compare {
    name = FEW .. " workers", unit = "ms", less = true, rounds = 9, ours = timed(tarn_once, FEW),
    theirs = {
      { "Erlang peer", timed(erlang.script(ERLANG), FEW), aim = 5 },
      { "multiprocessing.Pool", timed(python(), FEW) },
      { "Dask LocalCluster", timed(script and function() return script() end, FEW) },
    },
  }
  c:compare { name = ("each more, up to %d"):format(MANY), unit = "ms", less = true, limit = 10, ours = each_added }
end)
