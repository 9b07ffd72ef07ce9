-- Events, promises and published names: set by one process, waited for by any.
local ffi = require "ffi"
local core = require "tarn.core"
local cluster = require "spec.helper.cluster"
local process = require "spec.helper.process"
local refs = require "spec.helper.refs"
local with = refs.with
pcall(ffi.cdef, "int kill(int pid, int sig);")

-- Never too early, and within 20% or 50 ms, a sanitizer's slowness aside, for once in ten times: what else the machine does makes one late,
-- and not each.
local function on_time(seconds, fn, ...)
  local late = math.max(0.2 * seconds, 0.05) * process.patience + (process.patience - 1)
  local took
  for _ = 1, 10 do
    local began = core.clock()
    local results = { fn(...) }
    took = core.clock() - began
    assert.is_true(took >= seconds * 0.99, ("too early: %g s"):format(took))
    if took <= seconds + late then return unpack(results) end
  end
  error(("too late: %g s"):format(took))
end

describe("an event", function()
  it("is waited for by many on all processes, and set by any, wherever it lives", function()
    with(3, function(ids)
      for _, owner in ipairs { 1, ids[1] } do
        local e = tarn.event(owner)
        assert.is_false(e:isset())
        local waiting = {}
        for _, id in ipairs { 1, ids[1], ids[2], ids[3] } do
          for _ = 1, 3 do waiting[#waiting + 1] = tarn.remotecall(id, function(ev) return ev:wait(10) end, e) end
        end
        assert.is_false(tarn.remotecall_fetch(ids[2], function(ev) return ev:isset() end, e))
        tarn.remotecall_fetch(ids[3], function(ev) ev:notify() end, e)
        for _, f in ipairs(waiting) do assert.is_true(f:fetch(10)) end
        assert.is_true(e:isset())
        assert.is_true(e:wait())
        e:notify() -- no harm
        assert.is_true(tarn.remotecall_fetch(ids[2], function(ev) return ev:isset() end, e))
      end
    end)
  end)

  it("is not waited for longer than told, and can be waited for again", function()
    with(1, function(ids)
      for _, owner in ipairs { 1, ids[1] } do
        local e = tarn.event(owner)
        assert.is_false(on_time(0.3, e.wait, e, 0.3))
        assert.is_false(e:wait(0))
        local again = tarn.async(function() return e:wait(10) end)
        tarn.sleep(0.01)
        e:notify()
        assert.is_true(again:fetch(5))
      end
    end)
  end)

  it("comes back equal, and is freed with its last reference, its state too", function()
    with(2, function(ids)
      local e = tarn.event(ids[1])
      local back = tarn.remotecall_fetch(ids[2], function(ev)
        _G.kept = ev
        ev:notify()
        return ev
      end, e)
      assert.is_true(back == e)
      assert.equal(tostring(e), tostring(back))
      e, back = nil, nil -- luacheck: ignore
      refs.collect()
      refs.collect()
      assert.is_true(tarn.remotecall_fetch(ids[2], function() return _G.kept:isset() end))
      tarn.remotecall_fetch(ids[2], function() _G.kept = nil end)
      assert.is_true(refs.becomes(ids[1], 0))
    end)
  end)

  it("ends the wait of all with WorkerLost when its owner is lost", function()
    with(2, function(ids)
      local e, p = tarn.event(ids[1]), tarn.promise(ids[1])
      local pid = cluster.os_pid(ids[1])
      local waiting = {
        tarn.async(function() return e:wait() end), tarn.async(function() return p:fetch() end),
        tarn.remotecall(ids[2], function(ev) return ev:wait() end, e), tarn.remotecall(ids[2], function(pr) return pr:fetch() end, p),
      }
      tarn.sleep(0.05)
      ffi.C.kill(pid, 9)
      for _, f in ipairs(waiting) do
        assert.equal(ids[1], cluster.fails("WorkerLost", f.fetch, f, 5).pid)
      end
      cluster.fails("WorkerLost", e.notify, e)
      cluster.fails("WorkerLost", p.put, p, 1)
    end)
  end)

  it("lets a waiting task be cancelled", function()
    with(1, function(ids)
      local e = tarn.event(ids[1])
      local t = tarn.async(function() return e:wait() end)
      tarn.sleep(0.02)
      t:cancel()
      cluster.fails("Cancelled", t.fetch, t, 5)
      e:notify()
      assert.is_true(e:wait(5))
    end)
  end)

  it("says what is wrong with its arguments", function()
    cluster.fails("ArgumentError", tarn.event, "x")
    local e = tarn.event()
    cluster.fails("ArgumentError", e.wait)
    cluster.fails("ArgumentError", e.wait, e, "soon")
    cluster.fails("ArgumentError", tarn.promise().put, e, 1)
  end)
end)

describe("a promise", function()
  it("is put once, the second time ignored, and fetched by all", function()
    with(2, function(ids)
      for _, owner in ipairs { 1, ids[1] } do
        local p = tarn.promise(owner)
        local waiting = {}
        for _, id in ipairs { 1, ids[1], ids[2] } do
          waiting[#waiting + 1] = tarn.remotecall(id, function(pr)
            local a, b = pr:fetch(10), pr:fetch()
            return a == b and #a
          end, p)
        end
        assert.is_false(p:ready())
        assert.is_true(tarn.remotecall_fetch(ids[2], function(pr) return pr:put(("x"):rep(5000)) end, p))
        assert.is_false(p:put("second"))
        for _, f in ipairs(waiting) do assert.equal(5000, f:fetch(10)) end
        assert.is_true(p:ready())
        assert.equal(5000, #p:fetch())
      end
    end)
  end)

  it("carries nil, references, tables and arrays, and frees them with it", function()
    with(2, function(ids)
      local p = tarn.promise(ids[1])
      p:put(nil)
      assert.is_nil(p:fetch(5))
      p = tarn.promise(ids[1])
      p:put(tarn.poolset("inside", ids[2]))
      refs.collect()
      refs.collect()
      assert.equal("inside", p:fetch():get())
      p = tarn.promise(ids[1])
      p:put({ 1, tarn.array("double", 100000) })
      assert.equal(100000, #tarn.remotecall_fetch(ids[2], function(pr) return pr:fetch() end, p)[2])
      p = nil -- luacheck: ignore
      assert.is_true(refs.becomes(ids[1], 0))
      assert.is_true(refs.becomes(ids[2], 0))
    end)
  end)

  it("frees what it carries also when its owner's code has been compiled while it was asked for", function()
    with(2, function(ids)
      tarn.remotecall_fetch(ids[1], function() require("jit.opt").start("hotloop=1", "hotexit=1") end)
      for _ = 1, 5 do
        local p = tarn.promise(ids[1])
        p:put(tarn.poolset("inside", ids[2]))
        assert.equal("inside", p:fetch():get())
      end
      assert.is_true(refs.becomes(ids[1], 0))
      assert.is_true(refs.becomes(ids[2], 0))
    end)
  end)

  it("is a Timeout when it is not there in time", function()
    with(1, function(ids)
      for _, owner in ipairs { 1, ids[1] } do
        local p = tarn.promise(owner)
        local e = on_time(0.3, cluster.fails, "Timeout", p.fetch, p, 0.3)
        cluster.says(e, "0.3 s")
      end
    end)
  end)
end)

describe("a published name", function()
  it("is known everywhere, holds its object, and lets go when it is published as nil or anew", function()
    with(2, function(ids)
      assert.is_nil(tarn.lookup("data"))
      tarn.remotecall_fetch(ids[1], function() tarn.publish("data", tarn.poolset("one")) end)
      refs.collect()
      refs.collect()
      assert.equal("one", tarn.remotecall_fetch(ids[2], function() return tarn.lookup("data"):get() end))
      assert.equal("one", tarn.lookup("data"):get())
      tarn.remotecall_fetch(ids[2], function() tarn.publish("data", tarn.poolset("two")) end)
      assert.equal("two", tarn.lookup("data"):get())
      assert.is_true(refs.becomes(ids[1], 0))
      tarn.publish("data", nil)
      assert.is_nil(tarn.remotecall_fetch(ids[1], function() return tarn.lookup("data") end))
      assert.is_true(refs.becomes(ids[2], 0))
      cluster.fails("ArgumentError", tarn.publish, "data", 5)
      cluster.fails("ArgumentError", tarn.lookup, nil)
    end)
  end)
end)
