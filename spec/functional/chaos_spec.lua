-- Four processes pass, store, nest, read and drop references at random, several things at a time, while one or two of them are killed. What
-- lives must be read back right; when all is over, every pool is empty. The seed decides operations and kills; TARN_SPEC_SEEDS=n runs more.
local ffi = require "ffi"
local cluster = require "spec.helper.cluster"
local refs = require "spec.helper.refs"
pcall(ffi.cdef, "int kill(int pid, int sig);")

local WORKERS, STREAMS, STEPS = 4, 4, 60
local SEEDS = tonumber(os.getenv("TARN_SPEC_SEEDS") or "5")

-- A generator of its own: the same numbers whatever else is random.
local function generator(seed)
  local state = seed * 7919 + 17
  return function(n)
    state = (state * 1103515245 + 12345) % 2147483648
    return math.floor(state / 65536) % n + 1
  end
end

-- What workers do. Each holds references in kept, by name; a value says whose it is, and may hold references of others.
local W = {}

-- Of those with an "r" at the end nothing is lost, those with a "c" have a copy.
function W.make(name, owner, nested)
  _G.kept = _G.kept or {}
  local inner, kind = nested and _G.kept[nested], name:sub(-1)
  local function value() return { name = name, inner = inner, inner_name = inner and nested or nil, fill = ("x"):rep(#name * 10) } end
  _G.kept[name] = tarn.poolset(value(), owner, { remake = kind == "r" and value or nil, replicas = kind == "c" and 1 or nil })
end

function W.take(name, ref)
  _G.kept = _G.kept or {}
  _G.kept[name] = ref
end

function W.pass(name, to, take)
  local ref = _G.kept and _G.kept[name]
  if ref then tarn.remotecall_fetch(to, take, name, ref) end
end

function W.drop(name)
  if _G.kept then _G.kept[name] = nil end
  if #name % 3 == 0 then collectgarbage() end
end

-- Follow the references from there to the end: how many were read. A get fails only for a process that is lost.
function W.read(name)
  local ref, count = _G.kept and _G.kept[name], 0
  while ref do
    local ok, value = pcall(tarn.poolget, ref)
    if not ok then
      if name:sub(-1) == "r" then error(("object %s, which can be made anew: %s"):format(name, tostring(value)), 0) end
      error(value, 0)
    end
    if value.name ~= name then error(("object %s says that it is %s"):format(name, value.name)) end
    ref, name = value.inner, value.inner_name
    count = count + 1
  end
  return count
end

function W.spill(name)
  local ref = _G.kept and _G.kept[name]
  if ref then tarn.movetodisk(ref) end
end

function W.migrate(name, to)
  local ref = _G.kept and _G.kept[name]
  if ref then tarn.migrate(ref, to) end
end

local function run(seed)
  local random = generator(seed)
  refs.clear()
  local ids = tarn.addprocs(WORKERS)
  local pids, lost, problems = {}, {}, {}
  for _, id in ipairs(ids) do pids[id] = cluster.os_pid(id) end
  local names = {}
  local function some_name() return names[random(math.max(#names, 1))] or "none" end

  local function step(stream, i)
    local id, other = ids[random(WORKERS)], ids[random(WORKERS)]
    local what = random(12)
    if what <= 3 then
      local name = ("%d.%d%s"):format(stream, i, ({ "", "", "r", "c" })[random(4)])
      local nested = random(2) == 1 and some_name() or nil
      names[#names + 1] = name
      tarn.remotecall_fetch(id, W.make, name, other, nested)
    elseif what <= 6 then
      tarn.remotecall_fetch(id, W.pass, some_name(), other, W.take)
    elseif what <= 8 then
      tarn.remotecall_fetch(id, W.drop, some_name())
    elseif what <= 10 then
      tarn.remotecall_fetch(id, W.read, some_name())
    elseif what == 11 then
      tarn.remotecall_fetch(id, W.spill, some_name())
    else
      tarn.remotecall_fetch(id, W.migrate, some_name(), other)
    end
  end

  local streams = {}
  for s = 1, STREAMS do
    streams[s] = tarn.async(function()
      for i = 1, STEPS do
        local ok, e = pcall(step, s, i)
        if not ok and not (tarn.iserror(e, "WorkerLost") and next(lost)) then problems[#problems + 1] = tostring(e) end
      end
    end)
  end
  for _ = 1, random(3) - 1 do -- none, one or two
    tarn.sleep(random(100) / 1000)
    local victim = ids[random(WORKERS)]
    if not lost[victim] then
      lost[victim] = true
      ffi.C.kill(pids[victim], 9)
    end
  end
  for _, f in ipairs(streams) do f:wait() end

  local live = { 1 }
  for _, id in ipairs(ids) do
    if not lost[id] then live[#live + 1] = id end
  end
  assert.is_true(cluster.becomes(function() return #tarn.procs() == #live end))
  for _, id in ipairs(live) do
    if id ~= 1 then
      for _, name in ipairs(names) do -- what is held is there, unless its owner is lost
        local ok, e = pcall(tarn.remotecall_fetch, id, W.read, name)
        if not ok and not (tarn.iserror(e, "WorkerLost") and next(lost)) then problems[#problems + 1] = tostring(e) end
      end
      tarn.remotecall_fetch(id, function() _G.kept = nil end)
    end
  end
  assert.same({}, problems)
  assert(refs.empty(live))
  live[1] = nil
  for _, id in pairs(live) do tarn.rmprocs(id) end
end

describe("references in a storm", function()
  for seed = 1, SEEDS do
    it(("come out right, seed %d"):format(seed), function()
      local ok, e = pcall(run, seed)
      tarn.rmprocs(unpack(tarn.workers()))
      if not ok then error(e, 0) end
    end)
  end
end)
