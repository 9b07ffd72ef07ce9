-- Beginnings and ends: what a driver's end does to its workers, however it ends; output, exit status, workers that compute.
local lfs = require "lfs"
local cluster = require "spec.helper.cluster"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

describe("a cluster", function()
  it("starts with -p and stops with the script", function()
    local result = process.run_tarn { "-p", "4", "-e", "print(#tarn.workers())" }
    assert.equal("4\n", result.out)
    assert.equal("", result.err)
    assert.equal(0, result.code)
    assert.is_true(process.gone(result.mark, 2 * process.patience))
  end)

  it("numbers its processes from 1", function()
    local result = process.run_script [[
      print(tarn.myid(), table.concat(tarn.procs(), ","), table.concat(tarn.addprocs(3), ","), table.concat(tarn.procs(), ","))
      print(tarn.remotecall_fetch(3, function() return tarn.myid(), table.concat(tarn.workers(), ",") end))
      tarn.rmprocs(3)
      print(table.concat(tarn.workers(), ","), tarn.nprocs(), tarn.nworkers())
    ]]
    assert.equal("1\t1\t2,3,4\t1,2,3,4\n3\t2,3,4\n2,4\t3\t2\n", result.out, result.err)
  end)

  it("is gone within two seconds of its driver's kill -9, computing workers and their children too", function()
    local driver = process.start_script [[
      local ids = tarn.addprocs(4)
      local begun = {}
      for i = 1, 3 do begun[i] = tarn.event() end
      tarn.remote_do(ids[1], function() begun[1]:notify() while true do end end)
      tarn.remote_do(ids[2], function()
        child = io.popen("exec sleep 1000") -- kept: a collected one would be waited for
        begun[2]:notify()
        while true do end
      end)
      tarn.remote_do(ids[3], function() begun[3]:notify() os.execute("sleep 1000") end)
      for i = 1, 3 do begun[i]:wait() end
      print("ready")
      io.stdout:flush()
      tarn.sleep(1000)
    ]]
    assert.equal("ready", driver:line(20))
    assert.is_true(#process.marked(driver.mark) >= 6)
    driver:kill()
    local ok, left = process.gone(driver.mark, 2 * process.patience)
    assert.is_true(ok, not ok and process.describe(left))
    driver:wait(5)
    assert.equal(9, driver.signal)
  end)

  it("leaves no socket and no file after its driver's kill -9, but a secret that it was asked for", function()
    local dir = process.tmpdir()
    lfs.mkdir(dir .. "/tmp")
    local driver = process.start_script([[
      local ids = tarn.addprocs(2, { memory = "20MB" })
      local kept = {}
      for _, owner in ipairs { 1, unpack(ids) } do -- spilled; one is mapped by the others
        for i = 1, 4 do kept[#kept + 1] = tarn.poolset(tarn.array("double", 1e6), owner) end
        local spilled = tarn.poolstats(owner).spilled_bytes
        assert(spilled > 0)
      end
      for _, id in ipairs(ids) do tarn.remotecall_fetch(id, function(ref) _G.mapped = ref:get() end, kept[1]) end
      print(tarn.secret_file())
      for _, pid in ipairs(tarn.procs()) do print(tarn.remotecall_fetch(pid, tarn.address)) end
      io.stdout:flush()
      tarn.sleep(1000)
    ]], { args = { "-m", "20MB", "-d", dir .. "/spill" }, env = { TMPDIR = dir .. "/tmp" } })
    local secret = driver:line(20)
    local addresses = { driver:line(), driver:line(), driver:line() }
    assert.equal(dir .. "/tmp", secret:match "(.*)/")
    driver:kill()
    local ok, left = process.gone(driver.mark, 2 * process.patience)
    assert.is_true(ok, not ok and process.describe(left))
    driver:wait(5)
    local files = {}
    local function list(at)
      for name in lfs.dir(at) do
        if name ~= "." and name ~= ".." then files[#files + 1] = at .. "/" .. name end
      end
    end
    list(dir .. "/tmp")
    list(driver.cwd)
    if lfs.attributes(dir .. "/spill") then list(dir .. "/spill") end
    assert.same({ secret, driver.cwd .. "/driver.lua" }, files)
    for _, address in ipairs(addresses) do -- the kernel closes what a process had just after that is gone from /proc
      local function is_closed()
        local is_open, fd = pcall(posix.connect, address)
        if is_open then posix.close(fd) end
        return not is_open
      end
      assert.is_true(cluster.becomes(is_closed, 2), address)
    end
  end)

  it("outlives its driver's being stopped for longer than the silence limit", function()
    local driver = process.start_script [[
      local ids = tarn.addprocs(2)
      print("ready")
      io.stdout:flush()
      local line = io.read()
      print(line, #tarn.workers(), tarn.remotecall_fetch(ids[1], tarn.myid), tarn.remotecall_fetch(ids[2], tarn.myid))
    ]]
    assert.equal("ready", driver:line(20))
    driver:kill(posix.SIGSTOP)
    posix.poll({}, posix.now() + 7) -- longer than silence_s: there is no event to await
    driver:kill(posix.SIGCONT)
    driver:write("go on\n")
    assert.equal("go on\t2\t2\t3", driver:line(10))
    assert.equal(0, driver:wait().code)
  end)

  it("ends with status 1 and a traceback when the driver fails, and leaves nothing", function()
    local result = process.run_script([[
      local function inner() error("boom") end
      inner()
    ]], { args = { "-p", "2" } })
    assert.equal(1, result.code)
    assert.equal("", result.out)
    assert.is_truthy(result.err:find("driver.lua:1: boom", 1, true), result.err)
    assert.is_truthy(result.err:find("stack traceback", 1, true), result.err)
    assert.is_true(process.gone(result.mark, 2 * process.patience))
  end)

  it("ends with the status that the driver's os.exit names", function()
    for call, status in pairs { ["os.exit(7)"] = 7, ["os.exit(0)"] = 0,
      ["os.exit(true)"] = 0, ["os.exit(false)"] = 1, ["os.exit()"] = 0 } do
      local result = process.run_tarn { "-p", "2", "-e", "io.write('bye') " .. call .. " print('never')" }
      assert.equal(status, result.code, call .. ": " .. result.err)
      assert.equal("bye", result.out)
    end
  end)

  it("ends in order when the driver gets SIGTERM or SIGINT", function()
    for _, signal in ipairs { posix.SIGTERM, posix.SIGINT } do
      local driver = process.start_script [[
        tarn.addprocs(2)
        print("ready")
        io.stdout:flush()
        tarn.sleep(1000)
      ]]
      assert.equal("ready", driver:line(20))
      driver:kill(signal)
      driver:wait(5)
      assert.is_true(driver.code ~= 0)
      assert.is_true(process.gone(driver.mark, 2 * process.patience))
    end
  end)

  it("goes on when a job calls os.exit: that worker is lost, with its reason", function()
    local result = process.run_script [[
      local ids = tarn.addprocs(2)
      local ok, err = pcall(tarn.remotecall_fetch, ids[1], os.exit, 3)
      print(ok, tarn.iserror(err, "WorkerLost"), err.pid)
      print(tarn.remotecall_fetch(ids[2], tarn.myid), #tarn.workers())
    ]]
    assert.equal("false\ttrue\t2\n3\t1\n", result.out, result.err)
    assert.equal(0, result.code)
  end)
end)

describe("a worker's output", function()
  it("reaches the driver's line by line, with the worker's id before it", function()
    local result = process.run_script [[
      local ids = tarn.addprocs(2)
      for _, id in ipairs(ids) do
        tarn.remotecall_fetch(id, function()
          print("one\ntwo")
          io.write("no newline")
          io.stderr:write("wrong ", tarn.myid(), "\n")
        end)
      end
    ]]
    assert.equal(0, result.code)
    local out, err = process.lines(result.out), process.lines(result.err)
    table.sort(out)
    table.sort(err)
    assert.same({ "[2] no newline", "[2] one", "[2] two", "[3] no newline", "[3] one", "[3] two" }, out)
    assert.same({ "[2] wrong 2", "[3] wrong 3" }, err)
  end)

  it("comes whole lines at a time, however much there is", function()
    local result = process.run_script([[
      local ids = tarn.addprocs(2)
      local futures = {}
      for i, id in ipairs(ids) do
        futures[i] = tarn.remotecall(id, function() for n = 1, 5000 do print(("line %d "):format(n) .. ("x"):rep(n % 200)) end end)
      end
      for _, f in ipairs(futures) do f:fetch() end
    ]], { timeout_s = 30 })
    local seen = { 0, 0 }
    for line in result.out:gmatch("([^\n]*)\n") do
      local id, n, xs = line:match("^%[([23])%] line (%d+) (x*)$")
      assert.is_truthy(id, "torn line: " .. line)
      seen[id - 1] = seen[id - 1] + 1
      assert.equal(seen[id - 1], tonumber(n))
      assert.equal(tonumber(n) % 200, #xs)
    end
    assert.same({ 5000, 5000 }, seen)
  end)
end)

describe("a worker that computes and never suspends", function()
  local COMPUTING = [[
    local id = tarn.addprocs(1)[1]
    local ref = tarn.remotecall_fetch(id, function() return tarn.poolset(tarn.array("double", { 1, 2, 3 })) end)
    local plain = tarn.remotecall_fetch(id, function() return tarn.poolset({ "a", { b = 2 } }) end)
    assert(tarn.poolget(plain)[1] == "a")
    local started = tarn.event()
    tarn.remote_do(id, function()
      started:notify()
      while true do end
    end)
    started:wait()
  ]]

  it("still answers poolstats and poolget of what it exported", function()
    local result = process.run_script(COMPUTING .. [[
      for _ = 1, 3 do
        assert(tarn.poolstats(id).objects >= 2)
        local a, t = tarn.poolget(ref), tarn.poolget(plain)
        print(a[1] + a[2] + a[3], t[1], t[2].b)
      end
      tarn.rmprocs(id)
      print(#tarn.workers())
    ]], { timeout_s = 20 })
    assert.equal(("6\ta\t2\n"):rep(3) .. "0\n", result.out, result.err)
    assert.equal(0, result.code)
  end)

  it("obeys rmprocs soon", function()
    local result = process.run_script(COMPUTING .. [[
      local uv = require "luv"
      local start = uv.hrtime()
      tarn.rmprocs(id)
      print((uv.hrtime() - start) / 1e9 < 3 * (os.getenv("TARN_SPEC_PATIENCE") or 1), #tarn.workers())
    ]], { timeout_s = 20 })
    assert.equal("true\t0\n", result.out, result.err)
  end)

  it("does not keep the driver from ending", function()
    local result = process.run_script(COMPUTING .. "print('end')", { timeout_s = 20 })
    assert.equal("end\n", result.out, result.err)
    assert.equal(0, result.code)
  end)
end)
