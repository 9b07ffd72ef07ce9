-- Every call that waits for another process ends when it is told to: by tarn.timeout and by cancel, whatever the other process does. It is
-- stopped here, and not lost for that; when it goes on, nothing is left of what was given up.
local cluster = require "spec.helper.cluster"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local refs = require "spec.helper.refs"

local clock = require("tarn.core").clock

local AFTER_S = 0.3
local LATE_S = 0.05 * process.patience

local function same(x) return x end

-- name -> function that waits for process a, which is stopped; b is another.
local function calls(a, b, idle)
  local ref, large = tarn.poolset({ 1 }, a), tarn.poolset(tarn.array("double", 1e6), a)
  local here, held = tarn.poolset { 2 }, tarn.poolset { 3 }
  tarn.remotecall_fetch(a, function(x) _G.kept = x end, held)
  local event, promise = tarn.event(a), tarn.promise(a)
  local future = tarn.remotecall(a, function() tarn.sleep(1000) end)
  return {
    remotecall_fetch = function() tarn.remotecall_fetch(a, same, 1) end,
    ["Future:fetch"] = function() future:fetch() end,
    ["Future:wait"] = function() future:wait() end,
    as_completed = function() tarn.as_completed({ future })() end,
    spawn = function() tarn.spawn(same, ref):fetch() end,
    access = function() tarn.access(same, ref) end,
    everywhere = function() tarn.everywhere(same) end,
    pmap = function() tarn.pmap(same, { 1, 2, 3, 4, 5, 6, 7, 8 }) end,
    poolget = function() ref:get() end,
    ["poolget of something large"] = function() large:get() end,
    poolget_all = function() tarn.poolget_all { ref, large } end,
    poolset = function() tarn.poolset({ 4 }, a) end,
    ["poolset of something large"] = function() tarn.poolset(tarn.array("double", 1e6), a) end,
    ["poolset with a copy"] = function() tarn.poolset({ 5 }, a, { replicas = 1 }) end,
    pooldelete = function() tarn.pooldelete(ref) end,
    poolstats = function() tarn.poolstats(a) end,
    max_memsize = function() tarn.max_memsize(nil, a) end,
    ["migrate from there"] = function() tarn.migrate(ref, b) end,
    ["migrate to there"] = function() tarn.migrate(here, a) end,
    ["migrate of what is held there"] = function() tarn.migrate(held, b) end,
    ["event:wait"] = function() event:wait() end,
    ["event:notify"] = function() event:notify() end,
    ["event:isset"] = function() event:isset() end,
    ["promise:fetch"] = function() promise:fetch() end,
    ["promise:put"] = function() promise:put(1) end,
    sleep = function() tarn.sleep(1000) end,
    addprocs = function() tarn.addprocs(1, { tarn = idle }) end,
  }, here
end

-- Run each of the calls by fn(call) in a task of its own: name -> {future, ended = when it has}.
local function start(all, fn)
  local tasks = {}
  for name, call in pairs(all) do
    local t = {}
    t.future = tarn.async(function()
      local ok, e = pcall(fn, call)
      t.ended = clock()
      if not ok then error(e, 0) end
    end)
    tasks[name] = t
  end
  return tasks
end

-- What is wrong with how they end, which is to be an error of that kind at that time.
local function await(tasks, kind, at)
  local wrong = {}
  for name, t in pairs(tasks) do
    local ok, e = pcall(t.future.fetch, t.future, 10)
    local late_s = (t.ended or math.huge) - at
    if ok or not tarn.iserror(e, kind) or late_s > LATE_S then
      wrong[#wrong + 1] = ("%s: %s, %.3f s late"):format(name, ok and "done" or tostring(e), late_s)
    end
  end
  return table.concat(wrong, "\n")
end

local function with_stopped(fn)
  local idle = process.write_file(process.tmpdir() .. "/idle", "#!/bin/sh\nexec sleep 1000\n")
  assert(os.execute("chmod +x " .. idle) == 0)
  refs.with(2, function(ids)
    local a, b = unpack(ids)
    local all, here = calls(a, b, idle)
    local os_pid = cluster.os_pid(a)
    posix.kill(os_pid, posix.SIGSTOP)
    local ok, e = pcall(fn, all)
    posix.kill(os_pid, posix.SIGCONT)
    if not ok then error(e, 0) end
    assert.same({ 2 }, here:get())
    assert.equal("on", tarn.remotecall_fetch(a, function()
      _G.kept = nil
      return "on"
    end))
    assert.same(ids, tarn.workers())
  end, { silence_s = 120 })
end

describe("a call that waits for a process which does not answer", function()
  it("ends in Timeout on time, whichever it is", function()
    with_stopped(function(all)
      local began = clock()
      local tasks = start(all, function(call) tarn.timeout(AFTER_S, call) end)
      assert.equal("", await(tasks, "Timeout", began + AFTER_S))
    end)
  end)

  it("ends in Cancelled at once when its task is cancelled, whichever it is", function()
    with_stopped(function(all)
      local tasks = start(all, function(call) call() end)
      tarn.sleep(0.1) -- they are under way
      local began = clock()
      for _, t in pairs(tasks) do t.future:cancel() end
      assert.equal("", await(tasks, "Cancelled", began))
    end)
  end)
end)
