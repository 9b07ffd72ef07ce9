-- What goes wrong around a process: descriptors that run out, connections that break, workers that die while they are called, pools that
-- are full while Lua computes, a driver whose surroundings are odd. Each case was a fault once.
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

local shell = "/bin/sh"

-- Runs a script with the shell's limits or redirections around it: what stands for "$@" is tarn and its arguments.
local function run_around(line, source, args)
  local cwd = process.tmpdir()
  local path = process.write_file(cwd .. "/driver.lua", source)
  local argv = { shell, "-c", line, "sh", process.tarn_path }
  for _, arg in ipairs(args or {}) do argv[#argv + 1] = arg end
  argv[#argv + 1] = path
  return process.run(argv, { cwd = cwd, timeout_s = 60 }), cwd
end

local function out_of(source, opts)
  local result = process.run_script(source, opts)
  assert.equal("", result.err)
  assert.equal(0, result.code)
  return result.out
end

describe("a process without free descriptors", function()
  local source = [[
    local array = require "tarn.array"
    local ids = tarn.addprocs(2, { memory = "64MB" })
    local function fill()
      held = {}
      repeat
        local file = io.open("/dev/null")
        held[#held + 1] = file
      until not file
    end
    local function free() for _, file in ipairs(held) do file:close() end end
    local function make() return tarn.poolset(array("double", 100000)) end
    local a = array("double", 100000)
    local function try(fn, ...)
      local ok, e = pcall(tarn.timeout, 10, fn, ...)
      print(ok and "ok" or e.kind)
    end
    -- Twice: the descriptors of a worker, then the driver's own.
    for i, full in ipairs { ids[1], 1 } do
      local ref = tarn.remotecall_fetch(ids[i], make)
      tarn.remotecall_fetch(full, fill)
      try(function() return #ref:get() end)
      try(tarn.poolset, a, ids[i])
      try(tarn.remotecall_fetch, ids[i], function(x) return #x end, a)
      try(tarn.remotecall_fetch, ids[i], tarn.myid)
      tarn.remotecall_fetch(full, free)
      try(function() return #ref:get() end)
      try(tarn.poolset, a, ids[i])
    end
  ]]

  it("answers what needs a connection for large data with an error, and goes on when there are some again", function()
    local result = run_around('ulimit -n 64; exec "$@"', source)
    local once = "IOError\nIOError\nIOError\nok\nok\nok\n"
    assert.equal(once .. once, result.out, result.err)
    assert.equal(0, result.code)
  end)
end)

describe("a worker that dies", function()
  it("is lost once, although it is called after its connections have ended", function()
    local out = out_of [[
      local ids = tarn.addprocs(1)
      local losses = 0
      tarn.on("lost", function(id, reason) losses = losses + 1 print(id, reason) end)
      tarn.remote_do(ids[1], function()
        local ffi = require "ffi"
        ffi.cdef "int getpeername(int, void *, unsigned *); int shutdown(int, int);"
        local name, size = ffi.new("char[128]"), ffi.new("unsigned[1]", 128)
        for fd = 3, 100 do
          if ffi.C.getpeername(fd, name, size) == 0 then ffi.C.shutdown(fd, 2) end
        end
        while true do end
      end)
      local clock = require("tarn.core").clock
      local kinds, stop = {}, nil
      repeat -- until it is lost, and a while longer
        local ok, e = pcall(tarn.remotecall_fetch, ids[1], tarn.myid)
        if not ok then kinds[e.kind] = true end
        if losses > 0 then stop = stop or clock() + 0.3 end
        tarn.sleep(0.001)
      until stop and clock() > stop
      print(losses, next(kinds), next(kinds, (next(kinds))))
    ]]
    assert.matches("^2\tkilled by signal 9[^\n]*\n1\tWorkerLost\tnil\n$", out)
  end)

  it("before it has joined is nobody's loss, and addprocs says so", function()
    local out = out_of [[
      tarn.on("lost", function(id) print("lost", id) end)
      local ok, e = pcall(tarn.addprocs, 1, { tarn = "/bin/false" })
      tarn.sleep(0.1)
      print(ok, e.kind, e.message:match("exited with status 1"), #tarn.workers())
    ]]
    assert.equal("false\tWorkerLost\texited with status 1\t0\n", out)
  end)
end)

describe("a cluster of more than 64 numbers", function()
  it("makes a call wait only for the process that it is for", function()
    local out = out_of [[
      local uv = require "luv"
      local id = tarn.addprocs(1)[1]
      local other
      repeat
        local ids = tarn.addprocs(16, { silence_s = 120 }) -- stopped is not lost here
        if ids[16] < id + 64 then
          tarn.rmprocs(unpack(ids))
        else
          for _, worker in ipairs(ids) do
            if worker == id + 64 then other = worker else tarn.rmprocs(worker) end
          end
        end
      until other
      local os_pid = tarn.remotecall_fetch(other, uv.os_getpid)
      uv.kill(os_pid, "sigstop")
      local text, sent = ("x"):rep(1e6), {}
      for i = 1, 100 do sent[i] = tarn.async(tarn.remotecall_fetch, other, function(x) return #x end, text) end
      tarn.sleep(0.1)
      local quick = tarn.async(tarn.remotecall_fetch, id, tarn.myid)
      print(quick:wait(30) and quick:fetch() == id)
      uv.kill(os_pid, "sigcont")
      for i = 1, 100 do assert(sent[i]:fetch(20) == 1e6) end
      print(quick:wait(5))
    ]]
    assert.equal("true\ntrue\n", out)
  end)
end)

describe("a pool that is full", function()
  it("takes an array that came while Lua computed as soon as Lua is idle", function()
    local out = out_of([[
      local core = require "tarn.core"
      local id = tarn.addprocs(1, { memory = "100MB" })[1]
      local kept = {}
      for i = 1, 300 do kept[i] = tarn.poolset({ ("x"):rep(1e5) .. i }) end -- live: only Lua can encode them
      local f = tarn.remotecall(id, function()
        local a = require("tarn.array")("double", 1e6)
        a[1e6] = 3
        return tarn.poolset(a, 1)
      end)
      local stop = core.clock() + 0.5
      while core.clock() < stop do end
      print(f:wait(20), f:fetch():get()[1e6]) -- nothing else wakes Lua meanwhile
    ]], { args = { "-m", "32MB" } })
    assert.equal("true\t3\n", out)
  end)

  it("waits for what is arriving instead of refusing more", function()
    local out = out_of [[
      local ids = tarn.addprocs(4, { memory = "32MB" })
      local refs, jobs = {}, {}
      for i, id in ipairs(ids) do
        refs[i] = tarn.remotecall_fetch(id, function(x)
          local a = require("tarn.array")("double", 2.5e6)
          a[1], a[#a] = x, x
          return tarn.poolset(a)
        end, i)
      end
      for round = 1, 3 do
        for i, id in ipairs(ids) do
          for j = 1, #refs do
            if i ~= j then
              jobs[#jobs + 1] = tarn.remotecall(id, function(ref)
                local a = ref:get()
                return a[1], a[#a]
              end, refs[j])
              jobs[#jobs].expected = j
            end
          end
        end
      end
      local good = 0
      for _, job in ipairs(jobs) do
        local first, last = job:fetch()
        assert(first == job.expected and last == job.expected)
        good = good + 1
      end
      print(good)
    ]]
    assert.equal("36\n", out)
  end)

  it("keeps the flags of what another process stores in it", function()
    local out = out_of([[
      local id = tarn.addprocs(1, { memory = "16MB" })[1]
      local array = require "tarn.array"
      tarn.remotecall_fetch(id, function()
        kept = {}
        for i = 1, 180 do kept[i] = tarn.poolset({ ("x"):rep(1e5) .. i }) end
      end)
      local refs = {}
      for i = 1, 40 do refs[i] = tarn.poolset(array("double", 8000), id, { destroyonevict = true }) end
      for i = 1, 6 do tarn.remotecall_fetch(id, function() more = more or {} more[#more + 1] = tarn.poolset(array("double", 5e5)) end) end
      local gone = 0
      for i = 1, 40 do
        local ok, e = pcall(tarn.poolget, refs[i])
        if not ok and e.kind == "KeyError" then gone = gone + 1 end
      end
      print(gone)
    ]])
    assert.equal("40\n", out)
  end)

  it("encodes live values whose serializers need blocks or store values themselves", function()
    local out = out_of([[
      local array = require "tarn.array"
      local Box = {}
      Box.__index = Box
      tarn.serializer {
        name = "box", version = 1, type = Box,
        approx_size = function() return 1e5 end,
        mmwrite = function(out, box)
          local a = array("double", 10000)
          a[1] = box.x
          out:value(tarn.poolset({ box.x }):get()[1])
          out:write(a)
        end,
        mmread = function(inp)
          local x = inp:value()
          local a = inp:read()
          assert(a[1] == x)
          return setmetatable({ x = x }, Box)
        end,
      }
      local refs = {}
      for i = 1, 400 do refs[i] = tarn.poolset(setmetatable({ x = i }, Box)) end
      for i = 1, 400 do assert(refs[i]:get().x == i) end
      print("all there")
    ]], { args = { "-m", "16MB" } })
    assert.equal("all there\n", out)
  end)
end)

describe("a request", function()
  it("that the dispatcher cannot take apart is answered", function()
    local result = process.run_script [[
      local id = tarn.addprocs(1)[1]
      local Odd = {}
      tarn.serializer {
        name = "odd", version = 1, type = Odd, approx_size = function() return 1 end,
        mmwrite = function(out) out:value(1) end, mmread = function() error("odd") end,
      }
      local ok, e = pcall(tarn.timeout, 5, require("tarn.rpc").call, "test", id, "future.wait", setmetatable({}, Odd))
      print(ok, e.kind ~= "Timeout")
    ]]
    assert.equal("false\ttrue\n", result.out, result.err)
    assert.matches("dispatch: ", result.err)
  end)

  it("of a foreign client may have the number 0", function()
    local driver = process.start_script([[
      print(tarn.address())
      print(tarn.secret_file())
      io.stdout:flush()
    ]] .. process.SERVE .. "()")
    local address, file = driver:line(), assert(io.open(driver:line()))
    local fd = posix.connect(address)
    posix.write(fd, tarn.encode { 0, 0, "auth.secret", { file:read("*l") } })
    file:close()
    local function answer(bytes)
      local deadline = posix.now() + 5 * process.patience
      while posix.poll({ fd }, deadline)[fd] do
        bytes = bytes .. posix.read(fd)
        local ok, list = pcall(tarn.decode, bytes)
        if ok then return list end
      end
    end
    assert.same({ 1, 0, nil, true }, answer(""))
    posix.write(fd, tarn.encode { 0, 0, "ping", {} })
    assert.same({ 1, 0, nil, true }, answer(""))
    posix.close(fd)
    driver:close_stdin()
    assert.equal(0, driver:wait().code)
  end)
end)

describe("a driver", function()
  it("runs without standard input and output, whose numbers nothing else gets", function()
    local source = [[
      local id = tarn.addprocs(1)[1]
      tarn.remotecall_fetch(id, function() print("to nobody") end)
      print("to nobody")
      local file = io.open("result", "w")
      file:write(#tarn.poolset(require("tarn.array")("double", 1e5), id):get())
      file:close()
    ]]
    local result, cwd = run_around('exec "$@" <&- >&- 2>&-', source)
    assert.equal(0, result.code, result.err)
    assert.equal("100000", process.read_file(cwd .. "/result"))
  end)

  it("keeps its timers while another task computes", function()
    local out = out_of [[
      local core = require "tarn.core"
      local slept = tarn.async(function() tarn.sleep(0.5) print("due while it computed") end)
      tarn.sleep(0.1)
      local stop = core.clock() + 1.5
      while core.clock() < stop do end
      tarn.sleep(0.25)
      print("due a quarter of a second later")
      slept:fetch()
    ]]
    assert.equal("due while it computed\ndue a quarter of a second later\n", out)
  end)

  it("ends although a request of luv's sits in a thread", function()
    local result = process.run_script([[
      assert(os.execute("mkfifo fifo") == 0)
      require("luv").fs_open("fifo", "r", 0, function() end)
      tarn.addprocs(1)
      os.exit(3)
    ]], { timeout_s = 15 })
    assert.equal("", result.err)
    assert.equal(3, result.code)
    assert.is_true(process.gone(result.mark, 2 * process.patience))
  end)

  it("ends although luv's callbacks go on for ever", function()
    local result = process.run_script([[
      local uv = require "luv"
      local function again() uv.fs_stat(".", again) end
      again()
    ]], { timeout_s = 15 })
    assert.equal(0, result.code, result.err)
  end)
end)

describe("workers", function()
  it("killed, stopped and continued at random under calls and transfers leave nothing that waits", function()
    local result = process.run_script([[
      local uv, array = require "luv", require "tarn.array"
      math.randomseed(7)
      local function add() return tarn.addprocs(1, { memory = "64MB" })[1] end
      for _ = 1, 3 do add() end
      local stop, calls, moves = os.time() + 3, 0, 0
      local function going_on() return os.time() < stop or calls == 0 or moves == 0 end
      local function any() local list = tarn.workers() return list[math.random(#list)] end
      local function guarded(fn)
        local ok, e = pcall(fn)
        assert(ok or tarn.iserror(e, "WorkerLost") or tarn.iserror(e, "KeyError") or tarn.iserror(e, "ArgumentError"), e)
        return ok
      end
      local function caller(i)
        while going_on() do
          if guarded(function() assert(tarn.remotecall_fetch(any() or 1, function(x) return x end, i) == i) end) then calls = calls + 1 end
          tarn.sleep(0)
        end
      end
      local function mover(i)
        while going_on() do
          local done = guarded(function()
            local ref = tarn.remotecall_fetch(any() or 1, function(x, n)
              local a = array("double", n)
              a[n] = x
              return tarn.poolset(a)
            end, i, 1e5 * i)
            assert(tarn.remotecall_fetch(any() or 1, function(r) local a = r:get() return a[#a] end, ref) == i)
            local a = ref:get()
            assert(a[#a] == i)
          end)
          if done then moves = moves + 1 end
          tarn.sleep(0)
        end
      end
      local all = {}
      for i = 1, 20 do all[i] = tarn.async(caller, i) end
      for i = 1, 4 do all[20 + i] = tarn.async(mover, i) end
      while going_on() do
        tarn.sleep(math.random() * 0.2)
        guarded(function()
          local os_pid = tarn.remotecall_fetch(any(), uv.os_getpid)
          uv.kill(os_pid, "sigstop")
          if math.random(2) == 1 then uv.kill(os_pid, "sigkill") else uv.kill(os_pid, "sigcont") end
        end)
        if #tarn.workers() < 3 then guarded(add) end
      end
      for _, f in ipairs(all) do f:fetch() end
      print(calls > 0 and moves > 0)
    ]], { timeout_s = 30 })
    assert.equal("true\n", result.out, result.err) -- warnings of connections that broke are in order
    assert.equal(0, result.code)
  end)
end)
