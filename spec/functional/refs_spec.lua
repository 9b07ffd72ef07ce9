-- Reference listing (docs/REFERENCES.md): an object lives while anybody anywhere holds a reference, and no longer.
local ffi = require "ffi"
local cluster = require "spec.helper.cluster"
local refs = require "spec.helper.refs"
local with = refs.with
pcall(ffi.cdef, "int kill(int pid, int sig);")

local SIGKILL, SIGSTOP, SIGCONT = 9, 19, 18

local function kill(pid, os_pid)
  ffi.C.kill(os_pid or cluster.os_pid(pid), SIGKILL)
  assert.is_true(cluster.becomes(function()
    for _, id in ipairs(tarn.procs()) do
      if id == pid then return false end
    end
    return true
  end))
end

-- In a worker: keep and forget things under a name, so that the worker holds them.
local function keep(name, x)
  _G.kept = _G.kept or {}
  _G.kept[name] = x
end
local function forget(name) _G.kept[name] = nil end
local function kept_value(name) return _G.kept[name]:get() end

describe("an object of another process", function()
  it("is freed when its only reference is collected, and its destructor runs once", function()
    with(1, function(ids)
      tarn.remotecall_fetch(ids[1], function() _G.ended = {} end)
      local ref = tarn.poolset({ 1, 2 }, ids[1], { destructor = function(key) table.insert(_G.ended, key) end })
      local key = ref:key()
      assert.same({ 1, 2 }, ref:get())
      refs.collect()
      assert.equal(1, refs.objects(ids[1]))
      ref = nil -- luacheck: ignore
      assert.is_true(refs.becomes(ids[1], 0))
      local ended = function() return tarn.remotecall_fetch(ids[1], function() return _G.ended end) end
      assert.is_true(cluster.becomes(function() return #ended() > 0 end))
      assert.same({ key }, ended())
    end)
  end)

  it("lives while a third process has the reference, and is read there after who passed it has let go", function()
    with(2, function(ids)
      local ref = tarn.poolset({ "third" }, ids[1])
      tarn.remotecall_fetch(ids[2], keep, "x", ref)
      ref = nil -- luacheck: ignore
      refs.collect()
      refs.collect()
      assert.equal(1, refs.objects(ids[1]))
      assert.same({ "third" }, tarn.remotecall_fetch(ids[2], kept_value, "x"))
      tarn.remotecall_fetch(ids[2], forget, "x")
      assert.is_true(refs.becomes(ids[1], 0))
    end)
  end)

  it("lives while its reference goes round through all, back to its owner too, and is the same everywhere", function()
    with(3, function(ids)
      local ref = tarn.poolset({ "round" }, ids[1])
      local key, back = tarn.remotecall_fetch(ids[1], function(r, others)
        local k, same = tarn.remotecall_fetch(others[2], function(q, last)
          return tarn.remotecall_fetch(last, function(p) return p:key(), p end, q)
        end, r, others[3])
        return k, same == r and same
      end, ref, ids)
      assert.equal(ref:key(), key)
      assert.equal(ref, back)
      assert.equal(ids[1], back.owner)
      ref, back = nil, nil -- luacheck: ignore
      assert.is_true(refs.becomes(ids[1], 0))
    end)
  end)

  it("is read by a get that is under way when its last reference goes", function()
    with(1, function(ids)
      for i = 1, 200 do
        local got = tarn.async(function() return tarn.poolset({ i }, ids[1]):get()[1] end)
        tarn.sleep(0)
        collectgarbage()
        assert.equal(i, got:fetch())
      end
    end)
  end)

  it("is a KeyError once it is deleted, for all who have its reference, and leaves nothing", function()
    with(2, function(ids)
      local ref = tarn.poolset("short", ids[1])
      tarn.remotecall_fetch(ids[2], keep, "x", ref)
      tarn.pooldelete(ref)
      cluster.fails("KeyError", tarn.poolget, ref)
      cluster.fails("KeyError", tarn.remotecall_fetch, ids[2], kept_value, "x")
      tarn.remotecall_fetch(ids[2], keep, "y", ref) -- it may still be passed on
      tarn.remotecall_fetch(ids[2], function() _G.kept = nil end)
    end)
  end)

  it("is not kept by the bytes of encode", function()
    with(1, function(ids)
      local function make()
        local ref = tarn.poolset("bytes", ids[1])
        local bytes = tarn.encode({ ref })
        assert.is_true(ref == tarn.decode(bytes)[1])
        return bytes
      end
      local bytes = tarn.async(make):fetch() -- on a stack of its own, where nothing of it is left
      assert.is_true(refs.becomes(ids[1], 0))
      cluster.fails("KeyError", tarn.poolget, tarn.decode(bytes)[1])
    end)
  end)
end)

describe("a task that has ended", function()
  it("keeps nothing of what it was given", function()
    with(1, function(ids)
      assert.equal(7, tarn.remotecall_fetch(ids[1], function()
        return tarn.remotecall_fetch(tarn.myid(), function(ref) return ref:get() end, tarn.poolset(7))
      end))
      assert.is_true(refs.becomes(ids[1], 0))
    end)
  end)
end)

describe("a reference within something else", function()
  it("holds its object while the image that it is in lies in the spill file", function()
    with(2, function(ids)
      local inner = tarn.poolset("inner", ids[1])
      local outer = tarn.poolset({ inner, fill = ("x"):rep(100) }, ids[2])
      inner = nil -- luacheck: ignore
      tarn.movetodisk(outer)
      refs.collect()
      refs.collect()
      assert.equal(1, refs.objects(ids[1]))
      assert.equal("inner", outer:get()[1]:get())
      tarn.movetodisk(outer)
      outer = nil -- luacheck: ignore
      assert.is_true(refs.becomes(ids[2], 0))
      assert.is_true(refs.becomes(ids[1], 0))
    end)
  end)

  it("holds through a chain of values on several processes, and goes with its head", function()
    with(3, function(ids)
      local ref = tarn.poolset("end", ids[1])
      for i = 1, 30 do ref = tarn.poolset({ ref }, ids[i % 3 + 1]) end
      refs.collect()
      refs.collect()
      local x = ref
      for _ = 1, 30 do x = x:get()[1] end
      assert.equal("end", x:get())
      x, ref = nil, nil -- luacheck: ignore
      for _, id in ipairs(ids) do assert.is_true(refs.becomes(id, 0)) end
    end)
  end)

  it("is let go of by C while Lua computes, on both sides", function()
    with(2, function(ids)
      local inner = tarn.poolset("inner", ids[1])
      local outer = tarn.poolset({ inner }, ids[2])
      outer:get() -- encoded from here on: C alone has it
      inner = nil -- luacheck: ignore
      refs.collect()
      refs.collect()
      local function compute(begun, fn)
        begun:notify()
        fn()
      end
      local jobs = {}
      for i, id in ipairs(ids) do
        local begun = tarn.event()
        jobs[i] = tarn.remotecall(id, compute, begun, cluster.compute)
        begun:wait()
      end
      tarn.pooldelete(outer)
      assert.is_true(cluster.becomes(function() return refs.objects(ids[1]) == 0 end))
      for i in ipairs(ids) do assert.is_false(jobs[i]:ready()) end
      for i, id in ipairs(ids) do
        cluster.go_on(id)
        jobs[i]:fetch()
      end
    end)
  end)

  it("holds in a closure, in a Future and in an error", function()
    with(2, function(ids)
      local ref = tarn.poolset("held", ids[1])
      local closure = tarn.poolset(function() return ref:get() end, ids[2])
      ref = nil -- luacheck: ignore
      refs.collect()
      refs.collect()
      assert.equal("held", closure:get()())
      closure = nil -- luacheck: ignore
      assert.is_true(refs.becomes(ids[2], 0))
      assert.is_true(refs.becomes(ids[1], 0))

      local future = tarn.remotecall(ids[2], function(other) return { tarn.poolset("in a future", other) } end, ids[1])
      future:wait()
      refs.collect()
      refs.collect()
      assert.equal(1, refs.objects(ids[1]))
      local there = tarn.remotecall_fetch(ids[1], function(f) return f:fetch()[1]:get() end, future)
      assert.equal("in a future", there)
      future = nil -- luacheck: ignore
      assert.is_true(refs.becomes(ids[1], 0))

      local ok, e = pcall(tarn.remotecall_fetch, ids[2], function(other) error({ ref = tarn.poolset("raised", other) }) end, ids[1])
      assert.is_false(ok)
      refs.collect()
      refs.collect()
      assert.equal("raised", e.cause.ref:get())
      e = nil -- luacheck: ignore
      assert.is_true(refs.becomes(ids[1], 0))
    end)
  end)

  it("comes through the bulk lane and in mapped values as well", function()
    for _, map in ipairs { true, false } do
      with(2, function(ids)
        local ref = tarn.poolset("beside", ids[1])
        local outer = tarn.poolset({ ref, tarn.array("double", 100000) }, ids[2])
        ref = nil -- luacheck: ignore
        refs.collect()
        refs.collect()
        local x = outer:get()
        assert.equal("beside", x[1]:get())
        assert.equal("beside", tarn.remotecall_fetch(ids[1], function(y) return y[1]:get() end, x))
        x, outer = nil, nil -- luacheck: ignore
        assert.is_true(refs.becomes(ids[2], 0))
        assert.is_true(refs.becomes(ids[1], 0))
      end, { map = map })
    end
  end)

  it("is let go of when the result that it is in is not wanted any more", function()
    with(2, function(ids)
      for _ = 1, 20 do
        local task = tarn.async(function()
          return tarn.remotecall_fetch(ids[2], function(other)
            local ref = tarn.poolset("unwanted", other)
            local stop = os.clock() + 0.002
            while os.clock() < stop do end
            return ref
          end, ids[1])
        end)
        tarn.sleep(0.001)
        task:cancel()
        task:wait()
        tarn.remotecall(ids[2], function(other) return { tarn.poolset("dropped", other) } end, ids[1])
      end
      assert.is_true(refs.becomes(ids[1], 0))
    end)
  end)
end)

describe("when a process is lost", function()
  it("what it held is freed", function()
    with(2, function(ids)
      local ref = tarn.poolset("left", ids[1])
      tarn.remotecall_fetch(ids[2], keep, "x", ref)
      local outer = tarn.poolset({ ref }, ids[2])
      ref = nil -- luacheck: ignore
      refs.collect()
      refs.collect()
      assert.equal(1, refs.objects(ids[1]))
      kill(ids[2])
      assert.is_true(refs.becomes(ids[1], 0))
      cluster.fails("WorkerLost", tarn.poolget, outer)
    end)
  end)

  it("references to what it owned fail, may still be passed on, and go; its number is not used again", function()
    with(2, function(ids)
      local ref = tarn.poolset("owned", ids[1])
      tarn.remotecall_fetch(ids[2], keep, "x", ref)
      kill(ids[1])
      local e = cluster.fails("WorkerLost", tarn.poolget, ref)
      assert.equal(ids[1], e.pid)
      cluster.fails("WorkerLost", tarn.remotecall_fetch, ids[2], kept_value, "x")
      local new = tarn.addprocs(1)[1]
      assert.is_true(new > ids[2])
      local other = tarn.poolset("new", new) -- the same number within its owner
      assert.equal(ref.id, other.id)
      assert.are_not.equal(ref, other)
      tarn.remotecall_fetch(new, keep, "x", ref)
      cluster.fails("WorkerLost", tarn.remotecall_fetch, new, kept_value, "x")
      tarn.rmprocs(new)
      tarn.remotecall_fetch(ids[2], forget, "x")
    end)
  end)

  it("a reference that it has sent is kept by who has received it", function()
    for round = 1, 12 do
      with(3, function(ids)
        local owner, sender, receiver = unpack(ids)
        local os_pid = cluster.os_pid(sender)
        -- The sender alone has it; it passes it on and is killed at some point.
        tarn.remotecall_fetch(sender, function(o)
          _G.mine = tarn.poolset("survives", o)
          collectgarbage()
        end, owner)
        tarn.remotecall_fetch(receiver, function() _G.got = {} end)
        local passing = tarn.async(function()
          return tarn.remotecall_fetch(sender, function(r)
            for i = 1, 50 do
              tarn.remotecall_fetch(r, function(n, ref) _G.got[n] = ref end, i, _G.mine)
            end
          end, receiver)
        end)
        tarn.sleep(round * 0.0005)
        kill(sender, os_pid)
        pcall(passing.fetch, passing)
        refs.collect()
        refs.collect()
        local has, value = tarn.remotecall_fetch(receiver, function()
          local _, ref = next(_G.got)
          return ref ~= nil, ref and ref:get()
        end)
        if has then assert.equal("survives", value) end
        tarn.remotecall_fetch(receiver, function() _G.got = nil end)
      end)
    end
  end)

  it("a reference that it has sent is kept though its owner hears of the loss before it hears of the receiver", function()
    with(3, function(ids)
      local owner, sender, receiver = unpack(ids)
      local owner_pid, sender_pid = cluster.os_pid(owner), cluster.os_pid(sender)
      tarn.remotecall_fetch(sender, function(o) _G.mine = tarn.poolset("survives", o) end, owner)
      tarn.remotecall_fetch(sender, refs.collect_here)
      ffi.C.kill(owner_pid, SIGSTOP) -- the receiver has no connection to it, and gets none
      tarn.remotecall_fetch(sender, function(r, k) tarn.remotecall_fetch(r, k, "x", _G.mine) end, receiver, keep)
      kill(sender, sender_pid)
      ffi.C.kill(owner_pid, SIGCONT)
      assert.equal("survives", tarn.remotecall_fetch(receiver, kept_value, "x"))
      refs.collect()
      assert.equal("survives", tarn.remotecall_fetch(receiver, kept_value, "x"))
      tarn.remotecall_fetch(receiver, forget, "x")
      assert.is_true(refs.becomes(owner, 0))
    end, { silence_s = 120 }) -- stopped is not lost here
  end)

  it("one that is stopped while it should say what it has got keeps the object alive until it goes on", function()
    with(3, function(ids)
      local owner, sender, receiver = unpack(ids)
      local sender_pid, receiver_pid = cluster.os_pid(sender), cluster.os_pid(receiver)
      tarn.remotecall_fetch(sender, function(o) _G.mine = tarn.poolset("waits", o) end, owner)
      tarn.remotecall_fetch(sender, function(r) tarn.remotecall_fetch(r, function() end) end, receiver) -- connected
      ffi.C.kill(receiver_pid, SIGSTOP)
      -- What is sent now is in the receiver's socket when the sender dies: it may be received, or never looked at.
      tarn.remotecall_fetch(sender, function(r) tarn.remote_do(r, function(ref) _G.got = ref end, _G.mine) end, receiver)
      kill(sender, sender_pid)
      assert.equal(1, refs.objects(owner)) -- it cannot be known yet
      ffi.C.kill(receiver_pid, SIGCONT)
      assert.is_true(cluster.becomes(function()
        local got, value = tarn.remotecall_fetch(receiver, function() return _G.got ~= nil, _G.got and _G.got:get() end)
        if got then
          assert.equal("waits", value)
          tarn.remotecall_fetch(receiver, function() _G.got = nil end)
        end
        return refs.becomes(owner, 0, 0) == true
      end))
    end, { silence_s = 120 })
  end)
end)

describe("many references", function()
  it("are dropped in a few messages", function()
    with(1, function(ids)
      local n = 200000
      local list = tarn.remotecall_fetch(ids[1], function(count)
        local t = {}
        for i = 1, count do t[i] = tarn.poolset(i) end
        return t
      end, n)
      assert.equal(n, #list)
      assert.equal(n, list[n]:get())
      refs.collect { ids[1] }
      local before = tarn.poolstats().tcp_out_bytes
      list = nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
      assert.is_true(cluster.becomes(function() return refs.objects(ids[1]) == 0 end))
      assert.is_true(tarn.poolstats().tcp_out_bytes - before < 100000)
    end)
  end)

  it("that are garbage are collected when their owner's pool is under pressure", function()
    with(1, function(ids)
      local MiB = 2 ^ 20
      local list = {}
      for i = 1, 20 do
        list[i] = tarn.remotecall_fetch(ids[1], function(m) return tarn.poolset(tarn.array("double", m / 8)) end, MiB)
      end
      refs.collect { ids[1] }
      collectgarbage()
      collectgarbage("stop") -- only who is asked collects
      assert.equal(20, #list)
      list = nil -- luacheck: ignore
      tarn.max_memsize(16 * MiB, ids[1])
      local ok = cluster.becomes(function() return refs.objects(ids[1]) == 0 end, 8)
      collectgarbage("restart")
      assert.is_true(ok)
    end)
  end)

  it("that are garbage on their owner alone are collected when nobody else has them", function()
    with(1, function(ids)
      local ref = tarn.remotecall_fetch(ids[1], function() return tarn.poolset("garbage there") end)
      assert.equal("garbage there", ref:get())
      ref = nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
      assert.is_true(cluster.becomes(function() return refs.objects(ids[1]) == 0 end, 5)) -- nobody asks that worker to collect
    end)
  end)
end)

-- In a worker: shut down its connections to the process that listens on that port.
local function cut(port)
  local f = require "ffi"
  pcall(f.cdef, [[
    struct spec_sockaddr { uint16_t family; uint8_t port[2]; uint8_t rest[124]; };
    int getpeername(int fd, struct spec_sockaddr *address, uint32_t *length);
    int shutdown(int fd, int how);
  ]])
  local address, length, count = f.new("struct spec_sockaddr"), f.new("uint32_t[1]"), 0
  for fd = 3, 100 do
    length[0] = 128
    if f.C.getpeername(fd, address, length) == 0 and address.port[0] * 256 + address.port[1] == port then
      f.C.shutdown(fd, 2)
      count = count + 1
    end
  end
  return count
end

describe("when a connection breaks and both ends live", function()
  it("references stay right, and nothing is left in the end", function()
    with(3, function(ids)
      local ports = {}
      for _, id in ipairs(ids) do ports[id] = tonumber(tarn.remotecall_fetch(id, tarn.address):match(":(%d+)$")) end
      local cuts, passed = 0, 0
      for round = 1, 25 do
        local owner, a, b = ids[round % 3 + 1], ids[(round + 1) % 3 + 1], ids[(round + 2) % 3 + 1]
        local name = "r" .. round
        tarn.remotecall_fetch(a, keep, name, tarn.poolset(name, owner))
        local passing = tarn.async(function()
          for _ = 1, 5 do
            tarn.remotecall_fetch(a, function(to, n, k) tarn.remotecall_fetch(to, k, n, _G.kept[n]) end, b, name, keep)
            passed = passed + 1
          end
        end)
        tarn.sleep(0.0005 * (round % 4))
        for _, from in ipairs(ids) do cuts = cuts + tarn.remotecall_fetch(from, cut, ports[({ owner, b })[round % 2 + 1]]) end
        local ok, e = pcall(passing.fetch, passing, 10)
        assert.is_true(ok or tarn.iserror(e, "WorkerLost"), tostring(e)) -- whoever waited is told
        tarn.remotecall_fetch(a, forget, name)
        refs.collect()
        local has = tarn.remotecall_fetch(b, function(n) return _G.kept and _G.kept[n] ~= nil end, name)
        -- A get over a connection that has just been cut may say so; the object must be there.
        if has then
          local good, value
          assert.is_true(cluster.becomes(function()
            good, value = pcall(tarn.remotecall_fetch, b, kept_value, name)
            return good or not tarn.iserror(value, "WorkerLost")
          end))
          assert.equal(name, value)
        end
        if round % 2 == 0 then tarn.remotecall_fetch(b, function() _G.kept = nil end) end
      end
      assert.is_true(cuts > 10 and passed > 10)
      for _, id in ipairs(ids) do tarn.remotecall_fetch(id, function() _G.kept = nil end) end
    end)
  end)
end)
