-- Functions sent to other processes: what they get, what they give back, where they run, and their Futures.
local cluster = require "spec.helper.cluster"
local process = require "spec.helper.process"
local with, fails = cluster.with, cluster.fails

local function pack(...) return { n = select("#", ...), ... } end

describe("remotecall_fetch", function()
  it("gives all results, nils among them", function()
    with(1, function(ids)
      local got = pack(tarn.remotecall_fetch(ids[1], function(a, b, ...) return b, nil, a, select("#", ...), nil end, 1, "two", nil, nil))
      assert.same({ n = 5, "two", nil, 1, 2, nil }, got)
      assert.equal(0, pack(tarn.remotecall_fetch(ids[1], function() end)).n)
    end)
  end)

  it("takes upvalues along by value", function()
    with(1, function(ids)
      local count, list = 1, { 10, 20 }
      local function add(x)
        count = count + x
        return count + list[2]
      end
      assert.equal(23, tarn.remotecall_fetch(ids[1], add, 2))
      assert.equal(1, count)
    end)
  end)

  it("runs on the process that is named, the own one too", function()
    with(2, function(ids)
      assert.equal(ids[1], tarn.remotecall_fetch(ids[1], tarn.myid))
      assert.equal(ids[2], tarn.remotecall_fetch(ids[2], tarn.myid))
      assert.equal(1, tarn.remotecall_fetch(1, tarn.myid))
      assert.same(pack(1, nil, 3, nil), pack(tarn.remotecall_fetch(1, function() return 1, nil, 3, nil end)))
    end)
  end)

  it("goes from worker to worker and back to the driver", function()
    with(2, function(ids)
      local a, b = ids[1], ids[2]
      local path = tarn.remotecall_fetch(a, function()
        return tarn.myid() .. " " .. tarn.remotecall_fetch(b, function()
          return tarn.myid() .. " " .. tarn.remotecall_fetch(1, function()
            return tarn.myid() .. " " .. tarn.remotecall_fetch(a, function() return tarn.myid() end)
          end)
        end)
      end)
      assert.equal(("%d %d 1 %d"):format(a, b, a), path)
    end)
  end)

  it("lets other calls run while one waits", function()
    with(1, function(ids)
      local slow = tarn.remotecall(ids[1], function() tarn.sleep(1000) end)
      assert.equal(5, tarn.remotecall_fetch(ids[1], function() return 5 end))
      slow:cancel()
    end)
  end)

  it("answers thousands in flight, each with its own result", function()
    with(3, function(ids)
      local futures = {}
      for i = 1, 10000 do
        futures[i] = tarn.remotecall(ids[i % 3 + 1], function(x)
          if x % 7 == 0 then tarn.sleep(0.01) end
          return x * 2
        end, i)
      end
      for i = 1, 10000 do assert.equal(i * 2, futures[i]:fetch()) end
    end)
  end)

  it("refuses a process or a function that is none", function()
    fails("ArgumentError", tarn.remotecall_fetch, "x", print)
    fails("ArgumentError", tarn.remotecall_fetch, 1.5, print)
    fails("ArgumentError", tarn.remotecall_fetch, 1, "print")
    fails("ArgumentError", tarn.remotecall, 0, print)
    fails("ArgumentError", tarn.remote_do, 1)
    fails("ArgumentError", tarn.spawn, {})
    assert.equal(77, fails("WorkerLost", tarn.remotecall_fetch, 77, print).pid)
  end)
end)

