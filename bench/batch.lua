-- 1,000 small values of another process's at once, again and again: tarn.poolget_all; Redis with as many commands under way as its own
-- benchmark is run with (64), and with all 1,000; and one get of memcached for all of them.
local case = require "bench.lib.case"
local peer = require "bench.lib.peer"
local redis = require "bench.lib.redis"
local tarn = require "tarn"

local SECONDS, SIZE, COUNT = 1, 64, 1000

local function value(i) return ("%08d"):format(i) .. ("x"):rep(SIZE - 8) end

local function ours(refs, expected)
  local start, count, took = peer.now(), 0
  repeat
    local values = tarn.poolget_all(refs)
    for i = 1, COUNT do
      if values[i] ~= expected[i] then error("what was got is not what was set", 0) end
    end
    count = count + COUNT
    took = peer.now() - start
  until took >= SECONDS
  return count / took
end

local function memcached()
  if not peer.here("memcached") then return nil end
  local port = peer.port()
  peer.start({ "memcached", "-l", "127.0.0.1", "-p", port, "-U", 0, "-u", "nobody" }, peer.accepts(port))
  return function() return peer.figure { peer.compile("memcached"), port, SECONDS, SIZE, COUNT } end
end

case.run("batch", "1,000 values of 64 bytes from another process at once", function(c)
  local id = tarn.addprocs(1)[1]
  local expected = {}
  for i = 1, COUNT do expected[i] = value(i) end
  local refs = tarn.poolset_all(expected, id)
  local address = redis.start(true)
  local function theirs(depth) return redis.client(address, "get", { seconds = SECONDS, size = SIZE, keys = COUNT, depth = depth }) end
  c:compare {
    name = "1,000 at once", unit = "gets/s", ours = function() return ours(refs, expected) end,
    theirs = { { "Redis, 64 under way", theirs(64), aim = 1 }, { "Redis, 1,000 under way", theirs(COUNT), aim = 1 },
      { "memcached, one get", memcached(), aim = 1 } },
  }
end)
