-- What networks do to workers on other hosts (spec/helper/hosts.lua): packets that are lost in one direction, some of them lost everywhere,
-- a slow link, an sshd that ends. Every call ends in a value or a typed error, all who are left agree on who is lost, who is lost
-- exits, and nothing is left.
local hosts_helper = require "spec.helper.hosts"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local says = require("spec.helper.cluster").says

local SILENCE_S = 1

-- Workers on alpha, beta, gamma. Each of the calls that wait for one on beta, of the driver and of the two others, tells how it has ended;
-- then those that are left say whom they know, and call each other; then it waits for the spec.
local DRIVER = [==[
  local SILENCE_S = tonumber(arg[1])
  local ids, names = {}, { [1] = "driver" }
  for _, name in ipairs { "alpha", "gamma", "beta" } do -- beta is the youngest
    ids[name] = tarn.addprocs({ name }, { silence_s = SILENCE_S })[1]
    names[ids[name]] = name
  end
  local lost = tarn.promise(1)
  tarn.on("lost", function(id, reason)
    print("lost", names[id], reason)
    lost:put(id)
  end)
  local function os_pid(id) return tarn.remotecall_fetch(id, require("luv").os_getpid) end
  print(os_pid(ids.beta))
  local function wait() return tarn.sleep(3600) end
  local function wait_there(id, fn) return tarn.remotecall_fetch(id, fn) end
  local kept = tarn.poolset(tarn.array("double", 100000), ids.beta) -- which all have read, and so all have connections
  local function read(ref) return #tarn.poolget(ref) end
  assert(read(kept) == 100000)
  local calls = { driver = tarn.remotecall(ids.beta, wait) }
  for _, name in ipairs { "alpha", "gamma" } do
    assert(tarn.remotecall_fetch(ids[name], read, kept) == 100000)
    calls[name] = tarn.remotecall(ids[name], wait_there, ids.beta, wait)
  end
  print "ready"
  lost:fetch()
  for _, name in ipairs { "driver", "alpha", "gamma" } do
    local ok, e = pcall(calls[name].fetch, calls[name], 20)
    print(name, ok or e.kind)
  end
  print("read", select(2, pcall(tarn.poolget, kept)).kind)
  local known = {}
  for _, id in ipairs(tarn.procs()) do
    known[#known + 1] = table.concat(tarn.remotecall_fetch(id, tarn.procs), " ") == table.concat(tarn.procs(), " ") and names[id] or "?"
  end
  print("agree", table.concat(known, " "))
  for _, from in ipairs(tarn.workers()) do
    for _, to in ipairs(tarn.procs()) do
      if from ~= to then assert(tarn.remotecall_fetch(from, function(id) return tarn.remotecall_fetch(id, tarn.myid) end, to) == to) end
    end
  end
  print "all call each other"
  io.read()
]==]

local reason = hosts_helper.missing()

-- A spec that is pending, with the reason, where this machine cannot make its fault.
local function it_with(fault, name, fn)
  local lacking = reason or hosts_helper.lacks(fault)
  if lacking then
    pending(name .. ": " .. lacking)
  else
    it(name, fn)
  end
end

describe("workers on other hosts", function()
  local hosts
  setup(function() hosts = not reason and hosts_helper.start() end)
  teardown(function() if hosts then hosts:destroy() end end)
  after_each(function() if hosts then hosts:heal() end end)

  local function becomes(fn, seconds)
    local deadline = posix.now() + seconds * process.patience
    while not fn() do
      if posix.now() > deadline then return false end
      posix.poll({}, posix.now() + 0.02)
    end
    return true
  end

  local function ends(pid)
    local fd = posix.pidfd(pid)
    if not fd then return true end
    local ready = next(posix.poll({ fd }, posix.now() + 10 * process.patience))
    posix.close(fd)
    return ready ~= nil
  end

  -- The driver has ended well; no process and no connection of it is left on any host.
  local function nothing_left(driver)
    driver:wait(20)
    assert.equal(0, driver.code, driver.out .. driver.err)
    assert.is_true(process.gone(driver.mark, 5 * process.patience), "ssh lives on")
    assert.is_true(process.gone(posix.getpid() .. "-hosts", 5 * process.patience), "a worker lives on")
    assert.is_true(becomes(function() return #hosts:connections() == 0 end, 10), table.concat(hosts:connections(), "\n"))
  end

  -- A driver whose calls wait; the pid of beta's worker.
  local function start()
    local driver = hosts:start_driver(DRIVER, { arguments = { tostring(SILENCE_S) } })
    local pid = tonumber(driver:line(20))
    assert.equal("ready", driver:line())
    return driver, pid
  end

  -- Seconds from now until the driver says that somebody is lost: who, and why.
  local function await_loss(driver)
    local started = posix.now()
    local name, why = driver:line(20):match("^lost\t(%a+)\t(.*)$")
    local took = posix.now() - started
    if os.getenv "TARN_SPEC_TIMES" then io.stderr:write(("\n%s, %s: after %.2f s\n"):format(name, why, took)) end
    return name, why, took
  end

  -- What the others say after beta is lost.
  local function check_others(driver)
    for _, name in ipairs { "driver", "alpha", "gamma" } do assert.equal(name .. "\tWorkerLost", driver:line(20)) end
    assert.equal("read\tWorkerLost", driver:line())
    assert.equal("agree\tdriver alpha gamma", driver:line())
    assert.equal("all call each other", driver:line(20))
  end

  -- beta, cut off by cut(). because: what may be said of it instead of its silence, where it hears no acknowledgements and soon sends no
  -- more. It exits at once, or, where nothing that the others say reaches it, when it can be told.
  local function expelled(cut, because, hears)
    local driver, pid = start()
    cut()
    local name, why, took = await_loss(driver)
    assert.equal("beta", name)
    assert.is_true(why == "silent for 1 s" or why == because, why)
    assert.is_true(took > 0.7 * SILENCE_S and took < 3 * SILENCE_S * process.patience, ("after %.2f s"):format(took))
    check_others(driver)
    if hears then assert.is_true(ends(pid), "who was expelled lives on") end
    assert.is_true(hosts:dropped() > 0)
    hosts:heal()
    assert.is_true(ends(pid), "who was expelled lives on")
    driver:write("\n")
    nothing_left(driver)
  end

  it_with("drop", "are lost when nothing that they say arrives, and exit at once", function()
    expelled(function() hosts:drop("beta") end, nil, true)
  end)

  it_with("drop", "are lost when nothing arrives that is said to them, and exit when it does again", function()
    expelled(function() hosts:drop(nil, "beta") end, "has heard nothing for 1 s", false)
  end)

  it_with("drop", "are lost when nobody hears them any more", function()
    expelled(function()
      for i = 0, 3 do if i ~= 2 then hosts:drop("beta", hosts_helper.NAMES[i]) end end
    end, nil, true)
  end)

  it_with("drop", "that do not hear each other, one way, become one, for all, and the other exits", function()
    for _, way in ipairs { { "alpha", "beta" }, { "beta", "alpha" } } do
      local driver, pid = start()
      hosts:drop(unpack(way))
      local name, why, took = await_loss(driver)
      assert.equal("beta", name) -- the younger
      says(why, "do not hear each other")
      assert.is_true(took < 4 * SILENCE_S * process.patience, ("after %.2f s"):format(took))
      check_others(driver)
      assert.is_true(ends(pid), "who was expelled lives on")
      hosts:heal()
      driver:write("\n")
      nothing_left(driver)
    end
  end)

  -- Values and references between all; every sum is right, and nobody is lost.
  local WORK = [[
    local ids = tarn.addprocs({ "alpha", "beta", "gamma" }, { silence_s = tonumber(arg[1]) })
    tarn.on("lost", function(id, reason) print("lost", id, reason) end)
    print "ready"
    io.read()
    local n, turns = tonumber(arg[2]), tonumber(arg[3])
    local function make(x)
      local array = tarn.array("double", n)
      for i = 1, n do array[i] = x end
      return tarn.poolset(array)
    end
    local function sum(ref)
      local array, s = tarn.poolget(ref), 0
      for i = 1, #array do s = s + array[i] end
      return s
    end
    for turn = 1, turns do
      local jobs = {}
      for i, id in ipairs(ids) do jobs[i] = tarn.remotecall(ids[i % #ids + 1], sum, tarn.remotecall_fetch(id, make, turn + i)) end
      for i, job in ipairs(jobs) do assert(job:fetch() == n * (turn + i)) end
    end
    print "done"
  ]]

  -- Seconds that it takes after fault().
  local function works(silence_s, n, turns, fault)
    local driver = hosts:start_driver(WORK, { arguments = { tostring(silence_s), tostring(n), tostring(turns) } })
    assert.equal("ready", driver:line(20))
    fault()
    local started = posix.now()
    driver:write("\n")
    assert.equal("done", driver:line(60))
    local took = posix.now() - started
    nothing_left(driver)
    return took
  end

  it_with("drop", "go on where 5 of 100 packets are lost", function()
    works(5, 20000, 20, function() hosts:lose(5) end)
    assert.is_true(hosts:dropped() > 20)
  end)

  it_with("slow", "go on over a link on which one value takes longer than the time of silence", function()
    local took = works(SILENCE_S, 60000, 1, function() hosts:slow("beta", "2mbit") end)
    assert.is_true(took > 1.5 * SILENCE_S, ("it took %.2f s"):format(took))
  end)

  it_with("delay", "go on over a link on which everything takes 100 ms", function()
    works(SILENCE_S, 20000, 3, function()
      for _, name in ipairs(hosts_helper.NAMES) do hosts:sh("tc qdisc replace dev eth0 root netem delay 100ms", name) end
    end)
  end)

  -- The last: beta and gamma have no sshd then.
  it_with("drop", "go on without the sshd that listens, and are lost with the one that carries them", function()
    local driver, pid = start()
    posix.kill(hosts.pids.gamma, posix.SIGKILL)
    posix.kill(hosts.pids.beta, posix.SIGKILL)
    assert.is_true(ends(hosts.pids.beta) and ends(hosts.pids.gamma))
    local carrier = process.read_file(("/proc/%d/stat"):format(pid)):match("^%d+ %(.-%) %a (%d+)")
    posix.kill(tonumber(carrier), posix.SIGKILL)
    local name, why, took = await_loss(driver)
    assert.equal("beta", name)
    says(why, "beta: exited with status")
    assert.is_true(took < SILENCE_S * process.patience, ("after %.2f s"):format(took))
    check_others(driver) -- gamma among them, whose sshd does not listen
    assert.is_true(ends(pid), "who was lost lives on")
    driver:write("\n")
    nothing_left(driver)
  end)
end)
