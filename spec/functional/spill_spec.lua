-- Data larger than the budget, through real processes: spilled, read back by mapping, passed on, and never wedged.
local cluster = require "spec.helper.cluster"
local process = require "spec.helper.process"

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

  it("may be one array: it is built in the spill file, and counts as disk", function()
    local result = process.run_tarn { "-m", "20kB", "-e", [[
      local a = tarn.array("double", 10000)
      for i = 1, #a do a[i] = i end
      local ref = tarn.poolset(a)
      local stats, sum = tarn.poolstats(), 0
      for _, x in ipairs(tarn.poolget(ref)) do sum = sum + x end
      print(sum, stats.max_memsize, stats.spilled_bytes, stats.live_bytes, stats.resident_bytes <= 20000)]] }
    assert.equal("50005000\t20000\t80000\t0\ttrue\n", result.out, result.err)
  end)
end)

describe("a sealed array", function()
  local NESTED = "struct { double v[3]; struct { int32_t q[2][2]; float f; } n[2]; bool b; }"
  local declarations = { "double", "float", "int8_t", "uint8_t", "int16_t", "uint16_t", "int32_t", "uint32_t", "int64_t", "uint64_t",
    "bool", "struct { int32_t x; float y; }", "struct { double v[75]; }", NESTED }

  -- Every way to write into the elements of a that the language has.
  local function writes(a, declaration)
    local v = declaration:find "struct" and {} or declaration == "bool" and true or 1
    local list = { function() a[1] = v end, function() a:ptr()[0] = v end, function() a:slice(1, 2)[1] = v end }
    local function also(fn) list[#list + 1] = fn end
    if declaration:find "int32_t x" then also(function() a[1].x = 1 end) end
    if declaration:find "v%[75%]" then
      also(function() a[1].v[3] = 1 end)
      also(function() a[1].v = { 1 } end)
      also(function() a:ptr()[1].v[3] = 1 end)
    end
    if declaration == NESTED then
      also(function() a[1].n[1].q[1][0] = 9 end)
      also(function() a[1].n[0].f = 9 end)
      also(function() a[1].n[1] = {} end)
      also(function() a[1].b = true end)
      also(function() a:ptr()[0].n[1].q[1][0] = 9 end)
    end
    return list
  end

  for _, declaration in ipairs(declarations) do
    it("refuses every write, in memory, evicted, and read back: " .. declaration, function()
      local a = tarn.array(declaration, 20000)
      local ref = tarn.poolset(a)
      for round = 1, 3 do
        if round == 2 then tarn.movetodisk(ref) end
        if round == 3 then
          a = nil -- luacheck: ignore
          collectgarbage()
          tarn.sleep(0)
          a = tarn.poolget(ref)
        end
        for k, write in ipairs(writes(a, declaration)) do assert.is_false(pcall(write), ("write %d in round %d"):format(k, round)) end
      end
      local b = tarn.array(declaration, 3)
      b[2] = a[7] -- an element of it can be copied into another
      tarn.pooldelete(ref)
    end)
  end
end)
