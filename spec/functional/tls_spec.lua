-- Encrypted connections: what is on the wire, who gets through, and what becomes of connections that are cut, changed, or not of one mind
-- about it. On loopback, where tls = true must be said; between machines see spec/peers/hosts_spec.lua.
local cluster = require "spec.helper.cluster"
local pack = require "spec.helper.pack"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local proxy = require "spec.helper.proxy"
local refs = require "spec.helper.refs"
local wire = require "spec.helper.wire"
local fails, says = cluster.fails, cluster.says

local MARK = proxy.MARK

-- On a worker: an array of n bytes that is full of the text.
local function make(n, text)
  local array = tarn.array("uint8_t", n)
  require("ffi").copy(array:ptr(), text:rep(math.floor(n / #text)))
  return tarn.poolset(array)
end

local function is_made(array, n, text)
  return #array == n and require("ffi").string(array:ptr(), math.floor(n / #text) * #text) == text:rep(math.floor(n / #text))
end

-- Calls and values of these sizes, both ways, with the text in all of them.
local function work(id, text, sizes)
  for i = 1, 20 do assert.equal(text .. i, tarn.remotecall_fetch(id, function(s, n) return s .. n end, text, i)) end
  for _, n in ipairs(sizes) do
    local ref = tarn.remotecall_fetch(id, make, n, text)
    assert.is_true(is_made(tarn.poolget(ref), n, text))
    local mine = make(n, text)
    assert.is_true(tarn.remotecall_fetch(id, function(r, fn, ...) return fn(tarn.poolget(r), ...) end, mine, is_made, n, text))
  end
  local long = text:rep(2 ^ 12)
  assert.equal(long, tarn.remotecall_fetch(id, function(s) return s end, long))
end

describe("with tls = true", function()
  it("calls and values go both ways, on both lanes, and nobody on the way can read them", function()
    for _, tls in ipairs { true, false } do
      proxy.with(1, function(p, ids)
        work(ids[1], MARK, { 100, 70000, 2 ^ 20 + 1, 2 ^ 23 })
        local id = tls and 0 or ids[1]
        local roles = tls and { tls = 2 } or { control = 1, bulk = 1 }
        for role, count in pairs(roles) do assert.equal(count, p:links(id, 1, role)) end
        assert.equal(tls, p:marks() == 0)
        assert.is_true(refs.empty { ids[1] })
      end, { tls = tls, map = false })
    end
  end)

  it("bytes may come one by one, the handshake's too", function()
    proxy.with(1, function(_, ids) work(ids[1], "some text", { 100, 70000 }) end, { tls = true, map = false },
      function(p) p:split(0, 0) end)
  end)

  it("workers reach each other, and many at once send much to one", function()
    cluster.with(3, function(ids)
      local all = {}
      for i, id in ipairs(ids) do
        all[i] = tarn.remotecall(id, function(others, fn, check)
          for round = 1, 3 do
            for _, other in ipairs(others) do
              if other ~= tarn.myid() then
                local n = 300000 * round
                assert(check(tarn.poolget(tarn.remotecall_fetch(other, fn, n, "abc")), n, "abc"))
              end
            end
          end
          return true
        end, ids, make, is_made)
      end
      for _, f in ipairs(all) do assert.is_true(f:fetch(60)) end
    end, { tls = true, map = false })
  end)

  for _, fault in ipairs { "cut", "half", "spoil" } do
    local what = { cut = "cut", half = "cut off without a word", spoil = "changed" }
    it(("a connection that is %s, at any byte, is a lost worker, never a wrong or a short value"):format(what[fault]), function()
      for _, way in ipairs { { 0, 1 }, { 1, 0 } } do
        for _, after in ipairs { 30, 100000 } do
          proxy.with(1, function(p, ids)
            local n = 2 ^ 21
            local ref = tarn.remotecall_fetch(ids[1], make, n, "abc")
            assert.is_true(is_made(tarn.poolget(tarn.remotecall_fetch(ids[1], make, n, "abc")), n, "abc")) -- the bulk lane is there
            p[fault](p, way[1], way[2], after)
            -- Both lanes have something to carry, so that the fault comes to pass.
            local text = ("x"):rep(200000)
            local ok, e = pcall(function()
              assert.is_true(is_made(tarn.poolget(ref), n, "abc"))
              assert.equal(text, tarn.remotecall_fetch(ids[1], function(s) return s end, text))
              tarn.remotecall_fetch(ids[1], function() tarn.sleep(20) end)
            end)
            if ok or not tarn.iserror(e, "WorkerLost") then error(("%s after %d: %s"):format(fault, after, tostring(e)), 0) end
          end, { tls = true, map = false })
        end
      end
    end)
  end

  it("is the same for all of a cluster, and is what the command line says where nobody says otherwise", function()
    cluster.with(1, function()
      says(fails("ArgumentError", tarn.addprocs, 1, { tls = false }),
        "tls = false, but there are workers that were started with tls = true")
      cluster.with(1, function(more) assert.equal(6, tarn.remotecall_fetch(more[1], function() return 6 end)) end)
    end, { tls = true })
    cluster.with(1, function()
      says(fails("ArgumentError", tarn.addprocs, 1, { tls = true }),
        "tls = true, but there are workers that were started with the default")
    end)
    says(fails("ArgumentError", tarn.addprocs, 1, { tls = 1 }), "tls must be true or false")
    for _, option in ipairs { "--tls", "--no-tls" } do
      local run = process.run_tarn { "-p", "1", option, "-e", [[
        local file = io.open(("/proc/%d/cmdline"):format(tarn.remotecall_fetch(2, require("luv").os_getpid)))
        print((file:read("*a"):gsub("%z", " ")))
      ]] }
      says(run.out, " worker ", option)
    end
  end)
end)

-- A driver that wants TLS of all; what it says on standard error, once it has ended, is in driver.err.
local function start_driver(option)
  local driver = process.start_script([[
    print(tarn.address())
    print(tarn.secret_file())
    io.stdout:flush()
  ]] .. process.SERVE .. "()", { args = { option } })
  local address = driver:line()
  return driver, address, wire.secret_of(driver:line())
end

local function finish(driver)
  driver:close_stdin()
  assert.equal(0, driver:wait(10).code, driver.err)
  return driver.err
end

local function hex(bytes) return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

-- The key as docs/PROTOCOL.md says, by the openssl command.
local function key_of(secret)
  local run = process.run { "/usr/bin/openssl", "kdf", "-keylen", "32", "-kdfopt", "digest:SHA256", "-kdfopt", "hexkey:" .. hex(secret),
    "-kdfopt", "info:tarn/1 tls13 psk", "HKDF" }
  return (run.out:gsub("[:%s]", ""):lower())
end

-- A worker that cannot join, to its end.
local function run_worker(option, address, secret)
  local worker = process.start_tarn { "worker", option }
  worker:write(address .. " " .. hex(secret) .. "\n")
  assert.equal(1, worker:wait(10).code)
  return worker
end

local function s_client(address, ...)
  return process.start { "/usr/bin/openssl", "s_client", "-connect", address, "-quiet", "-no_ign_eof", ... }
end

-- The messages in what a process has printed, once there are so many.
local function messages(client, count)
  local deadline = posix.now() + 10 * process.patience
  while true do
    local list, at = {}, 1
    while at do
      local message, next_at = pack.read(client.out, at)
      if next_at then list[#list + 1] = message end
      at = next_at
    end
    if #list >= count then return list end
    assert(client:_pump(deadline) or posix.now() < deadline, "no message in time: " .. client.err)
  end
end

describe("a process with TLS", function()
  it("speaks it with whoever has the key: openssl s_client as a foreign client", function()
    local driver, address, secret = start_driver "--tls"
    local key = key_of(secret)
    for _, suite in ipairs { "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256" } do
      local client = s_client(address, "-tls1_3", "-psk", key, "-psk_identity", "tarn/1", "-ciphersuites", suite)
      client:write(pack.request(1, "auth.secret", pack.str(hex(secret))))
      assert.same({ 1, 1, [4] = true }, messages(client, 1)[1])
      client:write(pack.request(2, "ping"))
      client:write(pack.request(3, "eval", pack.str "return 6 * 7", pack.array()))
      assert.equal(42, messages(client, 3)[3][4])
      client:close_stdin()
      client:wait(10)
    end
    assert.equal("", finish(driver))
  end)

  it("lets nobody through who has not, or who wants something older or weaker", function()
    local driver, address, secret = start_driver "--tls"
    local key = key_of(secret)
    local wrong = { { "-psk", key:reverse(), "-psk_identity", "tarn/1" }, { "-psk", key, "-psk_identity", "tarn/0" }, {},
      { "-tls1_2", "-psk", key, "-psk_identity", "tarn/1" },
      { "-psk", key, "-psk_identity", "tarn/1", "-ciphersuites", "TLS_AES_256_GCM_SHA384" },
      { "-psk", key, "-psk_identity", "tarn/1", "-groups", "P-521" } }
    for i, args in ipairs(wrong) do
      local client = s_client(address, unpack(args))
      client:write(pack.request(1, "auth.secret", pack.str(hex(secret))))
      client:wait(10)
      assert.is_true(client.code ~= 0, "case " .. i)
      assert.equal("", client.out)
    end
    local lines = process.lines(finish(driver))
    assert.equal(#wrong, #lines, table.concat(lines, "\n"))
    says(lines[1], "refused a connection from 127.0.0.1:", "AuthError: it did not prove that it knows the secret")
    for i = 2, #wrong do says(lines[i], "ProtocolError: TLS: ") end
    says(lines[4], "unsupported protocol")
  end)

  it("closes who sends junk, or nothing more, and takes no more than some thousand bytes of it", function()
    local driver, address = start_driver "--tls"
    local silent = posix.connect(address) -- half a ClientHello
    posix.write(silent, "\22\3\1\2\0\1\0\1\252\3\3" .. ("r"):rep(100))
    local junk = { "\22", ("\22"):rep(9000), "\22\3\1\64\0" .. ("\1"):rep(9000), "\23\3\3\0\9something", "\21\3\3\0\2\2\40",
      "\22\3\1\0\4\1\255\255\255" .. ("\22\3\1\0\100" .. ("x"):rep(100)):rep(100) }
    for i, bytes in ipairs(junk) do
      local w = wire.connect(address)
      w:write(bytes)
      if i == 1 then w:write("\0") end
      local all = ""
      local deadline = posix.now() + 4 * process.patience
      local more = i ~= 1
      while more do
        assert(posix.poll({ w.fd }, deadline)[w.fd], "junk " .. i .. " is still listened to")
        local got = posix.read(w.fd)
        more = got and got ~= ""
        all = all .. (got or "")
      end
      assert.is_true(#all < 100)
      w:close()
    end
    local deadline = posix.now() + 8 * process.patience
    assert.is_true(posix.poll({ silent }, deadline)[silent], "half a hello is waited for")
    assert.equal("", posix.read(silent) or "")
    posix.close(silent)
    local lines = process.lines(finish(driver))
    assert.equal(#junk + 1, #lines, table.concat(lines, "\n"))
    says(table.concat(lines, "\n"), "no proof within 5000 ms", "its part of the TLS handshake is too long")
  end)

  it("and one without refuse each other, each by name, at once", function()
    for _, case in ipairs { { "--tls", "--no-tls", "this process wants TLS, and the one that connects does not" },
      { "--no-tls", "--tls", "this process does not want TLS, and the one that connects does" } } do
      local driver, address, secret = start_driver(case[1])
      local started = posix.now()
      local worker = run_worker(case[2], address, secret)
      says(worker.err, "cannot join " .. address, "ProtocolError: " .. case[3], "tls must be the same on both sides")
      assert.is_true(posix.now() - started < 4 * process.patience, "it took until the deadline")
      says(finish(driver), "refused a connection from 127.0.0.1:", case[3])
    end
  end)

  it("tells a foreign client that comes in plain what it wants", function()
    local driver, address, secret = start_driver "--tls"
    local w = wire.connect(address)
    local bytes = pack.request(7, "auth.secret", pack.str(hex(secret)))
    for i = 1, #bytes do w:write(bytes:sub(i, i)) end
    says(w:answer(7)[3], "ProtocolError: this process wants TLS")
    assert.is_nil(w:read())
    w:close()
    finish(driver)
  end)

  it("says of a worker with another secret that it is another", function()
    local driver, address, secret = start_driver "--tls"
    local worker = run_worker("--tls", address, secret:reverse())
    says(worker.err, "cannot join " .. address, "it has another secret")
    says(finish(driver), "AuthError: it did not prove that it knows the secret")
  end)

  it("proves in a TLS session what is worth nothing outside of it", function()
    -- The proof of a plain handshake, played by the spec inside TLS: all but the binding is right.
    local driver, address, secret = start_driver "--tls"
    local client = s_client(address, "-tls1_3", "-psk", key_of(secret), "-psk_identity", "tarn/1")
    local w = wire.over { write = function(_, bytes) client:write(bytes) end,
      answer = function(_, msgid) return messages(client, msgid)[msgid] end }
    w:hello { bytecode = "?" }
    client:close_stdin()
    client:wait(10)
    says(messages(client, 1)[1][3], "this process has Lua bytecode")
    wire.bytecode = messages(client, 1)[1][3]:match "bytecode '(%x+)'"
    client = s_client(address, "-tls1_3", "-psk", key_of(secret), "-psk_identity", "tarn/1")
    w:hello()
    assert.is_table(w.welcome)
    assert.are_not.equal(w.welcome.proof, w:proof(secret, "tarn acceptor"))
    says(w:prove(w:proof(secret, "tarn connector"))[3], "AuthError")
    client:close_stdin()
    client:wait(10)
    finish(driver)
  end)
end)
