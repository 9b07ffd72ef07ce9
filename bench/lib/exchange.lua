-- Workers that give each other values: each puts one for each of the others into its pool, then gets what they have for it, all at once.
local peer = require "bench.lib.peer"
local tarn = require "tarn"

local SIZE = 1000 -- bytes of a value, about

local function value(from, to, turn) return ("%d to %d, %d "):format(from, to, turn) .. ("x"):rep(SIZE) end

-- On a worker: something for each of the others.
local function offer(ids, turn)
  local mine, refs = tarn.myid(), {}
  for _, id in ipairs(ids) do
    if id ~= mine then refs[id] = tarn.poolset(value(mine, id, turn)) end
  end
  return refs
end

-- On a worker: what each of the others has for it. refs: by owner.
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

-- Seconds for everybody to get what the others have for him. turn: a number that goes into the values.
return function(ids, turn)
  local offers = on_all(ids, offer, function() return ids end, turn)
  local start = peer.now()
  on_all(ids, collect, function(id)
    local refs = {}
    for from, list in pairs(offers) do refs[from] = list[id] end
    return refs
  end, turn)
  return peer.now() - start
end
