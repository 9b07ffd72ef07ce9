-- tarn.migrate: an object changes its owner, and nobody who holds it notices but by ref.owner.
local ffi = require "ffi"
local cluster = require "spec.helper.cluster"
local refs = require "spec.helper.refs"
pcall(ffi.cdef, "int kill(int pid, int sig);")

local function keep(name, ref)
  _G.kept = _G.kept or {}
  _G.kept[name] = ref
end
local function look(name) return _G.kept[name].owner, _G.kept[name]:key(), _G.kept[name]:get() end

local function with(n, fn)
  refs.with(n, function(ids)
    fn(ids)
    for _, pid in ipairs(tarn.procs()) do
      refs.at(pid, function() _G.kept = nil end)
    end
  end, { silence_s = 120 }) -- stopped is not lost here
end

-- In a worker: call fn once, in a task of its own, when an object has been sent off to its new owner and Lua waits for the answer.
local function when_sent(fn)
  local rpc = require "tarn.rpc"
  local call = rpc.call
  rpc.call = function(what, pid, method, ...)
    if method == "migrate.adopt" then
      rpc.call = call
      tarn.async(fn)
    end
    return call(what, pid, method, ...)
  end
end

describe("an object that is migrated", function()
  it("is the same for all who hold it, who know its owner when the call returns", function()
    with(3, function(ids)
      for _, value in ipairs { { "plain" }, tarn.array("double", { 1, 2, 3 }), "text" } do
        local ref = tarn.poolset(value, ids[1])
        local key, text = ref:key(), tostring(ref)
        for _, id in ipairs(ids) do tarn.remotecall_fetch(id, keep, "x", ref) end
        for _, to in ipairs { ids[2], 1, ids[3], ids[1] } do
          tarn.migrate(ref, to)
          assert.equal(to, ref.owner)
          assert.equal(key, ref:key())
          assert.equal(text, tostring(ref))
          for _, id in ipairs(ids) do
            local owner, k, x = tarn.remotecall_fetch(id, look, "x")
            assert.equal(to, owner)
            assert.equal(key, k)
            if type(value) == "string" then assert.equal(value, x) else assert.equal(value[1], x[1]) end
          end
          for _, id in ipairs { 1, unpack(ids) } do
            refs.collect()
            assert.is_true(cluster.becomes(function() return refs.objects(id) == (id == to and 1 or 0) end))
          end
          assert.is_true(ref == tarn.remotecall_fetch(ids[2], function() return _G.kept.x end))
        end
      end
    end)
  end)

  it("is spilled, deleted, accessed and named by FileRefs where it is now", function()
    with(2, function(ids)
      local ref = tarn.poolset({ 5 }, ids[1])
      tarn.migrate(ref, ids[2])
      tarn.movetodisk(ref)
      assert.equal(ids[2], tarn.access(function(x) return x[1] == 5 and tarn.myid() end, ref))
      tarn.migrate(ref, 1) -- from the spill file
      assert.equal(5, ref:get()[1])
      tarn.migrate(ref, ids[1])
      tarn.pooldelete(ref)
      cluster.fails("KeyError", tarn.poolget, ref)
      for _, id in ipairs { 1, unpack(ids) } do assert.is_true(refs.becomes(id, 0)) end
      cluster.fails("KeyError", tarn.migrate, ref, 1)
    end)
  end)

  it("takes large data and the references in it along", function()
    with(2, function(ids)
      local inner = tarn.poolset("inner", ids[1])
      local a = tarn.array("double", 200000)
      for i = 1, #a do a[i] = i end
      local ref = tarn.poolset({ inner, a }, ids[1])
      inner = nil -- luacheck: ignore
      tarn.migrate(ref, ids[2])
      refs.collect()
      refs.collect()
      local x = ref:get()
      assert.equal("inner", x[1]:get())
      assert.equal(200000, x[2][200000])
      assert.is_true(refs.becomes(ids[1], 1))
    end)
  end)

  it("takes its destructor along, which runs once, where it ends", function()
    with(2, function(ids)
      for _, id in ipairs(ids) do tarn.remotecall_fetch(id, function() _G.ended = {} end) end
      local function make()
        local ref = tarn.poolset("x", ids[1], { destructor = function(key) table.insert(_G.ended, key) end })
        tarn.migrate(ref, ids[2])
        return ref:key()
      end
      local key = tarn.async(make):fetch()
      assert.is_true(refs.becomes(ids[2], 0))
      local ended = function(id) return tarn.remotecall_fetch(id, function() return _G.ended end) end
      assert.is_true(cluster.becomes(function() return #ended(ids[2]) > 0 end))
      assert.same({ key }, ended(ids[2]))
      assert.same({}, ended(ids[1]))
    end)
  end)

  it("survives the process that made it", function()
    with(2, function(ids)
      local ref = tarn.poolset("moved away", ids[1])
      tarn.remotecall_fetch(ids[2], keep, "x", ref)
      tarn.migrate(ref, ids[2])
      tarn.rmprocs(ids[1])
      assert.equal("moved away", ref:get())
      local new = tarn.addprocs(1)[1]
      tarn.remotecall_fetch(new, keep, "x", ref) -- told where it is by the message
      local owner, _, x = tarn.remotecall_fetch(new, look, "x")
      assert.same({ ids[2], "moved away" }, { owner, x })
      local again = tarn.decode(tarn.encode(ref))
      assert.is_true(again == ref)
      tarn.rmprocs(new)
    end)
  end)

  it("is got by everybody all the time while it goes round", function()
    with(4, function(ids)
      local ref = tarn.poolset({ "round" }, ids[1])
      local readers = {}
      for i = 2, 4 do
        readers[i] = tarn.remotecall(ids[i], function(r)
          local n = 0
          repeat
            assert(r:get()[1] == "round")
            assert(tarn.poolget_all({ r, r })[2][1] == "round")
            n = n + 1
            local passed = tarn.remotecall_fetch(r.owner, function(q) return q:get()[1] end, r)
            assert(passed == "round")
          until _G.stop
          return n
        end, ref)
      end
      for i = 1, 40 do tarn.migrate(ref, ids[i % 4 + 1]) end
      for i = 2, 4 do tarn.remotecall_fetch(ids[i], function() _G.stop = true end) end
      for i = 2, 4 do assert.is_true(readers[i]:fetch(10) > 0) end
      assert.equal("round", ref:get()[1])
    end)
  end)

  it("by several at once ends up with one of them", function()
    with(3, function(ids)
      local ref = tarn.poolset({ "wanted" }, ids[1])
      for _ = 1, 10 do
        local jobs = {}
        for i, id in ipairs(ids) do jobs[i] = tarn.remotecall(id, function(r, to) tarn.migrate(r, to) end, ref, id) end
        for _, job in ipairs(jobs) do job:fetch(10) end
        assert.equal("wanted", ref:get()[1])
      end
      local objects
      assert.is_true(cluster.becomes(function()
        refs.collect()
        objects = 0
        for _, id in ipairs(ids) do objects = objects + refs.objects(id) end
        return objects == 1
      end), objects)
    end)
  end)
end)

describe("a migration that cannot be", function()
  it("says why, and the object stays", function()
    with(2, function(ids)
      local ref = tarn.poolset({ "stays" }, ids[1])
      tarn.migrate(ref, ids[1]) -- to where it is
      local e = cluster.fails("WorkerLost", tarn.migrate, ref, 999)
      assert.equal(999, e.pid)
      cluster.fails("ArgumentError", tarn.migrate, ref, "two")
      cluster.fails("ArgumentError", tarn.migrate, { 1 }, ids[1])
      assert.equal(ids[1], ref.owner)
      assert.equal("stays", ref:get()[1])

      local large = tarn.poolset(tarn.array("double", 2 ^ 20), ids[1])
      tarn.max_memsize("1MB", ids[2])
      tarn.max_disksize("1MB", ids[2])
      local ok, full = pcall(tarn.migrate, large, ids[2])
      assert.is_false(ok)
      assert.is_true(tarn.iserror(full, "PoolFull") or tarn.iserror(full, "DiskFull"))
      assert.equal(2 ^ 20, #large:get())
      assert.equal(ids[1], large.owner)
    end)
  end)

  it("because the new owner is lost on the way leaves the object where it was, or lost with it", function()
    for round = 1, 8 do
      with(2, function(ids)
        local ref = tarn.poolset({ "on the way" }, ids[1])
        local pid = cluster.os_pid(ids[2])
        local move = tarn.async(function() tarn.migrate(ref, ids[2]) end)
        tarn.sleep(round * 0.0003)
        ffi.C.kill(pid, 9)
        local moved, e = pcall(move.fetch, move, 10)
        if not moved then assert.is_true(tarn.iserror(e, "WorkerLost")) end
        assert.is_true(cluster.becomes(function() return #tarn.workers() == 1 end))
        local ok, x = pcall(tarn.poolget, ref)
        if ref.owner == ids[1] then
          assert.is_true(ok)
          assert.equal("on the way", x[1])
        else
          assert.is_true(tarn.iserror(x, "WorkerLost"))
        end
      end)
    end
  end)

  it("ends when a holder that must be told is lost", function()
    with(3, function(ids)
      local ref = tarn.poolset({ "told" }, ids[1])
      local pid = cluster.os_pid(ids[3])
      tarn.remotecall_fetch(ids[3], keep, "x", ref)
      ffi.C.kill(pid, 19) -- it does not answer
      local move = tarn.async(function() tarn.migrate(ref, ids[2]) end)
      assert.is_false(move:wait(0.3))
      assert.equal("told", ref:get()[1])
      ffi.C.kill(pid, 9)
      move:fetch(10)
      assert.equal(ids[2], ref.owner)
      assert.equal("told", ref:get()[1])
    end)
  end)
end)

describe("while an object is being handed over", function()
  it("its new owner may hand it on before the old one has looked at the answer", function()
    with(3, function(ids)
      local first, second, third = unpack(ids)
      local ref = tarn.poolset({ "handed on" }, first)
      tarn.remotecall_fetch(second, keep, "x", ref)
      local on = tarn.remotecall(second, function(to, collect)
        while _G.kept.x.owner ~= tarn.myid() do tarn.sleep(0) end
        tarn.migrate(_G.kept.x, to)
        _G.kept = nil
        collect()
      end, third, refs.collect_here)
      local move = tarn.remotecall(first, function(r, to, when, compute)
        when(compute)
        tarn.migrate(r, to)
      end, ref, second, when_sent, cluster.compute)
      on:fetch(30)
      for _ = 1, 3 do refs.collect { second, third } end
      cluster.go_on(first)
      move:fetch(30) -- sees that it has gone on, and gets it back to where it was told to
      for _ = 1, 3 do refs.collect() end
      for _, id in ipairs { 1, first } do
        assert.same({ second, "handed on" }, { refs.at(id, function(r) return r.owner, r:get()[1] end, ref) })
      end
      for _, id in ipairs { first, third } do assert.is_true(refs.becomes(id, 0)) end
    end)
  end)

  it("its old owner stays lost for a new one that looks at it only then", function()
    with(2, function(ids)
      local from, to = unpack(ids)
      local from_pid = cluster.os_pid(from)
      local busy = tarn.remotecall(to, cluster.compute)
      tarn.remotecall_fetch(from, function(x, when)
        _G.ref = tarn.poolset({ "orphan" })
        when(function()
          tarn.poolstats(x) -- what was sent to it before has arrived
          _G.sent = true
        end)
        tarn.remote_do(tarn.myid(), tarn.migrate, _G.ref, x)
      end, to, when_sent)
      assert.is_true(cluster.becomes(function() return tarn.remotecall_fetch(from, function() return _G.sent end) end))
      ffi.C.kill(from_pid, 9)
      assert.is_true(cluster.becomes(function() return #tarn.workers() == 1 end))
      tarn.poolstats(to) -- it has been told of the loss
      cluster.go_on(to)
      busy:fetch(30)
      assert.is_true(refs.becomes(to, 0))
    end)
  end)

  it("a reference that its new owner has passed on before comes late, and holds it", function()
    with(3, function(ids)
      local from, to, late = unpack(ids)
      local late_pid = cluster.os_pid(late)
      tarn.remotecall_fetch(to, function(id) tarn.remotecall_fetch(id, tarn.myid) end, late) -- they are connected
      tarn.remotecall_fetch(from, function(id, k)
        _G.kept = { x = tarn.poolset({ "late" }) }
        tarn.remotecall_fetch(id, k, "x", _G.kept.x)
      end, to, keep)
      ffi.C.kill(late_pid, 19)
      tarn.remotecall_fetch(to, function(id, k) tarn.remote_do(id, k, "x", _G.kept.x) end, late, keep)
      local move = tarn.remotecall(from, function(id) tarn.migrate(_G.kept.x, id) end, to)
      assert.is_true(cluster.becomes(function() return tarn.remotecall_fetch(to, look, "x") == to end))
      local function let_go()
        for _, id in ipairs { from, to } do tarn.remotecall_fetch(id, function() _G.kept = nil end) end
        for _ = 1, 3 do refs.collect { from, to } end
      end
      let_go()
      ffi.C.kill(late_pid, 18)
      local function read() return tarn.remotecall_fetch(late, function() return _G.kept and _G.kept.x:get()[1] end) end
      assert.is_true(cluster.becomes(function() return read() == "late" end))
      move:fetch(30)
      let_go()
      assert.equal("late", read())
    end)
  end)
end)
