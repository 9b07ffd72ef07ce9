-- Tasks as users see them: async, sleep, timeouts, cancelling, as_completed; the driver's beginning and end.
local uv = require "luv"
local cluster = require "spec.helper.cluster"
local process = require "spec.helper.process"
local fails, says = cluster.fails, cluster.says

local function seconds(fn, ...)
  local start = uv.hrtime()
  fn(...)
  return (uv.hrtime() - start) / 1e9
end

describe("async", function()
  it("runs a task and gives its results or its error", function()
    assert.same({ 1, nil, 3 }, { tarn.async(function(...) return ... end, 1, nil, 3):fetch() })
    local own = {}
    local ok, e = pcall(tarn.fetch, tarn.async(error, own))
    assert.is_false(ok)
    assert.equal(own, e)
    fails("ArgumentError", tarn.async, 5)
  end)

  it("runs tasks one among the other", function()
    local trace = {}
    local function note(name)
      for i = 1, 3 do
        trace[#trace + 1] = name .. i
        tarn.sleep(0)
      end
    end
    local a, b = tarn.async(note, "a"), tarn.async(note, "b")
    a:wait()
    b:wait()
    assert.equal("a1 b1 a2 b2 a3 b3", table.concat(trace, " "))
  end)
end)

describe("sleep", function()
  it("pauses for the time named", function()
    local s = seconds(tarn.sleep, 0.05)
    assert.is_true(s >= 0.049 and s < 5, tostring(s))
    assert.is_true(seconds(tarn.sleep, 0) < 5)
    assert.is_true(seconds(tarn.sleep, -1) < 5)
    fails("ArgumentError", tarn.sleep, "x")
    fails("ArgumentError", tarn.sleep, 0 / 0)
  end)

  it("is not shortened by a task that has computed before", function()
    local start = uv.hrtime()
    while uv.hrtime() - start < 60e6 do end -- luacheck: ignore
    assert.is_true(seconds(tarn.sleep, 0.05) >= 0.049)
  end)
end)

describe("a Future", function()
  it("says whether it is ready, and waits for no longer than told", function()
    local go = tarn.event()
    local f = tarn.async(function()
      go:wait()
      return 5
    end)
    assert.is_false(f:ready())
    assert.is_false(f:wait(0.005))
    assert.is_false(f:wait(0))
    fails("Timeout", f.fetch, f, 0.005)
    go:notify()
    assert.is_true(f:wait())
    assert.is_true(f:ready())
    assert.equal(5, f:fetch(0))
    fails("ArgumentError", f.wait, f, "x")
    fails("ArgumentError", f.wait)
  end)

  it("is fetched by tarn.fetch, which leaves other values alone", function()
    assert.equal(3, tarn.fetch(tarn.async(function() return 3 end)))
    assert.equal("x", tarn.fetch("x"))
    local ref = tarn.poolset { 9 }
    assert.equal(9, tarn.fetch(ref)[1])
    tarn.pooldelete(ref)
  end)
end)

describe("cancel", function()
  it("ends what a task waits for", function()
    local cleaned = false
    local f = tarn.async(function()
      local ok, e = pcall(tarn.sleep, 1000)
      cleaned = not ok and tarn.iserror(e, "Cancelled")
      error(e, 0)
    end)
    tarn.sleep(0)
    assert.is_true(f:cancel())
    fails("Cancelled", f.fetch, f, 5)
    assert.is_true(cleaned)
  end)

  it("before the start keeps it from running", function()
    local ran = false
    local f = tarn.async(function() ran = true end)
    f:cancel()
    fails("Cancelled", f.fetch, f, 5)
    assert.is_false(ran)
  end)

  it("of a task that has not suspended takes effect when it does", function()
    local f
    f = tarn.async(function()
      f:cancel()
      tarn.sleep(0)
      return "not here"
    end)
    fails("Cancelled", f.fetch, f, 5)
  end)

  it("goes on to the job that the task waits for", function()
    cluster.with(1, function(ids)
      local id, begun = ids[1], tarn.event()
      local f = tarn.async(function()
        tarn.remotecall_fetch(id, function()
          begun:notify()
          local ok, e = pcall(tarn.sleep, 1000)
          spec_cancelled = not ok and e.kind -- luacheck: ignore
        end)
      end)
      assert.is_true(begun:wait(30))
      f:cancel()
      fails("Cancelled", f.fetch, f, 5)
      assert.is_true(cluster.becomes(function()
        return tarn.remotecall_fetch(id, function() return spec_cancelled end) == "Cancelled" -- luacheck: ignore
      end))
    end)
  end)
end)

describe("timeout", function()
  it("gives fn's results, its error, or a Timeout", function()
    assert.same({ 1, 2 }, { tarn.timeout(5, function(a) return a, 2 end, 1) })
    local ok, e = pcall(tarn.timeout, 5, error, "plain", 0)
    assert.same({ false, "plain" }, { ok, e })
    local s = seconds(fails, "Timeout", tarn.timeout, 0.02, tarn.sleep, 1000)
    assert.is_true(s < 5, tostring(s))
    fails("ArgumentError", tarn.timeout, nil, print)
    fails("ArgumentError", tarn.timeout, 1, 5)
  end)
end)

describe("as_completed", function()
  it("gives Futures as they become ready", function()
    local gates = { a = tarn.event(), b = tarn.event(), c = tarn.event() }
    local function after(x)
      return tarn.async(function()
        gates[x]:wait()
        return x
      end)
    end
    local order, next_one = {}, { a = "b", b = "c" }
    gates.a:notify()
    for f in tarn.as_completed { after "c", after "a", after "b" } do
      local x = f:fetch()
      order[#order + 1] = x
      if next_one[x] then gates[next_one[x]]:notify() end
    end
    assert.equal("abc", table.concat(order))
    local done = tarn.async(function() return "x" end)
    done:wait()
    order = {}
    for f in tarn.as_completed { done, done, tarn.async(error, "y") } do order[#order + 1] = f == done end
    assert.equal(3, #order)
    for _ in tarn.as_completed {} do error("there is none") end
    fails("ArgumentError", tarn.as_completed, { 5 })
    fails("ArgumentError", tarn.as_completed, 5)
  end)
end)

describe("the user's own coroutines", function()
  it("may wait inside a task, however deep", function()
    local function nest(n)
      if n == 0 then
        tarn.sleep(0.001)
        return "deep"
      end
      return coroutine.wrap(nest)(n - 1)
    end
    assert.equal("deep", nest(10))
    local got = {}
    for i in coroutine.wrap(function()
      for i = 1, 3 do
        tarn.sleep(0)
        coroutine.yield(i)
      end
    end) do got[#got + 1] = i end
    assert.same({ 1, 2, 3 }, got)
  end)

  it("still do all that coroutines do", function()
    local co = coroutine.create(function(a, b)
      local c = coroutine.yield(a + b)
      return "end", c
    end)
    assert.same({ true, 3 }, { coroutine.resume(co, 1, 2) })
    assert.equal("suspended", coroutine.status(co))
    assert.same({ true, "end", "x" }, { coroutine.resume(co, "x") })
    assert.equal("dead", coroutine.status(co))
    assert.is_false(coroutine.resume(co))
    assert.equal(1, select("#", coroutine.resume(coroutine.create(function() end))))
    assert.has_error(coroutine.wrap(function() error("own", 0) end), "own")
    local ok, e = pcall(coroutine.yield)
    assert.is_false(ok)
    says(e, "outside a coroutine")
  end)

  it("cannot be resumed by another task while they wait", function()
    local go = tarn.event()
    local co = coroutine.create(function()
      go:wait()
      return "slept"
    end)
    local f = tarn.async(function() return coroutine.resume(co) end)
    tarn.sleep(0)
    assert.equal("normal", coroutine.status(co))
    assert.is_false(coroutine.resume(co))
    go:notify()
    assert.same({ true, "slept" }, { f:fetch() })
  end)
end)

describe("luv", function()
  it("runs the user's handles while tasks wait, and a callback can start a task", function()
    local timer, slept = uv.new_timer(), nil
    timer:start(5, 0, function()
      timer:close()
      says(fails("ArgumentError", tarn.sleep, 0).message, "luv callback")
      slept = tarn.async(tarn.sleep, 0.001)
    end)
    assert.is_true(cluster.becomes(function() return slept ~= nil end))
    assert.is_true(slept:wait(5))
  end)
end)

describe("the driver's end", function()
  it("cancels what is left, even what will not be cancelled", function()
    local result = process.run_script([[
      tarn.async(function()
        local ok, e = pcall(tarn.sleep, 1000)
        print(tarn.iserror(e, "Cancelled"))
      end)
      tarn.async(function() while true do pcall(tarn.sleep, 0.001) end end)
      tarn.remotecall(2, tarn.sleep, 1000)
      tarn.sleep(0.02)
      print("end")
    ]], { args = { "-p", "1" }, timeout_s = 10 })
    assert.equal("end\ntrue\n", result.out, result.err)
    assert.equal("", result.err)
    assert.equal(0, result.code)
  end)

  it("has the status of os.exit from any task or callback", function()
    assert.equal(4, process.run_script("tarn.async(function() os.exit(4) end) tarn.sleep(1000)").code)
    assert.equal(5, process.run_script([[
      local timer = require("luv").new_timer()
      timer:start(1, 0, function() os.exit(5) end)
      tarn.sleep(1000)
    ]]).code)
    assert.equal(6, process.run_script("table.sort({ 3, 2, 1 }, function() os.exit(6) end)").code)
  end)

  it("tells an error's message and traceback, remote ones too", function()
    local result = process.run_script([[
      local function job() error("remote trouble") end
      tarn.remotecall_fetch(2, job)
    ]], { args = { "-p", "1" } })
    assert.equal(1, result.code)
    says(result.err, "tarn: RemoteError", "driver.lua:1: remote trouble", "process 2, stack traceback", "driver.lua:2: ")
  end)
end)

describe("typed lines", function()
  it("are run one after the other", function()
    local typed = "x + 1\n= 'a', 'b'\nfor i = 1, 2 do\nprint(i)\nend\nerror('e', 0)\nx = = 2\nprint(x)"
    local result = process.run_tarn({ "-i", "-e", "x = 1" }, { stdin = typed })
    assert.equal("2\na\tb\n1\n2\n1\n", result.out, result.err)
    says(result.err, "e\n", "stdin:1:")
    assert.equal(0, result.code)
  end)
end)

describe("log", function()
  it("of a worker has one line too, which names its process once", function()
    local result = process.run_script([[tarn.remotecall_fetch(2, function() tarn.log("debug", "here\nand there") end)]],
      { args = { "-p", "1" }, env = { TARN_LOG = "debug" } })
    says("\n" .. result.err:gsub("%f[%d]%d%d:%d%d:%d%d%.%d%d%d", "TIME"), "\nTIME tarn[2] debug: here and there\n")
  end)

  it("writes one line with level and process", function()
    local result = process.run_script([[
      tarn.log("warn", "%d of %s", 3, "four")
      tarn.log("info", "not shown")
      print(pcall(tarn.log, "loud", "x"), (pcall(tarn.log, "warn", "%d", "x")))
    ]])
    assert.equal("false\tfalse\n", result.out:gsub("\tArgumentError[^\n]*\t", "\t"), result.err)
    assert.equal(1, #process.lines(result.err), result.err)
    says(result.err, "[1]", "warn", "3 of four")
  end)
end)
