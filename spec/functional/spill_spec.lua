-- Data larger than the budget, through real processes: spilled, read back by mapping, passed on, and never wedged.
local cluster = require "spec.helper.cluster"

local BYTES = 8000000

-- Runs in a worker: n arrays of 8 MB into its pool.
local function fill(n)
  local refs = {}
  for i = 1, n do
    local a = tarn.array("double", 1000000)
    for j = 1, #a do a[j] = i * j end
    refs[i] = tarn.poolset(a)
  end
  return refs
end

local function sum(a)
  local s = 0
  for j = 1, #a do s = s + a[j] end
  return s
end

local SUM = 1000000 * 1000001 / 2

describe("data larger than the budget", function()
  it("is spilled and read back by its owner and by others", function()
    cluster.with(2, function(ids)
      local refs = tarn.remotecall_fetch(ids[1], fill, 10)
      for i, ref in ipairs(refs) do
        assert.equal(i * SUM, tarn.remotecall_fetch(ids[1], function(r) return sum(tarn.poolget(r)) end, ref))
        assert.equal(i * SUM, tarn.remotecall_fetch(ids[2], function(r) return sum(tarn.poolget(r)) end, ref))
      end
      local stats = tarn.poolstats(ids[1])
      assert.equal(10, stats.objects)
      assert.is_true(stats.spill_written_bytes >= 6 * BYTES)
      assert.is_true(stats.resident_bytes <= 32e6)
      assert.is_true(stats.mapped_back_bytes > 0)
    end, { memory = "32MB" })
  end)

  it("may be looked at by a job as received copies that together exceed its budget", function()
    cluster.with(2, function(ids)
      local refs = tarn.remotecall_fetch(ids[1], fill, 12)
      local resident = tarn.remotecall_fetch(ids[2], function(list)
        local held = {}
        for i, ref in ipairs(list) do held[i] = tarn.poolget(ref) end
        for i, a in ipairs(held) do assert(sum(a) == i * SUM) end
        return tarn.poolstats().resident_bytes
      end, refs)
      assert.is_true(resident <= 32e6)
      assert.equal(0, tarn.poolstats(ids[2]).objects)
    end, { memory = "32MB", map = false })
  end)
end)
