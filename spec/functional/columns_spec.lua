-- Columns of every kind through real processes: mapped, not copied, on the same machine; sent where mapping is switched off; spilled and
-- read back.
local cluster = require "spec.helper.cluster"

local N = 100000

-- Makes a column of that kind, of elements that follow from their indices alone.
local function make(kind, n)
  local list = { n = n }
  for i = 1, n do list[i] = i * 7 % 251 end
  if kind == "array" then return tarn.array("double", list) end
  if kind == "int64_t" then return tarn.array("int64_t", list) end
  if kind == "struct" then
    local a = tarn.array("struct { int32_t k; struct { double d[2]; } in; }", n)
    for i = 1, n do a[i].k = list[i] end
    return a
  end
  if kind == "bits" then
    for i = 1, n do list[i] = list[i] > 100 end
    return tarn.bits(list)
  end
  for i = 1, n, 10 do list[i] = nil end
  if kind == "nullable" then return tarn.nullable("int16_t", list) end
  for i = 1, n do list[i] = list[i] and ("value %d"):format(list[i]) or nil end
  return kind == "strings" and tarn.strings(list) or tarn.pooled(list)
end

-- A number that depends on every element.
local function digest(c)
  local sum = 0
  for i = 1, #c do
    local v = c[i]
    if type(v) == "boolean" then
      v = v and 1 or 0
    elseif type(v) == "string" then
      v = tonumber(v:match("%d+"))
    elseif type(v) == "cdata" then
      v = tonumber(v) or v.k
    end
    sum = (sum * 31 + (v or 1000)) % 1000003
  end
  return sum
end

local KINDS = { "array", "int64_t", "struct", "bits", "nullable", "strings", "pooled" }

-- A middle part of each, kept in one value with the whole.
local function with_slice(kind, n)
  local c = make(kind, n)
  return { c, c:slice(n / 4 + 3, n - 5) }
end

local known = {}
local function expected(kind)
  local pair = not known[kind] and with_slice(kind, N)
  known[kind] = known[kind] or { digest(pair[1]), digest(pair[2]) }
  return unpack(known[kind])
end

local function digests(ref)
  local pair = tarn.poolget(ref)
  return digest(pair[1]), digest(pair[2])
end

describe("columns between processes", function()
  it("are mapped on the same machine", function()
    cluster.with(1, function(ids)
      for _, kind in ipairs(KINDS) do
        local before = tarn.poolstats(ids[1])
        local ref = tarn.poolset(with_slice(kind, N))
        assert.are.same({ expected(kind) }, { tarn.remotecall_fetch(ids[1], digests, ref) }, kind)
        local after = tarn.poolstats(ids[1])
        if kind ~= "bits" then -- 25 kB are copied
          assert.is_true(after.mapped_in_count > before.mapped_in_count, kind)
          assert.is_true(after.tcp_in_bytes - before.tcp_in_bytes < 70000, kind)
        end
        tarn.pooldelete(ref)
      end
    end)
  end)

  it("are sent where nothing may be mapped, and what was sent is sealed", function()
    cluster.with(1, function(ids)
      for _, kind in ipairs(KINDS) do
        local first, second = tarn.remotecall_fetch(ids[1], function(pair)
          local ok = pcall(function() pair[1][1] = pair[1][2] end)
          assert(not ok)
          return digest(pair[1]), digest(pair[2])
        end, with_slice(kind, N))
        assert.are.same({ expected(kind) }, { first, second }, kind)
      end
    end, { map = false })
  end)

  it("are spilled and read back", function()
    cluster.with(1, function(ids)
      local refs = tarn.remotecall_fetch(ids[1], function()
        local list = {}
        for round = 1, 3 do
          for _, kind in ipairs(KINDS) do list[#list + 1] = { kind, tarn.poolset(with_slice(kind, N)), round } end
        end
        return list
      end)
      assert.is_true(tarn.poolstats(ids[1]).spill_written_bytes > 4e6)
      for _, item in ipairs(refs) do
        assert.are.same({ expected(item[1]) }, { tarn.remotecall_fetch(ids[1], digests, item[2]) }, item[1])
      end
      assert.is_true(tarn.poolstats(ids[1]).mapped_back_bytes > 0)
    end, { memory = "8MB" })
  end)
end)
