-- More comes than is worked off: senders slow down, memory stays bounded, nothing is dropped.
local cluster = require "spec.helper.cluster"
local pack = require "spec.helper.pack"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

local now = require("tarn.core").clock

-- What the worker remembers between jobs: bytes received, and the most memory that the C side has held meanwhile.
local function begin()
  local ffi = require "ffi"
  pcall(ffi.cdef, "uint64_t tarn_alloc_bytes(void);")
  package.loaded["spec.overload"] = { received = 0, most = 0, before = tonumber(ffi.C.tarn_alloc_bytes()) }
end

-- Compute until messages are waiting and, for a second or more, no more of them have been taken. Nothing is worked off meanwhile.
local function compute()
  local C, state = require("ffi").C, package.loaded["spec.overload"]
  local quiet_since, give_up = os.time(), os.time() + 60
  repeat
    local held = tonumber(C.tarn_alloc_bytes())
    if held > state.most then state.most, quiet_since = held, os.time() end
  until state.most > state.before + 20e6 and os.time() >= quiet_since + 2 or os.time() > give_up
end

local function take(text)
  local state = package.loaded["spec.overload"]
  state.received = state.received + #text
  state.most = math.max(state.most, tonumber(require("ffi").C.tarn_alloc_bytes()))
end

describe("a worker that computes while messages come", function()
  it("takes no more of them than its bound, and all of them in the end", function()
    cluster.with(1, function(ids)
      local id, text = ids[1], ("x"):rep(1000000)
      tarn.remotecall_fetch(id, begin)
      tarn.remote_do(id, compute)
      for _ = 1, 400 do tarn.remote_do(id, take, text) end
      local state = tarn.remotecall_fetch(id, function() return package.loaded["spec.overload"] and { -- by value
        received = package.loaded["spec.overload"].received,
        grown = package.loaded["spec.overload"].most - package.loaded["spec.overload"].before,
      } end)
      assert.equal(400000000, state.received)
      assert.is_true(state.grown < 150e6, ("it grew by %d bytes"):format(state.grown))
      assert.is_true(state.grown > 20e6, "the worker was never behind: this case proves nothing")
    end)
  end)
end)

