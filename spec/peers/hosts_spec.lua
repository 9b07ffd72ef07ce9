-- Workers on other hosts, by ssh: three hosts made of namespaces (spec/helper/hosts.lua), which share the source tree and nothing else.
local cluster = require "spec.helper.cluster"
local hosts_helper = require "spec.helper.hosts"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local says, becomes = cluster.says, cluster.becomes

local reason = hosts_helper.missing()

describe("workers on other hosts", function()
  if reason then
    pending("are started by ssh: " .. reason)
    return
  end

  local hosts
  setup(function() hosts = hosts_helper.start() end)
  teardown(function() hosts:destroy() end)

  -- Driver source to its end: its lines, and what it said on standard error.
  local function run(source, opts)
    local driver = hosts:start_driver(source, opts)
    driver:wait(60)
    assert.equal(0, driver.code, driver.out .. driver.err)
    return process.lines(driver.out), driver.err
  end

  local function ends(pid)
    local fd = posix.pidfd(tonumber(pid))
    if not fd then return true end
    local ready = next(posix.poll({ fd }, posix.now() + 10 * process.patience))
    posix.close(fd)
    return ready ~= nil
  end

  it("are reached and reach each other, those of the driver's host too, whichever address their host has", function()
    local lines = run [[
      local here = tarn.addprocs(1)[1]
      assert(tarn.remotecall_fetch(here, tarn.address):find "^127%.0%.0%.1:")
      local ids = tarn.addprocs({ "alpha", "beta", "gamma6" })
      print(#ids)
      for _, id in ipairs(ids) do
        print(tarn.remotecall_fetch(id, function() return require("luv").os_gethostname(), (tarn.address():gsub("%d+$", "")) end))
      end
      ids[4] = here
      local function ask(from, id) return tarn.remotecall_fetch(id, function(x) return x + tarn.myid() end, from) end
      for _, from in ipairs(ids) do
        for _, to in ipairs(ids) do
          if from ~= to then assert(tarn.remotecall_fetch(from, ask, from, to) == from + to) end
        end
      end
      local outward = { ["10.77.0.1:"] = true, ["[fd77::1]:"] = true } -- whichever was first
      print(tarn.address():find "^127%.0%.0%.1:" ~= nil, outward[tarn.remotecall_fetch(here, tarn.address):gsub("%d+$", "")])
    ]]
    assert.same({ "3", "alpha\t10.77.0.11:", "beta\t10.77.0.12:", "gamma\t[fd77::13]:", "true\ttrue" }, lines)
  end)

  it("have a pool: values both ways, references between two of them, mapped on one host and never between two", function()
    local lines = run [[
      local ids = tarn.addprocs({ "alpha*2", "beta" }, { memory = "64MB" })
      local a, a2, b = unpack(ids)
      local function fill(n, x)
        local v = tarn.array("double", n)
        for i = 1, n do v[i] = i * x end
        return v
      end
      local function sum(ref)
        local v, s = tarn.poolget(ref), 0
        for i = 1, #v do s = s + v[i] end
        return s
      end
      local N = 200000
      local right = N * (N + 1) / 2
      local there = tarn.poolset(fill(N, 1), a)
      print(there.owner == a, sum(there) == right, tarn.remotecall_fetch(b, sum, there) == right)
      local made = tarn.remotecall_fetch(b, function(f, n) return tarn.poolset(f(n, 2)) end, fill, N)
      print(made.owner == b, sum(made) == 2 * right, tarn.remotecall_fetch(a, sum, made) == 2 * right)
      -- From a to b by way of a table in a's pool, of which the driver only has the outer reference.
      local outer = tarn.remotecall_fetch(a, function(r) return tarn.poolset { inner = r, mine = tarn.poolset("mine") } end, made)
      made = nil
      collectgarbage() collectgarbage()
      print(tarn.remotecall_fetch(b, function(o, f)
        local t = tarn.poolget(o)
        return f(t.inner), tarn.poolget(t.mine)
      end, outer, sum))
      local before = tarn.poolstats(a2)
      assert(tarn.remotecall_fetch(a2, sum, there) == right)
      local after = tarn.poolstats(a2)
      print("on one host", after.mapped_in_count > before.mapped_in_count)
      local copying = tarn.addprocs({ "alpha" }, { map = false })[1]
      assert(tarn.remotecall_fetch(copying, sum, there) == right)
      print("map = false", tarn.poolstats(copying).mapped_in_count)
      local far = tarn.poolstats(b)
      print("between hosts", far.mapped_in_count, far.tcp_in_bytes > 8 * N)
    ]]
    assert.same({ "true\ttrue\ttrue", "true\ttrue\ttrue", "40000200000\tmine", "on one host\ttrue",
      "map = false\t0", "between hosts\t0\ttrue" }, lines)
  end)

  it("get a large object that many read once for each host or so, and map it there", function()
    local lines = run [[
      local ids = tarn.addprocs { "alpha*3", "beta*3", "gamma*3" }
      local array = tarn.array("double", 2 ^ 19)
      for i = 1, #array do array[i] = i end
      local function sum(x)
        local s = 0
        for i = 1, #x do s = s + x[i] end
        return s
      end
      local expected = sum(array)
      local function read(ref, fn) return fn(tarn.poolget(ref)), tarn.poolstats().mapped_in_count end
      local ref, before, jobs, mapped = tarn.poolset(array), tarn.poolstats().tcp_out_bytes, {}, 0
      for i, id in ipairs(ids) do jobs[i] = tarn.remotecall(id, read, ref, sum) end
      for _, job in ipairs(jobs) do
        local s, count = job:fetch()
        assert(s == expected)
        mapped = mapped + count
      end
      print((tarn.poolstats().tcp_out_bytes - before) / (8 * #array), mapped)
    ]]
    local sent, mapped = lines[1]:match "^(%S+)\t(%d+)$"
    assert.is_true(tonumber(sent) < 4.5, sent .. " times") -- the first, and one for each host
    assert.is_true(tonumber(mapped) >= 5, mapped .. " mapped")
  end)

  it("encrypt what they send each other, and nobody on the network reads it, unless tls = false is said", function()
    local mark = "Tarn's mark, which nobody is to read"
    for _, tls in ipairs { "nil", "false" } do
      local sniffer = hosts:start({ process.root .. "/spec/helper/sniff.lua", mark })
      assert.equal("ready", sniffer:line())
      local lines, err = run(([[
        local mark = arg[1]
        local here = tarn.addprocs(1, { tls = %s })[1]
        local a, b = unpack(tarn.addprocs { "alpha", "beta6" })
        local function make(n, text)
          local array = tarn.array("uint8_t", n)
          require("ffi").copy(array:ptr(), text:rep(n / #text))
          return tarn.poolset(array)
        end
        local function check(ref, text)
          local array = tarn.poolget(ref)
          assert(require("ffi").string(array:ptr(), #array):find(text:rep(1000), 1, true))
          return #array
        end
        print(tarn.remotecall_fetch(a, function(s) return s .. #s end, mark))
        local there = tarn.remotecall_fetch(a, make, 2 ^ 21, mark)
        print(check(there, mark), tarn.remotecall_fetch(b, check, there, mark), tarn.remotecall_fetch(here, check, there, mark))
        print(tarn.remotecall_fetch(b, check, make(2 ^ 20, mark), mark))
      ]]):format(tls), { arguments = { mark } })
      assert.same({ mark .. #mark, "2097152\t2097152\t2097152", "1048576" }, lines)
      sniffer:close_stdin()
      local with, count = sniffer:line():match "^(%d+)\t(%d+)$"
      sniffer:wait()
      assert.is_true(tonumber(count) > 100, "packets were seen")
      assert.equal(tls == "nil", with == "0")
      assert.equal(tls == "false", err:find("nothing that is sent is encrypted", 1, true) ~= nil, err)
    end
  end)

  it("refuse each other by name where one has TLS and the other has not", function()
    local lines = run [[
      local launcher = { options = {} }
      function launcher.start(job)
        local argv = job:command()
        argv[#argv + 1] = "--no-tls"
        job:spawn { argv = { "ssh", "-T", "-o", "LogLevel=ERROR", "alpha", table.concat(argv, " ") }, label = "alpha",
          address = job:reach "10.77.0.1" }
      end
      function launcher.stop(process) process:kill() end
      print(pcall(tarn.addprocs, 1, { launcher = launcher }))
    ]]
    says(lines[1], "WorkerLost: tarn.addprocs: alpha: exited with status 1", "refused by 10.77.0.1:", "this process wants TLS",
      "tls must be the same on both sides")
  end)

  it("read files for each other: a FileRef names its host", function()
    local lines = run [[
      local a, b = unpack(tarn.addprocs({ "alpha", "beta" }))
      local file = tarn.remotecall_fetch(a, function()
        local v = tarn.array("int32_t", 50000)
        for i = 1, #v do v[i] = i end
        return tarn.copytodisk(tarn.poolset(v), "/tmp/numbers.tarn")
      end)
      print(file.host, file.path, io.open(file.path))
      print(tarn.remotecall_fetch(b, function(f) return tarn.poolget(f)[50000], io.open(f.path) end, file))
      print(tarn.poolget(file)[7])
      tarn.remotecall_fetch(a, function() os.remove("/tmp/numbers.tarn") end)
    ]]
    assert.equal("alpha\t/tmp/numbers.tarn\tnil", lines[1]:sub(1, 27))
    assert.equal("50000\tnil", lines[2]:sub(1, 9))
    assert.equal("7", lines[3])
  end)

  it("whose disk is full say so, lose nothing, and go on when there is room; the others go on meanwhile", function()
    for _, name in ipairs { "alpha", "beta" } do
      hosts:sh("mkdir -p /run/small && mount -t tmpfs -o size=" .. (name == "beta" and "3m" or "64m") .. " small /run/small", name)
    end
    local driver = hosts:start_driver [[
      local a, b = unpack(tarn.addprocs({ "alpha", "beta" }, { memory = "2MB", spill_dir = "/run/small" }))
      local function make(x)
        local array = tarn.array("double", 100000)
        for i = 1, #array do array[i] = x end
        return tarn.poolset(array)
      end
      local function fill(id)
        local refs = {}
        for x = 1, 12 do
          local ok, ref = pcall(tarn.remotecall_fetch, id, make, x)
          if not ok then return refs, ref end
          refs[x] = ref
        end
        return refs
      end
      local function right(refs)
        for x, ref in ipairs(refs) do
          local array = tarn.poolget(ref)
          if array[1] ~= x or array[100000] ~= x then return false end
        end
        return true
      end
      local refs, e = fill(b)
      print(#refs > 1 and #refs < 12, e.kind, e.path, e.pid == b)
      print(#fill(a), right(refs))
      io.read()
      print(pcall(tarn.remotecall_fetch, b, make, 1) == true, right(refs))
    ]]
    assert.equal("true\tDiskFull\t/run/small\ttrue", driver:line(30))
    assert.equal("12\ttrue", driver:line(20))
    hosts:sh("mount -o remount,size=64m /run/small", "beta")
    driver:write("\n")
    assert.equal("true\ttrue", driver:line(20))
    assert.equal(0, driver:wait().code)
    for _, name in ipairs { "alpha", "beta" } do hosts:sh("umount /run/small", name) end
  end)

  it("are lost with ssh, with their process, and in silence; the others go on, and none lives on", function()
    local driver = hosts:start_driver [[
      local a, b, g = unpack(tarn.addprocs({ "alpha", "beta", "gamma" }, { silence_s = 0.6 }))
      local names, refs, left = { [a] = "alpha", [b] = "beta", [g] = "gamma" }, {}, tarn.promise(1)
      for id, name in pairs(names) do refs[name] = tarn.poolset("of " .. name, id) end
      tarn.on("lost", function(id, reason)
        local name = names[id]
        local _, e = pcall(tarn.poolget, refs[name])
        print("lost", name, e.kind, reason)
        if tarn.nworkers() == 0 then left:put(true) end
      end)
      local function os_pid(id) return tarn.remotecall_fetch(id, require("luv").os_getpid) end
      print(os_pid(a), os_pid(b), os_pid(g))
      print(left:fetch())
    ]]
    local a, b, g = driver:line(20):match("^(%d+)\t(%d+)\t(%d+)$")
    posix.kill(tonumber(a), posix.SIGKILL)
    says(driver:line(), "lost\talpha\tWorkerLost\talpha: exited with status 255")
    -- The sshd that is the father of the next: it is what has the connection.
    local stat = process.read_file(("/proc/%s/stat"):format(b))
    posix.kill(tonumber(stat:match("^%d+ %(.-%) %a (%d+)")), posix.SIGKILL)
    says(driver:line(), "lost\tbeta\tWorkerLost\t")
    assert.is_true(ends(b))
    hosts:link("gamma", "down")
    assert.equal("lost\tgamma\tWorkerLost\tsilent for 0.6 s", driver:line())
    assert.equal("true", driver:line())
    assert.equal(0, driver:wait().code)
    hosts:link("gamma", "up")
    assert.is_true(ends(g), "who was expelled lives on")
  end)

  it("that fall silent for good keep no ssh here, and end when they wake up", function()
    local driver = hosts:start_driver([[
      local id = tarn.addprocs({ "alpha" }, { silence_s = 0.5 })[1]
      tarn.on("lost", function(_, reason) print(reason) end)
      print(tarn.remotecall_fetch(id, require("luv").os_getpid))
    ]] .. process.SERVE .. "()")
    local pid = tonumber(driver:line(20))
    assert.is_true(#process.marked(driver.mark) > 1)
    posix.kill(pid, posix.SIGSTOP)
    assert.equal("silent for 0.5 s", driver:line())
    assert.is_true(becomes(function() return #process.marked(driver.mark) == 1 end), "ssh lives on")
    posix.kill(pid, posix.SIGCONT)
    assert.is_true(ends(pid), "who was expelled lives on")
    driver:close_stdin()
    assert.equal(0, driver:wait().code)
  end)

  it("that cannot be started are named, with ssh's own words; with partial the others go on", function()
    local lines, err = run([[
      print(pcall(tarn.addprocs, { "alpha", "nohost.invalid" }))
      print(pcall(tarn.addprocs, { "beta" }, { port = 2222 }))
      print(pcall(tarn.addprocs, { "beta" }, { tarn = "/nowhere/tarn" }))
      print(pcall(tarn.addprocs, { "beta" }, { dir = "/nowhere" }))
      print(pcall(tarn.addprocs, { "alpha" }, { tarn = arg[1] }))
      print(tarn.nworkers())
      local ids, missing = tarn.addprocs({ "alpha*2", "nohost.invalid*3" }, { partial = true })
      print(#ids, #missing, missing[1].host, missing[1].workers, missing[1].message)
      print(tarn.remotecall_fetch(ids[2], require("luv").os_gethostname))
    ]], { arguments = { hosts:other_version() } })
    says(lines[1], "false\tWorkerLost: tarn.addprocs: nohost.invalid: ssh: Could not resolve hostname nohost.invalid")
    says(lines[2], "tarn.addprocs: beta: ssh: connect to host 10.77.0.12 port 2222: Connection refused")
    says(lines[3], "tarn.addprocs: beta: exited with status 127", "/nowhere/tarn")
    says(lines[4], "tarn.addprocs: beta: exited with status", "/nowhere")
    says(lines[5], "tarn.addprocs: alpha: exited with status 1", "refused by 10.77.0.1:",
      "this process is tarn", "the one that connects is tarn 9.")
    assert.equal("0", lines[6])
    says(lines[7], "2\t1\tnohost.invalid\t3\tnohost.invalid: ssh: Could not resolve hostname")
    assert.equal("alpha", lines[8])
    says(err, "nohost.invalid: ssh: Could not resolve hostname")
  end)

  it("are connected to at the same time, at most max_parallel of them", function()
    for said, at_once in pairs { ["nil"] = 3, ["2"] = 2, ["1"] = 1 } do
      local driver
      hosts:while_closed(function(waiting)
        driver = hosts:start_driver(('print(#tarn.addprocs({ "alpha", "beta", "gamma" }, { max_parallel = %s }))'):format(said))
        assert.is_true(becomes(function() return waiting() == at_once end), waiting() .. " at once")
        tarn.sleep(0.2) -- no more are to come: there is no event to await
        assert.equal(at_once, waiting())
      end)
      assert.equal("3", driver:line(20))
      assert.equal(0, driver:wait().code)
    end
  end)

  it("that want another key get the one that identity names", function()
    local lines = run([[
      print(pcall(tarn.addprocs, { "locked" }))
      for _, multiplex in ipairs { true, false } do
        local id = tarn.addprocs({ "locked" }, { identity = arg[1], multiplex = multiplex })[1]
        print(tarn.remotecall_fetch(id, require("luv").os_gethostname))
      end
      print(pcall(tarn.addprocs, { "locked" }, { identity = arg[1] .. "-none" }))
    ]], { arguments = { hosts.conf .. "/id" } })
    says(lines[1], "WorkerLost: tarn.addprocs: locked: ", "Permission denied")
    assert.same({ "alpha", "alpha" }, { lines[2], lines[3] })
    says(lines[4], "WorkerLost: tarn.addprocs: locked: ", "id-none")
  end)

  it("say what they print here, and their secret nowhere", function()
    local driver = hosts:start_driver([[
      local ids = tarn.addprocs({ "alpha", "beta" }, { env = { SPEC_SAYS = "it's said" }, dir = "/usr/share" })
      for _, id in ipairs(ids) do
        tarn.remotecall_fetch(id, function() print(os.getenv "SPEC_SAYS", require("luv").cwd()) end)
      end
      print(io.open(tarn.secret_file()):read "*l")
      io.read()
    ]], { env = { TARN_LOG = "debug" } })
    local said = { driver:line(20), driver:line(), driver:line() } -- in whichever order they come here
    table.sort(said, function(a, b) return a:byte() == 0x5b and (b:byte() ~= 0x5b or a < b) end)
    assert.same({ "[2] it's said\t/usr/share", "[3] it's said\t/usr/share" }, { said[1], said[2] })
    local secret = said[3]
    assert.equal(64, #secret)
    for name in require("lfs").dir "/proc" do
      for _, what in ipairs { "cmdline", "environ" } do
        local text = tonumber(name) and process.read_file(("/proc/%s/%s"):format(name, what)) or ""
        assert.is_nil(text:find(secret, 1, true))
      end
    end
    driver:write("\n")
    assert.equal(0, driver:wait().code)
    assert.is_nil(driver.err:find(secret:sub(1, 16), 1, true))
  end)

  it("may come by another command; who listens everywhere is known by an address", function()
    local lines = run([[
      local here = tarn.addprocs(1)[1]
      local command = { "ssh", "-T", "{host}", "{command}" }
      local a = tarn.addprocs({ "10.77.0.11" }, { launcher = "command", command = command })[1] -- the way there tells the address
      local b = tarn.addprocs({ "beta" }, { launcher = "command", command = command, address = "10.77.0.1" })[1]
      local g = tarn.addprocs({ "gamma" }, { multiplex = false })[1] -- by ssh, but a connection of its own
      for _, id in ipairs { 1, here, a, b, g } do
        print((tarn.remotecall_fetch(id, function() return tarn.address() end):gsub("%d+$", "")))
      end
      print(tarn.remotecall_fetch(a, function(id) return tarn.remotecall_fetch(id, tarn.myid) end, here) == here)
      print(pcall(tarn.addprocs, { "alpha" }, { launcher = "command", command = command })) -- a name that only ssh knows
      tarn.rmprocs(a, b, g)
      print(tarn.nworkers())
    ]], { args = { "--listen", "0.0.0.0:0" } })
    assert.same({ "10.77.0.1:", "10.77.0.1:", "10.77.0.11:", "10.77.0.12:", "10.77.0.13:", "true" }, { unpack(lines, 1, 6) })
    says(lines[7], "tarn.addprocs: alpha: host 'alpha'")
    assert.equal("1", lines[8])
  end)

  it("go with their driver, and so does what carried them, when that is killed", function()
    local driver = hosts:start_driver [[
      print(#tarn.addprocs({ "alpha", "beta" }))
      io.read()
    ]]
    assert.equal("2", driver:line(20))
    driver:kill()
    assert.equal(9, driver:wait().signal)
    assert.is_true(process.gone(driver.mark, 5 * process.patience), "ssh lives on")
    assert.is_true(process.gone(posix.getpid() .. "-hosts", 5 * process.patience), "a worker lives on")
  end)

  it("reach the driver through the connection of ssh where tunnel = true", function()
    local lines = run [[
      local ids = tarn.addprocs({ "alpha*2", "beta" }, { tunnel = true })
      for _, id in ipairs(ids) do print((tarn.remotecall_fetch(id, tarn.address):gsub("%d+$", ""))) end
      local ref = tarn.poolset(tarn.array("double", 100000), ids[3])
      print(#tarn.poolget(ref))
      local function ask(id) return tarn.remotecall_fetch(id, tarn.myid) end
      print(ids[2] == tarn.remotecall_fetch(ids[1], ask, ids[2]))
      local _, e = pcall(tarn.remotecall_fetch, ids[1], function(r) return #tarn.poolget(r) end, ref)
      print(e.kind, e.message)
      print(tarn.remotecall_fetch(ids[1], ask, 1), tarn.nworkers())
      for _, name in ipairs { "tcp", "tcp6" } do -- who listens, where there is nobody but the driver
        for line in io.lines("/proc/self/net/" .. name) do print(line:match "^%s*%d+: (%x+):%x+ %S+ 0A") end
      end
    ]]
    local listening = {}
    for i = 8, #lines do listening[#listening + 1] = lines[i] ~= "nil" and lines[i] or nil end
    assert.same({ "127.0.0.1:", "127.0.0.1:", "127.0.0.1:", "100000", "true" }, { unpack(lines, 1, 5) })
    says(lines[6], "WorkerLost\t", "cannot connect to 127.0.0.1:", "with tunnel = true workers of different hosts do not reach each other")
    assert.equal("1\t3", lines[7])
    assert.same({ "0100007F" }, listening)
  end)

  it("are what addprocs(n) gives where --hosts names them: the demo's numbers are those of one machine", function()
    local demo = process.root .. "/examples/flights.lua"
    local args = { demo, "--workers", "4", "--repeat", "2" }
    local one = process.run_tarn(args, { timeout_s = 60 })
    assert.equal(0, one.code, one.err)
    local three = hosts:start({ "--hosts", "alpha*2,beta,gamma", unpack(args) }):wait(60)
    assert.equal(0, three.code, three.out .. three.err)
    local function answers(text) return text:match("^(.*)\npool ") end
    assert.truthy(answers(one.out))
    assert.equal(answers(one.out), answers(three.out))
  end)
end)