describe("remotecall", function()
  it("keeps the result on the worker until it is fetched", function()
    with(1, function(ids)
      local id = ids[1]
      local f = tarn.remotecall(id, function() return { big = ("x"):rep(1000) } end)
      assert.is_true(f:wait(10))
      assert.equal(1, tarn.poolstats(id).objects)
      local t = f:fetch()
      assert.equal(1000, #t.big)
      assert.equal(t, f:fetch())
      assert.is_true(cluster.becomes(function() return tarn.poolstats(id).objects == 0 end))
    end)
  end)

  it("frees the result when the Future is dropped", function()
    with(1, function(ids)
      local id = ids[1]
      do
        local f = tarn.remotecall(id, function() return {} end)
        f:wait(10)
        assert.equal(1, tarn.poolstats(id).objects)
      end
      assert.is_true(cluster.becomes(function()
        collectgarbage()
        return tarn.poolstats(id).objects == 0
      end))
    end)
  end)

  it("has several results, small and large, and nils", function()
    with(1, function(ids)
      assert.same(pack(1, nil, "x", nil), pack(tarn.remotecall(ids[1], function() return 1, nil, "x", nil end):fetch()))
      local got = pack(tarn.remotecall(ids[1], function() return { 1 }, nil, { 2 }, nil end):fetch())
      assert.same(pack({ 1 }, nil, { 2 }, nil), got)
    end)
  end)

  it("serves tasks that fetch at the same time", function()
    with(1, function(ids)
      local f = tarn.remotecall(ids[1], function()
        tarn.sleep(0.02)
        return { 7 }
      end)
      local tasks = {}
      for i = 1, 5 do tasks[i] = tarn.async(function() return f:fetch()[1] end) end
      for i = 1, 5 do assert.equal(7, tasks[i]:fetch()) end
    end)
  end)

  it("gives a Future that can travel, ready or not", function()
    with(2, function(ids)
      local a, b = ids[1], ids[2]
      local function take(f) return f:fetch()[1] end
      local slow = tarn.remotecall(a, function()
        tarn.sleep(0.05)
        return { "slow" }
      end)
      assert.equal("slow", tarn.remotecall_fetch(b, take, slow))
      assert.equal("slow", slow:fetch()[1])
      local there = tarn.remotecall(a, function() return { "there" } end)
      there:wait()
      assert.equal("there", tarn.remotecall_fetch(b, take, there))
      assert.equal("there", tarn.remotecall_fetch(a, take, there))
      assert.equal("there", there:fetch()[1])
      assert.equal("there", tarn.remotecall_fetch(b, take, there))
      local own = tarn.async(function()
        tarn.sleep(0.02)
        return { "own" }
      end)
      assert.equal("own", tarn.remotecall_fetch(b, take, own))
      local bad = tarn.remotecall(a, function() error("bad") end)
      assert.is_truthy(fails("RemoteError", tarn.remotecall_fetch, b, take, bad).message:find("bad", 1, true))
    end)
  end)

  it("gives up when it is cancelled, as soon as the job suspends", function()
    with(1, function(ids)
      local f = tarn.remotecall(ids[1], function() tarn.sleep(1000) end)
      tarn.sleep(0.01)
      assert.is_true(f:cancel())
      fails("Cancelled", f.fetch, f, 10)
      assert.is_false(f:cancel())
    end)
  end)
end)

describe("remote_do", function()
  it("does not wait, and logs an error on the worker", function()
    local result = process.run_script [[
      local id = tarn.addprocs(1)[1]
      tarn.remote_do(id, function() print("done") end)
      tarn.remote_do(id, function() error("gone wrong") end)
      tarn.remotecall_fetch(id, function() end)
    ]]
    assert.equal("[2] done\n", result.out)
    assert.is_truthy(result.err:match("%[2%][^\n]*error: remote_do: .*gone wrong"), result.err)
    assert.equal(0, result.code)
  end)
end)

describe("spawn", function()
  it("runs where most bytes of its DRefs are", function()
    with(3, function(ids)
      local function make(n) return tarn.poolset(tarn.array("double", n)) end
      local small = tarn.remotecall_fetch(ids[1], make, 100)
      local large = tarn.remotecall_fetch(ids[2], make, 10000)
      local function where(...) return tarn.myid(), (...).owner end
      assert.same({ ids[2], ids[1] }, { tarn.spawn(where, small, 5, large):fetch() })
      assert.same({ ids[1], ids[1] }, { tarn.spawn(where, small):fetch() })
    end)
  end)

  it("spreads other jobs over the workers", function()
    with(3, function(ids)
      local futures, count, go = {}, {}, tarn.event()
      for i = 1, 9 do
        futures[i] = tarn.spawn(function()
          go:wait(30) -- until all have been handed out
          return tarn.myid()
        end)
      end
      go:notify()
      for i = 1, 9 do
        local id = futures[i]:fetch()
        count[id] = (count[id] or 0) + 1
      end
      for _, id in ipairs(ids) do assert.equal(3, count[id]) end
    end)
  end)
end)

describe("everywhere", function()
  it("runs a function or code on every process", function()
    with(2, function(ids)
      local got = tarn.everywhere(function(x) return tarn.myid() * x end, 10)
      assert.same({ [1] = 10, [ids[1]] = ids[1] * 10, [ids[2]] = ids[2] * 10 }, got)
      tarn.everywhere("function spec_helper() return 'helped' end")
      assert.equal("helped", tarn.remotecall_fetch(ids[2], function() return spec_helper() end)) -- luacheck: ignore
      tarn.everywhere("spec_helper = nil")
    end)
  end)

  it("fails when one fails, and names it; the others have run", function()
    with(2, function(ids)
      local bad = ids[2]
      local e = fails("RemoteError", tarn.everywhere, function()
        if tarn.myid() == bad then error("cannot") end
        package.loaded["spec.has_run"] = true
      end)
      cluster.says(e.message, "process " .. bad, "cannot")
      assert.equal(bad, e.pid)
      assert.is_true(package.loaded["spec.has_run"])
      assert.is_true(tarn.remotecall_fetch(ids[1], function() return package.loaded["spec.has_run"] end))
      package.loaded["spec.has_run"] = nil
    end)
    cluster.says(fails("ArgumentError", tarn.everywhere, "x = = 1").message, "'='")
  end)
end)

describe("modules that a worker lacks", function()
  it("come from the driver's package.path, with those that they need", function()
    local cwd = process.tmpdir()
    assert(os.execute("mkdir " .. cwd .. "/mods"))
    process.write_file(cwd .. "/mods/alpha.lua", [[
      local beta = require "beta"
      return { f = function(x) return beta.g(x) + 1, debug.getinfo(1, "S").source end }
    ]])
    process.write_file(cwd .. "/mods/beta.lua", "return { g = function(x) return x * 10 end }")
    local result = process.run_script([[
      package.path = "./mods/?.lua;" .. package.path
      tarn.addprocs(2)
      local alpha = require "alpha"
      print(tarn.remotecall_fetch(2, alpha.f, 4))
      print(tarn.remotecall_fetch(3, function(x) return (alpha.f(x)) end, 5))
      print(tarn.everywhere(function() return require("beta").g(2) end)[3])
    ]], { cwd = cwd })
    assert.equal("41\t@./mods/alpha.lua\n51\n20\n", result.out, result.err)
    assert.equal(0, result.code)
  end)

  it("are named when the driver lacks them too, or cannot load them", function()
    with(1, function(ids)
      local e = fails("RemoteError", tarn.remotecall_fetch, ids[1], function() return require "no.such.module" end)
      cluster.says(e.message, ("module 'no.such.module' not found on process %d nor on the driver"):format(ids[1]))
    end)
  end)
end)

describe("access", function()
  it("runs on the owner with the value", function()
    with(1, function(ids)
      local ref = tarn.poolset({ 5, 6 }, ids[1])
      assert.same({ 11, ids[1] }, { tarn.access(function(t, x) return t[2] + x, tarn.myid() end, ref, 5) })
      local here = tarn.poolset({ 5, 6 })
      assert.same({ 6, 1 }, { tarn.access(function(t) return t[2], tarn.myid() end, here) })
      fails("RemoteError", tarn.access, function() error("x") end, here)
      tarn.pooldelete(here)
    end)
  end)
end)
