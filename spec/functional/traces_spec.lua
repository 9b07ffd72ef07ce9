-- What LuaJIT compiles, and when, changes nothing but the speed. Compiled code keeps the functions that it calls, with their upvalues:
-- tarn's may keep nothing that is the user's (docs/REFERENCES.md).
local refs = require "spec.helper.refs"

-- What a process does with objects of process `owner`, and drops. Each is sent there, so that its own compiled code goes with it.
local uses = {
  ["a list of pmap"] = function(owner)
    local list = {}
    for i = 1, 300 do list[i] = tarn.poolset({ i }, owner) end
    tarn.pmap(function(ref) return ref.size end, list, { workers = { owner } })
  end,
  ["a function of pmap"] = function(owner)
    local ref, list = tarn.poolset("kept", owner), {}
    for i = 1, 1000 do list[i] = i end
    for _, pid in ipairs { owner, tarn.myid() } do tarn.pmap(function(i) return ref and i end, list, { workers = { pid } }) end
  end,
  ["an iterator of pmap"] = function(owner)
    local ref, i = tarn.poolset("kept", owner), 0
    local function next_item()
      i = i + 1
      return ref and i <= 1000 and i or nil
    end
    tarn.pmap(function(x) return x end, next_item, { workers = { owner } })
  end,
  ["on_error and progress of pmap"] = function(owner)
    local list = {}
    for i = 1, 1000 do list[i] = i end
    local first, second = tarn.poolset("kept", owner), tarn.poolset("kept", owner)
    tarn.pmap(function() error("no") end, list, { workers = { owner }, on_error = function() return first and 0 end,
      progress = function() return second end, batch = 5 })
  end,
  ["as_completed that is broken off"] = function(owner)
    local list, n = {}, 0
    for i = 1, 100 do list[i] = tarn.remotecall(owner, function() return { i } end) end
    for _ in tarn.as_completed(list) do
      n = n + 1
      if n == 60 then break end
    end
  end,
  ["a wrapped coroutine"] = function(owner)
    local ref = tarn.poolset("kept", owner)
    for _ in coroutine.wrap(function()
      for i = 1, 300 do coroutine.yield(ref and #("x"):rep(i)) end
    end) do end
  end,
  ["functions that go over a table"] = function(owner)
    local ref, list = tarn.poolset("kept", owner), {}
    for i = 1, 1000 do list[i] = i end
    local t = tarn.table { columns = { { "a", list } } }
    t:select(function(row) return ref and row.a > 1 end)
    t:groupreduce({}, { { "n", function(n, v) return ref and n + v end, "a", init = 0 } })
    t:groupreduce({}, { { "n", function(n, row) return ref and n + row.a end, init = 0 } })
  end,
  ["an iterator of strings"] = function(owner)
    local ref, i = tarn.poolset("kept", owner), 0
    tarn.strings.from(function()
      i = i + 1
      return ref and i <= 1000 and "x" or nil
    end)
  end,
  ["calls, tasks, destructors and events"] = function(owner)
    for i = 1, 20 do
      local ref, p = tarn.poolset({ i }, owner), tarn.promise(i % 2 == 0 and owner or nil)
      local function use() return #tarn.poolget(ref) end
      tarn.remotecall_fetch(owner, use)
      tarn.remotecall(owner, use):fetch()
      tarn.remote_do(owner, use)
      tarn.async(use):fetch(5)
      tarn.timeout(5, use)
      tarn.access(function(x) return ref and #x end, ref)
      tarn.everywhere(function() return ref and 1 end)
      p:put(ref)
      p:fetch(5)
      tarn.pooldelete(tarn.poolset(i, nil, { destructor = use }))
      tarn.poolset(i, owner, { destructor = function() return ref end, remake = function() return ref and i end })
    end
  end,
}

local function compile_at_once() require("jit.opt").start("hotloop=1", "hotexit=1") end

-- No helper that flushes: what is compiled must not keep anything.
local function check(use, eager)
  refs.with(2, function(ids)
    if eager then
      for _, pid in ipairs(ids) do tarn.remotecall_fetch(pid, compile_at_once) end
    end
    for _ = 1, 2 do
      tarn.remotecall_fetch(ids[1], use, ids[2])
      assert.is_true(refs.becomes(ids[2], 0))
      assert.is_true(refs.becomes(ids[1], 0))
    end
  end)
end

describe("compiled code does not keep", function()
  for name, use in pairs(uses) do
    it(name, function() check(use, false) end)
    it(name .. ", compiled at once", function() check(use, true) end)
  end
end)

describe("table:select", function()
  it("is compiled for the last of many functions too", function()
    local list = {}
    for i = 1, 1000 do list[i] = i end
    local t, compiled = tarn.table { columns = { { "a", list } } }, 0
    local function count(what) if what == "stop" then compiled = compiled + 1 end end
    for i = 1, 150 do
      local select = loadstring("local limit = ... return function(row) return row.a > limit end")(i)
      if i == 150 then jit.attach(count, "trace") end
      assert.equal(1000 - i, #t:select(select))
    end
    jit.attach(count)
    assert.is_true(compiled > 0)
  end)
end)
