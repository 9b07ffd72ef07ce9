-- 64 bytes of another process's, one get after the other: tarn.poolget, Redis's GET over TCP, and an echo of libuv alone. With both ends on
-- one CPU, where nothing has to wake another CPU up, and with a CPU each; and with TLS, which the others have not.
local case = require "bench.lib.case"
local peer = require "bench.lib.peer"
local redis = require "bench.lib.redis"
local tarn = require "tarn"
local uv = require "luv"

local SECONDS, SIZE = 1, 64

local function gets_per_second(ref, expected)
  local start, count, took = peer.now(), 0
  repeat
    for _ = 1, 100 do
      if tarn.poolget(ref) ~= expected then error("what was got is not what was set", 0) end
    end
    count = count + 100
    took = peer.now() - start
  until took >= SECONDS
  return count / took
end

case.run("rtt", "64 bytes from another process, one get after the other", function(c)
  local value = ("x"):rep(SIZE)
  local last = #uv.cpu_info() - 1
  for _, row in ipairs { { "both ends on one CPU", "0", "0" }, { "a CPU each", "0", tostring(last) },
    { "both on one CPU, TLS", "0", "0", true } } do
    local name, here, there, tls = unpack(row)
    local id = tarn.addprocs(1, { tls = tls })[1]
    local pid = tarn.remotecall_fetch(id, uv.os_getpid)
    local ref = tarn.poolset(value, id)
    peer.pin(uv.os_getpid(), here)
    peer.pin(pid, there)
    local echo, port = peer.compile("echo", "libuv"), peer.port()
    peer.start({ echo, "serve", port }, peer.accepts(port), { cpus = there })
    c:compare {
      name = name, unit = "gets/s", ours = function() return gets_per_second(ref, value) end,
      theirs = {
        { "Redis, TCP", redis.client((redis.start(true, there)), "get", { seconds = SECONDS, size = SIZE }, here),
          aim = not tls and 1 or nil },
        { "libuv echo", function() return peer.figure({ echo, "ask", port, SECONDS, SIZE }, { cpus = here }) end,
          aim = not tls and 0.75 or nil },
      },
    }
    peer.pin(uv.os_getpid(), "0-" .. last)
    ref = nil -- luacheck: ignore 311
    tarn.rmprocs(id)
  end
end)
