-- tarn.poolset(x, id, {replicas = n}): copies on other processes, of which one becomes the object when its owner is lost.
local cluster = require "spec.helper.cluster"
local records = require "spec.helper.records"
local refs = require "spec.helper.refs"
local with, kill, lose, copies, has_copies = records.with, records.kill, records.lose, records.copies, records.has_copies

local function get(ref) return ref:get()[1] end

local function keep(name, ref)
  _G.kept = _G.kept or {}
  _G.kept[name] = ref
end

local function has(list, x)
  for _, y in ipairs(list) do
    if x == y then return true end
  end
  return false
end

-- An array whose elements say whether they are right.
local function large(n)
  local a = tarn.array("double", n)
  for i = 1, n do a[i] = i end
  return a
end

describe("an object with replicas", function()
  it("has its copies when it is there, on others than its owner, workers first", function()
    with(3, function(ids)
      for n = 1, 4 do
        local ref = tarn.poolset({ "kept" }, ids[1], { replicas = n })
        local list = copies(ref)
        assert.equal(math.min(n, 3), #list)
        assert.is_false(has(list, ids[1]))
        assert.equal(n >= 3, has(list, 1)) -- process 1 comes last
        assert.equal("kept", get(ref))
      end
      local here = tarn.poolset({ "kept" }, nil, { replicas = 2 })
      assert.equal(2, #copies(here))
      assert.is_false(has(copies(here), 1))
    end)
  end)

  it("is served by a survivor when its owner is lost, and has as many copies as before", function()
    with(4, function(ids)
      for _, value in ipairs { { "plain" }, "text", large(20), large(200000) } do
        local new = tarn.addprocs(1)[1]
        local ref = tarn.poolset(value, new, { replicas = 2 })
        local key, text = ref:key(), tostring(ref)
        for _, id in ipairs { ids[1], ids[2] } do tarn.remotecall_fetch(id, keep, "x", ref) end
        local before = copies(ref)
        kill(new)
        local function read(r)
          local x = r:get()
          return type(x) == "string" and x or x[#x], r.owner, r:key()
        end
        local jobs = records.on_each(ids, read, ref)
        local expected = type(value) == "string" and value or value[#value]
        for _, job in ipairs(jobs) do
          local x, owner, k = job:fetch(10)
          assert.same({ expected, key }, { x, k })
          assert.is_true(has(before, owner))
        end
        assert.equal(expected, (read(ref)))
        assert.equal(text, tostring(ref))
        assert.is_true(has_copies(ref, 2))
        assert.is_false(has(copies(ref), ref.owner))
        assert.is_true(ref == tarn.remotecall_fetch(ids[1], function() return _G.kept.x end))
        assert.equal(ref.owner, tarn.remotecall_fetch(ids[1], function() return _G.kept.x.owner end))
        for _, id in ipairs { ids[1], ids[2] } do tarn.remotecall_fetch(id, function() _G.kept = nil end) end
      end
    end)
  end)

  it("survives one loss after the other, and two at a time", function()
    with(5, function(ids)
      local ref = tarn.poolset({ "kept" }, ids[1], { replicas = 2 })
      for _ = 1, 3 do
        local owner = ref.owner
        kill(owner)
        assert.equal("kept", get(ref))
        assert.is_true(ref.owner ~= owner)
        assert.is_true(has_copies(ref, 2) or #tarn.workers() < 3)
      end
      assert.equal("kept", get(ref))
      local new = tarn.addprocs(3)
      assert.is_true(has_copies(ref, 2))
      local first, second = ref.owner, copies(ref)[1]
      local pids = { first ~= 1 and cluster.os_pid(first) or nil, second ~= 1 and cluster.os_pid(second) or nil }
      for i, id in ipairs { first, second } do
        if pids[i] then kill(id, pids[i]) end
      end
      assert.equal("kept", get(ref))
      for _, id in ipairs(new) do pcall(tarn.rmprocs, id) end
      assert.equal("kept", get(ref))
    end)
  end)

  it("gets a new copy when the process with one is lost, and what was lacking when processes join", function()
    with(1, function(ids)
      local ref = tarn.poolset({ "kept" }, ids[1], { replicas = 3 })
      assert.same({ 1 }, copies(ref)) -- as many as there are
      local more = tarn.addprocs(2)
      assert.is_true(has_copies(ref, 3))
      kill(more[1])
      assert.is_true(has_copies(ref, 2))
      local again = tarn.addprocs(2)
      assert.is_true(has_copies(ref, 3))
      assert.is_false(has(copies(ref), more[1]))
      tarn.rmprocs(ids[1]) -- in order, which is a loss all the same
      assert.equal("kept", get(ref))
      assert.is_true(has_copies(ref, 3))
      tarn.rmprocs(more[2], unpack(again))
      assert.equal("kept", get(ref))
      assert.equal(1, ref.owner)
      assert.same({}, copies(ref))
    end)
  end)

  it("is copied on, spread over the processes", function()
    with(4, function(ids)
      local list = {}
      for i = 1, 60 do list[i] = tarn.poolset({ i }, ids[1], { replicas = 1 }) end
      local at = {}
      for i = 1, 60 do
        local id = copies(list[i])[1]
        at[id] = (at[id] or 0) + 1
      end
      for i = 2, 4 do assert.equal(20, at[ids[i]]) end
      kill(ids[1])
      for i, x in ipairs(tarn.poolget_all(list)) do assert.equal(i, x[1]) end
      for i = 1, 60 do assert.is_true(has_copies(list[i], 1)) end
      kill(ids[2])
      for i = 60, 1, -1 do assert.equal(i, list[i]:get()[1]) end
    end)
  end)

  it("frees copies and record with its last reference, and when it is deleted", function()
    with(3, function(ids)
      local function nothing_left()
        return cluster.becomes(function()
          refs.collect()
          for _, id in ipairs(tarn.procs()) do
            if refs.objects(id) > 0 then return false end
          end
          return records.count() == 0
        end)
      end
      tarn.async(function() assert.equal("kept", get(tarn.poolset({ "kept" }, ids[1], { replicas = 2 }))) end):fetch()
      assert.is_true(nothing_left())
      local ref = tarn.poolset({ "kept" }, ids[1], { replicas = 2 })
      assert.equal(1, refs.objects(ids[2]))
      tarn.remotecall_fetch(ids[2], function(r) r:delete() end, ref)
      assert.is_true(nothing_left())
      cluster.fails("KeyError", tarn.poolget, ref)
      tarn.async(function()
        local other = tarn.poolset(large(10000), ids[1], { replicas = 2 })
        lose(ids[1])
        tarn.pooldelete(other)
        cluster.fails("KeyError", tarn.poolget, other)
      end):fetch()
      assert.is_true(nothing_left())
      tarn.async(function()
        local other = tarn.poolset(large(10000), ids[2], { replicas = 2 })
        tarn.remotecall_fetch(ids[3], keep, "x", other)
      end):fetch()
      lose(ids[2])
      assert.equal(10000, tarn.remotecall_fetch(ids[3], function() return _G.kept.x:get()[10000] end))
      tarn.remotecall_fetch(ids[3], function() _G.kept = nil end)
      assert.is_true(nothing_left())
    end)
  end)

  it("ends its destructor's wait once, wherever it is then", function()
    with(3, function(ids)
      for _, id in ipairs { 1, unpack(ids) } do refs.at(id, function() _G.ended = {} end) end
      local key = tarn.async(function()
        local ref = tarn.poolset({ "kept" }, ids[1], { replicas = 2, destructor = function(k) table.insert(_G.ended, k) end })
        lose(ids[1])
        assert.equal("kept", get(ref))
        return ref:key()
      end):fetch()
      local function all()
        local list = {}
        refs.collect()
        for _, id in ipairs(tarn.procs()) do
          for _, k in ipairs(refs.at(id, function() return _G.ended end)) do list[#list + 1] = k end
        end
        return list
      end
      assert.is_true(cluster.becomes(function() return #all() > 0 end))
      assert.same({ key }, all())
    end)
  end)

  it("is moved by migrate to where a copy is, and its copies are elsewhere then", function()
    with(3, function(ids)
      local ref = tarn.poolset({ "kept" }, ids[1], { replicas = 2 })
      for _, to in ipairs { ids[2], ids[3], 1, ids[1] } do
        tarn.migrate(ref, to)
        assert.equal("kept", get(ref))
        assert.is_true(cluster.becomes(function() return #copies(ref) == 2 and not has(copies(ref), to) end))
      end
      lose(ids[1])
      assert.equal("kept", get(ref))
    end)
  end)

  it("is dropped with the pressure on its owner, and had again from a copy, else made anew", function()
    with(2, function(ids)
      local function remake() return { "again" } end
      local ref = tarn.poolset({ "kept" }, ids[1], { replicas = 1, destroyonevict = true, size = "4KB", remake = remake })
      local stays = tarn.poolset(("x"):rep(5000), ids[1], { replicas = 1 })
      records.press(ids[1])
      assert.equal("kept", get(ref))
      assert.equal(5000, #stays:get())
      lose(ids[2])
      assert.is_true(has_copies(stays, 1))
      lose(ids[1])
      assert.is_true(has({ "kept", "again" }, get(ref)))
      assert.equal(5000, #stays:get())
    end)
  end)

  it("does without copies where there is no room for them, and is lost with the last", function()
    with(2, function(ids)
      tarn.max_memsize("100KB", ids[2])
      tarn.max_disksize("100KB", ids[2])
      local memory, on_disk = tarn.max_memsize(), tarn.max_disksize()
      tarn.max_memsize("100KB")
      tarn.max_disksize("100KB")
      local ref = tarn.remotecall_fetch(ids[1], function() return tarn.poolset(tarn.array("double", 2 ^ 17), nil, { replicas = 2 }) end)
      assert.same({}, copies(ref))
      tarn.max_memsize(memory)
      tarn.max_disksize(on_disk < math.huge and on_disk or 2 ^ 50)
      lose(ids[1])
      local e = cluster.fails("WorkerLost", tarn.poolget, ref)
      cluster.says(e, "process " .. ids[1], "object " .. ref:key())
      assert.equal(0, records.count())
    end)
  end)
end)

describe("a loss in the middle", function()
  -- Kill process id after so many tenths of a millisecond.
  local function kill_soon(id, os_pid, tenths)
    tarn.sleep(tenths * 0.0001)
    kill(id, os_pid)
  end

  it("of the first copying, of either end", function()
    for round = 1, 8 do
      with(3, function(ids)
        local victim = ids[round % 2 + 1]
        local pid = cluster.os_pid(victim)
        local set = tarn.async(function() return tarn.poolset(large(50000), ids[1], { replicas = 2 }) end)
        kill_soon(victim, pid, round * 3)
        local ok, ref = pcall(set.fetch, set, 10)
        if ok then
          assert.equal(50000, ref:get()[50000])
          assert.is_true(has_copies(ref, 2))
        else
          assert.is_true(tarn.iserror(ref, "WorkerLost"), tostring(ref))
          assert.equal(ids[1], victim)
        end
        records.await_loss(victim)
      end)
    end
  end)

  it("of appointing the new owner, of that one", function()
    for round = 1, 8 do
      with(4, function(ids)
        local ref = tarn.poolset(large(20000), ids[1], { replicas = 2, remake = function() return large(20000) end })
        for _, id in ipairs(ids) do tarn.remotecall_fetch(id, keep, "x", ref) end
        local pids = {}
        for _, id in ipairs(ids) do pids[id] = cluster.os_pid(id) end
        local second = copies(ref)[1]
        kill(ids[1], pids[ids[1]])
        local function read() return _G.kept.x:get()[20000] end
        local others = {}
        for _, id in ipairs(ids) do
          if id ~= ids[1] and id ~= second then others[#others + 1] = id end
        end
        local jobs = records.on_each(others, read)
        kill_soon(second, pids[second], round * 3)
        for _, job in ipairs(jobs) do assert.equal(20000, job:fetch(10)) end
        assert.equal(20000, ref:get()[20000])
        records.await_loss(ids[1])
        records.await_loss(second)
        assert.is_true(has_copies(ref, 2)) -- one of them on process 1
        for _, id in ipairs(others) do
          assert.equal(ref.owner, tarn.remotecall_fetch(id, function()
            _G.kept.x:get()
            return _G.kept.x.owner
          end))
          tarn.remotecall_fetch(id, function() _G.kept = nil end)
        end
      end)
    end
  end)

  it("of many gets by many", function()
    with(5, function(ids)
      local list, pids = {}, {}
      for i = 1, 40 do
        list[i] = tarn.poolset({ i }, ids[i % 3 + 1], { replicas = 2 })
      end
      for _, id in ipairs(ids) do pids[id] = cluster.os_pid(id) end
      local stop = tarn.event(1)
      local function read(all)
        local n = 0
        repeat
          for i, ref in ipairs(all) do assert(ref:get()[1] == i) end
          n = n + 1
        until stop:isset()
        return n
      end
      local jobs = records.on_each({ ids[4], ids[5] }, read, list)
      jobs[3] = tarn.async(read, list)
      for i = 1, 2 do
        tarn.sleep(0.02)
        kill(ids[i], pids[ids[i]])
        for _, ref in ipairs(list) do get(ref) end
        for _, ref in ipairs(list) do assert.is_true(has_copies(ref, 2)) end
      end
      stop:notify()
      for _, job in ipairs(jobs) do assert.is_true(job:fetch(10) > 0) end
    end)
  end)
end)

describe("the option replicas", function()
  it("is a whole number", function()
    for _, n in ipairs { -1, 1.5, "two" } do
      cluster.says(cluster.fails("ArgumentError", tarn.poolset, 1, nil, { replicas = n }), "replicas is a whole number")
    end
    assert.equal(1, get(tarn.poolset({ 1 }, nil, { replicas = 0 })))
    assert.equal(0, records.count())
  end)
end)
