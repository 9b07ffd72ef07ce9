-- What a newcomer gets wrong in the first hour, and what tarn says to it.
local process = require "spec.helper.process"

local function run(source)
  local result = process.run_script("tarn.addprocs(1)\n" .. source)
  return result.out, result.err, result.code
end

local ASSIGNMENTS = { 'type = "x"', "table = { 1 }", "pcall, pairs, ipairs, next = nil", "math, string, debug, coroutine = nil" }

describe("a builtin's name used for a variable", function()
  for _, assignment in ipairs(ASSIGNMENTS) do
    it("harms nothing of tarn's, in the driver: " .. assignment, function()
      local out = run(assignment .. " io.write(tarn.remotecall_fetch(2, tarn.myid), '\\n')")
      assert.equal("2\n", out)
    end)

    it("nor in a job: " .. assignment, function()
      local out = run(("tarn.remotecall_fetch(2, function() %s end)"):format(assignment)
        .. " print(tarn.remotecall_fetch(2, function() tarn.sleep(0) return tarn.myid() end))")
      assert.equal("2\n", out)
    end)
  end
end)

describe("a small array from another process", function()
  it("is as read-only as a large one", function()
    local out = run [[
      local ref = tarn.poolset(tarn.array("double", 8))
      print(tarn.remotecall_fetch(2, function(r) return (pcall(function() r:get()[1] = 5 end)) end, ref))
      print(tarn.remotecall_fetch(2, function(r) local a = r:get():copy() a[1] = 5 return a[1] end, ref))
    ]]
    assert.equal("false\n5\n", out)
  end)
end)

describe("an error", function()
  it("in a luv callback is logged with its text, and the process goes on", function()
    local out, err, code = run [[
      local timer = require("luv").new_timer()
      timer:start(1, 0, function() timer:close() tarn.poolget(nil) end)
      tarn.sleep(0.1)
      print "on"
    ]]
    assert.equal("on\n", out)
    assert.equal(0, code)
    assert.truthy(err:find("a DRef is needed, not nil", 1, true))
  end)

  it("behind a tail call names the job's function", function()
    local out = run "print(pcall(tarn.remotecall_fetch, 2, function() return tarn.poolget(nil) end))"
    assert.truthy(out:find("driver.lua:2: in the job's function", 1, true) or out:find(":2: in the job's function", 1, true), out)
  end)

  it("about an object says the same wherever the object was", function()
    local out = run [[
      local here, there = tarn.poolset({}), tarn.poolset({}, 2)
      for _, ref in ipairs { here, there } do
        tarn.pooldelete(ref)
        local _, e = pcall(tarn.poolget, ref)
        print(e.kind, (e.message:gsub("^.-%d: no", "no"):gsub("%d:%d", ref:key() .. "=%0")))
      end
    ]]
    assert.equal("KeyError\tno object 1:1=1:1 (deleted, or dropped under pressure)\n"
      .. "KeyError\tno object 2:1=2:1 (deleted, or dropped under pressure)\n", out)
  end)
end)

describe("a list that is none", function()
  it("is refused by name and place", function()
    local out = run [[
      local f = tarn.async(tarn.sleep, 0)
      local holed = { f, f, f }
      holed[2] = nil
      print(pcall(tarn.as_completed, holed))
      print(pcall(tarn.pmap, print, { a = 1 }))
    ]]
    assert.truthy(out:find("item 2 is no Future but nil", 1, true), out)
    assert.truthy(out:find("a list is needed", 1, true), out)
  end)
end)

describe("a name for a struct", function()
  it("cannot be given to another", function()
    local out = run [[
      tarn.ctype("first_hour_t", "struct { double x, y; }")
      tarn.ctype("first_hour_t", "struct { double x, y; }")
      print(pcall(tarn.ctype, "first_hour_t", "struct { float z; }"))
    ]]
    assert.truthy(out:find("is another type already", 1, true), out)
  end)
end)

describe("a worker's line", function()
  it("comes after what the driver has printed before, also into a pipe", function()
    local out = run [[
      for i = 1, 300 do print("driver line " .. i) end
      tarn.remotecall_fetch(2, print, "WORKER")
      tarn.sleep(0.05)
      print("after")
    ]]
    assert.truthy(out:find("driver line 300\n[2] WORKER\n", 1, true), out:sub(-200))
  end)
end)
