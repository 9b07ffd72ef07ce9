-- Whole workloads as a user writes them, in a process of their own, while the n-th allocation (C's, or Lua's own) or the n-th system call
-- fails, for every n: an error that says so or the right result, everything that was acknowledged still there, and the process goes on.
local process = require "spec.helper.process"

-- workload(told): does a bit of everything; told.refs: what was acknowledged, {ref, value, same}. May raise.
local PRELUDE = [[
  package.path = %q .. "/?.lua;" .. package.path
  local faults = require "spec.helper.faults"
  local dir = %q
  local core = require "tarn.core"

  local function numbers(n, first)
    local a = tarn.array("double", n)
    for i = 1, n do a[i] = first + i end
    return a
  end
  local function acknowledge(told, ref, check) told[#told + 1] = { ref, check } end

  local round = 0
  local function workload(told)
    round = round + 1
    local me = round
    local a = tarn.poolset(numbers(30000, me))
    acknowledge(told, a, function(x) return #x == 30000 and x[30000] == me + 30000 end)
    local t = tarn.poolset({ me, { deep = "text" }, tarn.strings { "a", "b" }, numbers(20, me) })
    acknowledge(told, t, function(x) return x[1] == me and x[2].deep == "text" and x[3][2] == "b" and x[4][20] == me + 20 end)
    tarn.movetodisk(a)
    tarn.copytodisk(t)
    assert(tarn.poolget(a)[7] == me + 7)
    local path = dir .. "/x" .. me
    tarn.save(path, { numbers(100, me), me })
    assert(tarn.load(path, { verify = true })[2] == me)
    tarn.savetodisk(t, path)
    local file = tarn.copytodisk(t, path .. ".copy")
    assert(tarn.poolget(file)[1] == me)
    tarn.pooldelete(file)
    assert(tarn.decode(tarn.encode({ me, numbers(3, me) }))[2][3] == me + 3)
    tarn.pooldelete(tarn.poolset({ me }))
    for i = 1, 4 do
      local b = tarn.poolset(numbers(60000, me + i))
      acknowledge(told, b, function(x) return x[60000] == me + i + 60000 end)
    end
  end

  local function settle()
    collectgarbage()
    collectgarbage()
    tarn.sleep(0)
  end

  -- One attempt with the fault armed: what it raised, if anything. Afterwards all is read back.
  local function attempt(arm, disarm, allowed)
    local told = {}
    arm()
    local ok, e = pcall(workload, told)
    local good, failed = pcall(disarm) -- which the fault may hit itself
    if not good then failed = disarm() end
    os.execute("rm -f " .. dir .. "/x*")
    if not ok then assert(allowed(e), "an error that the fault does not explain: " .. tostring(e)) end
    for i, it in ipairs(told) do
      local good, x = pcall(tarn.poolget, it[1])
      assert(good, "object " .. i .. " is lost: " .. tostring(x))
      assert(it[2](x), "object " .. i .. " is wrong")
      x = nil
    end
    for _, it in ipairs(told) do tarn.pooldelete(it[1]) end
    return failed, ok
  end

  local function is_out_of_memory(e)
    return tarn.iserror(e, "PoolFull") or tostring(e):find("memory", 1, true) ~= nil
  end
  local function is_kind(...)
    local kinds = { ... }
    return function(e)
      for _, kind in ipairs(kinds) do
        if tarn.iserror(e, kind) then return true end
      end
      return false
    end
  end

  assert(pcall(workload, {}))
  settle()
]]

local function sweep(source, memory)
  local dir = process.tmpdir()
  local result = process.run_script(PRELUDE:format(process.root, dir) .. source, { args = { "-m", memory or "2MB" }, timeout_s = 170 })
  assert.equal(0, result.code, result.out .. result.err)
  assert.is_truthy(result.out:find("swept %d+"), result.out .. result.err)
  return tonumber(result.out:match("swept (%d+)"))
end

describe("a process survives", function()
  it("every allocation of C failing in turn", function()
    local n = sweep [[
      local before
      local n, raised = 0, 0
      while true do
        n = n + 1
        local failed, ok = attempt(function() faults.alloc_at(n) end, faults.alloc_stop, is_out_of_memory)
        raised = raised + (ok and 0 or 1)
        if n % 20 == 0 then
          settle()
          local bytes = tonumber(require("ffi").C.tarn_alloc_bytes())
          before = before or bytes
          assert(bytes - before < 200000, "C memory has grown by " .. bytes - before)
        end
        if failed == 0 then break end
      end
      assert(raised > 20, raised)
      print("swept " .. n)
    ]]
    assert.is_true(n > 50, n)
  end)

  it("allocations of Lua failing in turn", function()
    -- Interpreted: LuaJIT 2.1 itself ends, now and then, when an allocation fails in compiled code (it unwinds from a trace).
    sweep [[
      jit.off()
      jit.flush() -- what has been compiled already would go on running
      local n, raised = 0, 0
      while true do
        n = n + 1 + math.floor(n / 60) -- each at first, then fewer: many are alike
        local failed, ok = attempt(function() faults.lua_alloc_at(n) end, faults.alloc_stop, is_out_of_memory)
        raised = raised + (ok and 0 or 1)
        if n % 20 == 0 then settle() end
        if failed == 0 then break end
      end
      assert(raised > 20, raised)
      print("swept " .. n)
    ]]
  end)

  it("every allocation of a worker failing in turn: each call ends, in what was asked or in an error", function()
    local result = process.run_script(([[
      local root = %q
      package.path = root .. "/?.lua;" .. package.path
      local function numbers(n, first)
        local a = tarn.array("double", n)
        for i = 1, n do a[i] = first + i end
        return a
      end
      local function ask(id, n, told)
        local big = tarn.poolset(numbers(20000, n), id)
        told[#told + 1] = { big, 20000, n + 20000 }
        local small = tarn.poolset({ n, { 2 } }, id)
        told[#told + 1] = { small, 1, n }
        assert(tarn.poolget(big)[5] == n + 5)
        assert(tarn.poolget(small)[1] == n)
        tarn.movetodisk(big)
        assert(tarn.poolget(big)[5] == n + 5)
        assert(tarn.remotecall_fetch(id, function(x) return #x end, numbers(10000, 1)) == 10000)
        assert(tarn.access(function(x) return #x end, big) == 20000)
      end
      local function sweep(map)
        local id = tarn.addprocs(1, { memory = "4MB", map = map })[1]
        local function arm(n)
          return tarn.remotecall_fetch(id, function(path, k)
            package.path = path .. "/?.lua;" .. package.path
            require("spec.helper.faults").alloc_at(k)
          end, root, n)
        end
        local function disarm()
          return tarn.remotecall_fetch(id, function() return require("spec.helper.faults").alloc_stop() end)
        end
        local n, raised, lost = 0, 0, 0
        repeat
          n = n + 1
          local told = {}
          local ok, e = pcall(function()
            arm(n)
            tarn.timeout(20, ask, id, n, told)
          end)
          raised = raised + (ok and 0 or 1)
          if not ok then assert(tarn.iserror(e, "PoolFull") or tarn.iserror(e, "WorkerLost"), tostring(e)) end
          local good, failed = pcall(disarm) -- the fault may hit this very answer
          if tarn.iserror(failed, "WorkerLost") then -- without memory for its connection a process is lost, and all is told so
            lost, told, failed = lost + 1, {}, 1
            id = tarn.addprocs(1, { memory = "4MB", map = map })[1]
          elseif not good then
            failed = disarm() + 1
          end
          for _, it in ipairs(told) do
            local at, value = it[2], tarn.poolget(it[1])
            assert(value[at] == it[3], "a value is wrong")
          end
        until failed == 0
        assert(raised > 20 and lost <= raised / 5, raised .. " raised, " .. lost .. " lost")
        tarn.rmprocs(id)
        return n
      end
      print("swept " .. sweep(true) .. " " .. sweep(false))
    ]]):format(process.root), { timeout_s = 120 })
    assert.equal(0, result.code, result.out .. result.err)
    assert.is_truthy(result.out:find("swept %d+ %d+"), result.out .. result.err)
  end)

  for _, case in ipairs {
    { "mmap", "faults.MMAP", "ENOMEM", '"PoolFull", "IOError"' },
    { "writing", "faults.WRITE", "ENOSPC", '"DiskFull"' },
    { "writing", "faults.WRITE", "EIO", '"IOError"' },
    { "reading", "faults.READ", "EIO", '"IOError"' },
    { "reserving space", "faults.ALLOCATE", "ENOSPC", '"DiskFull"' },
    { "opening", "faults.OPEN", "EMFILE", '"IOError"' },
    { "fsync", "faults.SYNC", "EIO", '"IOError"' },
    { "giving names", "faults.NAME", "EACCES", '"IOError"' },
    { "fstat", "faults.STAT", "EIO", '"IOError"' },
  } do
    it(("%s that fails (%s), each call in turn: the error says so, with its path"):format(case[1], case[3]), function()
      sweep(([[
        local n, raised = 0, 0
        local allowed = is_kind(%s)
        while true do
          n = n + 1
          local failed, ok = attempt(function() faults.at(%s, n, faults.%s) end, faults.stop, function(e)
            if not allowed(e) then return false end
            if e.kind ~= "PoolFull" then assert(type(e.path) == "string", "no path: " .. tostring(e)) end
            if e.kind ~= "IOError" then assert(e.needed and e.available, "no figures: " .. tostring(e)) end
            return true
          end)
          raised = raised + (ok and 0 or 1)
          settle()
          if failed == 0 then break end
        end
        print("swept " .. n)
      ]]):format(case[4], case[2], case[3]))
    end)
  end
end)
