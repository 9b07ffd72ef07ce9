-- Small values that never leave their process: refs and anchors of which only Lua knows.
local cluster = require "spec.helper.cluster"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local with = cluster.with

describe("a ref that has never left", function()
  it("is the same when it comes back, inside a value or by itself, and is got by any of them", function()
    local ref = tarn.poolset({ "mine" })
    local names = { [ref] = "kept by identity" }
    assert.equal(ref, tarn.decode(tarn.encode(ref)))
    with(1, function(ids)
      local function send_back(r) return { inside = r, key = r:key() } end
      local back = tarn.remotecall_fetch(ids[1], send_back, ref)
      assert.equal(ref, back.inside)
      assert.equal("kept by identity", names[back.inside])
      assert.equal(ref:key(), back.key)
      assert.equal("mine", tarn.poolget(back.inside)[1])
    end)
  end)

  it("is as good when its object holds another one", function()
    local inner = tarn.poolset("inner")
    local outer = tarn.poolset({ inner })
    tarn.movetodisk(outer)
    collectgarbage()
    local got = tarn.poolget(outer)[1]
    assert.equal(inner, got)
    assert.equal("inner", tarn.poolget(got))
  end)
end)

-- On a worker: bytes that its C side has allocated.
local function allocated()
  local ffi = require "ffi"
  pcall(ffi.cdef, "uint64_t tarn_alloc_bytes(void);")
  return tonumber(ffi.C.tarn_alloc_bytes())
end

describe("small objects that another process holds", function()
  local OBJECTS, SIZE = 50000, 100

  local function store(id, count)
    local refs, batch = {}, {}
    for i = 1, count, 1000 do
      for k = 0, 999 do batch[k + 1] = ("%09d"):format(i + k) .. ("x"):rep(SIZE - 9) end
      for k, ref in ipairs(tarn.poolset_all(batch, id)) do refs[i + k - 1] = ref end
    end
    return refs
  end

  local function await_objects(id, count)
    assert.is_true(cluster.becomes(function() return tarn.poolstats(id).objects == count end, 20), "the objects stay")
  end

  it("cost their owner at most 96 bytes each beyond their own, references and all, and go with the last reference", function()
    with(2, function(ids)
      local owner, other = ids[1], ids[2]
      store(owner, 1000) -- tables and buffers have grown
      collectgarbage()
      await_objects(owner, 0)
      local before = tarn.remotecall_fetch(owner, allocated)
      local refs = store(owner, OBJECTS)
      tarn.remotecall_fetch(owner, allocated) -- and our answer has arrived
      local each = (tarn.remotecall_fetch(owner, allocated) - before + 8 * OBJECTS) / OBJECTS - SIZE
      assert.is_true(each <= 96, ("%.1f each"):format(each))

      -- A third process holds some of them: they have two holders, then one again.
      local some = {}
      for i = 1, OBJECTS, 7 do some[#some + 1] = refs[i] end
      tarn.remotecall_fetch(other, function(list) package.loaded["spec.some"] = list end, some)
      refs, some = nil, #some
      collectgarbage()
      collectgarbage()
      await_objects(owner, some)
      assert.equal("000000001" .. ("x"):rep(SIZE - 9), tarn.remotecall_fetch(other, function()
        return require("tarn").poolget(package.loaded["spec.some"][1])
      end))
      tarn.remotecall_fetch(other, function()
        package.loaded["spec.some"] = nil
        collectgarbage()
        collectgarbage()
      end)
      await_objects(owner, 0)
      assert.is_nil(refs)
    end)
  end)

  it("go with their only holder, when it is killed", function()
    with(2, function(ids)
      local owner, holder = ids[1], ids[2]
      tarn.remotecall_fetch(holder, function(id, store_all, count)
        package.loaded["spec.all"] = store_all(id, count)
      end, owner, store, 3000)
      assert.equal(3000, tarn.poolstats(owner).objects)
      posix.kill(cluster.os_pid(holder), 9)
      await_objects(owner, 0)
    end)
  end)
end)

describe("a live value", function()
  it("may be anything but nil, false among it", function()
    for _, x in ipairs { false, true, 0, -1.5, "", "text", print } do
      assert.equal(x, tarn.poolget(tarn.poolset(x)))
    end
    assert.is_nil(tarn.poolget(tarn.poolset(nil)))
  end)

  -- In a process of its own: how far a heap grows between collections depends on what else is in it.
  it("is let go of soon when it is dropped, by a task that never pauses too", function()
    local run = process.run_script [[
      local kept = tarn.poolset({ "kept" })
      collectgarbage()
      local before, peak = tarn.poolstats(), 0
      for i = 1, 300000 do
        local ref = tarn.poolset({ i, i + 1, i + 2, i + 3, i + 4, i + 5, i + 6, i + 7 })
        if i % 3 == 0 then tarn.pooldelete(ref) end
        if i % 10000 == 0 then peak = math.max(peak, tarn.poolstats().lua_bytes) end
      end
      print(peak - before.lua_bytes, tarn.poolget(kept)[1])
    ]]
    local grown, kept = run.out:match("^(-?[%d.]+)\t(%a+)\n$")
    assert.equal("kept", kept, run.out .. run.err)
    assert.is_true(tonumber(grown) < 20e6, ("the heap grew by %s bytes"):format(grown))
  end)

  it("keeps its place while others come and go", function()
    local refs = {}
    for i = 1, 20000 do refs[i] = tarn.poolset({ i }) end
    for i = 1, 20000, 2 do
      tarn.pooldelete(refs[i])
      refs[i] = nil
    end
    for i = 1, 20000, 4 do refs[i] = tarn.poolset({ -i }) end
    for i, ref in pairs(refs) do assert.equal(i % 2 == 0 and i or -i, tarn.poolget(ref)[1]) end
    for i in pairs(refs) do tarn.pooldelete(refs[i]) end
    local again = tarn.poolset({ "again" })
    assert.equal("again", tarn.poolget(again)[1])
  end)
end)
