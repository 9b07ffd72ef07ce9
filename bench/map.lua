-- An array of another process on this machine, from 1 MiB to 1 GiB: how long until it is there, and how fast it is read for the first
-- time; beside the same done by hand in C with a file in /dev/shm.
local case = require "bench.lib.case"
local peer = require "bench.lib.peer"
local ramp = require "bench.lib.ramp"
local tarn = require "tarn"
local uv = require "luv"

local MiB, GiB = 2 ^ 20, 2 ^ 30
local SIZES = { MiB, 16 * MiB, 256 * MiB, GiB }

-- A new array each time: what a process holds already it would not map again.
local function with_new(id, n, fn)
  local ref = ramp.settled(id, n)
  local start = peer.now()
  local array = tarn.poolget(ref)
  local first, last = array[1], array[n]
  local got = peer.now() - start
  if first ~= 0 or last ~= n - 1 then error("what was got is not what was made", 0) end
  local figure = fn(array, got)
  tarn.pooldelete(ref)
  array, ref = nil, nil -- luacheck: ignore 311
  collectgarbage()
  return figure
end

local function scan(array)
  local n, start, sum = #array, peer.now(), 0
  local p = array:ptr()
  for i = 0, n - 1 do sum = sum + p[i] end
  if math.abs(sum / (0.5 * n * (n - 1)) - 1) > 1e-6 then error(("the sum is %.17g"):format(sum), 0) end
  return n * 8 / (peer.now() - start) / 1e9
end

local function microseconds(_, got) return got * 1e6 end

local function label(bytes) return bytes < GiB and ("%d MiB"):format(bytes / MiB) or ("%d GiB"):format(bytes / GiB) end

case.run("map", "an array of another process on this machine", function(c)
  local id = tarn.addprocs(1, { memory = 1.25 * GiB })[1]
  local shm = peer.compile("shm")
  local stem = ("/dev/shm/tarn-bench-%d-"):format(uv.os_getpid())
  local mine, theirs = { name = "tarn" }, { name = "by hand" }
  for i, bytes in ipairs(SIZES) do
    local n, path = bytes / 8, stem .. i
    peer.run { shm, "make", path, n }
    local function by_hand(what, unit) return function() return peer.figure { shm, what, path, n } * unit end end
    mine[i] = { bytes / MiB, c:compare {
      name = "get of " .. label(bytes), unit = "us", less = true, limit = 1000, ours = function() return with_new(id, n, microseconds) end,
      theirs = { { "by hand, /dev/shm", by_hand("get", 1) } },
    } }
    theirs[i] = { bytes / MiB, c.rows[#c.rows].against[1].theirs }
    c:compare {
      name = "scan of " .. label(bytes), unit = "GB/s", ours = function() return with_new(id, n, scan) end,
      theirs = { { "by hand, /dev/shm", by_hand("scan", 1e-9), aim = 0.9 } },
    }
    os.remove(path)
  end
  if tarn.poolstats().mapped_in_count < #SIZES then error("the arrays were copied, not mapped", 0) end
  c:plot("get", { title = "until an array of another process is there", x = "MiB", y = "us", log_x = true, log_y = true,
    lines = { mine, theirs } })
end)
