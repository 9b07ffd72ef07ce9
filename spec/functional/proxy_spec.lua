-- What connections do to who uses them: each kind of fault, by a proxy between all processes of a cluster. Every call ends in time,
-- with the right value or with an error that says what was; nothing is left.
local cluster = require "spec.helper.cluster"
local proxy = require "spec.helper.proxy"
local refs = require "spec.helper.refs"
local posix = require "spec.helper.posix"
local fails, says = cluster.fails, cluster.says

local lost = {}
tarn.on("lost", function(id, reason) lost[id] = reason end)

-- On process a: calls to b and back, arrays that travel (mapped or in blocks), references passed on.
local function work(other, count)
  local sum = 0
  for i = 1, count do
    sum = sum + tarn.remotecall_fetch(other, function(x) return x + 1 end, i)
    local ref = tarn.remotecall_fetch(other, function(x)
      local array = tarn.array("double", 20000)
      array[20000] = x
      return tarn.poolset(array)
    end, i)
    local array = tarn.poolget(ref)
    assert(#array == 20000 and array[20000] == i)
    assert(tarn.remotecall_fetch(other, function(r) return tarn.poolget(r)[20000] end, tarn.poolset(array:copy())) == i)
  end
  return sum
end

-- Ends in time, with the right value or WorkerLost: whether with the value.
local function try(a, b, count)
  local ok, x = pcall(tarn.timeout, 20, tarn.remotecall_fetch, a, work, b, count)
  if ok then
    assert.equal(count * (count + 3) / 2, x)
  elseif not tarn.iserror(x, "WorkerLost") then
    error(x, 0)
  end
  return ok
end

local function check(a, b, count) assert.is_true(try(a, b, count)) end

local function nothing_left(ids) assert(refs.empty { 1, unpack(ids) }) end

-- A fault of connections between two workers, at different bytes: what runs ends, what comes after works.
local function sweep(p, ids, fault)
  local a, b = unpack(ids)
  local failed = 0
  for _, after in ipairs { 0, 1, 250, 60000 } do
    for _, flow in ipairs { { a, b }, { b, a } } do
      check(a, b, 1)
      p[fault](p, flow[1], flow[2], after)
      if not try(a, b, 3) then failed = failed + 1 end
      p:clear(flow[1], flow[2])
      check(a, b, 1)
    end
  end
  assert.is_true(failed > 0, "no fault has been felt")
  assert.is_nil(lost[a] or lost[b])
  nothing_left(ids)
end

for _, map in ipairs { true, false } do
  local opts = { map = map, silence_s = 1 }
  describe(map and "with mapping" or "without mapping", function()
    it("connections go through the proxy", function()
      proxy.with(2, function(p, ids)
        check(ids[1], ids[2], 5)
        assert.equal(1, p:links(ids[1], 1, "control"))
        assert.equal(1, p:links(ids[2], 1, "control"))
        assert.equal(1, p:links(ids[1], ids[2], "control"))
        assert.equal(map and 0 or 1, p:links(ids[1], ids[2], "bulk"))
        nothing_left(ids)
      end, opts)
    end)

    it("pieces that come late, everywhere, change nothing", function()
      proxy.with(2, function(p, ids)
        p:delay(0, 0, 10)
        check(ids[1], ids[2], 3)
        nothing_left(ids)
      end, opts)
    end)

    it("pieces of one byte, everywhere, change nothing", function()
      proxy.with(2, function(p, ids)
        p:split(0, 0)
        check(ids[1], ids[2], 3)
        nothing_left(ids)
      end, opts)
    end)

    it("a connection between two workers that is cut, at any byte, fails what was under way and nothing else", function()
      proxy.with(2, function(p, ids) sweep(p, ids, "cut") end, opts)
    end)

    it("a connection that breaks when the first reference has just been passed keeps nothing", function()
      proxy.with(2, function(p, ids)
        local a, b = unpack(ids)
        assert.equal(b, tarn.remotecall_fetch(a, function(other) return tarn.remotecall_fetch(other, tarn.myid) end, b))
        p:cut(b, a, 1) -- the answer does not arrive
        local call = tarn.remotecall(a, function(other)
          return tarn.remotecall_fetch(other, function(ref) return ref.owner end, tarn.poolset { 1 })
        end, b)
        fails("WorkerLost", call.fetch, call, 10)
        call = nil -- luacheck: ignore
        nothing_left(ids)
      end, { map = map, silence_s = 5 })
    end)

    it("a connection that breaks while a holder is told where an object is keeps no migration waiting", function()
      proxy.with(3, function(p, ids)
        local a, b, c = unpack(ids)
        local function keep(ref) _G.kept = ref end
        for _, flow in ipairs { { a, b }, { b, a } } do
          for _, after in ipairs { 0, 1, 20 } do
            local ref = tarn.poolset({ "moved" }, a)
            tarn.remotecall_fetch(a, function(other, fn, x) tarn.remotecall_fetch(other, fn, x) end, b, keep, ref)
            assert(cluster.becomes(function() return select(2, refs.figures(a)) == 0 end))
            p:cut(flow[1], flow[2], after)
            tarn.timeout(20, tarn.migrate, ref, c)
            p:clear(flow[1], flow[2])
            assert.equal(c, tarn.remotecall_fetch(b, function()
              local owner = _G.kept.owner
              _G.kept = nil
              return owner
            end))
            ref = nil -- luacheck: ignore
            nothing_left(ids)
          end
        end
        assert.is_nil(lost[a] or lost[b])
      end, { map = map, silence_s = 5 })
    end)

    it("a connection between two workers that is half closed, at any byte, fails what was under way and nothing else", function()
      proxy.with(2, function(p, ids) sweep(p, ids, "half") end, opts)
    end)
  end)
end

describe("a connection to process 1", function()
  for _, fault in ipairs { "cut", "half" } do
    local name = fault == "cut" and "cut" or "half closed"
    it(("that is %s costs the worker: who waits is told, it ends, the others go on"):format(name), function()
      for direction = 1, 2 do
        proxy.with(3, function(p, ids)
          local victim, other = ids[1], ids[2]
          local waiting = tarn.remotecall(victim, function() tarn.sleep(60) end)
          local from_other = tarn.remotecall(other, function(id)
            return tarn.remotecall_fetch(id, function() tarn.sleep(60) end)
          end, victim)
          local os_pid = cluster.os_pid(victim)
          check(other, victim, 1)
          p[fault](p, direction == 1 and victim or 1, direction == 1 and 1 or victim, 0)
          says(fails("WorkerLost", waiting.fetch, waiting, 10), ("process %d"):format(victim))
          says(fails("WorkerLost", from_other.fetch, from_other, 10), ("process %d"):format(victim))
          assert.is_true(cluster.becomes(function() return lost[victim] ~= nil end))
          assert.is_true(cluster.becomes(function() return not posix.kill(os_pid, 0) end), "it lives on")
          check(other, ids[3], 2)
          nothing_left { other, ids[3] }
        end, { silence_s = 1 })
      end
    end)
  end

  it("over which nothing comes any more: the worker is lost after silence_s", function()
    for direction = 1, 2 do
      proxy.with(2, function(p, ids)
        local victim, other = ids[1], ids[2]
        local waiting = tarn.remotecall(victim, function() tarn.sleep(60) end)
        check(other, victim, 1)
        p:stall(direction == 1 and victim or 1, direction == 1 and 1 or victim)
        local reason = direction == 1 and "silent for 0.5 s" or "has heard nothing for 0.5 s"
        says(fails("WorkerLost", waiting.fetch, waiting, 10), ("process %d"):format(victim), reason)
        assert.is_true(cluster.becomes(function() return lost[victim] == reason end))
        p:clear(0, 0)
        nothing_left { other }
      end, { silence_s = 0.5 })
    end
  end)

  it("over which nothing comes for less than that: calls take longer, no more", function()
    proxy.with(2, function(p, ids)
      p:part(0, 1)
      local call = tarn.remotecall(ids[1], function() return "there" end)
      assert.is_false(call:wait(0.3))
      p:join(0, 1)
      assert.equal("there", call:fetch(5))
      nothing_left(ids)
    end, { silence_s = 2 })
  end)
end)

describe("large values that do not arrive, while all else does", function()
  local SILENCE = { silence_s = 0.5, map = false }

  local function sum_of(ref)
    local a, sum = tarn.poolget(ref), 0
    for i = 1, #a do sum = sum + a[i] end
    return sum
  end

  local function ones(n)
    local a = tarn.array("double", n)
    for i = 1, n do a[i] = 1 end
    return tarn.poolset(a)
  end

  it("between two workers fail the call, and the next one connects again", function()
    for _, values in ipairs { 20000, 2e6 } do -- within the socket's buffers, and beyond
      proxy.with(2, function(p, ids)
        local a, b = unpack(ids)
        check(a, b, 1)
        local ref = tarn.remotecall_fetch(a, ones, values)
        p:stall_bulk(a, b)
        local call = tarn.remotecall(b, sum_of, ref)
        fails("WorkerLost", call.fetch, call, 15) -- whichever end has noticed first
        p:clear(a, b)
        assert.equal(values, tarn.remotecall_fetch(b, sum_of, ref))
        assert.is_nil(lost[a] or lost[b])
        ref, call = nil, nil -- luacheck: ignore
        nothing_left(ids)
      end, SILENCE)
    end
  end)

  it("because no connection can be made for them are an error; where that is because the process has ended, it is WorkerLost", function()
    for _, dies in ipairs { false, true } do
      proxy.with(2, function(p, ids)
        local a, b = unpack(ids)
        assert.equal(b, tarn.remotecall_fetch(a, function(other) return tarn.remotecall_fetch(other, tarn.myid) end, b))
        p:refuse(b)
        local call = tarn.remotecall(a, function(other)
          return tarn.remotecall_fetch(other, function(x) return #x end, tarn.array("double", 20000))
        end, b)
        assert.is_false(call:wait(0.3)) -- the connection has been refused by then
        if dies then posix.kill(cluster.os_pid(b), posix.SIGKILL) end
        local e = fails(dies and "WorkerLost" or "IOError", call.fetch, call, 10)
        if not dies then says(e, "no connection for large data can be made") end
      end, { map = false, silence_s = 5 })
    end
  end)

  it("from a worker to process 1, or from there, cost the worker", function()
    for direction = 1, 2 do
      proxy.with(1, function(p, ids)
        local from, to = direction == 1 and ids[1] or 1, direction == 1 and 1 or ids[1]
        local ref = tarn.remotecall_fetch(from, ones, 20000)
        assert.equal(20000, tarn.remotecall_fetch(to, sum_of, ref))
        p:stall_bulk(from, to)
        ref = tarn.remotecall_fetch(from, ones, 20000)
        local call = tarn.remotecall(to, sum_of, ref)
        says(fails("WorkerLost", call.fetch, call, 15), "nothing of a large value has come for 0.5 s")
        assert.is_true(cluster.becomes(function() return lost[ids[1]] ~= nil end))
      end, SILENCE)
    end
  end)
end)

describe("two workers that do not hear each other, while process 1 hears both", function()
  local SILENCE = { silence_s = 0.5 }

  -- A call between two that are parted in the directions named; who is lost, and that all agree on it.
  local function parted(directions, connected)
    proxy.with(3, function(p, ids)
      local a, b, third = unpack(ids)
      if connected then check(a, b, 1) end
      for _, d in ipairs(directions) do p:stall(ids[d[1]], ids[d[2]]) end
      local started = tarn.remotecall_fetch(third, require("tarn.core").clock)
      local call = tarn.remotecall(a, function(other) return tarn.remotecall_fetch(other, function() return "there" end) end, b)
      says(fails("WorkerLost", call.fetch, call, 15), ("process %d is lost"):format(b))
      local took = tarn.remotecall_fetch(third, require("tarn.core").clock) - started
      assert.is_true(took < (connected and 3 or 8), ("after %.2f s"):format(took))
      assert.is_true(cluster.becomes(function() return lost[b] ~= nil end))
      says(lost[b], ("it and process %d do not hear each other"):format(a))
      assert.same({ 1, a, third }, tarn.procs())
      for _, id in ipairs { a, third } do
        assert.same({ 1, a, third }, tarn.remotecall_fetch(id, tarn.procs))
      end
      check(a, third, 2)
      call = nil -- luacheck: ignore
      nothing_left { a, third }
    end, SILENCE)
  end

  it("become one: the younger is lost, for all", function() parted({ { 1, 2 }, { 2, 1 } }, true) end)
  it("also where only one of them is not heard", function() parted({ { 1, 2 } }, true) end)
  it("whichever", function() parted({ { 2, 1 } }, true) end)
  it("and where they had no connection yet", function() parted({ { 1, 2 }, { 2, 1 } }, false) end)

  it("for less than that only wait", function()
    proxy.with(2, function(p, ids)
      check(ids[1], ids[2], 1)
      p:part(ids[1], ids[2])
      local call = tarn.remotecall(ids[1], work, ids[2], 2)
      assert.is_false(call:wait(0.3))
      p:join(ids[1], ids[2])
      assert.equal(5, call:fetch(10))
      call = nil -- luacheck: ignore
      nothing_left(ids)
    end, { silence_s = 2 })
  end)

  it("are judged by how many others each does not hear", function()
    proxy.with(4, function(p, ids)
      for i = 2, 4 do check(ids[1], ids[i], 1) end
      for i = 2, 4 do p:part(ids[1], ids[i]) end
      assert.is_true(cluster.becomes(function() return lost[ids[1]] ~= nil end, 10))
      for i = 2, 4 do
        assert.is_nil(lost[ids[i]])
        check(ids[i], ids[i % 3 + 2], 1)
      end
      nothing_left { ids[2], ids[3], ids[4] }
    end, SILENCE)
  end)

  it("are left alone where one of them is stopped: that one is lost", function()
    proxy.with(2, function(_, ids)
      check(ids[1], ids[2], 1)
      posix.kill(cluster.os_pid(ids[1]), posix.SIGSTOP)
      assert.is_true(cluster.becomes(function() return lost[ids[1]] ~= nil end, 10))
      assert.equal("silent for 0.5 s", lost[ids[1]])
      tarn.sleep(0.5) -- nothing more is to come
      assert.is_nil(lost[ids[2]])
      nothing_left { ids[2] }
    end, SILENCE)
  end)
end)
