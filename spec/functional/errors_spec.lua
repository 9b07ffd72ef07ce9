-- Errors of jobs, and the mistakes of the first hour: what the caller is told, and that the worker goes on.
local cluster = require "spec.helper.cluster"
local with, fails, says = cluster.with, cluster.fails, cluster.says

-- The job fails on a worker with that kind of error, and the worker still works.
local function job_fails(kind, job, ...)
  local args, e = { n = select("#", ...), ... }, nil
  with(1, function(ids)
    e = fails(kind, tarn.remotecall_fetch, ids[1], job, unpack(args, 1, args.n))
    local f = tarn.remotecall(ids[1], job, unpack(args, 1, args.n))
    fails(kind, f.fetch, f)
    assert.equal("fine", tarn.remotecall_fetch(ids[1], function() return "fine" end))
    assert.equal(ids[1], e.pid)
  end)
  return e
end

describe("an error in a job", function()
  it("comes with message, process and traceback", function()
    local e = job_fails("RemoteError", function() error("boom") end)
    assert.is_truthy(e.message:match("errors_spec.lua:%d+: boom$"))
    assert.equal(e.message, e.cause)
    says(e.traceback, "stack traceback", "errors_spec.lua")
    says(tostring(e), "boom", "process " .. e.pid, "stack traceback")
  end)

  it("may be any value", function()
    local e = job_fails("RemoteError", function() error({ code = 3, list = { 1, 2 } }) end)
    assert.same({ code = 3, list = { 1, 2 } }, e.cause)
    assert.equal(42, job_fails("RemoteError", function() error(42, 0) end).cause)
    assert.is_nil(job_fails("RemoteError", function() error() end).cause)
  end)

  it("may be a value that cannot travel: its text does", function()
    local e = job_fails("RemoteError", function() error({ co = coroutine.create(print) }) end)
    assert.equal("string", type(e.cause))
    says(e.cause, "table")
  end)

  it("may fail while it is formatted", function()
    local e = job_fails("RemoteError", function()
      error(setmetatable({}, { __tostring = function() error("no text for you") end }))
    end)
    says(e.message, "tostring fails", "no text for you")
    says(tostring(e), "tostring fails")
    job_fails("RemoteError", function() error(setmetatable({}, { __tostring = function() return {} end })) end)
  end)

  it("may be a stack overflow", function()
    says(job_fails("RemoteError", function()
      local function f() return 1 + f() end
      return f()
    end).message, "stack overflow")
  end)

  it("may be a stack overflow in compiled code, where LuaJIT may have no stack left to run a handler in", function()
    for _ = 1, 300 do
      local overflow = loadstring("local function f() return 1 + f() end return f()")
      local ok, e = pcall(function() return tarn.async(overflow):fetch() end)
      assert.is_false(ok)
      says(tostring(e), "stack overflow")
    end
  end)

  it("keeps kind, process and traceback on its way through other processes", function()
    with(2, function(ids)
      local b = ids[2]
      local e = fails("RemoteError", tarn.remotecall_fetch, ids[1], function()
        return tarn.remotecall_fetch(b, function() error("deep down") end)
      end)
      says(e.message, "deep down")
      assert.equal(b, e.pid)
      says(e.traceback, "errors_spec.lua")
      local ref = tarn.poolset({}, b)
      tarn.pooldelete(ref)
      fails("KeyError", tarn.remotecall_fetch, ids[1], function() return tarn.poolget(ref) end)
    end)
  end)

  it("of the driver's own is told in the same way", function()
    local e = fails("RemoteError", tarn.remotecall_fetch, 1, function() error("here") end)
    assert.equal(1, e.pid)
    says(e.message, "here")
  end)
end)

