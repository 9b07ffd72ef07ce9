-- The whole life of a driver with four workers: `tarn -p 4 -e 'print(#tarn.workers())'`, beside Erlang with four peers, by the clock
-- on the wall.
local case = require "bench.lib.case"
local erlang = require "bench.lib.erlang"
local peer = require "bench.lib.peer"
local uv = require "luv"

local WORKERS = 4

local ERLANG = [[
#!/usr/bin/env escript
%%! -noshell -sname tarnbench@localhost -setcookie tarnbench
main(_) ->
  Start = fun(I) -> {ok, _, Node} = peer:start_link(#{name => list_to_atom("tarnpeer" ++ integer_to_list(I)), host => "localhost",
    args => ["-setcookie", "tarnbench"]}), Node end,
  Nodes = [Start(I) || I <- lists:seq(1, 4)],
  io:format("~w~n", [length(Nodes)]).
]]

local function milliseconds(run)
  local start = peer.now()
  local text = run()
  assert(tonumber(text) == WORKERS, text)
  return (peer.now() - start) * 1e3
end

local function tarn_once() return peer.run { uv.exepath(), "-p", WORKERS, "-e", "print(#tarn.workers())" } end

case.run("start", "a driver with 4 workers, from its start to its end", function(c)
  local escript = erlang.script(ERLANG)
  c:compare {
    name = "4 workers", unit = "ms", less = true, rounds = 9,
    ours = function() return milliseconds(tarn_once) end,
    theirs = { { "Erlang peer", escript and function() return milliseconds(escript) end, aim = 5 } },
  }
end)
