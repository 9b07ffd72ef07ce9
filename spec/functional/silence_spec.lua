-- Processes that fall silent, and what takes their place.
local cluster = require "spec.helper.cluster"
local pack = require "spec.helper.pack"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local wire = require "spec.helper.wire"
local fails, says, with = cluster.fails, cluster.says, cluster.with

local function seconds() return require("tarn.core").clock() end

local lost, joined = {}, {}
tarn.on("lost", function(id, reason) lost[id] = { reason = reason, at = seconds() } end)
tarn.on("joined", function(id) joined[#joined + 1] = id end)

describe("a process that falls silent", function()
  it("is lost after silence_s: who waits for it is told, and it is ended", function()
    with(1, function(ids)
      local silent, other = ids[1], tarn.addprocs(1)[1]
      local ref = tarn.remotecall_fetch(silent, function() return tarn.poolset("its own") end)
      local os_pid = cluster.os_pid(silent)
      local waiting = tarn.async(function() return tarn.remotecall_fetch(silent, function() tarn.sleep(60) end) end)
      local from_other = tarn.remotecall(other, function(r) return tarn.poolget(r) end, ref)
      assert.equal("its own", from_other:fetch())
      local stopped_at = seconds()
      posix.kill(os_pid, posix.SIGSTOP)
      from_other = tarn.remotecall(other, function(r) return tarn.poolget(r) end, ref)
      says(fails("WorkerLost", waiting.fetch, waiting), ("process %d"):format(silent), "silent for 0.5 s")
      says(fails("WorkerLost", from_other.fetch, from_other), ("process %d"):format(silent))
      says(fails("WorkerLost", tarn.poolget, ref), ("process %d"):format(silent))
      assert.is_true(cluster.becomes(function() return lost[silent] ~= nil end))
      assert.equal("silent for 0.5 s", lost[silent].reason)
      local took = lost[silent].at - stopped_at
      assert.is_true(took > 0.35 and took < 5 * process.patience, ("lost after %.2f s"):format(took))
      assert.is_true(cluster.becomes(function() return not posix.kill(os_pid, 0) end), "it lives on")
      assert.equal("fine", tarn.remotecall_fetch(other, function() return "fine" end))
      tarn.rmprocs(other)
    end, { silence_s = 0.5 })
  end)

  -- Played by the spec, since tarn kills those of this machine. It wakes up again, and goes on as if nothing had been.
  it("is not heard any more once it is lost: not what it says late, nor under its old number", function()
    local driver = process.start_script([[
      local id = tarn.addprocs(1)[1]
      tarn.on("lost", function(pid)
        while #tarn.remotecall_fetch(id, tarn.procs) > 2 do tarn.sleep(0.005) end
        print("lost", pid)
        io.stdout:flush()
      end)
      print(tarn.address())
      print(tarn.secret_file())
      print(tarn.remotecall_fetch(id, tarn.address))
      io.stdout:flush()
    ]] .. process.SERVE .. "()")
    local address, path, worker_address = driver:line(), driver:line(), driver:line()
    local secret = wire.secret_of(path)
    local member = wire.join(address, secret)
    local me = member.joined[4]
    local function hello(w, to)
      w:hello { id = me.your_id, incarnation = me.your_incarnation, want_id = to }
      return w:prove(w:proof(secret, "tarn connector"))
    end
    member:write(pack.notice("member.joined", pack.str "127.0.0.1:9", pack.int(300), pack.int(0)))
    repeat until member:read()[2] == "member.welcome"
    local other = wire.connect(worker_address)
    assert.equal(2, hello(other, 2)[2])
    assert.equal("lost\t" .. me.your_id, driver:line())
    for _, w in ipairs { member, other } do
      w:write(pack.request(9, "ping"))
      assert.is_nil(w:answer(9))
      w:close()
    end
    for to, at in ipairs { address, worker_address } do
      local again = wire.connect(at)
      hello(again, to)
      again:write(pack.request(9, "ping"))
      assert.is_nil(again:answer(9))
      again:close()
    end
    driver:close_stdin()
    assert.equal(0, driver:wait(10).code, driver.err)
  end)

  it("is not suspected while it computes, reads nothing, or is in a C function that takes its time", function()
    with(2, function(ids)
      local busy = {
        tarn.remotecall(ids[1], function()
          local till = require("tarn.core").clock() + 2.5
          while require("tarn.core").clock() < till do end
          return "computed"
        end),
        tarn.remotecall(ids[2], function()
          require("ffi").cdef "int usleep(unsigned);"
          require("ffi").C.usleep(999999)
          return "slept"
        end),
      }
      assert.equal("computed", busy[1]:fetch())
      assert.equal("slept", busy[2]:fetch())
      assert.is_nil(lost[ids[1]])
      assert.is_nil(lost[ids[2]])
    end, { silence_s = 0.8 })
  end)

  it("is not suspected while a large value waits for room that only its Lua, which computes, can make", function()
    with(1, function(ids)
      local id = ids[1]
      tarn.remotecall_fetch(id, function()
        local kept = {}
        for i = 1, 60 do -- tables that no one has written yet: making room takes Lua
          local t = {}
          for k = 1, 20000 do t[k] = { k } end
          kept[i] = tarn.poolset(t)
        end
        tarn.kept = kept
      end)
      local begun = tarn.event()
      local busy = tarn.remotecall(id, function(e)
        e:notify()
        local clock = require("tarn.core").clock
        local till = clock() + 2
        while clock() < till do end
        return clock()
      end, begun)
      begun:wait()
      local ref = tarn.poolset(tarn.array("double", 2 ^ 21), id)
      local stored = seconds()
      assert.is_true(stored > busy:fetch(), "it did not wait")
      assert.is_nil(lost[id])
      assert.equal(2 ^ 21, tarn.remotecall_fetch(id, function(r) return #tarn.poolget(r) end, ref))
    end, { silence_s = 0.5, memory = "32MiB", map = false })
  end)

  it("is not suspected by another worker while it computes and that one sends more than it takes", function()
    with(2, function(ids)
      local a, b = unpack(ids)
      local busy = tarn.remotecall(b, function()
        local till = require("tarn.core").clock() + 3
        while require("tarn.core").clock() < till do end
        return "computed"
      end)
      local sent = tarn.remotecall(a, function(other)
        local text, all = ("x"):rep(2 ^ 20), {}
        for i = 1, 200 do all[i] = tarn.remotecall(other, function(x) return #x end, text) end
        for i = 1, 200 do assert(all[i]:fetch() == 2 ^ 20) end
        return "sent"
      end, b)
      assert.equal("computed", busy:fetch(20))
      assert.equal("sent", sent:fetch(20))
      assert.is_nil(lost[a] or lost[b])
    end, { silence_s = 1 })
  end)

  it("is not lost because process 1 was stopped", function()
    local driver = process.start_script [[
      local id = tarn.addprocs(1, { silence_s = 0.8 })[1]
      tarn.on("lost", function(_, reason) print("lost", reason) end)
      io.stdout:setvbuf("no")
      print("ready")
      io.read()
      for _ = 1, 20 do tarn.sleep(0.02) end
      print(tarn.remotecall_fetch(id, function() return "there" end))
    ]]
    assert.equal("ready", driver:line())
    posix.kill(driver.pid, posix.SIGSTOP)
    tarn.sleep(2) -- what is tested: time passes without it
    posix.kill(driver.pid, posix.SIGCONT)
    driver:write("go on\n")
    assert.equal("there", driver:line())
    assert.equal(0, driver:wait().code)
  end)

  it("has a silence_s that is a number of seconds", function()
    for _, wrong in ipairs { 0, -1, "5", 0 / 0, 1e9, {} } do
      says(fails("ArgumentError", tarn.addprocs, 1, { silence_s = wrong }), "silence_s", "seconds")
    end
    says(fails("ArgumentError", tarn.addprocs, 1, { respawn = "yes" }), "respawn must be true or false")
    local run = process.run_tarn { "worker", "--silence", "x" }
    assert.equal(2, run.code)
    says(run.err, "--silence: 'x' is not a time in seconds")
  end)
end)

describe("a worker with respawn", function()
  local function await_next(id)
    assert.is_true(cluster.becomes(function() return (joined[#joined] or 0) > id end, 20), "nobody has come")
    return joined[#joined]
  end

  it("is replaced when it is lost, with the same options, and not when it is removed", function()
    local init = "package.loaded['spec.kept'] = os.getenv('SPEC_RESPAWN')"
    local id = tarn.addprocs(1, { respawn = true, env = { SPEC_RESPAWN = "same" }, init = init, memory = 2 ^ 25 })[1]
    for _ = 1, 2 do
      posix.kill(cluster.os_pid(id), posix.SIGKILL)
      local new = await_next(id)
      assert.same({ new }, tarn.workers())
      assert.equal("same", tarn.remotecall_fetch(new, function() return package.loaded["spec.kept"] end))
      assert.equal(2 ^ 25, tarn.max_memsize(nil, new))
      says(lost[id].reason, "killed by signal 9")
      id = new
    end
    local before = #joined
    tarn.rmprocs(id)
    tarn.sleep(0.3) -- nothing is to come: there is no event to wait for
    assert.equal(before, #joined)
    assert.same({}, tarn.workers())
  end)

  it("that fails at once each time does not keep the machine busy", function()
    local starts = os.tmpname()
    local init = ([[
      local f = io.open(%q, "a") f:write("x") f:close()
      if #io.open(%q):read("*a") > 1 then os.exit(3) end
    ]]):format(starts, starts)
    local id = tarn.addprocs(1, { respawn = true, init = init })[1]
    local function count()
      local f = assert(io.open(starts))
      local n = #f:read("*a")
      f:close()
      return n
    end
    assert.equal(1, count())
    posix.kill(cluster.os_pid(id), posix.SIGKILL)
    assert.is_true(cluster.becomes(function() return count() >= 3 end, 20))
    tarn.sleep(0.5) -- at 0.1, 0.2, 0.4 s and so on
    assert.is_true(count() <= 5, ("%d starts"):format(count()))
    local f = assert(io.open(starts, "w")) -- from now on it does
    f:close()
    assert.is_true(cluster.becomes(function() return #tarn.workers() == 1 end, 20))
    tarn.rmprocs(tarn.workers()[1])
    os.remove(starts)
  end)
end)
