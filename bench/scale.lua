-- Every worker of 2 to 64 on this machine gets a value from every other: how many get there in a second, and what the connections
-- between all of them take, for each worker: one a pair, or two, where both ends connected at once.
local case = require "bench.lib.case"
local exchange = require "bench.lib.exchange"
local footprint = require "spec.helper.footprint"
local stats = require "bench.lib.stats"
local tarn = require "tarn"
local uv = require "luv"

local WORKERS, TURNS = { 2, 4, 8, 16, 32, 64 }, 5

-- Lists of a figure a turn (gets per second), and of one (KiB that a worker has grown by, descriptors that it has got).
local function measure(count)
  local ids, pids = tarn.addprocs(count, { memory = "64MiB" }), {}
  for i, id in ipairs(ids) do pids[i] = tarn.remotecall_fetch(id, uv.os_getpid) end
  local kib, fds, rates = stats.mean(pids, footprint.anonymous), stats.mean(pids, footprint.descriptors), {}
  exchange(ids, 0) -- which makes the connections
  for turn = 1, TURNS do rates[turn] = count * (count - 1) / exchange(ids, turn) end
  kib, fds = (stats.mean(pids, footprint.anonymous) - kib) / 1024, stats.mean(pids, footprint.descriptors) - fds
  local wanted = 2 * (TURNS + 1) * count -- its own, those it has answered, and the results of two jobs a turn: no more than it takes
  for _, id in ipairs(ids) do
    local gets = tarn.poolstats(id).gets
    if gets ~= wanted then error(("process %d had %d gets, not %d"):format(id, gets, wanted), 0) end
  end
  tarn.rmprocs(unpack(ids))
  collectgarbage()
  return rates, { kib }, { fds }
end

case.run("scale", "every worker gets a value of 1 KB from every other", function(c)
  local per_worker, per_other = { name = "a worker" }, { name = "for each other one" }
  for i, count in ipairs(WORKERS) do
    local rates, kib, fds = measure(count)
    c:add({ name = ("%d workers"):format(count), unit = "gets/s" }, { { figures = rates } })
    c:add({ name = "... a worker grows by", unit = "KiB", less = true }, { { figures = kib } })
    c:add({ name = "... its new connections", unit = "", less = true, limit = 2 * (count - 1) }, { { figures = fds } })
    per_worker[i], per_other[i] = { count, kib[1] }, { count, kib[1] / (count - 1) }
  end
  c:plot("memory", { title = "what an exchange of all with all takes", x = "workers", y = "KiB", log_x = true,
    lines = { per_worker, per_other } })
end)
