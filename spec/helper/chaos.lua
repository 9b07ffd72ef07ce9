-- A cluster under a storm: workers pass, store, nest, migrate, spill, drop and read references at random, several things at a time,
-- while others are killed, stopped and continued, their disks filled, the connections between them cut, half closed, stalled, delayed
-- and split. What has been acknowledged is read back as it was, or fails with an error that the faults explain; when all is over every
-- pool is empty.
--
-- The seed decides operations and faults: both are drawn before anything begins. What the machine makes of them is its own.
local cluster = require "spec.helper.cluster"
local limits = require "spec.helper.limits"
local posix = require "spec.helper.posix"
local proxy = require "spec.helper.proxy"
local refs = require "spec.helper.refs"

local M = {}

local WORKERS, STREAMS, STEPS = 6, 4, 50
local SILENCE_S = 1
local CALL_S = 30 -- no call may take so long

---------------------------------------------------------------------------------------------------- the plan

-- A generator of its own: the same numbers whatever else is random.
local function generator(seed)
  local state = seed * 7919 + 17
  for _ = 1, 3 do state = (state * 1103515245 + 12345) % 2147483648 end
  return function(n)
    state = (state * 1103515245 + 12345) % 2147483648
    return math.floor(state / 65536) % n + 1
  end
end

-- Names end in what they are: plain, "r": with remake, "c": with a copy, "b": large.
local KINDS = { "p", "p", "r", "c", "b", "b" }
local DEEDS = { "make", "make", "make", "pass", "pass", "pass", "drop", "drop", "read", "read", "spill", "migrate" }

