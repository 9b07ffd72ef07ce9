-- The whole life of a driver with four workers: `tarn -p 4 -e 'print(#tarn.workers())'`, beside Erlang with four peers, by the clock
-- on the wall. Rounds alternate between the two; the median of nine counts.
local uv = require "luv"
local erlang = require "bench.lib.erlang"
local median = require "bench.lib.median"

local ROUNDS = 9

local ERLANG = [[
#!/usr/bin/env escript
%%! -noshell -sname tarnbench@localhost -setcookie tarnbench
main(_) ->
  Start = fun(I) -> {ok, _, Node} = peer:start_link(#{name => list_to_atom("tarnpeer" ++ integer_to_list(I)), host => "localhost",
    args => ["-setcookie", "tarnbench"]}), Node end,
  Nodes = [Start(I) || I <- lists:seq(1, 4)],
  io:format("~w~n", [length(Nodes)]).
]]

local function seconds(command, expected)
  local start = uv.hrtime()
  local pipe = io.popen(command)
  local text = pipe:read("*a")
  pipe:close()
  local took = (uv.hrtime() - start) / 1e9
  assert(text:match("^" .. expected .. "%s*$"), command .. " printed: " .. text)
  return took
end

local ours = ("'%s' -p 4 -e 'print(#tarn.workers())'"):format(uv.exepath())
local peer, stop = erlang.script(ERLANG)
local mine, theirs = {}, {}
for i = 1, ROUNDS do
  mine[i] = seconds(ours, "4")
  if peer then theirs[i] = seconds(peer, "4") end
end
if stop then stop() end

print(("a driver with 4 workers, start to end, median of %d"):format(ROUNDS))
if peer then
  print(("tarn %.0f ms   erlang %.0f ms   ratio %.1f"):format(median(mine) * 1e3, median(theirs) * 1e3, median(theirs) / median(mine)))
else
  print(("tarn %.0f ms   (no escript here: Erlang left out)"):format(median(mine) * 1e3))
end
