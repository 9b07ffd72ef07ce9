-- What docs/SECURITY.md promises, beside what hostile_spec.lua and net_spec.lua see to: proofs, secrets, who may connect, files, and what
-- a proven peer may do.
local lfs = require "lfs"
local pack = require "spec.helper.pack"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local wire = require "spec.helper.wire"
local int, notice, request = pack.int, pack.notice, pack.request

-- A driver with a worker, that says where it is and proves on demand that it works.
local function start_cluster(opts)
  local driver = process.start_script([[
    local id = tarn.addprocs(1)[1]
    kept = tarn.remotecall_fetch(id, function() return tarn.poolset { 1 } end)
    mine = tarn.poolset { 2 }
    tarn.remotecall_fetch(id, function(x) held = x end, mine)
    print(tarn.address())
    print(tarn.secret_file())
    print(tarn.remotecall_fetch(id, function() return tarn.os_pid() end))
    io.stdout:flush()
  ]] .. process.SERVE .. [[(function()
    tarn.async(function()
      print("works", tarn.remotecall_fetch(id, function(r) return tarn.poolget(r)[1] end, mine))
      io.stdout:flush()
    end)
  end)]], opts)
  local address, path, worker = driver:line(), driver:line(), tonumber(driver:line())
  return driver, address, wire.secret_of(path), worker
end

local function assert_works(driver)
  driver:write "?\n"
  assert.equal("works\t2", driver:line())
end

local function finish(driver)
  driver:close_stdin()
  driver:wait(10)
  assert.equal(0, driver.code, driver.err)
  return driver.err
end

describe("a proof", function()
  it("is for one connection, one end, and what was said there", function()
    local driver, address, secret = start_cluster()
    local good = wire.join(address, secret)
    assert.equal(2, good.joined[2])
    local proof = good:proof(secret, "tarn connector")
    local function refused(fields, make)
      local w = wire.connect(address)
      w:hello(fields)
      local answer = w:prove(make(w))
      assert.truthy(answer and tostring(answer[3]):find("AuthError", 1, true))
      assert.is_nil(w:read()) -- closed
      w:close()
    end
    refused(nil, function() return proof end)                                     -- overheard: the other end's nonce is a new one
    refused(nil, function(w) return w.welcome.proof end)                          -- the other's own, sent back
    refused(nil, function(w) return w:proof(("x"):rep(32), "tarn connector") end) -- another secret
    refused({ id = 7 }, function(w) return w:proof(secret, "tarn connector", { id = 8 }) end)
    refused({ role = "bulk" }, function(w) return w:proof(secret, "tarn connector", { role = "control" }) end)
    local other = wire.connect(address)
    assert.truthy(other:hello({ version = "0.0.9" })[3]:find("0.0.9", 1, true))
    other:close()
    good:close()
    assert_works(driver)
    finish(driver)
  end)
end)

