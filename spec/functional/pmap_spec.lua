-- pmap: order, hand-out, errors, lost workers.
local ffi = require "ffi"
local cluster = require "spec.helper.cluster"
local with, fails, says = cluster.with, cluster.fails, cluster.says

pcall(ffi.cdef, "int kill(int pid, int sig);")

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

describe("pmap", function()
  it("gives the results in order", function()
    with(3, function()
      local got = tarn.pmap(function(x)
        if x % 5 == 0 then tarn.sleep(0.01) end
        return x * x
      end, numbers(100))
      assert.equal(100, got.n)
      for i = 1, 100 do assert.equal(i * i, got[i]) end
    end)
  end)

  it("takes empty lists, nils among results, typed arrays, and runs here without workers", function()
    assert.same({ n = 0 }, tarn.pmap(tostring, {}))
    assert.same({ n = 3, "1", nil, "3" }, tarn.pmap(function(x) return x ~= 2 and tostring(x) or nil end, { 1, 2, 3 }))
    assert.same({ n = 3, 1, nil, 3 }, tarn.pmap(function(x) return x end, { n = 3, 1, nil, 3 }))
    assert.same({ n = 2, 3, 5 }, tarn.pmap(function(x) return 2 * x end, tarn.array("double", { 1.5, 2.5 })))
    with(1, function(ids) assert.same({ n = 2, ids[1], ids[1] }, tarn.pmap(tarn.myid, { 1, 2 })) end)
  end)

  it("hands work out as workers come free", function()
    with(2, function()
      -- One item waits until most of the others are done: the other worker must do those meanwhile.
      local go = tarn.event()
      local got = tarn.pmap(function(x)
        if x == 1 then assert(go:wait(30)) else tarn.sleep(0.01) end
        return tarn.myid()
      end, numbers(20), { progress = function(done)
        if done >= 16 then go:notify() end
      end })
      local alone = 0
      for i = 2, 20 do
        if got[i] == got[1] then alone = alone + 1 end
      end
      assert.is_true(alone <= 3, alone .. " items waited behind the slow one")
    end)
  end)

  it("sends items in batches when told to", function()
    with(2, function()
      local got = tarn.pmap(function(x) return x + 1 end, numbers(1003), { batch = 100 })
      assert.equal(1003, got.n)
      for i = 1, 1003 do assert.equal(i + 1, got[i]) end
      assert.equal(20000, tarn.pmap(function(x) return x end, numbers(20000), { batch = 20000 })[20000])
    end)
  end)

  it("makes batches of items that take no time, and shares out what turns out to take long", function()
    with(2, function(ids)
      -- On the driver: who does the slow ones, and whether one has done so many that it should wait for the other, which may get less of
      -- the machine. (A batch of items that took no time may have some hundreds; there are many more slow ones than that.)
      _G.slow = { [ids[1]] = 0, [ids[2]] = 0 }
      local function note(id, done)
        _G.slow[id] = _G.slow[id] + done
        local mine, all = _G.slow[id], 0
        for _, n in pairs(_G.slow) do all = all + n end
        return 2 * mine - all > 600
      end
      local function work(i)
        if i <= 4000 or i > 6000 then return tarn.myid() end
        local clock = require("tarn.core").clock
        local till = clock() + 0.001
        while clock() < till do end
        local deadline = _G.deadline or clock() + 20 -- one for all
        local ahead = tarn.remotecall_fetch(1, note, tarn.myid(), 1)
        while ahead and clock() < deadline do
          _G.deadline = deadline
          tarn.sleep(0.01)
          ahead = tarn.remotecall_fetch(1, note, tarn.myid(), 0)
        end
        return tarn.myid()
      end
      local got, heavy = tarn.pmap(work, numbers(20000)), {}
      assert.equal(20000, got.n)
      for i = 4001, 6000 do heavy[got[i]] = (heavy[got[i]] or 0) + 1 end
      for id, count in pairs(heavy) do assert.is_true(count < 1700, ("process %d has done %d of 2000"):format(id, count)) end
      _G.slow = nil

      local order = {}
      tarn.pmap(function(i) return i end, numbers(5000), { progress = function(done) order[#order + 1] = done end })
      assert.equal(5000, order[#order])
      assert.is_true(#order < 2000, ("%d answers for 5,000 items"):format(#order))
    end)
  end)

  it("pulls an iterator no faster than the work is done", function()
    with(2, function()
      local pulled = 0
      local got = tarn.pmap(function(x) return x end, function()
        pulled = pulled + 1
        if pulled <= 5 then return pulled end
      end)
      assert.same({ n = 5, 1, 2, 3, 4, 5 }, got)
      pulled = 0
      fails("RemoteError", tarn.pmap, function(x)
        tarn.sleep(x > 4 and 1000 or 0.02)
        if x == 4 then error("enough") end
      end, function()
        pulled = pulled + 1
        return pulled
      end)
      assert.is_true(pulled < 20, pulled .. " items pulled")
    end)
  end)

  it("uses only the workers named", function()
    with(3, function(ids)
      local got = tarn.pmap(tarn.myid, numbers(10), { workers = { ids[2] } })
      for i = 1, 10 do assert.equal(ids[2], got[i]) end
    end)
  end)

  it("raises the first error and cancels the rest", function()
    with(2, function(ids)
      local e = fails("RemoteError", tarn.pmap, function(x)
        if x == 3 then error("third") end
        if x > 3 then tarn.sleep(1000) end
        return x
      end, numbers(10))
      says(e.message, "third")
      -- Nothing is left running there that would keep a worker busy.
      assert.equal(1, tarn.remotecall_fetch(ids[1], function() return 1 end))
    end)
  end)

  it("asks on_error for a substitute, item by item", function()
    with(2, function()
      for _, batch in ipairs { 1, 4 } do
        local seen = {}
        local got = tarn.pmap(function(x)
          if x % 3 == 0 then error("three") end
          return x
        end, numbers(9), { batch = batch, on_error = function(e, item)
          assert(tarn.iserror(e, "RemoteError"))
          seen[#seen + 1] = item
          return "not " .. item
        end })
        table.sort(seen)
        assert.same({ 3, 6, 9 }, seen)
        assert.same({ n = 9, 1, 2, "not 3", 4, 5, "not 6", 7, 8, "not 9" }, got)
      end
    end)
  end)

  it("tells the progress", function()
    with(2, function()
      local last, of = 0, nil
      tarn.pmap(function(x) return x end, numbers(10), { progress = function(done, total)
        assert(done > last)
        last, of = done, total
      end })
      assert.same({ 10, 10 }, { last, of })
    end)
  end)

  it("does the work of a lost worker elsewhere when retries allow it", function()
    with(2, function(ids)
      local victim = cluster.os_pid(ids[1])
      local killed = false
      local got = tarn.pmap(function(x)
        tarn.sleep(0.01)
        return x
      end, numbers(40), { retries = 1, progress = function(done)
        if done >= 10 and not killed then
          killed = true
          ffi.C.kill(victim, 9)
        end
      end })
      for i = 1, 40 do assert.equal(i, got[i]) end
      assert.same({ ids[2] }, tarn.workers())
    end)
  end)

  it("fails without retries when a worker is lost, and when all are", function()
    with(2, function(ids)
      local e = fails("WorkerLost", tarn.pmap, function(x)
        if x == 2 then os.exit(3) end
        tarn.sleep(0.05)
      end, numbers(4))
      assert.is_truthy(e.pid == ids[1] or e.pid == ids[2])
      fails("WorkerLost", tarn.pmap, function() os.exit(3) end, numbers(4), { retries = 10 })
    end)
  end)

  it("refuses what it cannot use", function()
    fails("ArgumentError", tarn.pmap, "x", {})
    fails("ArgumentError", tarn.pmap, print, 5)
    fails("ArgumentError", tarn.pmap, print, {}, 5)
    fails("ArgumentError", tarn.pmap, print, {}, { batch = 0 })
    fails("ArgumentError", tarn.pmap, print, {}, { retries = -1 })
    fails("ArgumentError", tarn.pmap, print, {}, { workers = {} })
    says(fails("ArgumentError", tarn.pmap, print, {}, { bacth = 1 }).message, "bacth")
    with(1, function()
      fails("NotSerializable", tarn.pmap, print, { 1, coroutine.create(print) })
    end)
  end)
end)
