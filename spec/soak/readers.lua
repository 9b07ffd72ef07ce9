-- Processes with budgets far below what they hold read each other's objects: it goes on to the end, every value is right, memory
-- stays flat.
--
--   ./dev soak readers [--minutes 10] [--processes 4] [--memory 16MB] [--megabytes 1000]     megabytes: held by each
local options = require "spec.soak.lib.options"
local size = require "tarn.size"
local tarn = require "tarn"
local watch = require "spec.soak.lib.watch"

local MB = 1e6

-- Small tables, columns and arrays, and nothing above 8 MiB. Returns refs and the seeds by which they are known.
local function store(first_seed, bytes)
  local values = require "spec.soak.lib.values"
  local refs, seeds, held, seed = {}, {}, 0, first_seed
  while held < bytes do
    seed = seed + 1
    if not (values.kind(seed) == "huge" or values.kind(seed) == "array" and values.random(seed, 1) > 0.7) then
      local ref = tarn.poolset(values.make(seed))
      refs[#refs + 1], seeds[#seeds + 1] = ref, seed
      held = held + ref.size
    end
  end
  return refs, seeds
end

-- Read what others hold, at random, until the seconds are over; how many, and how many bytes.
local function read(others, seconds, salt)
  local values = require "spec.soak.lib.values"
  local uv = require "luv"
  local deadline, count, bytes = uv.hrtime() + seconds * 1e9, 0, 0
  repeat
    count = count + 1
    local from = others[math.floor(values.random(salt + count, 4) * #others) + 1]
    local k = math.floor(values.random(salt + count, 5) * #from.refs) + 1
    values.check(tarn.poolget(from.refs[k]), from.seeds[k])
    bytes = bytes + from.refs[k].size
  until uv.hrtime() >= deadline
  return { count = count, bytes = bytes }
end

local o = options(arg, { minutes = 10, processes = 4, memory = "16MB", megabytes = 1000 })
print(("soak readers: %d processes of %s each hold %g MB and read each other's for %g minutes"):format(o.processes, o.memory, o.megabytes,
  o.minutes))
local ids = tarn.addprocs(o.processes, { memory = o.memory })
local watched = watch.new("readers", ids, size.parse(o.memory, "--memory"))
local held, storing = {}, {}
for i, id in ipairs(ids) do storing[i] = tarn.remotecall(id, store, i * 1000000, o.megabytes * MB) end
watched:until_done(storing, 0.1)
for i, future in ipairs(storing) do
  local refs, seeds = future:fetch()
  held[i] = { refs = refs, seeds = seeds }
end
local stored_at = watched:seconds()
local reading = {}
for i, id in ipairs(ids) do
  local others = {}
  for k = 1, #ids do
    if k ~= i then others[#others + 1] = held[k] end
  end
  reading[i] = tarn.remotecall(id, read, others, o.minutes * 60, i * 777)
end
local counts = watched:until_done(reading, 0.1)
local count, bytes = 0, 0
for _, result in ipairs(counts) do
  count, bytes = count + result.count, bytes + result.bytes
end
print(("%d values of %.1f GB were read and checked in %.0f s"):format(count, bytes / 1e9, watched:seconds() - stored_at))
watched:finish()
