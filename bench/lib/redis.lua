-- Redis as a peer: a server that keeps nothing on disk, and a client in C that checks every reply (bench/lib/redis.c).
local peer = require "bench.lib.peer"

local redis = {}

-- A server on a unix socket, or on TCP when tcp is true: its address and its process; nil where there is no Redis.
function redis.start(tcp, cpus)
  if not peer.here("redis-server") then return nil end
  local folder = peer.tmpdir()
  local port = tcp and peer.port() or 0
  local address = tcp and port or folder .. "/redis"
  local argv = { "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--loglevel", "warning" }
  if not tcp then
    argv[#argv + 1], argv[#argv + 2] = "--unixsocket", address
  end
  return address, peer.start(argv, tcp and peer.accepts(port) or peer.exists(address), { cwd = folder, cpus = cpus })
end

-- A function that runs the client and returns its figure; nil without an address. options: those of redis.c.
function redis.client(address, what, options, cpus)
  if not address then return nil end
  local argv = { peer.compile("redis"), address, what }
  for name, value in pairs(options) do
    argv[#argv + 1], argv[#argv + 2] = name, value
  end
  return function() return peer.figure(argv, { cpus = cpus }) end
end

return redis
