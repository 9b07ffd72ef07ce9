-- A disk that gives back other bytes than it was given: an error that says where, never a wrong value for long, never a crash.
local cluster = require "spec.helper.cluster"
local posix = require "spec.helper.posix"

local COUNT = 2000000 -- 16 MB: verified while it is used

-- Runs in a worker: an array in its pool, moved to its spill file -> the ref, the id of its process, its spill directory.
local function spilled(n)
  local f = require "ffi"
  pcall(f.cdef, "int getpid(void);")
  local a = tarn.array("double", n)
  for i = 1, n do a[i] = i end
  local ref = tarn.poolset(a)
  a = nil -- luacheck: ignore
  collectgarbage()
  tarn.movetodisk(ref)
  return ref, f.C.getpid()
end

local function spoil_spill_file(os_pid) posix.spoil(posix.open_file(os_pid, "/.tarn/"), 8000001) end

-- Poolget, with a view kept meanwhile, until it raises: what.
local function get_until_error(ref)
  local held, problem
  cluster.becomes(function()
    local ok, value = pcall(tarn.poolget, ref)
    if ok then held = value else problem = value end
    return not ok
  end)
  return held ~= nil, tostring(problem)
end

describe("a spill file with other bytes than were written", function()
  it("makes every get of the object Corrupt: its owner's, another process', one that copies, one that saves", function()
    cluster.with(2, function(ids)
      local ref, os_pid = tarn.remotecall_fetch(ids[1], spilled, COUNT)
      local good = tarn.remotecall_fetch(ids[1], spilled, COUNT)
      spoil_spill_file(os_pid)
      local path = os.tmpname()
      local e = tarn.remotecall_fetch(ids[1], function(r, to)
        local ok, problem = pcall(tarn.savetodisk, r, to)
        return not ok and problem
      end, ref, path)
      os.remove(path)
      assert.is_true(tarn.iserror(e, "Corrupt"))
      assert.matches("object 1: 16000000 bytes at %d+ of the spill file in .*%.tarn.* are not what was written", tostring(e))
      for _, id in ipairs(ids) do
        local ok, problem = pcall(tarn.remotecall_fetch, id, function(r) return tarn.poolget(r)[1] end, ref)
        assert.is_false(ok)
        assert.is_true(tarn.iserror(problem, "Corrupt"), tostring(problem))
        assert.equal(COUNT, tarn.remotecall_fetch(id, function(r) return tarn.poolget(r)[2000000] end, good))
      end
      tarn.pooldelete(ref)
    end)
  end)

  it("is found out while a value is used, and told by the next get", function()
    cluster.with(1, function(ids)
      local ref, os_pid = tarn.remotecall_fetch(ids[1], spilled, COUNT)
      spoil_spill_file(os_pid)
      local held, problem = get_until_error(ref)
      assert.is_true(held)
      assert.matches("are not what was written", problem)
      local again = select(2, pcall(tarn.poolget, ref))
      assert.is_true(tarn.iserror(again, "Corrupt"))
    end)
  end)

  it("never sends a wrong copy", function()
    cluster.with(1, function(ids)
      local ref, os_pid = tarn.remotecall_fetch(ids[1], spilled, COUNT)
      spoil_spill_file(os_pid)
      local ok, problem = pcall(tarn.poolget, ref)
      assert.is_false(ok)
      assert.is_true(tarn.iserror(problem, "Corrupt"), tostring(problem))
    end, { map = false })
  end)

  it("is Corrupt at once when the block is small", function()
    cluster.with(1, function(ids)
      local ref, os_pid = tarn.remotecall_fetch(ids[1], spilled, 125000)
      posix.spoil(posix.open_file(os_pid, "/.tarn/"), 999999)
      local ok, problem = pcall(tarn.poolget, ref)
      assert.is_false(ok)
      assert.is_true(tarn.iserror(problem, "Corrupt"), tostring(problem))
    end)
  end)
end)

describe("a saved file with other bytes than were written", function()
  it("is Corrupt at once when that is asked for, else soon", function()
    local path = os.tmpname()
    os.remove(path)
    local a = tarn.array("double", COUNT)
    for i = 1, COUNT do a[i] = i end
    local file = tarn.savetodisk(tarn.poolset(a), path)
    assert.equal(COUNT, tarn.poolget(file)[COUNT])
    posix.spoil(path, 8000001)
    local ok, problem = pcall(tarn.poolget, file, { verify = true })
    assert.is_false(ok)
    assert.is_true(tarn.iserror(problem, "Corrupt"))
    local held, why = get_until_error(file)
    assert.is_true(held)
    assert.matches(path .. ": wrong checksum of 16000000 bytes", why, 1, true)
    assert.is_true(tarn.iserror(select(2, pcall(tarn.load, path, { verify = true })), "Corrupt"))
    os.remove(path)
  end)
end)
