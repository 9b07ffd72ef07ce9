-- The pool's calls, one by one, asked from another process: what seed_spec and files_spec do not have.
local cluster = require "spec.helper.cluster"
local core = require "tarn.core"
local failure = require "tarn.failure"
local process = require "spec.helper.process"
local with, fails, says, becomes = cluster.with, cluster.fails, cluster.says, cluster.becomes

local function numbers(n, first)
  local a = tarn.array("double", n)
  for i = 1, n do a[i] = (first or 0) + i end
  return a
end

describe("poolset to another process", function()
  it("copies: what was sent stays writable here, and changing it changes nothing there", function()
    with(1, function(ids)
      local a, t = numbers(20000), { 1, { 2 } }
      local far, plain = tarn.poolset(a, ids[1]), tarn.poolset(t, ids[1])
      a[1], t[2][1] = -1, -1
      assert.same({ 1, 2 }, { tarn.poolget(far)[1], tarn.poolget(plain)[2][1] })
      assert.is_false(tarn.poolget(plain) == tarn.poolget(plain)) -- fresh at each remote get
      assert.is_true(a[2] == 2 and not a.sealed)
    end)
  end)

  it("honours all options together", function()
    with(1, function(ids)
      local id = ids[1]
      local ref = tarn.poolset({ "x" }, id, { size = "1MB", destroyonevict = true, destructor = function(key)
        rawset(_G, "gone_key", key)
      end })
      assert.equal(1e6, ref.size)
      local key = ref:key()
      assert.is_nil(tarn.remotecall_fetch(id, function() return rawget(_G, "gone_key") end))
      tarn.remotecall_fetch(id, function() -- pressure
        _G.kept = {}
        for i = 1, 12 do _G.kept[i] = tarn.poolset(tarn.array("double", 100000)) end
      end)
      fails("KeyError", tarn.poolget, ref)
      assert.is_true(becomes(function() return tarn.remotecall_fetch(id, function() return rawget(_G, "gone_key") end) == key end))
      assert.equal(0, tarn.poolstats(id).live_bytes)
    end, { memory = "4MB" })
  end)

  it("waits for room that live values hold until Lua yields, and then encodes them", function()
    with(1, function(ids)
      local id = ids[1]
      tarn.remotecall_fetch(id, function()
        _G.kept = {}
        for i = 1, 200 do
          local t = {}
          for j = 1, 1000 do t[j] = i + j end
          _G.kept[i] = tarn.poolset(t)
        end
      end)
      assert.is_true(tarn.poolstats(id).live_bytes > 1e6)
      local busy = tarn.remotecall(id, function()
        local start = os.clock()
        while os.clock() - start < 0.3 do end
      end)
      local refs = {}
      for i = 1, 5 do refs[i] = tarn.poolset(numbers(100000, i), id) end -- 4 MB into what is full of live values
      for i = 1, 5 do assert.equal(i + 7, tarn.poolget(refs[i])[7]) end
      busy:fetch()
      tarn.remotecall_fetch(id, function()
        for i, ref in ipairs(_G.kept) do assert(tarn.poolget(ref)[1000] == i + 1000) end
      end)
    end, { memory = "4MB" })
  end)

  it("says PoolFull with the figures when what fills the pool can never leave it", function()
    with(1, function(ids)
      local id = ids[1]
      tarn.remotecall_fetch(id, function()
        _G.kept = {}
        for i = 1, 30 do _G.kept[i] = tarn.poolset({ coroutine.create(print) }, nil, { size = 100000 }) end
      end)
      local e = fails("PoolFull", tarn.poolset, numbers(200000), id)
      assert.is_true(e.needed >= 1600000 and e.available < e.needed, tostring(e))
      -- But a plain value's image can go straight to the disk.
      local t = {}
      for i = 1, 400000 do t[i] = i end
      assert.equal(400000, #tarn.poolget(tarn.poolset(t, id, { size = 2e6 })))
      tarn.remotecall_fetch(id, function() for _, ref in ipairs(_G.kept) do tarn.pooldelete(ref) end end)
      assert.equal(200000, tarn.poolget(tarn.poolset(numbers(200000), id))[200000])
    end, { memory = "4MB" })
  end)
end)

describe("many at once", function()
  it("are set, got and deleted on another process and on several", function()
    with(2, function(ids)
      local list = {}
      for i = 1, 300 do list[i] = i % 3 == 0 and numbers(2000, i) or { i } end
      local refs, here = tarn.poolset_all(list, ids[1]), tarn.poolset_all({ { "here" }, false, "text" })
      assert.equal(300, #refs)
      for i = 1, 300 do assert.equal(ids[1], refs[i].owner) end
      refs[301], refs[302] = here[1], tarn.poolset({ "there" }, ids[2])
      local got = tarn.poolget_all(refs)
      for i = 1, 300 do assert.equal(i % 3 == 0 and i + 1 or i, got[i][1]) end
      assert.same({ "here", "there" }, { got[301][1], got[302][1] })
      assert.same({ n = 3, { "here" }, false, "text" }, tarn.poolget_all(here))
      tarn.pooldelete_all(refs)
      tarn.pooldelete_all(refs) -- unknown: no error
      fails("KeyError", tarn.poolget_all, { here[2], refs[5] })
      assert.equal(0, tarn.poolstats(ids[1]).objects)
      fails("ArgumentError", tarn.poolget_all, { 1 })
      fails("ArgumentError", tarn.poolset_all, 5)
      fails("WorkerLost", tarn.poolset_all, { 1 }, 999)
    end)
  end)

  it("are got in order, whatever they are: small and large, written or not, with references and serializers, moved, nil", function()
    with(2, function(ids)
      local a, b = ids[1], ids[2]
      local refs, expected = { n = 0 }, {}
      local function add(ref, value)
        refs.n = refs.n + 1
        refs[refs.n], expected[refs.n] = ref, value
      end
      for i = 1, 1500 do -- more than two messages hold, and more bytes than one answer
        local value = ("%05d"):format(i) .. ("x"):rep(i % 5 == 0 and 5000 or 20)
        add(tarn.poolset(value, i % 7 == 0 and b or a), value)
      end
      add(tarn.poolset(nil, a), nil)
      add(tarn.poolset(false, a), false)
      add(tarn.poolset({ 1, { 2 }, x = 1 / 0 }, a), { 1, { 2 }, x = 1 / 0 })
      local inner = tarn.poolset("inner", b)
      add(tarn.poolset({ inner }, a), { inner })
      add(tarn.poolset(("y"):rep(1e6), a), ("y"):rep(1e6))
      local shared = {}
      add(tarn.poolset({ shared, shared }, a), { {}, {} })
      local live = tarn.remotecall_fetch(a, function()
        local ref = tarn.poolset { "live" }
        tarn.kept = ref
        return ref
      end)
      add(live, { "live" })
      local moved = tarn.poolset("moved", a)
      tarn.remotecall_fetch(a, tarn.migrate, moved, b)
      add(moved, "moved")
      local got = tarn.poolget_all(refs)
      assert.equal(refs.n, got.n)
      for i = 1, refs.n do assert.same(expected[i], got[i]) end
      local array = tarn.poolget_all({ tarn.poolset(tarn.array("double", { 1, 2, 3 }), a) })[1]
      assert.equal(2, array[2])
      tarn.rmprocs(b)
      refs.n = 100
      says(fails("WorkerLost", tarn.poolget_all, refs), ("process %d"):format(b))
    end)
  end)

  it("are stored in order, whatever they are: small and large, with references and serializers, shared, nil", function()
    with(2, function(ids)
      local a, b = ids[1], ids[2]
      local list = { n = 0 }
      local function add(value)
        list.n = list.n + 1
        list[list.n] = value
      end
      local shared, inner = { "shared" }, tarn.poolset("inner", b)
      local cyclic = {}
      cyclic.self = cyclic
      for i = 1, 1500 do -- more than two messages hold
        add(("%05d"):format(i) .. ("x"):rep(i % 5 == 0 and 5000 or 20))
        if i % 100 == 0 then add(nil) end
        if i % 200 == 0 then add(false) end
        if i % 300 == 0 then add(shared) end
        if i % 400 == 0 then add({ inner, shared, shared }) end
        if i % 500 == 0 then add(("y"):rep(1e5)) end
      end
      add(numbers(2000, 1))
      add(cyclic)
      add(function(x) return x + 1 end)
      add(nil)
      local refs = tarn.poolset_all(list, a)
      local got = tarn.poolget_all(refs)
      assert.equal(list.n, #refs)
      for i = 1, list.n - 4 do assert.same(list[i], got[i]) end
      assert.equal(2, got[list.n - 3][1])
      assert.equal(got[list.n - 2], got[list.n - 2].self)
      assert.equal(2, got[list.n - 1](1))
      assert.is_nil(got[list.n])
      for i = 1, list.n, 97 do assert.same({ a, list[i] }, { refs[i].owner, refs[i]:get() }) end
      assert.equal(list.n, tarn.poolstats(a).objects)
      tarn.remotecall_fetch(a, tarn.migrate, refs[7], b)
      tarn.pooldelete_all(refs)
      assert.same({ 0, 1 }, { tarn.poolstats(a).objects, tarn.poolstats(b).objects }) -- inner
    end)
  end)

  it("are stored whatever their size is, after a larger value was sent", function()
    with(1, function(ids)
      tarn.poolset(("x"):rep(2 ^ 20), ids[1]):delete() -- the encoder keeps the room that it has got
      for _, size in ipairs { 16380, 16381, 16382, 20000, 40000 } do
        local map = {}
        for i = 1, size / 8 do map["key " .. i] = i end
        local list = { 1, ("s"):rep(size), 2, map, 3 }
        assert.same({ n = 5, unpack(list) }, tarn.poolget_all(tarn.poolset_all(list, ids[1])))
      end
    end)
  end)

  it("may be given by __index, and the list may change meanwhile", function()
    with(1, function(ids)
      local function by_index(list) return setmetatable({ n = #list }, { __index = function(_, i) return list[i] end }) end
      local refs = tarn.poolset_all(by_index { 1, "two", ("x"):rep(1e5) }, ids[1])
      assert.same({ n = 3, 1, "two", ("x"):rep(1e5) }, tarn.poolget_all(by_index(refs)))
      local future = tarn.async(tarn.poolget_all, refs)
      local list = { unpack(refs) }
      tarn.async(function() for i = 1, 3 do refs[i] = nil end end):fetch()
      assert.equal("two", future:fetch()[2])
      tarn.pooldelete_all(by_index(list))
      assert.equal(0, tarn.poolstats(ids[1]).objects)
    end)
  end)

  it("are written by their serializers once each", function()
    with(1, function(ids)
      local Counted, calls = {}, 0
      tarn.serializer { name = "spec.counted", version = 1, type = Counted,
        mmwrite = function(out, x)
          calls = calls + 1
          out:value(x[1])
        end,
        mmread = function(inp) return setmetatable({ inp:value() }, Counted) end }
      local function counted(x) return setmetatable({ x }, Counted) end
      local got = tarn.poolget_all(tarn.poolset_all({ 1, counted(2), 3, { counted(4) }, counted(("x"):rep(1e5)) }, ids[1]))
      assert.same({ 1, 2, 3, 4, 1e5 }, { got[1], got[2][1], got[3], got[4][1][1], #got[5][1] })
      assert.equal(3, calls)
    end)
  end)

  it("are not stored when one of them cannot be, and the error says which", function()
    with(1, function(ids)
      local a = ids[1]
      local function await_none()
        assert.is_true(becomes(function()
          collectgarbage()
          return tarn.poolstats(a).objects == 0
        end, 10))
      end
      local list = {}
      for i = 1, 1000 do list[i] = i end
      list[777] = { inside = coroutine.create(print) }
      says(fails("NotSerializable", tarn.poolset_all, list, a), "item 777", "inside")
      await_none()
      for i = 1, 1000 do list[i] = ("%04d"):format(i):rep(100) end
      tarn.max_memsize(2 ^ 17, a)
      tarn.max_disksize(1, a)
      fails("DiskFull", tarn.poolset_all, list, a)
      await_none()
    end)
  end)

  it("take few messages when they are small", function()
    with(1, function(ids)
      local list = {}
      for i = 1, 1000 do list[i] = "text " .. i end
      local function least_bytes(figure, act) -- of three: what is said about references may come between
        local least = math.huge
        for _ = 1, 3 do
          local before = tarn.poolstats(ids[1])[figure]
          act()
          least = math.min(least, tarn.poolstats(ids[1])[figure] - before)
        end
        return least
      end
      local refs
      assert.is_true(least_bytes("tcp_in_bytes", function() refs = tarn.poolset_all(list, ids[1]) end) < 15000)
      local get = least_bytes("tcp_in_bytes", function() assert.equal("text 1000", tarn.poolget_all(refs)[1000]) end)
      assert.is_true(get < 8000) -- 1,000 requests would be twice that
      assert.is_true(least_bytes("tcp_out_bytes", function() tarn.pooldelete_all(refs) end) < 3000)
    end)
  end)
end)

describe("an object that has come here since its owner was looked up", function()
  it("is not asked for over the network", function()
    with(1, function()
      local ref = tarn.poolset({ "here" })
      local ok, e = core.wait(core.pool_get_at(ref, false)) -- as who has seen another owner just before
      assert.is_false(ok)
      local moved = failure.received(e)
      assert.same({ "Moved", tarn.myid() }, { moved.kind, moved.needed })
    end) -- and no connection is left behind
  end)
end)

describe("asked from another process,", function()
  it("deleted is KeyError everywhere, a lost owner WorkerLost, for every call", function()
    local path = process.tmpdir() .. "x" -- in a directory that every host has
    with(2, function(ids)
      local ref = tarn.poolset({ 1 }, ids[1])
      tarn.pooldelete(ref)
      tarn.pooldelete(ref)
      fails("KeyError", tarn.poolget, ref)
      fails("KeyError", tarn.remotecall_fetch, ids[2], function(r) return tarn.poolget(r) end, ref)
      for _, call in ipairs { tarn.movetodisk, tarn.copytodisk } do fails("KeyError", call, ref) end
      for _, call in ipairs { tarn.movetodisk, tarn.copytodisk, tarn.savetodisk } do fails("KeyError", call, ref, path) end
      fails("KeyError", tarn.destroyonevict, ref, true)
      fails("KeyError", tarn.access, function(x) return x end, ref)
      local other = tarn.poolset({ 1 }, ids[1])
      tarn.rmprocs(ids[1])
      fails("WorkerLost", tarn.poolget, other)
      fails("WorkerLost", tarn.pooldelete, other)
      fails("WorkerLost", tarn.movetodisk, other)
      fails("WorkerLost", tarn.savetodisk, other, path)
      fails("WorkerLost", tarn.deletefromdisk, other, path)
      fails("WorkerLost", tarn.destroyonevict, other, true)
      fails("WorkerLost", tarn.access, function(x) return x end, other)
      fails("WorkerLost", tarn.poolstats, ids[1])
      fails("WorkerLost", tarn.max_memsize, nil, ids[1])
      fails("WorkerLost", tarn.max_disksize, "1MB", ids[1])
    end)
  end)

  it("movetodisk without a path is into the owner's spill file, and the FileRef holds the object", function()
    with(1, function(ids)
      local ref = tarn.poolset({ numbers(50000), "x" }, ids[1])
      local file = tarn.movetodisk(ref)
      assert.is_nil(file.path)
      assert.is_true(becomes(function() return tarn.poolstats(ids[1]).resident_bytes < 100000 end))
      assert.is_true(tarn.poolstats(ids[1]).spilled_bytes >= 400000)
      ref = nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
      assert.equal(50000, tarn.poolget(file)[1][50000])
      assert.equal(1, tarn.poolstats(ids[1]).objects)
    end)
  end)

  it("cleanup deletes all of the process where it runs, what was spilled too, and the pool stays usable", function()
    with(1, function(ids)
      local refs = tarn.remotecall_fetch(ids[1], function()
        local list = {}
        for i = 1, 20 do list[i] = tarn.poolset(tarn.array("double", 100000)) end
        tarn.movetodisk(list[1])
        tarn.cleanup()
        return list
      end)
      tarn.remotecall_fetch(ids[1], function() -- views outlive their objects
        collectgarbage()
        collectgarbage()
      end)
      assert.is_true(becomes(function() -- what is being written has to end
        local s = tarn.poolstats(ids[1])
        return s.objects == 0 and s.spilled_bytes == 0 and s.live_bytes == 0
      end))
      fails("KeyError", tarn.poolget, refs[3])
      assert.equal(9, tarn.poolget(tarn.poolset({ 9 }, ids[1]))[1])
    end, { memory = "4MB" })
  end)

  it("access runs on the owner, with its arguments and results, and its errors", function()
    with(2, function(ids)
      local ref = tarn.poolset(numbers(1000), ids[1])
      local function work(a, from, to)
        local sum = 0
        for i = from, to do sum = sum + a[i] end
        return tarn.myid(), sum, nil
      end
      assert.same({ ids[1], 55 }, { tarn.access(work, ref, 1, 10) })
      assert.same({ ids[1], 55 }, { tarn.remotecall_fetch(ids[2], tarn.access, work, ref, 1, 10) })
      local e = fails("RemoteError", tarn.access, function() error("no way") end, ref)
      assert.equal(ids[1], e.pid)
    end)
  end)
end)
