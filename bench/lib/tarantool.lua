-- Tarantool as a peer: a server on loopback with a space of its own, and a client in Tarantool's Lua, one connection.
local peer = require "bench.lib.peer"
local process = require "spec.helper.process"

local tarantool = {}

local SERVER = [[
  box.cfg { listen = "127.0.0.1:%d", wal_mode = "none", log_level = 2 }
  local space = box.schema.space.create("bench")
  space:create_index("primary", { type = "hash", parts = { 1, "unsigned" } })
  function negative(n) return -n end
  box.schema.user.grant("guest", "read,write,execute", "universe")
]]

-- Fibers that each call once(connection, i) until the time is over: prints how often a second.
local CLIENT = [[
  local clock, fiber = require "clock", require "fiber"
  local connection = require("net.box").connect("127.0.0.1:%d")
  local setup, once = (function() %s end)()
  setup(connection)
  local start, count, left, over = clock.monotonic(), 0, %d, fiber.channel(1)
  for _ = 1, left do
    fiber.create(function()
      repeat
        once(connection, count)
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

-- A function that measures for so many seconds and returns what was done in each; nil where there is no Tarantool. source: Lua that returns
-- setup(connection) and once(connection, i); fibers: how many do it at a time.
function tarantool.client(source, fibers, seconds)
  if not peer.here("tarantool") then return nil end
  local folder, port = peer.tmpdir(), peer.port()
  local server = process.write_file(folder .. "/server.lua", SERVER:format(port))
  local client = process.write_file(folder .. "/client.lua", CLIENT:format(port, source, fibers, seconds))
  peer.start({ "tarantool", server }, peer.accepts(port), { cwd = folder })
  return function() return peer.figure({ "tarantool", client }, { cwd = folder }) end
end

return tarantool
