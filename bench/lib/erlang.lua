-- Erlang as a peer: a script run by escript, with a name server of its own on a port of its own, gone with the bench.
local uv = require "luv"

local erlang = {}

-- The command that runs this escript, and a function that cleans up after the last run; nil where there is no escript.
function erlang.script(source)
  if os.execute("command -v escript >/dev/null 2>&1") ~= 0 then return nil end
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(source)
  file:close()
  local env = "ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=" .. 20000 + uv.os_getpid() % 20000 .. " "
  local function stop()
    os.execute(env .. "epmd -kill >/dev/null 2>&1")
    os.remove(path)
  end
  return env .. "escript " .. path, stop
end

return erlang
