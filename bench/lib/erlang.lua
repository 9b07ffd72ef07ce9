-- Erlang as a peer: a script run by escript, with a name server of its own on a port of its own.
local peer = require "bench.lib.peer"
local process = require "spec.helper.process"

local erlang = {}

-- A function that runs this escript with arguments and returns what it printed; nil where there is no Erlang. The name server is a
-- daemon of the bench's, and ends with it.
function erlang.script(source)
  if not peer.here("escript") then return nil end
  local port = peer.port()
  peer.start({ "epmd", "-port", port, "-address", "127.0.0.1" }, peer.accepts(port))
  local env = { ERL_EPMD_ADDRESS = "127.0.0.1", ERL_EPMD_PORT = tostring(port) }
  local path = process.write_file(peer.tmpdir() .. "/bench.escript", source)
  return function(...) return peer.run({ "escript", path, ... }, { env = env }) end
end

return erlang
