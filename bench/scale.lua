-- Every worker of 2 to 64 on this machine gets a value from every other: how many get there in a second, and what the connections
-- between all of them take, for each worker: one a pair, or two, where both ends connected at once.
local case = require "bench.lib.case"
local footprint = require "spec.helper.footprint"
local lfs = require "lfs"
local peer = require "bench.lib.peer"
local tarn = require "tarn"
local uv = require "luv"

local WORKERS, SIZE, TURNS = { 2, 4, 8, 16, 32, 64 }, 1000, 5

local function value(from, to, turn) return ("%d to %d, %d "):format(from, to, turn) .. ("x"):rep(SIZE) end

-- On a worker: something for each of the others.
local function offer(ids, turn)
  local mine, refs = tarn.myid(), {}
  for _, id in ipairs(ids) do
    if id ~= mine then refs[id] = tarn.poolset(value(mine, id, turn)) end
  end
  return refs
end

-- On a worker: what each of the others has for it, all at once. refs: by owner.
local function collect(refs, turn)
  local mine, gets = tarn.myid(), {}
  for from, ref in pairs(refs) do gets[from] = tarn.async(tarn.poolget, ref) end
  for from, get in pairs(gets) do
    if get:fetch() ~= value(from, mine, turn) then error(("what came from %d is wrong"):format(from), 0) end
  end
end

local function on_all(ids, fn, argument, turn)
  local jobs, results = {}, {}
  for i, id in ipairs(ids) do jobs[i] = tarn.remotecall(id, fn, argument(id), turn) end
  for i, id in ipairs(ids) do results[id] = jobs[i]:fetch() end
  return results
end

-- Seconds for everybody to get what the others have for him.
local function exchange(ids, turn)
  local offers = on_all(ids, offer, function() return ids end, turn)
  local start = peer.now()
  on_all(ids, collect, function(id)
    local refs = {}
    for from, list in pairs(offers) do refs[from] = list[id] end
    return refs
  end, turn)
  return peer.now() - start
end

local function descriptors(pid)
  local n = -2 -- . and ..
  for _ in lfs.dir(("/proc/%d/fd"):format(pid)) do n = n + 1 end
  return n
end

local function mean(pids, fn)
  local sum = 0
  for _, pid in ipairs(pids) do sum = sum + fn(pid) end
  return sum / #pids
end

-- Lists of a figure a turn (gets per second), and of one (KiB that a worker has grown by, descriptors that it has got).
local function measure(count)
  local ids, pids = tarn.addprocs(count, { memory = "64MiB" }), {}
  for i, id in ipairs(ids) do pids[i] = tarn.remotecall_fetch(id, uv.os_getpid) end
  local kib, fds, rates = mean(pids, footprint.anonymous), mean(pids, descriptors), {}
  exchange(ids, 0) -- which makes the connections
  for turn = 1, TURNS do rates[turn] = count * (count - 1) / exchange(ids, turn) end
  kib, fds = (mean(pids, footprint.anonymous) - kib) / 1024, mean(pids, descriptors) - fds
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
