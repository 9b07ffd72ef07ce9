-- Small objects by the million: how fast they are stored and got, and what one takes. `tarn bench/many.lua 1e7` does it with so many,
-- in one round.
local case = require "bench.lib.case"
local footprint = require "spec.helper.footprint"
local peer = require "bench.lib.peer"
local redis = require "bench.lib.redis"
local tarn = require "tarn"
local uv = require "luv"

local COUNT, SIZE, AT_ONCE = tonumber(arg[1] or 1e6), 64, 1000

local FILLING = ("x"):rep(SIZE - 9)

local function value(i) return ("%09d"):format(i) .. FILLING end

-- On a worker: store the values itself; objects per second.
local function fill(count)
  local start, refs = peer.now(), {}
  for i = 1, count do refs[i] = tarn.poolset(value(i)) end
  _G.refs = refs
  return count / (peer.now() - start)
end

local function check()
  for i, ref in ipairs(_G.refs) do
    if tarn.poolget(ref) ~= value(i) then error("object " .. i .. " is wrong", 0) end
  end
end

local function start_worker()
  local id = tarn.addprocs(1, { memory = math.max(2 ^ 30, COUNT * 256) })[1]
  local pid = tarn.remotecall_fetch(id, uv.os_getpid)
  return id, pid, footprint.memory(pid)
end

-- Stored by the process that owns them: objects per second; bytes each, references and all.
local function in_process()
  local id, pid, before = start_worker()
  local rate = tarn.remotecall_fetch(id, fill, COUNT)
  tarn.remotecall_fetch(id, collectgarbage)
  local bytes = (footprint.memory(pid) - before) / COUNT
  tarn.remotecall_fetch(id, check)
  tarn.rmprocs(id)
  return rate, bytes
end

-- Stored on another process and got again, AT_ONCE at a time: objects per second, each; bytes each on their owner, while the
-- references are here.
local function elsewhere()
  local id, pid, before = start_worker()
  local refs, batch, start = {}, {}, peer.now()
  for i = 0, COUNT - 1, AT_ONCE do
    for k = 1, AT_ONCE do batch[k] = value(i + k) end
    refs[#refs + 1] = tarn.poolset_all(batch, id)
  end
  local stored = COUNT / (peer.now() - start)
  local bytes = (footprint.memory(pid) - before) / COUNT
  start = peer.now()
  for n, some in ipairs(refs) do
    local values = tarn.poolget_all(some)
    for k = 1, AT_ONCE do
      if values[k] ~= value((n - 1) * AT_ONCE + k) then error("what was got is not what was set", 0) end
    end
  end
  local got = COUNT / (peer.now() - start)
  tarn.rmprocs(id)
  return stored, got, bytes
end

local function ours()
  local in_process_rate, in_process_bytes = in_process()
  collectgarbage()
  local stored, got, bytes = elsewhere()
  collectgarbage()
  return { in_process_rate, stored, got, in_process_bytes, bytes }
end

-- A server of its own each time, and what its client in C gets out of it with as many commands under way.
local function theirs()
  local address, server = redis.start(true)
  local before = footprint.memory(server.pid)
  local options = { keys = COUNT, size = SIZE, depth = AT_ONCE }
  local stored = redis.client(address, "fill", options)()
  local bytes = (footprint.memory(server.pid) - before) / COUNT
  local got = redis.client(address, "read", options)()
  server:destroy()
  return { stored, stored, got, bytes, bytes }
end

case.run("many", ("%g objects of %d bytes"):format(COUNT, SIZE), function(c)
  if COUNT < AT_ONCE or COUNT % AT_ONCE ~= 0 then error(("the number of objects must be a multiple of %d"):format(AT_ONCE), 0) end
  c:compare_several({
    { name = "stored by their owner", unit = "objects/s" },
    { name = "stored elsewhere, 1,000 at a time", unit = "objects/s" },
    { name = "got from elsewhere, 1,000 at a time", unit = "objects/s" },
    { name = "bytes each, references with them", unit = "B", less = true },
    { name = "bytes each, references elsewhere", unit = "B", less = true },
  }, { ours = ours, rounds = COUNT > 1e6 and 1 or nil, warmup = 0, -- all processes are new each time
    theirs = { { "Redis, 1,000 under way", peer.here("redis-server") and theirs, aim = 1 } } })
end)
