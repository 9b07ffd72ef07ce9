-- How long a get of 64 bytes takes at worst, its 99th percentile: while its owner computes without a pause, and while an array of
-- 1 GiB comes from the same process over TCP; beside the same with nothing else going on. Each of them measures for about as long as a
-- GiB flows.
local case = require "bench.lib.case"
local ramp = require "bench.lib.ramp"
local stats = require "bench.lib.stats"
local tarn = require "tarn"
local uv = require "luv"

local SIZE, SECONDS, DOUBLES = 64, 0.5, 2 ^ 30 / 8
local FEWEST = 500 -- gets, below which a 99th percentile says little

-- Microseconds below which 99 of 100 gets of ref take; more() says whether to go on.
local function p99_us(ref, expected, more)
  local took, start = {}, uv.hrtime()
  while more() do
    local value = tarn.poolget(ref)
    local stop = uv.hrtime()
    if value ~= expected then error("what was got is not what was set", 0) end
    took[#took + 1] = (stop - start) / 1e3
    start = stop
  end
  if #took < FEWEST then error(("only %d gets: too few"):format(#took), 0) end
  return stats.quantile(took, 0.99)
end

local function for_a_while()
  local deadline = uv.hrtime() + SECONDS * 1e9
  return function() return uv.hrtime() < deadline end
end

local function idle(ref, expected) return p99_us(ref, expected, for_a_while()) end

-- On the worker: compute without a pause for ns, saying when it begins; returns when it ended.
local function spin(begun, ns)
  begun:notify()
  local deadline, x = uv.hrtime() + ns, 0
  repeat
    for i = 1, 1e6 do x = x + i % 7 end
  until uv.hrtime() >= deadline
  return uv.hrtime(), x
end

local function computing(id, ref, expected)
  local begun = tarn.event()
  local job = tarn.remotecall(id, spin, begun, (SECONDS + 0.2) * 1e9)
  begun:wait()
  local figure = p99_us(ref, expected, for_a_while())
  local measured = uv.hrtime()
  if job:fetch() < measured then error("the owner was done before the gets were", 0) end
  return figure
end

local function flowing(id, ref, expected)
  local array = tarn.remotecall_fetch(id, ramp.store, DOUBLES)
  local before = tarn.poolstats().tcp_in_bytes
  local flow = tarn.async(tarn.poolget, array)
  local figure = p99_us(ref, expected, function() return not flow:ready() end)
  ramp.check(flow:fetch())
  if tarn.poolstats().tcp_in_bytes - before < DOUBLES * 8 then error("the array did not come over TCP", 0) end
  tarn.pooldelete(array)
  flow, array = nil, nil -- luacheck: ignore 311
  collectgarbage()
  return figure
end

case.run("busy", "a get of 64 bytes beside other work, its 99th percentile", function(c)
  tarn.max_memsize("1.25GiB")
  local id = tarn.addprocs(1, { memory = "1.25GiB", map = false })[1]
  local value = ("x"):rep(SIZE)
  local ref = tarn.poolset(value, id)
  local function row(name, ours, aim)
    c:compare { name = name, unit = "us", less = true, ours = function() return ours(id, ref, value) end,
      theirs = { { "tarn, idle", function() return idle(ref, value) end, aim = aim } } }
  end
  row("its owner computes", computing, 1 / 3)
  row("1 GiB flows from its owner", flowing, 1 / 2)
end)
