-- Processes that come and go: addprocs and its options, rmprocs, events.
local ffi = require "ffi"
local cluster = require "spec.helper.cluster"
local pack = require "spec.helper.pack"
local process = require "spec.helper.process"
local wire = require "spec.helper.wire"
local with, fails, says = cluster.with, cluster.fails, cluster.says

pcall(ffi.cdef, "int kill(int pid, int sig);")

local os_pid = cluster.os_pid

describe("addprocs", function()
  it("gives the ids of workers that are ready", function()
    with(3, function(ids)
      assert.equal(3, #ids)
      assert.same(ids, tarn.workers())
      assert.equal(3, tarn.nworkers())
      assert.equal(4, tarn.nprocs())
      assert.same({ 1, unpack(ids) }, tarn.procs())
      for _, id in ipairs(ids) do assert.same(tarn.procs(), tarn.remotecall_fetch(id, tarn.procs)) end
    end)
    assert.same({}, tarn.workers())
  end)

  it("gives each worker its budget, directory and environment", function()
    local dir = process.tmpdir() .. "/spill"
    with(2, function(ids)
      for _, id in ipairs(ids) do
        assert.equal(64e6, tarn.max_memsize(nil, id))
        assert.equal(1e9, tarn.max_disksize(nil, id))
        assert.equal("yes", tarn.remotecall_fetch(id, os.getenv, "TARN_SPEC_ENV"))
      end
      tarn.remotecall_fetch(ids[1], function()
        spec_refs = {} -- luacheck: ignore
        for i = 1, 12 do spec_refs[i] = tarn.poolset(tarn.array("double", 1e6)) end -- luacheck: ignore
      end)
      assert.is_true(tarn.poolstats(ids[1]).spilled_bytes > 0)
      -- The spill file has no name; the descriptor tells where it is.
      local pipe = assert(io.popen("ls -l /proc/" .. os_pid(ids[1]) .. "/fd"))
      says(pipe:read("*a"), dir .. "/")
      pipe:close()
    end, { memory = "64MB", disk = 1e9, spill_dir = dir, env = { TARN_SPEC_ENV = "yes" } })
  end)

  it("shares the memory when no budget is named", function()
    with(2, function(ids)
      local bytes = tarn.max_memsize(nil, ids[1])
      assert.is_true(bytes >= 16 * 2 ^ 20 and bytes <= 2 ^ 30, tostring(bytes))
      assert.equal(math.huge, tarn.max_disksize(nil, ids[1]))
      assert.equal(32 * 2 ^ 20, tarn.max_memsize("32MiB", ids[1]))
      assert.equal(32 * 2 ^ 20, tarn.max_memsize(nil, ids[1]))
      assert.equal(bytes, tarn.max_memsize(nil, ids[2]))
    end)
  end)

  it("runs init on each worker first", function()
    with(2, function(ids)
      for _, id in ipairs(ids) do assert.equal(id, tarn.remotecall_fetch(id, function() return spec_init end)) end -- luacheck: ignore
    end, { init = "spec_init = tarn.myid()" })
    says(tostring(fails("RemoteError", tarn.addprocs, 2, { init = function() error("not today") end })), "not today")
    assert.same({}, tarn.workers())
  end)

  it("fails with the reason when a worker ends before it is ready, and stops the others", function()
    says(fails("WorkerLost", tarn.addprocs, 2, { tarn = "/bin/false" }).message, "exited with status 1")
    fails("IOError", tarn.addprocs, 2, { tarn = "/no/such/program" })
    assert.same({}, tarn.workers())
  end)

  it("gives up on a worker that never joins", function()
    local dir = process.tmpdir()
    local path = process.write_file(dir .. "/idle", "#!/bin/sh\nexec sleep 1000\n")
    assert(os.execute("chmod +x " .. path))
    fails("Timeout", tarn.addprocs, 2, { tarn = path, connect_timeout_s = 0.2 })
    assert.same({}, tarn.workers())
  end)

  -- The driver is held up in starting it. The worker is the spec, since the program itself cannot be earlier than its start.
  it("takes a worker that joins before its start is booked for what it has started", function()
    local dir = process.tmpdir()
    local go, say = dir .. "/go", dir .. "/say"
    local path = process.write_file(dir .. "/program", ([[#!/bin/sh
      until [ -e %s ]; do sleep 0.01; done
      echo said
      kill -9 $$
    ]]):format(say))
    assert(os.execute("chmod +x " .. path) == 0)
    local driver = process.start_script(([[
      local lost = {}
      tarn.on("lost", function(pid, reason) lost[pid] = reason end)
      print(tarn.address())
      print(tarn.secret_file())
      io.stdout:flush()
      local core = require "tarn.core"
      local start = core.spawn
      function core.spawn(...)
        print "starting"
        io.stdout:flush()
        local file
        repeat file = io.open(%q) until file
        file:close()
        return start(...)
      end
      local id = tarn.addprocs(1, { tarn = %q })[1]
      print("added", id)
      io.stdout:flush()
      while not lost[id] do tarn.sleep(0.005) end
      print(lost[id])
      print(#tarn.workers())
    ]]):format(go, path))
    local worker = wire.join(driver:line(), wire.secret_of(driver:line()))
    local id = worker.joined[4].your_id
    assert.equal("starting", driver:line())
    worker:write(pack.notice("member.joined", pack.str "127.0.0.1:9", pack.int(60000), pack.int(1)))
    repeat until worker:read()[2] == "member.welcome"
    process.write_file(go, "")
    worker:write(pack.notice "ready")
    assert.equal("added\t" .. id, driver:line())
    process.write_file(say, "")
    assert.equal(("[%d] said"):format(id), driver:line())
    assert.matches("^killed by signal 9", driver:line())
    assert.equal("0", driver:line())
    worker:close()
    assert.equal(0, driver:wait(10).code, driver.err)
  end)

  it("names what is wrong with its arguments", function()
    for _, n in ipairs { 0, -1, "x", 1.5, 1e9, 0 / 0, true, {} } do fails("ArgumentError", tarn.addprocs, n) end
    fails("ArgumentError", tarn.addprocs)
    for _, size in ipairs { "10XB", "", "-1", -1, 0, "1e3", 0 / 0, true } do
      says(fails("ArgumentError", tarn.addprocs, 1, { memory = size }).message, "memory")
    end
    says(fails("ArgumentError", tarn.addprocs, 1, { memroy = 1 }).message, "memroy")
    fails("ArgumentError", tarn.addprocs, 1, { env = "A=1" })
    fails("ArgumentError", tarn.addprocs, 1, { env = { ["A=B"] = "1" } })
    fails("ArgumentError", tarn.addprocs, 1, { init = 5 })
    fails("ArgumentError", tarn.addprocs, 1, { init = "x = = 1" })
    fails("ArgumentError", tarn.addprocs, 1, { launcher = "no.such" })
    fails("ArgumentError", tarn.addprocs, 1, 5)
  end)

  it("is for the driver alone", function()
    with(1, function(ids)
      says(fails("ArgumentError", tarn.remotecall_fetch, ids[1], function() tarn.addprocs(1) end).message, "only the driver")
      says(fails("ArgumentError", tarn.remotecall_fetch, ids[1], function() tarn.rmprocs(1) end).message, "only the driver")
    end)
  end)
end)

describe("the news that workers have come", function()
  local core = require "tarn.core"

  it("is told many at a time: not a message to each for each", function()
    local _, before = core.messages()
    local began = core.clock()
    with(60, function(ids)
      local took = core.clock() - began
      for _, id in ipairs { ids[1], ids[60] } do assert.equal(60, tarn.remotecall_fetch(id, tarn.nworkers)) end
      local _, sent = core.messages()
      assert.is_true(sent - before < 60 * (5 + took / 0.1), ("%d messages in %.2f s"):format(sent - before, took)) -- 60 * 59 / 2 and more
    end, { silence_s = 1000, memory = "8MB" })
  end)

  it("is there before the next call that may be about them, and soon where none is made", function()
    with(1, function(ids)
      local counted = tarn.remotecall(ids[1], function()
        while tarn.nworkers() < 2 do tarn.sleep(0.01) end
        return tarn.workers()
      end)
      with(1, function(new)
        assert.same({ ids[1], new[1] }, counted:fetch(20))
        with(1, function(newer)
          assert.equal(newer[1], tarn.remotecall_fetch(ids[1], function(id) return tarn.remotecall_fetch(id, tarn.myid) end, newer[1]))
        end)
      end)
    end)
  end)
end)

describe("os_pid", function()
  it("is what the machine calls a process, to every process", function()
    cluster.with(2, function(ids)
      local function of_all(list)
        local result = {}
        for i, id in ipairs(list) do result[i] = tarn.os_pid(id) end
        return result
      end
      local all = { 1, ids[1], ids[2] }
      local real = {}
      for i, id in ipairs(all) do
        real[i] = tarn.remotecall_fetch(id, function() return tonumber(io.open("/proc/self/stat"):read("*l"):match("^%d+")) end)
      end
      for _, id in ipairs(all) do assert.same(real, tarn.remotecall_fetch(id, of_all, all)) end
      assert.equal(real[1], tarn.os_pid())
    end)
    fails("ArgumentError", tarn.os_pid, 4000)
    fails("ArgumentError", tarn.os_pid, "2")
  end)
end)

describe("rmprocs", function()
  it("returns when the workers are gone", function()
    with(3, function(ids)
      local pid = os_pid(ids[2])
      tarn.rmprocs(ids[1], ids[2])
      assert.same({ ids[3] }, tarn.workers())
      assert.equal(-1, ffi.C.kill(pid, 0))
      assert.equal(ids[1], fails("WorkerLost", tarn.remotecall_fetch, ids[1], tarn.myid).pid)
      assert.equal(2, #tarn.remotecall_fetch(ids[3], tarn.procs))
    end)
  end)

  it("refuses ids that are no workers", function()
    fails("ArgumentError", tarn.rmprocs, 1)
    fails("ArgumentError", tarn.rmprocs, 12345)
    fails("ArgumentError", tarn.rmprocs, "x")
  end)
end)

describe("a worker that is lost", function()
  it("says what a write through a pointer into stored data has done #signals", function()
    with(1, function(ids)
      local ref = tarn.poolset(tarn.array("double", 200000))
      local e = fails("WorkerLost", tarn.remotecall_fetch, ids[1], function(r)
        require("ffi").cast("double *", r:get():ptr())[0] = 1
      end, ref)
      says(e.message, "killed by signal 11, perhaps a write to stored data through a pointer")
    end, { env = { ASAN_OPTIONS = (os.getenv "ASAN_OPTIONS" or "") .. ":handle_segv=0" } }) -- a sanitizer would report it
  end)

  it("fails all that wait for it, at once, with the reason", function()
    with(2, function(ids)
      local waiting = {}
      for i = 1, 100 do waiting[i] = tarn.remotecall(ids[1], function() tarn.sleep(1000) end) end
      local from_other = tarn.remotecall(ids[2], function(id) tarn.remotecall_fetch(id, function() tarn.sleep(1000) end) end, ids[1])
      tarn.sleep(0.05)
      ffi.C.kill(os_pid(ids[1]), 9)
      for i = 1, 100 do
        local e = fails("WorkerLost", waiting[i].fetch, waiting[i], 5)
        assert.equal(ids[1], e.pid)
        says(e.message, "killed by signal 9, perhaps out of memory")
      end
      fails("WorkerLost", from_other.fetch, from_other, 5)
      assert.same({ ids[2] }, tarn.workers())
    end)
  end)

  it("takes the results along that were not fetched", function()
    with(1, function(ids)
      local f = tarn.remotecall(ids[1], function() return {} end)
      f:wait()
      tarn.rmprocs(ids[1])
      fails("WorkerLost", f.fetch, f)
    end)
  end)

  it("is told to who asked for it, as is one that joins", function()
    local result = process.run_script [[
      local ffi = require "ffi"
      ffi.cdef "int kill(int pid, int sig);"
      tarn.on("joined", function(id) tarn.sleep(0) print("joined", id) end)
      local ended = { [2] = tarn.event(), [3] = tarn.event(), [4] = tarn.event() }
      tarn.on("lost", function(id, reason)
        print("lost", id, reason)
        ended[id]:notify()
      end)
      tarn.addprocs(3)
      ffi.C.kill(tarn.remotecall_fetch(2, function() return tarn.os_pid() end), 9)
      tarn.remote_do(3, function() os.exit(5) end)
      ended[2]:wait()
      ended[3]:wait()
      tarn.rmprocs(4)
      ended[4]:wait()
    ]]
    local lines = process.lines(result.out)
    table.sort(lines)
    assert.same({ "joined\t2", "joined\t3", "joined\t4", "lost\t2\tkilled by signal 9, perhaps out of memory",
      "lost\t3\texited with status 5", "lost\t4\tstopped" }, lines, result.err)
    assert.equal(0, result.code)
    fails("ArgumentError", tarn.on, "gone", print)
    fails("ArgumentError", tarn.on, "lost", 5)
  end)
end)
