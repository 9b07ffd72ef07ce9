-- No-op calls per second from one process to another: one after the other, and 64 in flight; beside Erlang's erpc in the same run.
-- Rounds alternate between the two systems; the median of five counts.
local tarn = require "tarn"
local uv = require "luv"
local erlang = require "bench.lib.erlang"
local median = require "bench.lib.median"

local ROUNDS, SECONDS, IN_FLIGHT = 5, 1, 64

local ERLANG = [[
#!/usr/bin/env escript
%%! -noshell -sname tarnbench@localhost -setcookie tarnbench
-mode(compile).
main([Seconds, InFlight]) ->
  {ok, _, Node} = peer:start_link(#{name => tarnpeer, host => "localhost", args => ["-setcookie", "tarnbench"]}),
  Ms = list_to_integer(Seconds) * 1000,
  Stop = fun() -> erlang:monotonic_time(millisecond) + Ms end,
  loop(Node, erlang:monotonic_time(millisecond) + 200, 0),
  One = loop(Node, Stop(), 0),
  Self = self(),
  Until = Stop(),
  Pids = [spawn_link(fun() -> Self ! {self(), loop(Node, Until, 0)} end) || _ <- lists:seq(1, list_to_integer(InFlight))],
  Many = lists:sum([receive {P, N} -> N end || P <- Pids]),
  io:format("~w ~w~n", [One * 1000 div Ms, Many * 1000 div Ms]).
loop(Node, Until, N) ->
  erpc:call(Node, erlang, self, []),
  case erlang:monotonic_time(millisecond) >= Until of
    true -> N + 1;
    false -> loop(Node, Until, N + 1)
  end.
]]

local function noop() end

local function calls_until(id, deadline)
  local n = 0
  repeat
    tarn.remotecall_fetch(id, noop)
    n = n + 1
  until uv.hrtime() >= deadline
  return n
end

local function tarn_round(id)
  local one = calls_until(id, uv.hrtime() + SECONDS * 1e9)
  local deadline, tasks, many = uv.hrtime() + SECONDS * 1e9, {}, 0
  for i = 1, IN_FLIGHT do tasks[i] = tarn.async(calls_until, id, deadline) end
  for i = 1, IN_FLIGHT do many = many + tasks[i]:fetch() end
  return one / SECONDS, many / SECONDS
end

local function erlang_round(command)
  local pipe = io.popen(("%s %d %d 2>&1"):format(command, SECONDS, IN_FLIGHT))
  local text = pipe:read("*a")
  pipe:close()
  local one, many = text:match("(%d+) (%d+)")
  assert(one, "escript: " .. text)
  return tonumber(one), tonumber(many)
end

local id = tarn.addprocs(1)[1]
calls_until(id, uv.hrtime() + 0.2e9)
local peer, stop = erlang.script(ERLANG)
local ours, theirs = { {}, {} }, { {}, {} }
for i = 1, ROUNDS do
  ours[1][i], ours[2][i] = tarn_round(id)
  if peer then theirs[1][i], theirs[2][i] = erlang_round(peer) end
end
if stop then stop() end

print(("no-op calls/s, median of %d rounds of %d s"):format(ROUNDS, SECONDS))
for i, name in ipairs { "one at a time", IN_FLIGHT .. " in flight" } do
  local mine = median(ours[i])
  if peer then
    local other = median(theirs[i])
    print(("%-14s  tarn %8.0f   erlang erpc %8.0f   ratio %5.2f"):format(name, mine, other, mine / other))
  else
    print(("%-14s  tarn %8.0f   (no escript here: Erlang left out)"):format(name, mine))
  end
end
