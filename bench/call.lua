-- No-op calls per second from one process to another: one after the other, and 64 in flight; beside Erlang's erpc,
-- Tarantool's call and Dask.
local case = require "bench.lib.case"
local dask = require "bench.lib.dask"
local erlang = require "bench.lib.erlang"
local peer = require "bench.lib.peer"
local tarantool = require "bench.lib.tarantool"
local tarn = require "tarn"

local SECONDS, IN_FLIGHT = 1, 64

local ERLANG = [[
#!/usr/bin/env escript
%%! -noshell -sname tarnbench@localhost -setcookie tarnbench
-mode(compile).
main([Seconds, InFlight]) ->
  {ok, _, Node} = peer:start_link(#{name => tarnpeer, host => "localhost", args => ["-setcookie", "tarnbench"]}),
  Ms = round(list_to_float(Seconds) * 1000),
  Stop = fun() -> erlang:monotonic_time(millisecond) + Ms end,
  loop(Node, erlang:monotonic_time(millisecond) + 200, 0),
  Self = self(),
  Until = Stop(),
  Pids = [spawn_link(fun() -> Self ! {self(), loop(Node, Until, 0)} end) || _ <- lists:seq(1, list_to_integer(InFlight))],
  Many = lists:sum([receive {P, N} -> N end || P <- Pids]),
  io:format("~w~n", [Many * 1000 div Ms]).
loop(Node, Until, N) ->
  case erpc:call(Node, erlang, abs, [-N]) of N -> ok end,
  case erlang:monotonic_time(millisecond) >= Until of
    true -> N + 1;
    false -> loop(Node, Until, N + 1)
  end.
]]

local DASK = [[
from dask.distributed import as_completed

def main(client, seconds, in_flight):
    count, running = 0, {}
    def submit():
        future = client.submit(abs, -submit.next, pure=False)
        running[future] = submit.next
        submit.next += 1
        return future
    submit.next = 0
    for i in range(20): assert submit().result() == i
    running.clear()
    futures = as_completed([submit() for _ in range(int(in_flight))])
    start = time.perf_counter()
    for future in futures:
        assert future.result() == running.pop(future)
        count += 1
        if time.perf_counter() - start < float(seconds): futures.add(submit())
    print(count / (time.perf_counter() - start))
]]

local TARANTOOL = [[
  return function() end, function(connection, n)
    if connection:call("negative", { -n }) ~= n then os.exit(1) end
  end
]]

local function abs(n) return -n end

local function calls_until(id, deadline)
  local n = 0
  repeat
    assert(tarn.remotecall_fetch(id, abs, -n) == n)
    n = n + 1
  until peer.now() >= deadline
  return n
end

local function ours(id, in_flight)
  local start = peer.now()
  local deadline, tasks, count = start + SECONDS, {}, 0
  for i = 1, in_flight do tasks[i] = tarn.async(calls_until, id, deadline) end
  for i = 1, in_flight do count = count + tasks[i]:fetch() end
  return count / (peer.now() - start)
end

case.run("call", "calls of a function that does next to nothing, on another process", function(c)
  local id = tarn.addprocs(1)[1]
  local escript, dask_script = erlang.script(ERLANG), dask.script(DASK, 1)
  for _, in_flight in ipairs { 1, IN_FLIGHT } do
    local function theirs() return tonumber(escript(("%.3f"):format(SECONDS), in_flight)) end
    c:compare {
      name = in_flight == 1 and "one at a time" or in_flight .. " in flight", unit = "calls/s",
      ours = function() return ours(id, in_flight) end,
      theirs = {
        { "Erlang erpc", escript and theirs, aim = 3 },
        { "Tarantool call", tarantool.client(TARANTOOL, in_flight, SECONDS), aim = 1 },
        { "Dask submit", dask_script and function() return tonumber(dask_script(SECONDS, in_flight)) end, aim = 50 },
      },
    }
  end
end)
