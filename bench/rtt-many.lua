-- 64 bytes of another process's, asked for by 64 at a time: 64 tasks, 64 connections to Redis, 64 fibers of Tarantool.
local case = require "bench.lib.case"
local peer = require "bench.lib.peer"
local redis = require "bench.lib.redis"
local tarantool = require "bench.lib.tarantool"
local tarn = require "tarn"

local SECONDS, SIZE, MANY = 1, 64, 64

local function gets_until(ref, expected, deadline)
  local count = 0
  repeat
    if tarn.poolget(ref) ~= expected then error("what was got is not what was set", 0) end
    count = count + 1
  until peer.now() >= deadline
  return count
end

local function ours(ref, expected)
  local start, tasks, count = peer.now(), {}, 0
  for i = 1, MANY do tasks[i] = tarn.async(gets_until, ref, expected, start + SECONDS) end
  for i = 1, MANY do count = count + tasks[i]:fetch() end
  return count / (peer.now() - start)
end

local TARANTOOL = [[
  local expected = ("x"):rep(%d)
  local space
  local function setup(connection)
    space = connection.space.bench
    space:replace { 1, expected }
  end
  return setup, function()
    if space:get(1)[2] ~= expected then os.exit(1) end
  end
]]

case.run("rtt-many", "64 bytes from another process, 64 gets at a time", function(c)
  local id = tarn.addprocs(1)[1]
  local value = ("x"):rep(SIZE)
  local ref = tarn.poolset(value, id)
  c:compare {
    name = MANY .. " at a time", unit = "gets/s", ours = function() return ours(ref, value) end,
    theirs = {
      { "Redis, TCP", redis.client((redis.start(true)), "get", { seconds = SECONDS, size = SIZE, connections = MANY }), aim = 1.5 },
      { "Tarantool, fibers", tarantool.client(TARANTOOL:format(SIZE), MANY, SECONDS), aim = 1.5 },
    },
  }
end)