-- Processes are numbered 1 to WORKERS here, 0 is the driver.
local function plan_stream(random, streams, s)
  local steps = {}
  for i = 1, STEPS do
    local step = { deed = DEEDS[random(#DEEDS)], at = random(WORKERS), other = random(WORKERS + 1) - 1 }
    if step.deed == "make" then
      step.name = ("%d.%d%s"):format(s, i, KINDS[random(#KINDS)])
    end
    -- Of some stream, of an earlier step: it may not be there yet, or no more.
    local names = streams[random(#streams)] or {}
    local k = random(i)
    step.what = names[k] or "none"
    step.nested = random(2) == 1
    steps[i] = step
  end
  return steps
end

-- kind -> {weight, needs the proxy}
local FAULTS = {
  kill = { 4 }, stop_short = { 3 }, stop_long = { 1 }, fill = { 3 },
  cut = { 4, true }, half = { 3, true }, delay = { 3, true }, split = { 3, true }, part_short = { 3, true }, part_long = { 1, true },
  cut_driver = { 1, true },
}
local FAULT_NAMES = {}
for name in pairs(FAULTS) do FAULT_NAMES[#FAULT_NAMES + 1] = name end
table.sort(FAULT_NAMES)

local function draw_fault(random, proxied)
  local list = {}
  for _, name in ipairs(FAULT_NAMES) do
    local weight, needs = unpack(FAULTS[name])
    for _ = 1, (proxied or not needs) and weight or 0 do list[#list + 1] = name end
  end
  return list[random(#list)]
end

function M.plan(seed)
  local random = generator(seed)
  local plan = { proxied = seed % 2 == 0, map = random(3) > 1, streams = {}, faults = {} }
  local names = {}
  for s = 1, STREAMS do
    names[s] = {}
    plan.streams[s] = plan_stream(random, names, s)
    for i, step in ipairs(plan.streams[s]) do names[s][i] = step.name end
  end
  for i = 1, random(4) do
    plan.faults[i] = { kind = draw_fault(random, plan.proxied), after_s = random(100) / 1000, for_s = random(200) / 1000,
      x = random(WORKERS), y = random(WORKERS - 1), bytes = ({ 0, 1, 100, 3000, 100000 })[random(5)] }
    local f = plan.faults[i]
    if f.y >= f.x then f.y = f.y + 1 end
  end
  return plan
end

function M.describe(plan)
  local lines = { ("%s, %s"):format(plan.proxied and "by the proxy" or "without the proxy", plan.map and "mapping" or "copying") }
  for _, f in ipairs(plan.faults) do
    lines[#lines + 1] = ("%s of %d (and %d) after %g s, for %g s, %d bytes"):format(f.kind, f.x, f.y, f.after_s, f.for_s, f.bytes)
  end
  return table.concat(lines, "\n  ")
end

---------------------------------------------------------------------------------------------------- what workers do

-- Each holds references in kept, by name; a value says whose it is, and may hold references of others.
local W = {}

function W.make(name, owner, nested)
  _G.kept = _G.kept or {}
  local inner, kind = nested and _G.kept[nested], name:sub(-1)
  local function value()
    local v = { name = name, inner = inner, inner_name = inner and nested or nil, fill = ("x"):rep(#name * 10) }
    if kind == "b" then
      v.array = tarn.array("double", 10000 * #name)
      for i = 1, #v.array, 1000 do v.array[i] = i + #name end
    end
    return v
  end
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

-- Follow the references from there to the end: how many were read.
function W.read(name)
  local ref, count = _G.kept and _G.kept[name], 0
  while ref do
    local ok, v = pcall(tarn.poolget, ref)
    if not ok then
      if tarn.iserror(v) then v.path = name end
      error(v, 0)
    end
    local right = v.name == name and v.fill == ("x"):rep(#name * 10)
    if right and name:sub(-1) == "b" then
      right = #v.array == 10000 * #name
      for i = 1, #v.array, 1000 do right = right and v.array[i] == i + #name and v.array[i + 1] == 0 end
    end
    if not right then error(("object %s is not what was stored: it says that it is %s"):format(name, tostring(v.name))) end
    ref, name = v.inner, v.inner_name
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

function W.names()
  local list = {}
  for name in pairs(_G.kept or {}) do list[#list + 1] = name end
  table.sort(list)
  return list
end

function W.forget() _G.kept = nil end

---------------------------------------------------------------------------------------------------- a run

local lost = {} -- id -> reason, of all runs
tarn.on("lost", function(id, reason) lost[id] = reason end)

local Run = {}
Run.__index = Run

function Run:problem(fmt, ...) self.problems[#self.problems + 1] = fmt:format(...) end

-- Is that process lost, or presently?
local function is_lost(id) return cluster.becomes(function() return lost[id] ~= nil end, 2) end

local function lost_in(text)
  for id in tostring(text):gmatch("process (%d+) is lost") do
    if not is_lost(tonumber(id)) then return false end
  end
  return true
end

-- Is that an error which the faults explain? settled: they are over.
function Run:explains(e, settled)
  if tarn.iserror(e, "WorkerLost") then
    if settled then return lost_in(e.message) and not (e.path or ""):find("r$") end
    return next(self.may_lose) ~= nil or self.connections
  end
  if tarn.iserror(e, "IOError") then -- the bulk lane was cut before it was open
    return self.connections and not settled and e.message:find("no connection for large data", 1, true) ~= nil
  end
  if tarn.iserror(e, "DiskFull") or tarn.iserror(e, "PoolFull") then return self.full and not settled end
  return false
end

local function call(id, fn, ...) return tarn.timeout(CALL_S, tarn.remotecall_fetch, id, fn, ...) end

function Run:step(step)
  local at, other = self.ids[step.at], self.ids[step.other] or 1
  if step.deed == "make" then
    call(at, W.make, step.name, other, step.nested and step.what)
  elseif step.deed == "pass" then
    call(at, W.pass, step.what, other, W.take)
  elseif step.deed == "migrate" then
    call(at, W.migrate, step.what, other)
  else
    call(at, W[step.deed], step.what)
  end
end

function Run:stream(steps)
  for i, step in ipairs(steps) do
    local ok, e = pcall(self.step, self, step)
    if not ok and not self:explains(e, false) then
      self:problem("%s %s (step %d): %s", step.deed, step.name or step.what, i, tostring(e))
    end
  end
end

local function signal(pid, number) posix.kill(pid, number) end

local FAULT = {}

function FAULT.kill(run, f)
  run.must_lose[run.ids[f.x]] = true
  signal(run.pids[f.x], posix.SIGKILL)
end

function FAULT.stop_short(run, f)
  signal(run.pids[f.x], posix.SIGSTOP)
  tarn.sleep(math.min(f.for_s, SILENCE_S / 4))
  signal(run.pids[f.x], posix.SIGCONT)
end

-- It is expelled, and is continued only then: it must find that out by itself, unless it has been killed already.
function FAULT.stop_long(run, f)
  signal(run.pids[f.x], posix.SIGSTOP)
  tarn.sleep(SILENCE_S * 1.5)
  signal(run.pids[f.x], posix.SIGCONT)
end

function FAULT.fill(run, f)
  local before = limits.set(run.pids[f.x], limits.FSIZE, 0)
  if not before then return end -- it has been killed
  tarn.sleep(f.for_s)
  limits.set(run.pids[f.x], limits.FSIZE, before)
end

function FAULT.cut(run, f) run.proxy:cut(run.ids[f.x], run.ids[f.y], f.bytes) end
function FAULT.half(run, f) run.proxy:half(run.ids[f.x], run.ids[f.y], f.bytes) end
function FAULT.cut_driver(run, f) run.proxy:cut(run.ids[f.x], 1, f.bytes) end

function FAULT.delay(run, f)
  run.proxy:delay(run.ids[f.x], 0, 1 + f.bytes % 13)
  tarn.sleep(f.for_s)
  run.proxy:clear(run.ids[f.x], 0)
end

function FAULT.split(run, f)
  run.proxy:split(run.ids[f.x], 0)
  tarn.sleep(f.for_s)
  run.proxy:clear(run.ids[f.x], 0)
end

function FAULT.part_short(run, f)
  run.proxy:part(run.ids[f.x], run.ids[f.y])
  tarn.sleep(f.for_s)
  run.proxy:join(run.ids[f.x], run.ids[f.y])
end

function FAULT.part_long(run, f)
  run.proxy:part(run.ids[f.x], run.ids[f.y])
  tarn.sleep(SILENCE_S * 2.5)
  run.proxy:join(run.ids[f.x], run.ids[f.y])
end

-- Who may be lost by a fault: as numbers of the plan.
local LOSES = { kill = { "x" }, stop_long = { "x" }, cut_driver = { "x" }, part_long = { "x", "y" } }

function Run:storm(faults)
  for _, f in ipairs(faults) do
    tarn.sleep(f.after_s)
    FAULT[f.kind](self, f)
  end
end

-- Those of this run that are lost.
function Run:lost()
  local mine = {}
  for _, id in ipairs(self.ids) do
    if lost[id] then mine[id] = lost[id] end
  end
  return mine
end

function Run:prepare(plan)
  for i, id in ipairs(self.ids) do self.pids[i] = cluster.os_pid(id) end
  for _, f in ipairs(plan.faults) do
    for _, which in ipairs(LOSES[f.kind] or {}) do self.may_lose[self.ids[f[which]]] = true end
    if FAULTS[f.kind][2] then self.connections = true end
    if f.kind == "fill" then self.full = true end
  end
end

-- What is held on process id is there, unless its owner is lost; then it is let go of.
function Run:look(id)
  if id ~= 1 then
    for _, name in ipairs(call(id, W.names)) do
      local ok, e = pcall(call, id, W.read, name)
      if not ok and not self:explains(e, true) then self:problem("in the end, %s on process %d: %s", name, id, tostring(e)) end
    end
  end
  refs.at(id, W.forget)
end

-- All is over; those that are left.
function Run:check()
  local live = { 1 }
  for _, id in ipairs(self.ids) do
    if not lost[id] then live[#live + 1] = id end
  end
  for id, reason in pairs(self:lost()) do
    if not self.may_lose[id] then self:problem("process %d is lost: %s", id, reason) end
  end
  local left = {}
  for _, id in ipairs(live) do
    local ok, e = pcall(self.look, self, id)
    if ok then
      left[#left + 1] = id
    elseif not (self.may_lose[id] and is_lost(id)) then
      error(e, 0)
    end
  end
  return left
end

local function run(ids, plan, p)
  local self = setmetatable({ ids = ids, pids = {}, proxy = p, problems = {}, may_lose = {}, must_lose = {} }, Run)
  self:prepare(plan)
  local tasks = {}
  for s, steps in ipairs(plan.streams) do tasks[s] = tarn.async(self.stream, self, steps) end
  tasks[#tasks + 1] = tarn.async(self.storm, self, plan.faults)
  for _, task in ipairs(tasks) do task:fetch() end
  if p then p:clear_all() end
  for id in pairs(self.must_lose) do
    assert(cluster.becomes(function() return lost[id] ~= nil end, 10), ("process %d has been killed, and is not lost"):format(id))
  end
  local live = self:check()
  if #self.problems > 0 then error(table.concat(self.problems, "\n"), 0) end
  assert(refs.empty(live, 20))
end

-- One seed; raises what is wrong, with the seed and the faults.
function M.run(seed)
  local plan = M.plan(seed)
  refs.clear()
  -- In every third connections are closed as soon as they are idle for a moment.
  local opts = { map = plan.map, silence_s = SILENCE_S, memory = "16MiB", idle_s = seed % 3 == 0 and 0.1 or nil }
  local ok, e = pcall(function()
    if plan.proxied then
      proxy.with(WORKERS, function(p, ids) run(ids, plan, p) end, opts)
    else
      cluster.with(WORKERS, function(ids) run(ids, plan) end, opts)
    end
  end)
  if not ok then error(("seed %d: %s\n  %s"):format(seed, tostring(e), M.describe(plan)), 0) end
end

return M
