-- An array of another process over TCP (with mapping switched off), from 1 MiB to 256 MiB; beside iperf3 and Redis's GET of 8 MiB.
local case = require "bench.lib.case"
local cjson = require "cjson"
local peer = require "bench.lib.peer"
local ramp = require "bench.lib.ramp"
local redis = require "bench.lib.redis"
local tarn = require "tarn"

local MiB = 2 ^ 20
local SIZES = { MiB, 16 * MiB, 256 * MiB }

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

case.run("bulk", "an array of another process over TCP", function(c)
  local id = tarn.addprocs(1, { memory = "1GiB", map = false })[1]
  tarn.max_memsize("1GiB")
  local line = { name = "tarn" }
  local get_8_mib = redis.client((redis.start(true)), "get", { seconds = 1, size = 8 * MiB, keys = 8 })
  local theirs = {
    { "iperf3", iperf(), aim = 0.9 },
    { "Redis GET of 8 MiB", get_8_mib and function() return get_8_mib() * 8 * MiB / 1e9 end, aim = 3 },
  }
  for i, bytes in ipairs(SIZES) do
    local last = i == #SIZES
    line[i] = { bytes / MiB, c:compare {
      name = ("%d MiB"):format(bytes / MiB), unit = "GB/s", ours = function() return ours(id, bytes / 8) end,
      theirs = last and theirs or nil,
    } }
  end
  local stats = tarn.poolstats()
  if stats.mapped_in_count > 0 then error("the arrays were mapped, not sent", 0) end
  c:plot("rate", { title = "one get of an array over TCP", x = "MiB", y = "GB/s", log_x = true, lines = { line } })
end)