-- The mappings of a process that have memory: from, to, name, readable, dumped (in a core file).
local function mappings(pid)
  local maps = {}
  for line in io.lines(("/proc/%d/smaps"):format(pid)) do
    local from, to, perms, name = line:match "^(%x+)%-(%x+) (%S+) %S+ %S+ %S+%s*(.*)$"
    if from then
      maps[#maps + 1] = { from = tonumber(from, 16), to = tonumber(to, 16), name = name, readable = perms:sub(1, 1) == "r" }
    elseif line:match "^Rss:" then
      maps[#maps].resident = tonumber(line:match "%d+") > 0
    elseif line:match "^VmFlags:" then
      maps[#maps].dumped = not line:find(" dd", 1, true)
    end
  end
  return maps
end

-- What would be in a core file of that process, searched for texts: which was found where, and how many bytes were searched.
local function dumped(pid, texts)
  local found = {}
  local file = assert(io.open(("/proc/%d/mem"):format(pid), "rb"))
  local chunk, searched = 4 * 2 ^ 20, 0
  for _, map in ipairs(mappings(pid)) do
    if map.readable and map.resident and map.dumped then
      local before = ""
      for at = map.from, map.to - 1, chunk do
        file:seek("set", at)
        local bytes = file:read(math.min(chunk, map.to - at))
        if not bytes then break end
        searched = searched + #bytes
        for what, text in pairs(texts) do
          if (before .. bytes):find(text, 1, true) then found[#found + 1] = what .. " in " .. map.name end
        end
        before = bytes:sub(-64)
      end
    end
  end
  file:close()
  return found, searched
end

describe("the secret", function()
  it("is in no argument, environment or log, and in nothing that a core file would hold", function()
    local driver, address, secret, worker = start_cluster { env = { TARN_LOG = "debug" } }
    local hex = secret:gsub(".", function(c) return ("%02x"):format(c:byte()) end)
    local foreign, wrong = wire.connect(address), wire.connect(address)
    foreign:write(request(1, "auth.secret", pack.str(hex)))
    assert.is_true(foreign:answer(1)[4])
    wrong:write(request(1, "auth.secret", pack.str(hex:sub(1, 63) .. "x")))
    assert.truthy(wrong:answer(1)[3])
    local peer = wire.join(address, secret)
    assert.is_table(peer.joined[4])
    assert_works(driver)
    local texts = { ["the secret"] = secret, ["its first half"] = secret:sub(1, 16), ["its text"] = hex:sub(1, 48),
      ["its text's end"] = hex:sub(17) }
    for _, pid in ipairs { driver.pid, worker } do
      local found, searched = dumped(pid, texts)
      assert.same({}, found)
      assert.is_true(searched > 2 ^ 20, "memory was read")
      for _, name in ipairs { "cmdline", "environ" } do
        local file = assert(io.open(("/proc/%d/%s"):format(pid, name)))
        local text = file:read "*a"
        file:close()
        assert.is_true(#text > 0 and not text:find(hex:sub(1, 16), 1, true))
      end
      -- Mapping between processes needs /proc/PID/fd, which a process that cannot be dumped closes to its own user.
      assert.equal(posix.geteuid(), lfs.attributes(("/proc/%d/fd"):format(pid), "uid"))
    end
    assert.same({ "here" }, { dumped(posix.getpid(), { here = secret })[1] and "here" }) -- the search finds what is there
    for _, w in ipairs { foreign, wrong, peer } do w:close() end
    local log = finish(driver)
    assert.is_nil((log .. driver.out):find(hex:sub(1, 16), 1, true))
    assert.is_nil((log .. driver.out):find(secret:sub(1, 8), 1, true))
  end)

  it("is in nothing that a core file would hold where connections have TLS, whose key comes from it", function()
    local driver, _, secret, worker = start_cluster { args = { "--tls" } }
    assert_works(driver)
    for _, pid in ipairs { driver.pid, worker } do
      local found, searched = dumped(pid, { ["the secret"] = secret, ["its first half"] = secret:sub(1, 16) })
      assert.same({}, found)
      assert.is_true(searched > 2 ^ 20, "memory was read")
    end
    assert.equal("", finish(driver))
  end)

  it("is written when it is asked for, to a new file of its user's only, whatever the umask, which goes with the driver", function()
    local dir = process.tmpdir()
    local result = process.run({ "/bin/sh", "-c", ("umask 0; exec %s -e '%s'"):format(process.tarn_path, [[
      local lfs = require "lfs"
      for name in lfs.dir(os.getenv "TMPDIR") do assert(name == "." or name == "..", name) end
      local path = tarn.secret_file()
      assert(path == tarn.secret_file())
      print(path, lfs.attributes(path, "permissions"))
    ]]) }, { env = { TMPDIR = dir } })
    assert.equal(0, result.code, result.err)
    local path, permissions = result.out:match "^(.*)\t(.*)\n$"
    assert.equal(dir, path:match "(.*)/")
    assert.equal("rw-------", permissions)
    assert.is_nil(lfs.attributes(path))
  end)

  it("is in no error about the line that brings it", function()
    local hex = ("0123456789abcdef"):rep(4)
    for _, line in ipairs { "127.0.0.1:1 " .. hex, "127.0.0.1:1 " .. hex .. "0", "127.0.0.1:1 " .. hex .. " x",
      hex .. " " .. hex, "127.0.0.1:1 x" .. hex:sub(2), hex } do
      local worker = process.run_tarn({ "worker" }, { stdin = line .. "\n", env = { TARN_LOG = "debug" } })
      assert.is_true(worker.code ~= 0 and #worker.err > 0)
      assert.is_nil((worker.out .. worker.err):find(hex:sub(5, 20), 1, true), worker.err)
    end
  end)
end)

describe("a process", function()
  local function listening(pid) -- the addresses, as /proc/net/tcp has them
    local mine, list = {}, {}
    for fd in lfs.dir(("/proc/%d/fd"):format(pid)) do
      local inode = (posix.readlink(("/proc/%d/fd/%s"):format(pid, fd)) or ""):match "^socket:%[(%d+)%]$"
      if inode then mine[inode] = true end
    end
    for line in io.lines(("/proc/%d/net/tcp"):format(pid)) do
      local address, state, inode = line:match "^%s*%d+: (%x+):%x+ %S+ (%x+) %S+ %S+ %S+ +%d+ +%d+ (%d+)"
      if state == "0A" and mine[inode] then list[#list + 1] = address end
    end
    return list
  end

  it("listens on loopback, and nowhere else", function()
    local driver, address, _, worker = start_cluster()
    assert.truthy(address:find "^127%.0%.0%.1:%d+$")
    assert.same({ "0100007F" }, listening(driver.pid))
    assert.same({ "0100007F" }, listening(worker))
    assert.equal("", finish(driver))
  end)

  it("that is told to listen for other machines, and not to encrypt, says in one line what that means, each process for itself", function()
    local driver, address, _, worker = start_cluster { args = { "--listen", "0.0.0.0:0", "--no-tls" } }
    assert.truthy(address:find "^%d+%.%d+%.%d+%.%d+:%d+$" and not address:find "^0%.", address)
    assert.same({ "00000000" }, listening(driver.pid))
    assert.same({ "00000000" }, listening(worker))
    assert_works(driver)
    local lines = process.lines(finish(driver))
    assert.equal(2, #lines, table.concat(lines, "\n"))
    for _, line in ipairs(lines) do
      assert.truthy(line:find("listening on 0%.0%.0%.0:%d+, not only for this machine: .*secret.*nothing that is sent is encrypted"), line)
    end
    driver = start_cluster { args = { "--listen", "0.0.0.0:0" } }
    assert_works(driver)
    assert.equal("", finish(driver))
  end)

  it("is told so for its workers by addprocs, and says what is wrong with an address", function()
    local result = process.run_script [[
      local function code() return tarn.address() end
      print(tarn.remotecall_fetch(tarn.addprocs(1, { listen = "127.0.0.2:0" })[1], code))
      print(pcall(tarn.addprocs, 1, { listen = 5 }))
      print(pcall(tarn.addprocs, 1, { listen = "no-such-host.invalid:1" }))
    ]]
    local lines = process.lines(result.out)
    assert.truthy(lines[1]:find "^127%.0%.0%.2:%d+$", result.out .. result.err)
    assert.truthy(lines[2]:find "listen must be a string")
    assert.truthy(lines[3]:find "WorkerLost.*cannot listen on 'no%-such%-host%.invalid:1'")
    local wrong = process.run_tarn { "--listen", "here", "-e", "" }
    assert.truthy(wrong.code ~= 0 and wrong.err:find "'here' is not HOST:PORT")
  end)
end)

describe("bytes on disk", function()
  local SPILL = [[
    local data = {}
    for i = 1, 4 do data[i] = tarn.poolset(tarn.array("double", 1e6)) end
    local ok, e = pcall(tarn.poolset, tarn.array("double", 1e6))
    print(tarn.poolstats().spilled_bytes > 0, ok or tostring(e))
    for name in require("lfs").dir("/proc/self/fd") do
      local target = io.popen("readlink /proc/" .. tarn.os_pid() .. "/fd/" .. name):read("*l") or ""
      if target:find("spill", 1, true) or target:find(".tarn", 1, true) then
        print(target, io.popen("stat -L -c %a /proc/" .. tarn.os_pid() .. "/fd/" .. name):read("*l"))
      end
    end
  ]]

  it("are for their user only, whatever the umask", function()
    local dir = process.tmpdir()
    local path = process.write_file(dir .. "/spill.lua", SPILL)
    local result = process.run { "/bin/sh", "-c", ("umask 0; exec %s -m 16MB -d made/spill %s"):format(process.tarn_path, path) }
    assert.equal(0, result.code, result.err)
    assert.truthy(result.out:find "^true\ttrue")
    local count = 0
    for mode in result.out:gmatch "%(deleted%)\t(%d+)" do
      assert.equal("600", mode)
      count = count + 1
    end
    assert.is_true(count > 0, result.out)
    assert.equal("rwx------", lfs.attributes(result.cwd .. "/made", "permissions"))
  end)

  it("do not follow a link that another user has planted", function()
    if posix.geteuid() ~= 0 then return pending "needs root, to make another user's link" end
    local dir = process.tmpdir()
    lfs.mkdir(dir .. "/elsewhere")
    assert(os.execute(("ln -s elsewhere %s/own && ln -s elsewhere %s/planted && chown -h 12345 %s/planted"):format(dir, dir, dir)) == 0)
    local function run(name)
      return process.run_tarn { "-m", "16MB", "-d", dir .. "/" .. name, "-e", SPILL }
    end
    local result = run "planted/spill"
    assert.truthy((result.out .. result.err):find("planted/spill", 1, true))
    assert.truthy((result.out .. result.err):find("cannot make the spill directory", 1, true))
    result = run "planted"
    assert.truthy((result.out .. result.err):find("cannot make the spill directory", 1, true))
    result = run "own" -- one's own is followed
    assert.truthy(result.out:find "^true\ttrue", result.err)
  end)
end)

describe("a proven peer", function()
  it("that names billions of objects in a few bytes is answered at once", function()
    local driver, address, secret = start_cluster()
    local peer = wire.join(address, secret)
    for i = 1, 20 do
      peer:write(notice("refs.hold", int(i), int(1), int(0), int(4294967295)))
      peer:write(notice("refs.drop", int(1), int(3), int(4294967295)))
    end
    peer:write(request(9, "ping"))
    assert.is_true(tarn.decode(peer:answer(9, 10)[4]))
    assert_works(driver)
    peer:close()
    finish(driver)
  end)

  it("that calls any method with anything is answered, and the process goes on", function()
    local rpc = require "tarn.rpc"
    local driver, address, secret = start_cluster()
    local peer = wire.join(address, secret)
    local lists = { {}, { 1e8 }, { "x" }, { true }, { {} }, { -1, 2 ^ 60, "z" }, { 0 / 0 }, { 1e9, "x", {} }, { 7LL }, { string.rep },
      { { a = { 1 } }, "get", 5 }, { "isset", 1e8 }, { string.rep, {}, {} } }
    local params = { pack.array(), pack.array(int(1e8)), pack.array(pack.map {}), pack.array(pack.bin ""), pack.array(pack.bin "\193TRN"),
      pack.array(pack.bin "\145"), pack.array(pack.bin "\192") }
    for _, list in ipairs(lists) do params[#params + 1] = pack.array(pack.bin(tarn.encode(list))) end
    local methods = { "no.such", "pool.get", "pool.set", "pool.delete", "pool.limits", "lend.fetch", "serializer.get" }
    local count = 0
    for name in pairs(rpc.on_request) do methods[#methods + 1] = name end
    for _, name in ipairs(methods) do
      for _, bytes in ipairs(params) do
        count = count + 1
        peer:write(pack.array(int(0), int(count), pack.str(name), bytes))
        assert.is_table(peer:answer(count, 10), name)
      end
    end
    for name in pairs(rpc.on_notify) do
      for _, bytes in ipairs(params) do peer:write(pack.array(int(2), pack.str(name), bytes)) end
    end
    peer:write(request(count + 1, "ping"))
    assert.is_table(peer:answer(count + 1))
    assert_works(driver)
    peer:close()
    finish(driver)
  end)
end)