describe("a result that cannot travel", function()
  it("is NotSerializable and names the path to it", function()
    local e = job_fails("NotSerializable", function() return { a = { coroutine.create(print) } } end)
    says(e.message, "coroutine", "'a'")
    says(job_fails("NotSerializable", function() return coroutine.create(print) end).message, "coroutine")
  end)

  it("as an argument or upvalue is refused before anything is sent", function()
    with(1, function(ids)
      local co = coroutine.create(print)
      says(fails("NotSerializable", tarn.remotecall_fetch, ids[1], function() return co end).message, "upvalue 'co'")
      fails("NotSerializable", tarn.remotecall, ids[1], print, { co })
      fails("NotSerializable", tarn.remote_do, ids[1], print, io.stdout)
      fails("NotSerializable", tarn.spawn, print, co)
      fails("NotSerializable", tarn.everywhere, function() return co end)
      assert.equal(1, tarn.remotecall_fetch(ids[1], function() return 1 end))
    end)
  end)
end)

describe("a driver's global used in a job", function()
  it("is named, with what to do", function()
    local uses = {
      function() return driver_global() end, -- luacheck: ignore
      function() return driver_global.x end, -- luacheck: ignore
      function() driver_global.x = 1 end, -- luacheck: ignore
      function() return driver_global + 1 end, -- luacheck: ignore
      function() return driver_global .. "" end, -- luacheck: ignore
      function() return #driver_global end, -- luacheck: ignore
      function() return driver_global:method() end, -- luacheck: ignore
    }
    with(1, function(ids)
      for _, use in ipairs(uses) do
        local e = fails("RemoteError", tarn.remotecall_fetch, ids[1], use)
        says(e.message, ("global 'driver_global' is nil on process %d: make it local, or use tarn.everywhere"):format(ids[1]))
        assert.is_truthy(e.message:match("^[^\n]*errors_spec.lua:%d+: "))
      end
    end)
  end)
end)

describe("reading standard input in a job", function()
  it("is refused, with what to do instead", function()
    for _, read in ipairs {
      function() return io.read() end, function() return io.read("*a") end, function() return io.stdin:read() end,
      function() return io.lines()() end, function() return io.input():read() end,
      function() return io.stdin:lines() end,
    } do
      says(job_fails("ArgumentError", read).message, "a worker has no standard input")
    end
  end)

  it("leaves files alone", function()
    with(1, function(ids)
      local path = os.tmpname()
      local file = assert(io.open(path, "w"))
      file:write("first\nsecond\n")
      file:close()
      assert.same({ "first", "second", "first", 2 }, { tarn.remotecall_fetch(ids[1], function()
        local old = io.input()
        io.input(path)
        local first, second = io.read(), io.read()
        io.input():close()
        io.input(old)
        local n, one = 0, nil
        for line in io.lines(path) do n, one = n + 1, one or line end
        return first, second, one, n
      end) })
      os.remove(path)
    end)
  end)
end)

describe("where Lua cannot suspend", function()
  it("a call that waits says so, and what to do", function()
    with(1, function(ids)
      local function check(e) says(e.message, "cannot suspend here", "tarn.async") end
      local function compare() return tarn.remotecall_fetch(ids[1], function() return true end) end
      check(fails("ArgumentError", table.sort, { 3, 2, 1 }, compare))
      check(fails("ArgumentError", string.gsub, "a", "a", function() tarn.sleep(0) end))
      check(fails("ArgumentError", table.sort, { 2, 1 }, function() return coroutine.wrap(compare)() end))
      local e
      do
        local p = newproxy(true)
        getmetatable(p).__gc = function() e = select(2, pcall(tarn.sleep, 0)) end
      end
      collectgarbage()
      collectgarbage()
      check(e)
      -- What has failed so has left nothing behind that answers later.
      tarn.sleep(0.02)
      assert.equal(1, tarn.remotecall_fetch(ids[1], function() return 1 end))
    end)
  end)

  it("uv.run says that tarn runs the loop", function()
    local ok, e = pcall(require("luv").run)
    assert.is_false(ok)
    says(e, "uv.run: tarn runs the loop;", "tarn.sleep")
  end)
end)
