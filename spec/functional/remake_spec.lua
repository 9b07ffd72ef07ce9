-- tarn.poolset(x, id, {remake = fn}): what was dropped under pressure, or lost with its owner, is made anew by fn where it is needed, once.
local cluster = require "spec.helper.cluster"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local records = require "spec.helper.records"
local refs = require "spec.helper.refs"
local with, kill, lose, press = records.with, records.kill, records.lose, records.press

-- A function for remake that notes on the driver where it ran.
local function maker(x)
  _G.made_by = {}
  return function()
    local me = tarn.myid()
    tarn.remotecall_fetch(1, function() table.insert(_G.made_by, me) end)
    return { x, me }
  end
end

-- One that waits until it is released.
local function slow_maker(x)
  local made, go = maker(x), tarn.event(1)
  return function()
    go:wait(10)
    return made()
  end, go
end

local function get(ref) return ref:get()[1] end
local function get_and_owner(ref) return ref:get()[1], ref.owner, ref:key() end

local function keep(name, ref)
  _G.kept = _G.kept or {}
  _G.kept[name] = ref
end

local function ended_here() _G.ended = {} end
local function ended_at(id) return refs.at(id, function() return _G.ended end) end
local function note_end(key) table.insert(_G.ended, key) end

describe("an object with remake", function()
  it("is got like any other as long as its value is there", function()
    with(2, function(ids)
      local ref = tarn.poolset({ "first" }, ids[1], { remake = maker("again") })
      local here = tarn.poolset({ "here" }, nil, { remake = maker("again") })
      assert.equal("first", get(ref))
      assert.equal("first", tarn.remotecall_fetch(ids[2], get, ref))
      assert.equal("here", get(here))
      assert.equal("here", tarn.remotecall_fetch(ids[1], get, here))
      assert.same({}, _G.made_by)
      assert.equal(2, records.count())
    end)
  end)

  it("that is lost with its owner is made anew on who asks first, once, and stays the same object", function()
    with(3, function(ids)
      local ref = tarn.poolset({ "first" }, ids[1], { remake = maker("again") })
      local key, text = ref:key(), tostring(ref)
      for _, id in ipairs { ids[2], ids[3] } do tarn.remotecall_fetch(id, keep, "x", ref) end
      lose(ids[1])
      local x, owner, k = tarn.remotecall_fetch(ids[2], get_and_owner, ref)
      assert.same({ "again", ids[2], key }, { x, owner, k })
      for _, id in ipairs { ids[3], ids[2] } do
        assert.same({ "again", ids[2], key }, { tarn.remotecall_fetch(id, get_and_owner, ref) })
      end
      assert.equal("again", get(ref))
      assert.same({ ids[2] }, _G.made_by)
      assert.equal(ids[2], ref.owner)
      assert.equal(text, tostring(ref))
      assert.is_true(ref == tarn.remotecall_fetch(ids[3], function() return _G.kept.x end))
      for _, id in ipairs { ids[2], ids[3] } do tarn.remotecall_fetch(id, function() _G.kept = nil end) end
    end)
  end)

  it("is made once, however many processes and tasks ask at the same time", function()
    with(4, function(ids)
      local remake, go = slow_maker("again")
      local ref = tarn.poolset({ "first" }, ids[1], { remake = remake })
      local pid = cluster.os_pid(ids[1])
      local jobs = {}
      local function many(r)
        local tasks = {}
        for i = 1, 10 do tasks[i] = tarn.async(function() return r:get()[1] end) end
        for i = 1, 10 do assert(tasks[i]:fetch(10) == "again") end
        return true
      end
      kill(ids[1], pid) -- they find out by themselves
      for i = 2, 4 do jobs[#jobs + 1] = tarn.remotecall(ids[i], many, ref) end
      jobs[#jobs + 1] = tarn.async(many, ref)
      assert.is_false(jobs[1]:wait(0.05))
      go:notify()
      for _, job in ipairs(jobs) do assert.is_true(job:fetch(10)) end
      assert.equal(1, #_G.made_by)
      assert.equal(_G.made_by[1], ref.owner)
    end)
  end)

  it("that is dropped under pressure is made anew by its owner, once", function()
    with(2, function(ids)
      local remake, go = slow_maker("again")
      local ref = tarn.poolset({ "first" }, ids[1], { remake = remake, destroyonevict = true, size = "4KB" })
      local here = tarn.poolset({ "first" }, nil, { remake = remake, destroyonevict = true, size = "4KB" })
      press(ids[1]) -- drops it
      press(1)
      assert.equal(0, refs.objects(ids[1]))
      local jobs = {}
      for i, id in ipairs { ids[1], ids[2], ids[1], ids[2], ids[2] } do jobs[i] = tarn.remotecall(id, get, ref) end
      for _ = 1, 5 do jobs[#jobs + 1] = tarn.async(get, ref) end
      for _ = 1, 5 do jobs[#jobs + 1] = tarn.async(get, here) end
      go:notify()
      for _, job in ipairs(jobs) do assert.equal("again", job:fetch(10)) end
      table.sort(_G.made_by)
      assert.same({ 1, ids[1] }, _G.made_by)
      assert.equal(ids[1], ref.owner)
      assert.equal(1, here.owner)
      press(ids[1]) -- it is still one that is dropped
      assert.equal("again", get(ref))
      assert.equal(3, #_G.made_by)
    end)
  end)

  it("is found by every call that needs its value", function()
    with(3, function(ids)
      local ref = tarn.poolset({ "first" }, ids[1], { remake = maker("again"), destroyonevict = true, size = "4KB" })
      local calls = {
        function() return tarn.access(function(x) return x[1] end, ref) end,
        function() return tarn.poolget_all({ ref, ref })[2][1] end,
        function() return tarn.fetch(ref)[1] end,
        function() return tarn.fetch(tarn.copytodisk(ref))[1] end,
        function()
          tarn.destroyonevict(ref, true)
          return get(ref)
        end,
        function()
          tarn.migrate(ref, ref.owner == ids[1] and ids[2] or ids[1])
          return get(ref)
        end,
      }
      for i, call in ipairs(calls) do
        press(ref.owner)
        assert.equal("again", call())
        assert.equal(i, #_G.made_by)
      end
      lose(ref.owner)
      assert.equal("again", tarn.access(function(x) return x[1] end, ref))
      local lost = ref.owner
      assert.equal(1, lost) -- it was made where it was asked for
      tarn.migrate(ref, ids[3])
      lose(ids[3])
      assert.same({ "again" }, { tarn.poolget_all({ ref })[1][1] })
      assert.equal(#calls + 2, #_G.made_by)
    end)
  end)

  it("survives one loss after the other, of the one that made it anew too", function()
    with(4, function(ids)
      local ref = tarn.poolset({ "first" }, ids[1], { remake = maker("again") })
      for i = 1, 3 do
        kill(ids[i])
        assert.same({ "again", ids[i + 1], ref:key() }, { tarn.remotecall_fetch(ids[i + 1], get_and_owner, ref) })
        assert.equal(i, #_G.made_by)
      end
      lose(ids[4])
      assert.equal("again", get(ref))
      assert.equal(1, ref.owner)
      local new = tarn.addprocs(1)[1]
      assert.same({ "again", 1, ref:key() }, { tarn.remotecall_fetch(new, get_and_owner, ref) })
      tarn.rmprocs(new)
    end)
  end)

  it("is made by another when the one that makes it is lost meanwhile", function()
    with(4, function(ids)
      local remake, go = slow_maker("again")
      local started = tarn.event(1)
      local ref = tarn.poolset({ "first" }, ids[1], { remake = function()
        started:notify()
        return remake()
      end })
      local pid = cluster.os_pid(ids[2])
      lose(ids[1])
      local first = tarn.remotecall(ids[2], get, ref)
      assert.is_true(started:wait(10))
      local others = records.on_each({ ids[3], ids[4] }, get, ref)
      assert.is_false(others[1]:wait(0.02))
      kill(ids[2], pid)
      cluster.fails("WorkerLost", first.fetch, first, 10)
      go:notify()
      for _, job in ipairs(others) do assert.equal("again", job:fetch(10)) end
      assert.equal(1, #_G.made_by)
      assert.is_true(ref.owner == ids[3] or ref.owner == ids[4])
    end)
  end)

  it("whose owner is lost while it makes it anew after a drop is made elsewhere", function()
    with(3, function(ids)
      local remake, go = slow_maker("again")
      local started = tarn.event(1)
      local ref = tarn.poolset({ "first" }, ids[1], { destroyonevict = true, size = "4KB", remake = function()
        started:notify()
        return remake()
      end })
      local pid = cluster.os_pid(ids[1])
      press(ids[1])
      local jobs = records.on_each({ ids[2], ids[3] }, get, ref)
      assert.is_true(started:wait(10))
      kill(ids[1], pid)
      go:notify()
      for _, job in ipairs(jobs) do assert.equal("again", job:fetch(10)) end
      assert.equal(1, #_G.made_by)
    end)
  end)

  it("tells every waiter what went wrong in its function, and tries again when asked again", function()
    with(3, function(ids)
      local go, broken = tarn.event(1), tarn.event(1)
      _G.made_by = {}
      local ref = tarn.poolset({ "first" }, ids[1], { remake = function()
        go:wait(10)
        tarn.remotecall_fetch(1, function() table.insert(_G.made_by, 1) end)
        if not broken:isset() then error("no source any more") end
        return { "again" }
      end })
      lose(ids[1])
      local jobs = records.on_each({ ids[2], ids[3], ids[3] }, get, ref)
      for i = 1, 3 do jobs[3 + i] = tarn.async(get, ref) end
      assert.is_false(jobs[6]:wait(0.05))
      go:notify()
      for _, job in ipairs(jobs) do
        cluster.says(cluster.fails("RemoteError", job.fetch, job, 10), "no source any more")
      end
      assert.equal(1, #_G.made_by)
      broken:notify()
      assert.equal("again", tarn.remotecall_fetch(ids[3], get, ref))
      assert.equal(2, #_G.made_by)
    end)
  end)

  it("is made of other objects, that are made anew for it", function()
    with(3, function(ids)
      local a = tarn.poolset({ 20 }, ids[1], { remake = function() return { 20 } end })
      local b = tarn.poolset({ 21 }, ids[1], { remake = function() return { a:get()[1] + 1 } end })
      lose(ids[1])
      assert.equal(21, tarn.remotecall_fetch(ids[2], get, b))
      assert.same({ ids[2], ids[2] }, { a.owner, b.owner })
    end)
  end)

  it("holds large data, which is mapped by the others", function()
    with(3, function(ids)
      local function large()
        local a = tarn.array("double", 2 ^ 18)
        for i = 1, #a do a[i] = i end
        return a
      end
      local ref = tarn.poolset(large(), ids[1], { remake = large })
      assert.equal(1000, ref:get()[1000])
      lose(ids[1])
      local at = function(r) return r:get()[2 ^ 18] end
      assert.equal(2 ^ 18, tarn.remotecall_fetch(ids[2], at, ref))
      assert.equal(2 ^ 18, tarn.remotecall_fetch(ids[3], at, ref))
      assert.equal(2 ^ 18, at(ref))
      assert.equal(ids[2], ref.owner)
    end)
  end)

  -- #onehost: a value that is dropped 20 times before it has been read is given up, which the slower way between hosts may bring about.
  it("is made again and again while there is no room to keep it, and raises PoolFull where it does not fit at all #onehost", function()
    with(2, function(ids)
      local list = {}
      for i = 1, 20 do
        list[i] = tarn.poolset(tarn.array("double", 2 ^ 15), ids[1], { destroyonevict = true, remake = function()
          local a = tarn.array("double", 2 ^ 15)
          a[1] = i
          return a
        end })
      end
      local memory = tarn.max_memsize(nil, ids[1])
      tarn.max_memsize("1MB", ids[1]) -- room for three
      for _ = 1, 2 do
        local jobs = {}
        for i = 1, 20 do jobs[i] = tarn.remotecall(ids[2], function(r) return r:get()[1] end, list[i]) end
        for i = 1, 20 do
          local x = jobs[i]:fetch(10)
          assert.is_true(x == i or x == 0)
        end
      end
      tarn.max_memsize(1000, ids[1])
      tarn.max_disksize(1000, ids[1])
      local ok, e = pcall(tarn.poolget, list[1])
      assert.is_false(ok)
      assert.is_true(tarn.iserror(e, "PoolFull") or tarn.iserror(e, "DiskFull"))
      tarn.max_memsize(memory, ids[1])
    end)
  end)
end)

-- Four of the objects have room; what is being sent is in use until it has left.
describe("objects that are made anew to be sent at once", function()
  local function with_objects(fn)
    cluster.with(2, function(ids)
      tarn.max_memsize("1MB", ids[1])
      fn(ids, tarn.remotecall_fetch(ids[1], function()
        local list = {}
        for i = 1, 20 do
          local function make()
            local a = tarn.array("double", 2 ^ 15)
            a[1], a[2 ^ 15] = i, i
            return a
          end
          list[i] = tarn.poolset(make(), nil, { destroyonevict = true, remake = make })
        end
        return list
      end))
    end, { map = false })
  end

  it("wait for each other to leave #onehost", function()
    with_objects(function(ids, list)
      local wrong = tarn.remotecall_fetch(ids[2], function()
        local gets, wrong = {}, 0
        for i = 1, 2 * #list do gets[i] = tarn.async(function() return list[(i * 7 - 1) % #list + 1]:get() end) end
        for i, future in ipairs(gets) do
          local a = future:fetch()
          if a[1] ~= (i * 7 - 1) % #list + 1 or a[2 ^ 15] ~= a[1] then wrong = wrong + 1 end
        end
        return wrong
      end)
      assert.equal(0, wrong)
    end)
  end)

  it("are PoolFull, or there, when who gets them does not read", function()
    with_objects(function(ids, list)
      tarn.remotecall_fetch(ids[2], function()
        _G.gets = {}
        for i = 1, 4 * #list do _G.gets[i] = tarn.async(function() return list[(i - 1) % #list + 1]:get() end) end
        _G.gets[1]:fetch()
      end)
      local os_pid = tarn.os_pid(ids[2])
      posix.kill(os_pid, posix.SIGSTOP)
      for i = 1, 10 do
        local ok, e = pcall(tarn.timeout, 20, function() return list[i]:get() end)
        assert.is_true(ok and e[1] == i or not ok and tarn.iserror(e, "PoolFull"), tostring(e))
      end
      posix.kill(os_pid, posix.SIGCONT)
    end)
  end)
end)

describe("a call that needs room", function()
  it("collects garbage before it waits for messages to leave", function()
    cluster.with(2, function(ids)
      local function large() return tarn.poolset(tarn.array("double", 2 ^ 18), nil, { destroyonevict = true }) end
      local ref = tarn.remotecall_fetch(ids[1], large)
      tarn.remotecall_fetch(ids[2], function() -- more of it than the system takes in at once
        for _ = 1, 14 do tarn.async(function() pcall(ref.get, ref) end) end
        tarn.sleep(0.01)
      end)
      local os_pid = tarn.os_pid(ids[2])
      posix.kill(os_pid, posix.SIGSTOP)
      local longest = tarn.remotecall_fetch(ids[1], function()
        local now, longest = require("spec.helper.posix").now, 0
        for _ = 1, 10 do
          local begun = now()
          tarn.array("double", 0.75 * 2 ^ 20)
          longest = math.max(longest, now() - begun)
        end
        return longest
      end)
      posix.kill(os_pid, posix.SIGCONT)
      assert.is_true(longest < 0.7)
    end, { map = false, memory = "16MB" })
  end)
end)

describe("the record of an object with remake", function()
  it("goes with its last reference: held, lost, made anew", function()
    with(3, function(ids)
      local function some(n) -- in a task of its own, so that nothing stays on the stack
        tarn.async(function()
          local ref = tarn.poolset({ "first" }, ids[n], { remake = maker("again") })
          assert.equal("first", get(ref))
          tarn.remotecall_fetch(ids[3], keep, "x", ref)
        end):fetch()
      end
      local function forgotten()
        tarn.remotecall_fetch(ids[3], function() _G.kept = nil end)
        return cluster.becomes(function()
          refs.collect()
          return records.count() == 0
        end)
      end
      some(1)
      assert.equal(1, records.count())
      assert.is_true(forgotten())

      some(1)
      lose(ids[1])
      refs.collect()
      refs.collect()
      assert.equal(1, records.count()) -- a worker holds it
      assert.is_true(forgotten())

      some(2)
      lose(ids[2])
      assert.equal("again", tarn.remotecall_fetch(ids[3], function() return _G.kept.x:get()[1] end))
      assert.is_true(forgotten())
      assert.equal(0, refs.objects(ids[3]))
    end)
  end)

  it("goes with the process that was the only one to hold a reference", function()
    with(3, function(ids)
      tarn.async(function()
        tarn.remotecall_fetch(ids[2], keep, "x", tarn.poolset({ "first" }, ids[1], { remake = maker("again") }))
      end):fetch()
      lose(ids[1])
      refs.collect()
      assert.equal(1, records.count())
      lose(ids[2])
      assert.is_true(cluster.becomes(function()
        refs.collect()
        return records.count() == 0
      end))
      assert.same({}, _G.made_by)
    end)
  end)

  it("keeps an object for who gets the reference after the loss, from whoever", function()
    with(4, function(ids)
      local ref = tarn.poolset({ "first" }, ids[1], { remake = maker("again") })
      tarn.remotecall_fetch(ids[2], keep, "x", ref)
      ref = nil -- luacheck: ignore
      refs.collect()
      lose(ids[1])
      tarn.remotecall_fetch(ids[2], function(to)
        tarn.remotecall_fetch(to, function(r)
          _G.kept = { x = r }
        end, _G.kept.x)
        _G.kept = nil
      end, ids[3])
      for _ = 1, 3 do refs.collect() end
      assert.equal(1, records.count())
      assert.equal("again", tarn.remotecall_fetch(ids[3], function() return _G.kept.x:get()[1] end))
      lose(ids[2])
      assert.same({ "again", ids[3] }, { tarn.remotecall_fetch(ids[3], function() return _G.kept.x:get()[1], _G.kept.x.owner end) })
      tarn.remotecall_fetch(ids[3], function() _G.kept = nil end)
    end)
  end)

  it("ends when it is deleted, before a loss and after, and nothing brings it back", function()
    with(3, function(ids)
      local function one() return tarn.poolset({ "first" }, ids[1], { remake = maker("again") }) end
      local a, b, c, d = one(), one(), one(), one()
      tarn.pooldelete(a)
      tarn.remotecall_fetch(ids[2], function(r) r:delete() end, b)
      tarn.remotecall_fetch(ids[1], function(r) r:delete() end, c)
      assert.equal(1, records.count())
      for _, ref in ipairs { a, b, c } do
        cluster.fails("KeyError", tarn.poolget, ref)
        cluster.fails("KeyError", tarn.remotecall_fetch, ids[2], get, ref)
      end
      lose(ids[1])
      tarn.remotecall_fetch(ids[2], function(r) r:delete() end, d)
      assert.equal(0, records.count())
      for _, ref in ipairs { a, b, c } do cluster.fails("WorkerLost", tarn.poolget, ref) end
      cluster.fails("KeyError", tarn.poolget, d)
      cluster.fails("KeyError", tarn.remotecall_fetch, ids[3], get, d)
      for _, ref in ipairs { a, d } do pcall(tarn.pooldelete, ref) end
      local e = tarn.poolset({ "here" }, nil, { remake = maker("again") })
      tarn.pooldelete_all { e, e }
      cluster.fails("KeyError", tarn.poolget, e)
      local f = tarn.poolset({ "here" }, nil, { remake = maker("again") })
      tarn.cleanup()
      cluster.fails("KeyError", tarn.poolget, f)
      assert.same({}, _G.made_by)
    end)
  end)

  it("ends when it is deleted while it is made anew, and its destructor runs once", function()
    with(3, function(ids)
      for _, id in ipairs { 1, unpack(ids) } do refs.at(id, ended_here) end
      local remake, go = slow_maker("again")
      local started = tarn.event(1)
      local ref = tarn.poolset({ "first" }, ids[1], { destructor = note_end, remake = function()
        started:notify()
        return remake()
      end })
      lose(ids[1])
      local job = tarn.remotecall(ids[2], get, ref)
      assert.is_true(started:wait(10))
      local deleted = tarn.async(tarn.pooldelete, ref)
      go:notify()
      deleted:fetch(10)
      local ok, e = pcall(job.fetch, job, 10)
      assert.is_true(ok or tarn.iserror(e, "KeyError"))
      cluster.fails("KeyError", tarn.poolget, ref)
      cluster.fails("KeyError", tarn.remotecall_fetch, ids[3], get, ref)
      local key = ref:key()
      ref = nil -- luacheck: ignore
      refs.collect()
      local ends = {}
      for _, id in ipairs { 1, ids[2], ids[3] } do
        for _, k in ipairs(ended_at(id)) do ends[#ends + 1] = k end
      end
      assert.same({ key }, ends)
    end)
  end)

  it("is kept while the object moves, and knows where it is then", function()
    with(3, function(ids)
      local ref = tarn.poolset({ "first" }, ids[1], { remake = maker("again") })
      for _, to in ipairs { ids[2], 1, ids[1], ids[3] } do
        tarn.migrate(ref, to)
        assert.equal("first", get(ref))
      end
      lose(ids[1])
      assert.equal("first", get(ref))
      lose(ids[3])
      assert.equal("again", tarn.remotecall_fetch(ids[2], get, ref))
      assert.equal(ids[2], ref.owner)
      tarn.migrate(ref, 1)
      lose(ids[2])
      assert.equal("again", get(ref))
      assert.same({ ids[2] }, _G.made_by)
    end)
  end)

  it("knows where it is when either end of a migration is lost at any time", function()
    for round = 1, 18 do
      with(3, function(ids)
        local from, to = ids[1], round % 3 == 0 and 1 or ids[2]
        local ref = tarn.poolset({ "first" }, from, { remake = maker("again") })
        tarn.remotecall_fetch(ids[3], keep, "x", ref)
        local victim = round % 3 == 1 and to or from
        local pid = cluster.os_pid(victim)
        local move = tarn.async(function() tarn.migrate(ref, to) end)
        tarn.sleep(math.floor(round / 3) * 0.0004)
        kill(victim, pid)
        local ok, e = pcall(move.fetch, move, 10)
        if not ok then assert.is_true(tarn.iserror(e, "WorkerLost"), tostring(e)) end
        local x = ref:get()
        assert.is_true(x[1] == "first" or x[1] == "again")
        assert.is_true(#_G.made_by <= 1)
        assert.same({ x[1], ref.owner }, { tarn.remotecall_fetch(ids[3], function() return _G.kept.x:get()[1], _G.kept.x.owner end) })
        assert.is_true(ref.owner ~= victim)
        records.await_loss(victim)
        tarn.remotecall_fetch(ids[3], function() _G.kept = nil end)
      end)
    end
  end)

  it("takes its destructor along, which runs at most once, where it ends", function()
    with(3, function(ids)
      ended_here()
      for _, id in ipairs(ids) do tarn.remotecall_fetch(id, ended_here) end
      local function one(id)
        return tarn.poolset({ "first" }, id, { remake = maker("again"), destroyonevict = true, size = "4KB", destructor = note_end })
      end
      local key = tarn.async(function() return one(ids[1]):key() end):fetch()
      assert.is_true(cluster.becomes(function()
        refs.collect()
        return #ended_at(ids[1]) > 0
      end))
      assert.same({ key }, ended_at(ids[1]))

      local ref = one(ids[1])
      press(ids[1]) -- dropped, but not at its end
      assert.equal("again", get(ref))
      assert.equal(1, #ended_at(ids[1]))
      tarn.migrate(ref, ids[2])
      lose(ids[1])
      assert.same({}, ended_at(ids[2]))
      lose(ids[2])
      assert.equal("again", tarn.remotecall_fetch(ids[3], get, ref))
      tarn.pooldelete(ref)
      assert.is_true(cluster.becomes(function() return #ended_at(ids[3]) > 0 end))
      assert.same({ ref:key() }, ended_at(ids[3]))
      ref = nil -- luacheck: ignore
      refs.collect()
      assert.equal(1, #ended_at(ids[3]))
      assert.same({}, _G.ended)
    end)
  end)

  it("ends with a worker that is removed, which its object survives", function()
    with(2, function(ids)
      for _, id in ipairs { 1, unpack(ids) } do refs.at(id, ended_here) end
      local ref = tarn.poolset({ "first" }, ids[1], { remake = maker("again"), destructor = note_end })
      tarn.rmprocs(ids[1])
      assert.equal("again", tarn.remotecall_fetch(ids[2], get, ref))
      assert.same({}, _G.ended)
      assert.same({}, ended_at(ids[2]))
    end)
  end)

  it("is no obstacle when all ends: destructors run where the objects are, once", function()
    local run = process.run_script([[
      local ids = tarn.addprocs(2)
      local opts = { remake = function() return 1 end, destructor = function(key) print("ended " .. key .. " on " .. tarn.myid()) end }
      local a, b = tarn.poolset({ 1 }, ids[1], opts), tarn.poolset({ 1 }, ids[1], opts)
      local c, d = tarn.poolset({ 1 }, nil, opts), tarn.poolset({ 1 }, ids[1], { remake = opts.remake })
      tarn.migrate(b, ids[2])
      _G.kept = { a, b, c, d }
      print(a:key(), b:key(), c:key())
    ]])
    assert.equal(0, run.code)
    assert.equal("", run.err)
    local a, b, c = run.out:match("(%S+)\t(%S+)\t(%S+)\n")
    cluster.says(run.out, "ended " .. a .. " on 2", "ended " .. b .. " on 3", "ended " .. c .. " on 1")
    assert.equal(3, select(2, run.out:gsub("ended", "")))
  end)
end)

describe("without a record", function()
  it("what is lost stays lost, and the error names process and object", function()
    with(2, function(ids)
      local ref = tarn.poolset({ "lost" }, ids[1])
      lose(ids[1])
      for _, e in ipairs {
        cluster.fails("WorkerLost", tarn.poolget, ref),
        cluster.fails("WorkerLost", tarn.poolget_all, { ref }),
        cluster.fails("WorkerLost", tarn.remotecall_fetch, ids[2], get, ref),
      } do
        assert.equal(ids[1], e.pid)
        cluster.says(e, "process " .. ids[1], "object " .. ref:key())
      end
      assert.equal(ids[1], ref.owner)
    end)
  end)
end)

describe("the option remake", function()
  it("is a function that can travel", function()
    with(1, function(ids)
      cluster.says(cluster.fails("ArgumentError", tarn.poolset, 1, nil, { remake = "f" }), "remake", "a function is needed")
      local co = coroutine.create(print)
      cluster.fails("NotSerializable", tarn.poolset, 1, ids[1], { remake = function() return co end })
      assert.equal(0, records.count())
    end)
  end)
end)
