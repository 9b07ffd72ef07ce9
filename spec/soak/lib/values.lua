-- Values that are known from a number: made, and later checked to the last byte. Runs on workers.
local bit = require "bit"
local tarn = require "tarn"

local values = {}

local KiB, MiB = 2 ^ 10, 2 ^ 20
local tobit = bit.tobit

-- A number from 0 to below 1, from two others.
function values.random(seed, salt)
  local x = (seed * 7919 + salt * 104729 + 12345) % 2147483647
  for _ = 1, 3 do x = (x * 16807) % 2147483647 end
  return x / 2147483647
end

local function fill(p, count, seed)
  for i = 0, count - 1 do p[i] = tobit(seed * 40503 + i * 7) end
end

local function count_wrong(p, count, seed)
  local wrong = 0
  for i = 0, count - 1 do
    if p[i] ~= tobit(seed * 40503 + i * 7) then wrong = wrong + 1 end
  end
  return wrong
end

local function make_array(seed, bytes)
  local a = tarn.array("int32_t", math.floor(bytes / 4))
  fill(a:ptr(), #a, seed)
  return a
end

local function text(seed, i) return ("%d.%d "):format(seed, i):rep(i % 7) end

local kinds = {}

kinds.table = {
  make = function(seed)
    return { id = seed, name = text(seed, 5), list = { seed, seed + 0.5, -seed }, inside = { yes = true, [seed] = text(seed, 3) } }
  end,
  right = function(x, seed)
    return x.id == seed and x.name == text(seed, 5) and #x.list == 3 and x.list[1] == seed and x.list[2] == seed + 0.5
      and x.list[3] == -seed and x.inside.yes == true and x.inside[seed] == text(seed, 3)
  end,
}

local function rows(seed) return 10 + math.floor(values.random(seed, 2) * 3000) end

kinds.strings = {
  make = function(seed)
    local list, n = {}, rows(seed)
    for i = 1, n do list[i] = i % 11 ~= 0 and text(seed, i) or nil end
    list.n = n
    return tarn.strings(list)
  end,
  right = function(x, seed)
    if #x ~= rows(seed) then return false end
    for i = 1, #x do
      if x[i] ~= (i % 11 ~= 0 and text(seed, i) or nil) then return false end
    end
    return true
  end,
}

-- From 64 KiB to 64 MiB, as many of each magnitude.
local function array_bytes(seed) return 64 * KiB * 2 ^ (values.random(seed, 1) * 10) end

local function right_array(x, seed, bytes)
  return #x == math.floor(bytes / 4) and count_wrong(x:ptr(), #x, seed) == 0
end

kinds.array = {
  make = function(seed) return make_array(seed, array_bytes(seed)) end,
  right = function(x, seed) return right_array(x, seed, array_bytes(seed)) end,
}

values.HUGE_BYTES = 300 * MiB
kinds.huge = {
  make = function(seed) return make_array(seed, values.HUGE_BYTES) end,
  right = function(x, seed) return right_array(x, seed, values.HUGE_BYTES) end,
}

-- Most are small tables; by bytes, nearly all is in arrays.
function values.kind(seed)
  if seed % 5000 == 2500 then return "huge" end
  local share = seed % 25
  return share == 0 and "array" or share <= 3 and "strings" or "table"
end

function values.make(seed) return kinds[values.kind(seed)].make(seed) end

-- Raises when x is not what make(seed) gave.
function values.check(x, seed)
  local kind = values.kind(seed)
  local ok, right = pcall(kinds[kind].right, x, seed)
  if not ok then error(("value %d (%s) cannot be read: %s"):format(seed, kind, tostring(right)), 0) end
  if not right then error(("value %d (%s) is not what was stored"):format(seed, kind), 0) end
end

return values