describe("a process that reads nothing", function()
  it("slows down who sends to it, who keeps little of what is to be sent, and disturbs nobody else", function()
    cluster.with(3, function(ids)
      local sender, stopped, other = unpack(ids)
      local ref = tarn.poolset({ 1 }, sender)
      tarn.remotecall_fetch(sender, begin)
      local os_pid = cluster.os_pid(stopped)
      tarn.remotecall_fetch(sender, function(pid) return tarn.remotecall_fetch(pid, tarn.myid) end, stopped) -- connected
      tarn.remotecall_fetch(other, function(x) return x:get()[1] end, ref)
      posix.kill(os_pid, posix.SIGSTOP)
      local calls = tarn.remotecall(sender, function(pid)
        local tasks, text, sum = {}, ("x"):rep(40000), 0
        for i = 1, 10000 do
          tasks[i] = tarn.async(function() return tarn.remotecall_fetch(pid, function(x) return #x end, text) end)
        end
        for i = 1, 10000 do sum = sum + tasks[i]:fetch() end
        return sum
      end, stopped)
      local slowest_s = tarn.remotecall_fetch(other, function(x)
        local clock = require("tarn.core").clock
        local slowest_s, till = 0, clock() + 1.5
        repeat
          local began = clock()
          assert(tarn.poolget(x)[1] == 1)
          slowest_s = math.max(slowest_s, clock() - began)
        until clock() > till
        return slowest_s
      end, ref)
      local held = tarn.remotecall_fetch(sender, function()
        return tonumber(require("ffi").C.tarn_alloc_bytes()) - package.loaded["spec.overload"].before
      end)
      posix.kill(os_pid, posix.SIGCONT)
      assert.equal(400000000, calls:fetch())
      assert.is_true(slowest_s < 0.5 * process.patience, ("a get of another took %.2f s"):format(slowest_s))
      assert.is_true(held < 150e6, ("%d bytes wait to be sent"):format(held))
      assert.is_true(held > 10e6, "nothing waited to be sent: this case proves nothing")
    end, { silence_s = 120 })
  end)
end)

describe("a client that asks for much and reads nothing", function()
  local COUNT, BYTES = 2500, 100000

  local DRIVER = [[
    local ffi = require "ffi"
    ffi.cdef "uint64_t tarn_alloc_bytes(void);"
    local ref = tarn.poolset { ("x"):rep(100000) }
    print(tarn.address())
    print(tarn.secret_file())
    print(ref:key())
    io.stdout:flush()
    ]] .. process.SERVE .. [[(function()
      print(tonumber(ffi.C.tarn_alloc_bytes()))
      io.stdout:flush()
    end)
  ]]

  -- Ask so often for what request(msgid, key) asks for; read nothing until no more is kept for it; then all of it is there.
  local function ask(request)
    local driver = process.start_script(DRIVER)
    local address, secret, key = driver:line(), assert(io.open(driver:line())), driver:line()
    local fd = posix.connect(address)
    posix.write(fd, pack.request(1, "auth.secret", pack.str(secret:read "*l")))
    secret:close()
    local function read()
      assert(posix.poll({ fd }, posix.now() + 10 * process.patience)[fd], "no more comes")
      return posix.read(fd)
    end
    local function message()
      local bytes = ""
      repeat bytes = bytes .. read() until pack.read(bytes, 1)
      return bytes
    end
    message()
    posix.write(fd, request(65536, key))
    local size = #message()
    local asked = {}
    for i = 1, COUNT do asked[i] = request(65536 + i, key) end
    posix.write(fd, table.concat(asked))
    local most, held, same = 0, 0, 0
    repeat
      driver:write "\n"
      local bytes = tonumber(driver:line())
      same = bytes == held and same + 1 or 0
      most, held = math.max(most, bytes), bytes
      tarn.sleep(0.02)
    until same == 10
    assert.is_true(most > 40e6, "little waited to be sent: this case proves nothing")
    assert.is_true(most < 160e6, ("%d bytes wait to be sent"):format(most))
    local left = COUNT * size
    while left > 0 do left = left - #read() end
    assert.equal(0, left)
    posix.write(fd, pack.request(2, "ping"))
    assert.same({ 1, 2, nil, true }, (pack.read(message(), 1)))
    posix.close(fd)
    driver:close_stdin()
    assert.equal(0, driver:wait(10).code, driver.err)
  end

  it("is not read from meanwhile, and gets all in the end: what C answers", function()
    ask(function(msgid, key) return pack.request(msgid, "pool.get", pack.str(key)) end)
  end)

  it("is not read from meanwhile, and gets all in the end: what Lua answers", function()
    ask(function(msgid) return pack.request(msgid, "call", pack.str "string.rep", pack.array(pack.str "x", pack.int(BYTES))) end)
  end)
end)

describe("a value of more than 2 GiB, #footprint", function()
  local function available_bytes()
    for line in io.lines "/proc/meminfo" do
      local kib = line:match "^MemAvailable:%s*(%d+)"
      if kib then return kib * 1024 end
    end
  end

  it("goes over a connection, and both ends answer others meanwhile", function()
    if available_bytes() < 8e9 then return pending "needs 8 GB of memory" end
    cluster.with(2, function(ids)
      local owner, reader = unpack(ids)
      local n = 2 ^ 31 + 16
      local ref = tarn.remotecall_fetch(owner, function(size)
        local a = tarn.array("uint8_t", size)
        a[1], a[size] = 1, 2
        return tarn.poolset(a)
      end, n)
      local small = { tarn.poolset("small", owner), tarn.poolset("small", reader) }
      local read = tarn.remotecall(reader, function(r)
        local a = r:get()
        return #a, a[1], a[#a]
      end, ref)
      local slowest_s, gets = 0, 0
      while not read:ready() do
        for _, r in ipairs(small) do
          local began = now()
          assert.equal("small", r:get())
          slowest_s, gets = math.max(slowest_s, now() - began), gets + 1
        end
        tarn.sleep(0.001)
      end
      assert.same({ n, 1, 2 }, { read:fetch() })
      assert.is_true(gets > 10, "it was there at once: this case proves nothing")
      assert.is_true(slowest_s < 0.5 * process.patience, ("a small get took %.2f s"):format(slowest_s))
    end, { memory = "3GB", map = false })
  end)
end)
