-- 64 bytes of another process's, asked for by 64 at a time: 64 tasks, 64 connections to Redis, 64 fibers of Tarantool.
local case = require "bench.lib.case"
local peer = require "bench.lib.peer"
local process = require "spec.helper.process"
local redis = require "bench.lib.redis"
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

local SERVER = [[
  box.cfg { listen = "127.0.0.1:%d", wal_mode = "none", log_level = 2 }
  local space = box.schema.space.create("bench")
  space:create_index("primary", { type = "hash", parts = { 1, "unsigned" } })
  space:replace { 1, ("x"):rep(%d) }
  box.schema.user.grant("guest", "read", "space", "bench")
  box.schema.user.grant("guest", "execute", "universe")
]]

local CLIENT = [[
  local clock, fiber = require "clock", require "fiber"
  local connection = require("net.box").connect("127.0.0.1:%d")
  local space, expected = connection.space.bench, ("x"):rep(%d)
  local start, count, left, over = clock.monotonic(), 0, %d, fiber.channel(1)
  for _ = 1, left do
    fiber.create(function()
      repeat
        if space:get(1)[2] ~= expected then os.exit(1) end
        count = count + 1
      until clock.monotonic() - start >= %g
      left = left - 1
      if left == 0 then over:put(true) end
    end)
  end
  over:get()
  print(count / (clock.monotonic() - start))
  os.exit(0)
]]

local function tarantool()
  if not peer.here("tarantool") then return nil end
  local folder, port = peer.tmpdir(), peer.port()
  local server = process.write_file(folder .. "/server.lua", SERVER:format(port, SIZE))
  local client = process.write_file(folder .. "/client.lua", CLIENT:format(port, SIZE, MANY, SECONDS))
  peer.start({ "tarantool", server }, peer.accepts(port), { cwd = folder })
  return function() return peer.figure({ "tarantool", client }, { cwd = folder }) end
end

case.run("rtt-many", "64 bytes from another process, 64 gets at a time", function(c)
  local id = tarn.addprocs(1)[1]
  local value = ("x"):rep(SIZE)
  local ref = tarn.poolset(value, id)
  c:compare {
    name = MANY .. " at a time", unit = "gets/s", ours = function() return ours(ref, value) end,
    theirs = {
      { "Redis, TCP", redis.client((redis.start(true)), "get", { seconds = SECONDS, size = SIZE, connections = MANY }), aim = 1.5 },
      { "Tarantool, fibers", tarantool(), aim = 1.5 },
    },
  }
end)
