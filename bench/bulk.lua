-- An array of another process over TCP (with mapping switched off), from 1 MiB to 256 MiB; the largest beside iperf3, Redis's GET of 8 MiB,
-- a binary between two nodes of Erlang and Dask's gather. Then that with TLS, beside iperf3 again, the same in plain, and what the cipher
-- does alone on one processor.
local case = require "bench.lib.case"
local cjson = require "cjson"
local dask = require "bench.lib.dask"
local erlang = require "bench.lib.erlang"
local peer = require "bench.lib.peer"
local ramp = require "bench.lib.ramp"
local redis = require "bench.lib.redis"
local tarn = require "tarn"

local MiB = 2 ^ 20
local SIZES = { MiB, 16 * MiB, 256 * MiB }

-- Seconds that one binary takes from one node to the other.
local ERLANG = [[
#!/usr/bin/env escript
%%! -noshell -sname tarnbench@localhost -setcookie tarnbench
-mode(compile).
main([Size]) ->
  {ok, _, Node} = peer:start_link(#{name => tarnpeer, host => "localhost", args => ["-setcookie", "tarnbench"]}),
  Bytes = list_to_integer(Size),
  ok = erpc:call(Node, persistent_term, put, [bench, binary:copy(<<"01234567">>, Bytes div 8)]),
  Start = erlang:monotonic_time(microsecond),
  Got = erpc:call(Node, persistent_term, get, [bench]),
  Took = erlang:monotonic_time(microsecond) - Start,
  Bytes = byte_size(Got),
  <<"01234567">> = binary:part(Got, Bytes - 8, 8),
  io:format("~w~n", [Took / 1.0e6]).
]]

local DASK = [[
import numpy

def make(n): return numpy.arange(n, dtype="float64")

def main(client, n):
    n = int(n)
    client.submit(make, 8).result()
    future = client.submit(make, n)
    while future.status != "finished": time.sleep(0.001)
    start = time.perf_counter()
    array = client.gather(future)
    took = time.perf_counter() - start
    assert len(array) == n and array.sum() == n * (n - 1) / 2
    print(took)
]]

-- Bytes per second of one get of a new array, all of which is looked at afterwards.
local function ours(id, n)
  local ref = tarn.remotecall_fetch(id, ramp.store, n)
  local start = peer.now()
  local array = tarn.poolget(ref)
  local rate = n * 8 / (peer.now() - start)
  ramp.check(array)
  tarn.pooldelete(ref)
  array, ref = nil, nil -- luacheck: ignore 311
  collectgarbage()
  return rate / 1e9
end

local function iperf()
  if not peer.here("iperf3") then return nil end
  local port = peer.port()
  peer.start({ "iperf3", "--server", "--bind", "127.0.0.1", "--port", port }, peer.accepts(port))
  return function()
    local text = peer.run { "iperf3", "--client", "127.0.0.1", "--port", port, "--time", 1, "--json" }
    return cjson.decode(text)["end"].sum_received.bits_per_second / 8e9
  end
end

-- The rate of so many bytes of which run prints in how many seconds they came.
local function rate_of(run, bytes, argument)
  return run and function() return bytes / tonumber((run(("%d"):format(argument)))) / 1e9 end
end

-- Bytes per second that OpenSSL's command encrypts, in pieces as large as TLS records.
local function cipher()
  if not peer.here("openssl") then return nil end
  return function()
    local text = peer.run { "openssl", "speed", "-seconds", 1, "-mr", "-bytes", 16384, "-evp", "aes-128-gcm" }
    return tonumber(text:match("%+F:%d+:[^:]+:([%d.]+)")) / 1e9
  end
end

-- With TLS: the whole cluster has it or has not.
local function encrypted(c, id, plain, stream)
  tarn.rmprocs(id)
  id = tarn.addprocs(1, { memory = "1GiB", map = false, tls = true })[1]
  local bytes = SIZES[#SIZES]
  c:compare {
    name = ("%d MiB, TLS"):format(bytes / MiB), unit = "GB/s", ours = function() return ours(id, bytes / 8) end,
    theirs = { { "iperf3", stream }, { "the same in plain", function() return plain end }, { "AES-128-GCM alone", cipher() } },
  }
end

case.run("bulk", "an array of another process over TCP", function(c)
  local id = tarn.addprocs(1, { memory = "1GiB", map = false })[1]
  tarn.max_memsize("1GiB")
  local line = { name = "tarn" }
  local get_8_mib = redis.client((redis.start(true)), "get", { seconds = 1, size = 8 * MiB, keys = 8 })
  local stream = iperf()
  local largest = SIZES[#SIZES]
  local theirs = {
    { "iperf3", stream, aim = 0.9 },
    { "Redis GET of 8 MiB", get_8_mib and function() return get_8_mib() * 8 * MiB / 1e9 end, aim = 3 },
    { "Erlang, a binary", rate_of(erlang.script(ERLANG), largest, largest), aim = 3 },
    { "Dask gather", rate_of(dask.script(DASK, 1, "numpy"), largest, largest / 8), aim = 3 },
  }
  for i, bytes in ipairs(SIZES) do
    local last = i == #SIZES
    line[i] = { bytes / MiB, c:compare {
      name = ("%d MiB"):format(bytes / MiB), unit = "GB/s", ours = function() return ours(id, bytes / 8) end,
      theirs = last and theirs or nil,
    } }
  end
  encrypted(c, id, line[#SIZES][2], stream)
  local stats = tarn.poolstats()
  if stats.mapped_in_count > 0 then error("the arrays were mapped, not sent", 0) end
  c:plot("rate", { title = "one get of an array over TCP", x = "MiB", y = "GB/s", log_x = true, lines = { line } })
end)
