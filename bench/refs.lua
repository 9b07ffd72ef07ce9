-- References: passed on by a third process, and dropped, both by the hundred thousand; and what one costs in a call.
local case = require "bench.lib.case"
local peer = require "bench.lib.peer"
local tarn = require "tarn"

local MANY, CALLS = 100000, 2000

local function make(count)
  local list = {}
  for i = 1, count do list[i] = tarn.poolset(i) end
  return list
end

local function collect()
  collectgarbage()
  collectgarbage()
end

local function nothing() end

-- MANY references of process id are here, and known as such there.
local function some(id)
  local list = tarn.remotecall_fetch(id, make, MANY)
  tarn.remotecall_fetch(id, collect)
  return list
end

local function until_freed(id)
  while tarn.poolstats(id).objects > 0 do tarn.sleep(0.001) end
end

-- From garbage here to freed there.
local function dropped(id)
  some(id)
  local start = peer.now()
  collect()
  until_freed(id)
  return MANY / (peer.now() - start)
end

local function passed(id, other)
  local list = some(id)
  local start = peer.now()
  tarn.remotecall_fetch(other, nothing, list)
  local rate = MANY / (peer.now() - start)
  list = nil -- luacheck: ignore
  collect()
  tarn.remotecall_fetch(other, collect)
  until_freed(id)
  return rate
end

local function calls(id, ...)
  local start = peer.now()
  for _ = 1, CALLS do tarn.remotecall_fetch(id, nothing, ...) end
  return CALLS / (peer.now() - start)
end

case.run("refs", "references passed on and dropped", function(c)
  local ids = tarn.addprocs(2)
  c:compare { name = "dropped, until freed", unit = "refs/s", ours = function() return dropped(ids[1]) end, theirs = {} }
  c:compare { name = "passed on by a third", unit = "refs/s", ours = function() return passed(ids[1], ids[2]) end, theirs = {} }
  local ref = tarn.poolset(1, ids[1])
  c:compare {
    name = "calls with a third's ref", unit = "calls/s",
    ours = function() return calls(ids[2], ref) end,
    theirs = { { "with a number", function() return calls(ids[2], 1) end } },
  }
end)
