-- The calls of the pool, local and from other processes, and the faults that must not come back.
local cluster = require "spec.helper.cluster"
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local with, fails = cluster.with, cluster.fails

local function numbers(n)
  local a = tarn.array("double", n)
  for i = 1, n do a[i] = i end
  return a
end

local function settle()
  collectgarbage()
  collectgarbage()
  tarn.sleep(0.01)
end

describe("poolset's options", function()
  it("size is what the object counts for", function()
    local before = tarn.poolstats().live_bytes
    local ref = tarn.poolset({ 1 }, nil, { size = 100000 })
    assert.equal(100000, ref.size)
    assert.equal(before + 100000, tarn.poolstats().live_bytes)
    assert.equal(200000, tarn.poolset({ 1 }, nil, { size = "200KB" }).size)
    fails("ArgumentError", tarn.poolset, 1, nil, { size = "many" })
    fails("ArgumentError", tarn.poolset, 1, nil, { size = -1 })
    with(1, function(ids)
      local far = tarn.poolset({ 1 }, ids[1], { size = 123456 })
      assert.equal(123456, far.size)
      assert.equal(123456, tarn.poolstats(ids[1]).live_bytes)
      assert.same({ 1 }, tarn.poolget(far))
    end)
  end)

  it("unknown ones are refused", function()
    fails("ArgumentError", tarn.poolset, 1, nil, { sise = 1 })
    fails("ArgumentError", tarn.poolset, 1, nil, 5)
    fails("ArgumentError", tarn.poolset, 1, nil, { destructor = "no" })
  end)

  it("destructor runs once, on the owner, when the object is deleted, in whatever way", function()
    local gone = {}
    local function note(key) gone[#gone + 1] = key end
    local ref = tarn.poolset({ 1 }, nil, { destructor = note })
    local typed = tarn.poolset(numbers(10), nil, { destructor = note })
    local key, typed_key = ref:key(), typed:key()
    local function gone_are(n)
      return cluster.becomes(function()
        collectgarbage()
        return #gone >= n
      end)
    end
    tarn.pooldelete(ref)
    tarn.pooldelete(ref)
    assert.is_true(gone_are(1))
    assert.same({ key }, gone)
    typed = nil -- luacheck: ignore
    settle()
    assert.is_true(gone_are(2))
    assert.same({ key, typed_key }, gone)
    local last = tarn.poolset({ 2 }, nil, { destructor = note }):key()
    settle()
    assert.is_true(gone_are(3))
    settle()
    assert.same({ key, typed_key, last }, gone)
  end)

  it("destructor may wait, and one that fails is logged and harms nobody", function()
    local done
    local ref = tarn.poolset(1, nil, { destructor = function()
      tarn.sleep(0.01)
      done = true
    end })
    tarn.pooldelete(ref)
    assert.is_true(cluster.becomes(function() return done end))
    local result = process.run_script([[
      tarn.pooldelete(tarn.poolset(1, nil, { destructor = function() error("broken") end }))
      tarn.sleep(0.01)
      print("on")
    ]])
    assert.equal("on\n", result.out)
    assert.equal(0, result.code)
    assert.is_truthy(result.err:find("broken", 1, true))
  end)

  it("destructor travels: from another process it runs on the owner, asked to delete from anywhere", function()
    with(2, function(ids)
      local log = tarn.poolset({ count = 0 })
      local ref = tarn.poolset({ "x" }, ids[1], { destructor = function()
        tarn.remotecall_fetch(1, function(where) _G.seed_spec_gone = where end, tarn.myid())
      end, destroyonevict = true })
      assert.equal(ids[1], ref.owner)
      tarn.remotecall_fetch(ids[2], function(r) tarn.pooldelete(r) end, ref)
      assert.is_true(cluster.becomes(function() return rawget(_G, "seed_spec_gone") == ids[1] end))
      rawset(_G, "seed_spec_gone", nil)
      tarn.pooldelete(log)
    end)
  end)

  it("destructor runs at an orderly exit, of the driver and of workers, and when the pool is cleaned up", function()
    local result = process.run_script([[
      local id = tarn.addprocs(1)[1]
      local say = function(key) print("gone " .. key) end
      keep = { tarn.poolset({}, nil, { destructor = say }), tarn.poolset({}, id, { destructor = say }) }
      tarn.poolset({}, nil, { destructor = function() print("cleaned") end })
      local kept = tarn.poolset({}, nil, { destructor = function() print("kept") end })
      tarn.cleanup()
      tarn.sleep(0.01)
      keep[1] = tarn.poolset({}, nil, { destructor = say })
    ]])
    local lines = process.lines(result.out)
    table.sort(lines)
    assert.equal(5, #lines, result.out .. result.err)
    assert.equal("[2] gone 2:1", lines[1])
    assert.same({ "cleaned", "gone 1:1", "gone 1:4", "kept" }, { unpack(lines, 2) })
  end)

  it("destructor runs when the object is dropped under pressure", function()
    local result = process.run_script([[
      local gone = 0
      for i = 1, 20 do
        tarn.everywhere(function() end)
        local opts = { destroyonevict = true, destructor = function() gone = gone + 1 end }
        _G["r" .. i] = tarn.poolset(tarn.array("double", 50000), nil, opts)
      end
      collectgarbage()
      local s
      for _ = 1, 1000 do
        s = tarn.poolstats()
        if gone == 20 - s.objects then break end
        tarn.sleep(0.01)
      end
      print(gone > 5, gone == 20 - s.objects, s.spill_written_bytes)
    ]], { args = { "-m", "4MB" } })
    assert.equal("true\ttrue\t0\n", result.out, result.err)
  end)
end)

describe("the calls from another process", function()
  it("honour options and do what they do at home", function()
    local dir = process.tmpdir()
    with(1, function(ids)
      local ref = tarn.poolset(numbers(100000), ids[1])
      local resident = tarn.poolstats(ids[1]).resident_bytes
      local copied = tarn.copytodisk(ref, dir .. "/copy")
      assert.equal(resident, tarn.poolstats(ids[1]).resident_bytes) -- a copy is no move
      assert.equal(50, copied:get()[50])
      assert.is_nil(tarn.copytodisk(ref).path)
      assert.is_true(tarn.poolstats(ids[1]).spilled_bytes >= 800000)
      tarn.movetodisk(ref, dir .. "/moved")
      assert.is_true(tarn.poolstats(ids[1]).resident_bytes < resident - 700000)
      assert.equal(0, tarn.poolstats(ids[1]).spilled_bytes)
      assert.equal(51, tarn.poolget(ref)[51])
      local saved = tarn.savetodisk(ref, dir .. "/saved")
      assert.equal(52, saved:get()[52])
      tarn.deletefromdisk(ref, dir .. "/saved")
      assert.is_nil(lfs.attributes(dir .. "/saved"))
      fails("IOError", tarn.poolget, saved)
      fails("IOError", tarn.deletefromdisk, ref, dir .. "/saved")
      fails("IOError", tarn.copytodisk, ref, dir .. "/moved")
      tarn.destroyonevict(ref, true)
      assert.equal(5000000, tarn.access(function(a) return #a * 50 end, ref))
      tarn.pooldelete(ref)
      fails("KeyError", tarn.movetodisk, ref, dir .. "/z")
      assert.is_truthy(lfs.attributes(dir .. "/moved"))
    end)
  end)

  it("destroyonevict can be set and taken back, here and from elsewhere", function()
    with(1, function(ids)
      local function fill()
        local list = {}
        for i = 1, 12 do list[i] = tarn.poolset(tarn.array("double", 100000)) end
        return list
      end
      local dropped = tarn.poolset(numbers(1000), ids[1], { destroyonevict = true })
      local kept = tarn.poolset(numbers(1000), ids[1], { destroyonevict = true })
      tarn.destroyonevict(kept, false)
      local others = tarn.remotecall_fetch(ids[1], fill)
      fails("KeyError", tarn.poolget, dropped)
      assert.equal(1000, tarn.poolget(kept)[1000])
      assert.equal(12, #others)
    end, { memory = "4MB" })
  end)

  it("approx_size is the elements' bytes; limits are got and set", function()
    assert.equal(800000, tarn.approx_size(numbers(100000)))
    assert.equal(1, select("#", tarn.approx_size(1)))
    with(1, function(ids)
      local id = ids[1]
      assert.equal(math.huge, tarn.max_disksize(nil, id))
      assert.equal(64e6, tarn.max_disksize("64MB", id))
      assert.equal(32e6, tarn.max_memsize(32e6, id))
      assert.equal(32e6, tarn.remotecall_fetch(id, tarn.max_memsize))
      assert.equal(64e6, tarn.max_disksize(nil, id))
    end)
  end)
end)

describe("faults that must not come back:", function()
  it("1: what was read back is evicted again, without being written again", function()
    local result = process.run_script([[
      local refs = {}
      for i = 1, 8 do
        local a = tarn.array("double", 100000)
        for j = 1, #a do a[j] = i end
        refs[i] = tarn.poolset({ a, ("x"):rep(1000) })
        a = nil
        collectgarbage() tarn.sleep(0)
      end
      local function pass()
        for i = 1, 8 do
          assert(tarn.poolget(refs[i])[1][5] == i)
          collectgarbage() collectgarbage() tarn.sleep(0)
        end
      end
      for i = 1, 8 do tarn.movetodisk(refs[i]) end
      pass()
      local written = tarn.poolstats().spill_written_bytes
      for _ = 1, 5 do pass() end
      print(tarn.poolstats().spill_written_bytes - written, tarn.poolstats().resident_bytes <= 3e6)
    ]], { args = { "-m", "3MB" } })
    assert.equal("0\ttrue\n", result.out, result.err)
  end)

  it("2: deleting or cleaning up never deletes the user's file", function()
    local dir = process.tmpdir()
    local result = process.run_script(([[
      local function path(n) return "%s/" .. n end
      local moved, copied, other = tarn.poolset({ 1 }), tarn.poolset({ 2 }), tarn.poolset({ 3 })
      local files = { tarn.movetodisk(moved, path(1)), tarn.copytodisk(copied, path(2)), tarn.savetodisk(other, path(3)) }
      for _, f in ipairs(files) do f:get() end
      tarn.pooldelete(moved)
      files[2]:delete()
      moved = nil
      collectgarbage()
      tarn.cleanup()
      for i, f in ipairs(files) do assert(f:get()[1] == i) end
    ]]):format(dir))
    assert.equal(0, result.code, result.err)
    for i = 1, 3 do assert.equal(i, tarn.load(dir .. "/" .. i)[1]) end
  end)

  it("4: nothing is left behind: not in order, not after kill -9", function()
    local dir = process.tmpdir()
    local script = [[
      tarn.addprocs(1)
      refs = {}
      for i = 1, 8 do refs[i] = tarn.poolset(tarn.array("double", 100000), i % 2 + 1) end
      for i = 1, 8 do tarn.movetodisk(refs[i]) end
      print("spilled") io.stdout:flush()
      if arg[1] == "wait" then tarn.sleep(60) end
    ]]
    process.write_file(dir .. "/s.lua", script)
    local killed = process.start_tarn({ "-m", "4MB", dir .. "/s.lua", "wait" }, { cwd = dir })
    assert.equal("spilled", killed:line())
    killed:kill()
    assert.is_true(process.gone(killed.mark, 10))
    killed:destroy()
    if lfs.attributes(dir .. "/.tarn") then
      for name in lfs.dir(dir .. "/.tarn") do assert.is_truthy(name == "." or name == "..", name) end
    end
    local orderly = process.run_tarn({ "-m", "4MB", dir .. "/s.lua" }, { cwd = dir })
    assert.equal(0, orderly.code)
    for name in lfs.dir(dir) do assert.is_truthy(name == "." or name == ".." or name == "s.lua" or name == ".tarn", name) end
  end)

  it("7: a full disk is told to every reader, and all is still there", function()
    with(2, function(ids)
      local owner, reader = ids[1], ids[2]
      tarn.max_disksize(1, owner)
      local refs, e = {}, nil
      for i = 1, 30 do
        local ok, r = pcall(tarn.poolset, numbers(50000), owner)
        if ok then refs[i] = r else e = r break end
      end
      assert.is_true(tarn.iserror(e, "DiskFull") or tarn.iserror(e, "PoolFull"), tostring(e))
      for _, ref in ipairs(refs) do
        assert.equal(50000, tarn.timeout(20, tarn.remotecall_fetch, reader, function(r) return #tarn.poolget(r) end, ref))
      end
      tarn.max_disksize("100MB", owner)
      assert.equal(50000, #tarn.poolget(tarn.poolset(numbers(50000), owner)))
    end, { memory = "4MB" })
  end)

  it("7: an object above the limit is stored, moved and read all the same", function()
    local dir = process.tmpdir()
    local result = process.run_script(([[
      local a = tarn.array("double", 1000000)
      for i = 1, #a do a[i] = i end
      local ref = tarn.poolset(a)
      a = nil
      collectgarbage() tarn.sleep(0)
      local file = tarn.movetodisk(ref, "%s/x")
      print(ref:get()[1000000], file:get()[999999], tarn.poolstats().resident_bytes < 2e6)
    ]]):format(dir), { args = { "-m", "2MB" } })
    assert.equal("1000000\t999999\ttrue\n", result.out, result.err)
  end)

  it("11: a shared column is counted and written once", function()
    local dir = process.tmpdir()
    local a = numbers(100000)
    local before = tarn.poolstats()
    local ref = tarn.poolset({ a, { again = a } })
    assert.is_true(tarn.poolstats().resident_bytes < before.resident_bytes + 10000)
    tarn.movetodisk(ref)
    assert.is_true(tarn.poolstats().spill_written_bytes - before.spill_written_bytes < 900000)
    tarn.savetodisk(ref, dir .. "/x")
    assert.is_true(lfs.attributes(dir .. "/x", "size") < 900000)
    local back = tarn.load(dir .. "/x")
    assert.equal(back[1], back[2].again)
  end)

  it("13: an exit with full pools does not stall", function()
    local started = posix.now()
    local result = process.run_script([[
      local ids = tarn.addprocs(2)
      for i = 1, 60 do _G["r" .. i] = tarn.poolset(tarn.array("double", 50000), ids[i % 2 + 1]) end
    ]], { args = { "-m", "4MB" } })
    assert.equal(0, result.code, result.err)
    assert.is_true(posix.now() - started < 5 * process.patience)
  end)
end)
