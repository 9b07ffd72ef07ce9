-- What a process tells who looks at it, whatever its Lua does.
local cluster = require "spec.helper.cluster"
local footprint = require "spec.helper.footprint"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local watched = require "spec.helper.watched"

local SIGSTOP, SIGCONT = 19, 18

-- Look until found(processes) gives something.
local function look_until(o, found, seconds)
  local deadline = posix.now() + (seconds or 10) * process.patience
  local result
  repeat
    result = found(o:look())
    assert.is_true(result ~= nil or posix.now() < deadline, "what was looked for has not come")
    if not result then tarn.sleep(0.02) end
  until result
  return result
end

local function by_id(processes, id)
  for _, p in ipairs(processes) do
    if p.id == id then return p end
  end
end

describe("an observer", function()
  it("is told about all processes by one, though Lua computes in each", function()
    local w = watched.start(2, "{ memory = '64MB' }", [[
      tarn.remote_do(2, function() while true do end end)
      tarn.remote_do(3, function() while true do end end)
    ]])
    local o = w:observe()
    look_until(o, function(all) return by_id(all, 2).busy and by_id(all, 3).busy and by_id(all, 2).jobs_running == 1 or nil end)
    tarn.sleep(0.2)
    local all = o:look()
    assert.equal(3, #all)
    for i, p in ipairs(all) do
      assert.equal(i, p.id)
      assert.is_nil(p.failure)
    end
    assert.equal(64e6, all[2].max_memsize)
    assert.is_true(all[2].busy_share > 0.9, "it was busy all the time")
    assert.is_true(all[1].busy_share < 0.9, "the driver waits")
    assert.is_false(all[1].busy)
    assert.is_true(all[2].disk_free_bytes > 0)
    local driver, clients = by_id(all, 1), 0
    for _, c in ipairs(driver.connections) do clients = clients + (c[2] and 1 or 0) end
    assert.equal(1, clients)
    o.client:close()
    w:stop()
  end)

  it("sees jobs begin, end and fail, by the names of their functions", function()
    local w = watched.start(1, "{}", [[
      local function fails() error "planned" end
      local function waits() tarn.sleep(1000) end
      tarn.remotecall_fetch(2, function() return 1 end)
      pcall(tarn.remotecall_fetch, 2, fails)
      tarn.pmap(function(x) return x end, { 1, 2, 3 }, { batch = 3 })
      tarn.pmap(fails, { 1 }, { on_error = function() end })
      tarn.remotecall(2, waits)
      tarn.remotecall_fetch(2, function() end)
      print "ready"
    ]])
    assert.equal("ready", w.driver:line())
    local o = w:observe()
    o:look()
    local jobs = o:jobs()[2]
    local ok = {}
    for i, job in ipairs(jobs.ended) do
      local _, name, began, ended, good, from = unpack(job)
      assert.truthy(name:match "%.lua:%d+$", name)
      assert.is_true(began <= ended and ended <= jobs.now_ns)
      assert.equal(1, from)
      ok[i] = good
    end
    assert.same({ true, false, true, false, true }, ok)
    assert.equal(1, #jobs.running)
    assert.truthy(jobs.running[1][2]:match "%.lua:%d+$")
    assert.equal(0, #o:jobs()[2].ended, "what was told once is not told again")
    local p = by_id(o:look(), 2)
    assert.equal(2, p.jobs_failed)
    assert.equal(5, p.jobs_ended)
    assert.equal(1, p.jobs_running)
    o.client:close()
    w:stop()
  end)

  it("remembers what ended last of more jobs than there is room for, and says how many are lost", function()
    local w = watched.start(1, "{}", [[
      for i = 1, 1500 do tarn.remotecall_fetch(2, function() end) end
      for i = 1, 400 do tarn.remotecall(2, function() tarn.sleep(1000) end) end
      tarn.remotecall_fetch(2, function() end)
      print "ready"
    ]])
    assert.equal("ready", w.driver:line(30))
    local o = w:observe()
    local p = by_id(o:look(), 2)
    local jobs = o:jobs()[2]
    assert.equal(400, p.jobs_running)
    assert.equal(1501, p.jobs_ended)
    assert.equal(256, #jobs.running)
    assert.equal(1024, #jobs.ended)
    assert.equal(1500 - 1024, jobs.lost) -- the last one found no room to be noted
    o.client:close()
    w:stop()
  end)

  it("is told which objects are the largest, what they hold, how old they are and who holds them", function()
    local w = watched.start(2, "{}", [[
      local function make(n) return tarn.poolset(tarn.array("double", n)) end
      kept = { tarn.remotecall_fetch(2, make, 100000), tarn.remotecall_fetch(2, make, 200000) }
      tarn.remotecall_fetch(3, function(ref) held = ref end, kept[2])
      tarn.remotecall_fetch(2, function() mine = tarn.poolset { 1, 2, ("x"):rep(500000) } end)
      tarn.remotecall_fetch(2, function() collectgarbage() collectgarbage() end) -- its own references to the arrays
      print(kept[2]:key())
    ]])
    local key = w.driver:line()
    local o = w:observe()
    o:look()
    local list = look_until(o, function()
      local found = o:objects(2)
      return found[1] and #found[1].holders == 2 and not found[1].here and found or nil
    end)
    assert.equal(2, #list)
    local first, second = list[1], list[2]
    assert.equal(key, first.key)
    assert.equal(2, first.owner)
    assert.equal("array", first.contents)
    assert.is_true(first.size >= 1600000 and second.size < first.size)
    table.sort(first.holders)
    assert.same({ 1, 3 }, first.holders)
    assert.is_false(first.here)
    assert.is_true(first.age_ns > 0 and first.age_ns < 600e9)
    assert.same({ 1 }, second.holders)
    local third = o:objects(3)[3]
    assert.is_true(third.live and third.here)
    o.client:close()
    w:stop()
  end)

  it("is told of a process that does not answer, and of the others all the same", function()
    local w = watched.start(2, "{ silence_s = 1 }", "")
    local o = w:observe()
    local stopped = by_id(o:look(), 3).os_pid
    posix.kill(stopped, SIGSTOP)
    local failed = look_until(o, function(all)
      local p = by_id(all, 3)
      assert.is_nil(by_id(all, 2).failure)
      return p and p.failure
    end)
    assert.truthy(failed:find("process 3 is lost", 1, true), failed)
    posix.kill(stopped, SIGCONT)
    local e = cluster.fails("WorkerLost", o.client.ask, o.client, "observe.stats", 77)
    assert.truthy(e.message:find("77", 1, true), e.message)
    o.client:close()
    w:stop()
  end)

  it("can only look: a wrong question is refused, and none changes anything", function()
    local w = watched.start(1, "{}", "")
    local o = w:observe()
    cluster.fails("ArgumentError", o.client.ask, o.client, "observe.stats", "all")
    cluster.fails("ArgumentError", o.client.ask, o.client, "observe.jobs", 1, -1)
    o.client:close()
    w:stop()
  end)
end)

describe("kinds of memory, #footprint", function()
  -- The difference between what the process says and what the system says of it, as a share; only looked at while that does not change
  -- by itself from one moment to the next.
  local function deviation(o, id, os_pid)
    for _ = 1, 200 do
      local before = footprint.memory(os_pid)
      local p = by_id(o:look(), id)
      local after = footprint.memory(os_pid)
      if math.abs(after - before) < 0.01 * before then
        local _, sum = require("tarn.observer").memory(p)
        return math.abs(sum - after) / after, ("said %.1f MB, the system %.1f MB"):format(sum / 1e6, after / 1e6)
      end
    end
    error "its memory never stood still"
  end

  it("add up to what the system says, under load", function()
    local w = watched.start(1, "{ memory = '96MB' }", [[
      tarn.remote_do(2, function()
        local refs, tables = {}, {}
        for i = 1, math.huge do
          local a = tarn.array("double", 20000)
          for j = 1, #a do a[j] = j end
          refs[i % 2000 + 1] = tarn.poolset(a)
          local t = {}
          for j = 1, 200 do t[j] = { id = j, name = "n" .. j } end
          tables[i % 100 + 1] = tarn.poolset(t)
          if i % 3 == 0 then tarn.poolget(refs[math.random(#refs)]) end
        end
      end)
    ]])
    local o = w:observe()
    local p = look_until(o, function(all) return by_id(all, 2).spilled_bytes > 50e6 and by_id(all, 2) or nil end, 30)
    for _ = 1, 10 do
      local share, text = deviation(o, 2, p.os_pid)
      assert.is_true(share < 0.05, text)
    end
    o.client:close()
    w:stop()
  end)
end)
