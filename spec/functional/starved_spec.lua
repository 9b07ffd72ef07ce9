-- What a process lacks: descriptors, threads, numbers of its own, a clock that can be relied on. Each want is an error that names it,
-- nothing is lost, and all goes on when the want is over.
local ffi = require "ffi"
local cluster = require "spec.helper.cluster"
local pack = require "spec.helper.pack"
local process = require "spec.helper.process"
local wire = require "spec.helper.wire"
local fails, says, with = cluster.fails, cluster.says, cluster.with

pcall(ffi.cdef, "unsigned geteuid(void);")

-- On a worker: no descriptors, until give_back.
local function take(path)
  package.path = package.path .. ";" .. path
  _G.give = require("spec.helper.limits").take_descriptors()
end
local function give_back()
  _G.give()
  _G.give = nil
end
local function starve(id) tarn.remotecall_fetch(id, take, process.root .. "/?.lua") end
local function feed(id) tarn.remotecall_fetch(id, give_back) end

-- The sanitizer's options (when there is one), and another.
local function sanitizer(option) return (os.getenv("ASAN_OPTIONS") or "") .. ":" .. option end

local function ask(id) return tarn.remotecall_fetch(id, function() return "there" end) end

describe("a process without a descriptor", function()
  it("to connect with says so, and connects when it has one", function()
    with(2, function(ids)
      local a, b = unpack(ids)
      starve(a)
      local e = fails("IOError", tarn.remotecall_fetch, a, ask, b)
      says(e, "cannot connect to", "too many open files")
      feed(a)
      assert.equal("there", tarn.remotecall_fetch(a, ask, b))
    end)
  end)

  it("to be connected to with is named by who tries, is no loss, and is reached when it has one", function()
    with(2, function(ids)
      local a, b = unpack(ids)
      starve(b)
      local e = fails("WorkerLost", tarn.remotecall_fetch, a, ask, b)
      says(e, ("process %d"):format(b), "it may have no descriptors left")
      assert.same({ 1, a, b }, tarn.procs())
      assert.equal("there", ask(b))
      feed(b)
      assert.equal("there", tarn.remotecall_fetch(a, ask, b))
    end)
  end)

  it("for its spill file says so; what it holds is there, and it goes on when it has one", function()
    with(1, function(ids)
      local id = ids[1]
      local function try()
        tarn.remotecall_fetch(id, function()
          _G.kept = _G.kept or {}
          while #_G.kept < 10 do
            local a = tarn.array("double", 2e5)
            a[1] = #_G.kept + 1
            _G.kept[#_G.kept + 1] = tarn.poolset(a)
          end
        end)
      end
      local function count()
        return tarn.remotecall_fetch(id, function()
          for i, ref in ipairs(_G.kept) do assert(tarn.poolget(ref)[1] == i) end
          return #_G.kept
        end)
      end
      tarn.remotecall_fetch(id, function() require("tarn.serializer").load("array") end) -- it is read from a file
      starve(id)
      says(fails("IOError", try), "Too many open files", "spill")
      assert.is_true(count() > 0)
      feed(id)
      try()
      assert.equal(10, count())
    end, { memory = "8MB" })
  end)

  it("to start a worker with says so, and starts it when it has some", function()
    local run = process.run_script(([[
      package.path = package.path .. ";%s/?.lua"
      local give = require("spec.helper.limits").take_descriptors()
      for _ = 1, 3 do
        local ok, e = pcall(tarn.addprocs, 1)
        print(ok, e.kind, (e.message:gsub("^.-: ", "")))
      end
      give()
      print(tarn.addprocs(1)[1])
    ]]):format(process.root))
    assert.equal(("false\tIOError\tpipes for a worker: Too many open files\n"):rep(3) .. "2\n", run.out, run.err)
    assert.equal(0, run.code)
  end)
end)

describe("a process without a thread", function()
  it("to spill with says so; what it holds is there, and it goes on when it can have one", function()
    with(1, function(ids)
      local id = ids[1]
      local function set(times)
        tarn.remotecall_fetch(id, function(path, n)
          package.path = package.path .. ";" .. path
          local seam = require "spec.helper.faults"
          if n > 0 then seam.at(seam.THREAD, 1, seam.EAGAIN, n) else seam.stop() end
        end, process.root .. "/?.lua", times)
      end
      set(1e6)
      local function fill()
        return tarn.remotecall_fetch(id, function()
          _G.kept = _G.kept or {}
          while #_G.kept < 10 do _G.kept[#_G.kept + 1] = tarn.poolset(tarn.array("double", 2e5)) end
        end)
      end
      local e = fails("IOError", fill)
      says(e, "cannot start the spill thread", "Resource temporarily unavailable")
      e = fails("IOError", tarn.remotecall_fetch, id, function() return tarn.array("double", 2e6) end)
      says(e, "cannot start the spill thread")
      set(0)
      fill()
      tarn.remotecall_fetch(id, function()
        for _, ref in ipairs(_G.kept) do assert(#tarn.poolget(ref) == 2e5) end
      end)
    end, { memory = "8MB" })
  end)

  it("to help its spill thread, or to read ahead with, does without", function()
    with(1, function(ids)
      tarn.remotecall_fetch(ids[1], function(path)
        package.path = package.path .. ";" .. path
        local kept = { tarn.poolset(tarn.array("double", 2e5)) }
        tarn.movetodisk(kept[1]) -- the spill thread is there
        local seam = require "spec.helper.faults"
        seam.at(seam.THREAD, 1, seam.EAGAIN, 1e6)
        for i = 2, 20 do
          local a = tarn.array("double", 1e6)
          a[1e6] = i
          kept[i] = tarn.poolset(a)
        end
        for i = 2, 20 do assert(tarn.poolget(kept[i])[1e6] == i) end
        assert(seam.stop() > 0, "no thread was asked for")
      end, process.root .. "/?.lua")
    end, { memory = "24MB" })
  end)
end)

describe("a program without threads", function()
  it("does not start, and says why", function()
    local argv = { "/usr/bin/prlimit", "--nproc=1" }
    if ffi.C.geteuid() == 0 then -- for root there is no such limit
      for _, arg in ipairs { "/usr/bin/setpriv", "--reuid=54321", "--clear-groups" } do argv[#argv + 1] = arg end
    end
    for _, arg in ipairs { process.tarn_path, "-e", "print 'it runs'" } do argv[#argv + 1] = arg end
    local run = process.run(argv, { cwd = "/", env = { ASAN_OPTIONS = sanitizer "detect_leaks=0" } }) -- that would need a thread
    assert.equal("tarn: cannot start the service thread: Resource temporarily unavailable\n", run.err)
    assert.equal("", run.out)
    assert.equal(1, run.code)
  end)
end)

describe("the number of a process that has ended", function()
  -- Have the system give the next process this number; false: it cannot be had.
  local function next_pid(pid)
    local file = io.open("/proc/sys/kernel/ns_last_pid", "w")
    if not file then return false end
    file:write(tostring(pid - 1))
    file:close()
    return true
  end

  it("is not trusted when it is another's: nothing is lent to who has it, since its end would not be seen", function()
    local driver = process.start_script [[
      local array = tarn.array("double", 100000)
      array[1] = 42
      local ref = tarn.poolset(array)
      print(tarn.address())
      print(tarn.secret_file())
      io.stdout:flush()
      tarn.event(1):wait()
    ]]
    local address, secret = driver:line(), wire.secret_of(driver:line())
    wire.learn_bytecode(address)
    local wanted, other, peer = 30000, nil, nil
    for _ = 1, 20 do
      wanted = wanted + 7
      if not next_pid(wanted) then break end
      local probe = wire.connect(address)
      probe:hello()
      peer = wire.connect(address)
      peer:hello { os_pid = wanted, host = probe.welcome.host }
      peer:prove(peer:proof(secret, "tarn connector"))
      probe:close()
      tarn.sleep(0.02) -- the system dates processes by hundredths of a second
      next_pid(wanted)
      other = process.start({ "/bin/sleep", "60" })
      if other.pid == wanted then break end
      other:destroy()
      peer:close()
      other = nil
    end
    if not other then
      driver:destroy()
      pending "numbers of processes cannot be chosen here"
      return
    end
    peer:write(pack.request(7, "pool.get", pack.int(1)))
    local message
    repeat message = peer:read() until message[1] == 1 or message[2] == "net.bulk"
    assert.equal("net.bulk", message[2]) -- it is to be sent, and not { ext = 0x20 }
    peer:close()
    other:destroy()
    driver:destroy()
  end)

  it("is not signalled when the program has waited for it itself", function()
    local run = process.run_script [[
      local ffi = require "ffi"
      ffi.cdef "int kill(int, int); int waitpid(int, int *, int);"
      local lost
      tarn.on("lost", function(_, why) lost:put(why) end)
      for _ = 1, 20 do
        local id = tarn.addprocs(1)[1]
        local pid = tarn.remotecall_fetch(id, function() return tarn.os_pid() end)
        lost = tarn.promise()
        ffi.C.kill(pid, 9)
        ffi.C.waitpid(pid, nil, 0) -- the service thread may be faster, or have seen it already
        local reason = lost:fetch()
        if not reason:find("killed by signal 9", 1, true) then
          print(reason)
          break
        end
      end
    ]]
    assert.equal(0, run.code, run.err)
    assert.equal("ended; how is not known, since this program has waited for it itself\n", run.out)
  end)
end)

describe("a clock that is set", function()
  it("back or forth by a day changes no wait, deadline or heartbeat", function()
    local library = "/usr/lib/" .. jit.arch:gsub("x64", "x86_64"):gsub("arm64", "aarch64") .. "-linux-gnu/faketime/libfaketime.so.1"
    if not process.read_file(library) then return pending "libfaketime is not there" end
    local cwd = process.tmpdir()
    local file = process.write_file(cwd .. "/time", "+0")
    local run = process.run_script(([[
      local clock = require("tarn.core").clock
      local function set(offset)
        local f = io.open(%q, "w")
        f:write(offset)
        f:close()
      end
      local lost = {}
      tarn.on("lost", function(id, reason) lost[#lost + 1] = reason end)
      local ids = tarn.addprocs(2, { silence_s = 0.5 })
      local before = os.time()
      local function within(seconds, fn)
        local started = clock()
        fn()
        local took = clock() - started
        assert(took > seconds * 0.9 and took < seconds + 1, took)
      end
      for _, offset in ipairs { "+1d", "-1d", "+2d" } do
        within(0.3, function()
          local waits = {
            tarn.async(tarn.sleep, 0.3),
            tarn.async(function() return pcall(tarn.timeout, 0.3, tarn.sleep, 60) end),
            tarn.remotecall(ids[1], function() tarn.sleep(0.3) end),
            tarn.async(function() return tarn.event(ids[2]):wait(0.3) end),
          }
          tarn.sleep(0.1)
          set(offset)
          for _, wait in ipairs(waits) do wait:fetch() end
        end)
        print(math.floor((os.time() - before) / 86400 + 0.5))
        within(0.6, function() tarn.sleep(0.6) end) -- longer than silence_s
        for i, id in ipairs(ids) do
          local there = tarn.remotecall_fetch(id, os.time)
          assert(math.abs(there - os.time()) < 60, "the worker's clock has not been set")
        end
      end
      print(#lost, #tarn.procs())
    ]]):format(file), { cwd = cwd, env = { LD_PRELOAD = library, FAKETIME_TIMESTAMP_FILE = file, FAKETIME_NO_CACHE = "1",
      FAKETIME_DONT_FAKE_MONOTONIC = "1", DONT_FAKE_MONOTONIC = "1", ASAN_OPTIONS = sanitizer "verify_asan_link_order=0" } })
    assert.equal("1\n-1\n2\n0\t3\n", run.out, run.err)
    assert.equal(0, run.code)
  end)
end)

