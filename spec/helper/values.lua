-- Generated values: everything that a plain value may be, nested in everything, shared and cyclic; comparing two of them; and one text for
-- equal ones, whoever makes it.
local array = require "tarn.array"
local bits = require "tarn.bits"
local ffi = require "ffi"
local nullable = require "tarn.nullable"
local pooled = require "tarn.pooled"
local strings = require "tarn.strings"
local tabular = require "tarn.table"
local istype = ffi.istype

local M = {}

-- A metatable that travels by name, as a module.
M.Class = {}
M.CLASS = "spec.values_class"

local int64, uint64 = ffi.typeof("int64_t"), ffi.typeof("uint64_t")

-- Announce each seed: a failure is repeated with TARN_SEED.
function M.seed() return tonumber(os.getenv("TARN_SEED")) or os.time() end

-- ---- making ----

local function text(random)
  local s = {}
  for i = 1, random(0, 20) do s[i] = string.char(random(0, 255)) end
  return table.concat(s)
end

local EDGES = { 0 / 0, 1 / 0, -1 / 0, -0.0, 0, 2 ^ 53, -2 ^ 53, 2 ^ 53 + 2, 2 ^ 63, -2 ^ 63, 2 ^ 64, 0.1, 5e-324, 1.7976931348623157e308,
  -129, -4294967297 }
local WIDE = { 0LL, 1LL, -1LL, 9007199254740993LL, -9007199254740993LL, 0x7fffffffffffffffLL, 0ULL, 5ULL, 0xffffffffffffffffULL }
local NUMBERS = { "double", "float", "int8_t", "uint8_t", "int16_t", "uint16_t", "int32_t", "uint32_t", "int64_t", "uint64_t", "bool" }

local scalars = {
  function(random) return random(-100, 100) end,
  function(random) return random() * 10 ^ random(-300, 300) end,
  function(random) return 2 ^ random(0, 1023) * (random() < 0.5 and -1 or 1) end,
  function(random) return EDGES[random(#EDGES)] end,
  function(random) return WIDE[random(#WIDE)] end,
  function(random) return ffi.cast(int64, random(-2 ^ 31, 2 ^ 31)) * random(1, 2 ^ 31) end,
  function(random) return ffi.cast(uint64, random(0, 2 ^ 31)) * 8589934591ULL end,
  text,
  function(random) return "é日本" .. random(10) end,
  function(random) return ("k"):rep(random(0, 300)) end,
  function(random) return random() < 0.5 end,
}

local function typed_array(random)
  local name = NUMBERS[random(#NUMBERS)]
  local n = random(0, 20)
  local a = random(3) == 1 and n > 0 and array(name, { shape = { 2, n } }) or array(name, n)
  for i = 1, #a do a[i] = name == "bool" and random() < 0.5 or name ~= "bool" and random(0, 100) end
  return random(4) == 1 and #a > 2 and a:slice(2, #a - 1) or a
end

local function strings_of(random, n)
  local list = { n = n }
  for i = 1, n do list[i] = random(4) > 1 and text(random) or nil end
  return strings(list)
end

local function bits_of(random, n)
  local b = bits(n)
  for i = 1, n do b[i] = random() < 0.5 end
  return b
end

local columns = {
  strings_of,
  bits_of,
  function(random, n)
    local list = { n = n }
    for i = 1, n do list[i] = random(3) > 1 and "pool" .. random(3) or nil end
    return pooled(list)
  end,
  function(random, n)
    local a = array("int32_t", n)
    for i = 1, n do a[i] = random(-1000, 1000) end
    return nullable(a, bits_of(random, n))
  end,
  function(random, n)
    local a = array("double", n)
    for i = 1, n do a[i] = random() end
    return a
  end,
}

local function column(random) return columns[random(#columns)](random, random(0, 12)) end

local function table_of_columns(random)
  local n, list = random(0, 6), {}
  for i = 1, random(1, 4) do list[i] = { "column " .. i, columns[random(#columns)](random, n) } end
  list[#list + 1] = { "id", array("int32_t", n) }
  for i = 1, n do list[#list][2][i] = i end
  return tabular { columns = list, key = random() < 0.5 and { "id" } or nil }
end

local function name(random) return ({ string.format, math, string, M.Class })[random(4)] end

-- A generator of values: make(). opts: functions (they cannot be compared by everybody), keys = "text" (for who knows only such), plain
-- (nothing but what every MessagePack library keeps: no NaN, no -0), depth.
function M.generator(random, opts)
  opts = opts or {}
  local met, value
  local depth_max = opts.depth or 4

  local function key(depth)
    if opts.keys == "text" then return "k" .. random(1000) end
    if opts.keys == "scalars" or random(4) > 1 then return scalars[random(#scalars)](random) end
    return value(depth + 2)
  end

  local function table_of(depth)
    local t = {}
    if not opts.plain then met[#met + 1] = t end
    local kind = random(6)
    if kind == 1 and not opts.plain then setmetatable(t, M.Class) end
    if kind <= 3 then
      for i = 1, random(0, 8) do t[i] = value(depth + 1) end
    elseif kind == 4 then
      for i = random(1, 12), 1, -1 do t[i] = value(depth + 1) end
    end
    if kind >= 3 and not (opts.plain and next(t) ~= nil) then
      for _ = 1, random(0, 8) do
        local k = key(depth)
        if k ~= nil and k == k and type(k) ~= "cdata" then t[k] = value(depth + 1) end
      end
    end
    return t
  end

  local function closure(depth)
    local a, b = value(depth + 1), met[random(#met)]
    local n = 0
    local function count(...)
      n = n + select("#", ...)
      return n, a, b
    end
    local both = { count, function() return n, count end }
    met[#met + 1] = both
    return both
  end

  function value(depth)
    local choice = random(depth < depth_max and 24 or 14)
    if choice <= 10 or opts.plain and choice <= 14 then
      local v = scalars[random(#scalars)](random)
      while opts.plain and (type(v) == "cdata" or v ~= v or v == 0) do v = scalars[random(#scalars)](random) end
      return v
    end
    if choice == 11 then return typed_array(random) end
    if choice == 12 then return random(5) == 1 and table_of_columns(random) or column(random) end
    if choice == 13 then return name(random) end
    if choice == 14 then return met[random(#met)] end
    if choice == 15 and opts.functions then return closure(depth) end
    if choice == 16 and not opts.plain then return nil end
    return table_of(depth)
  end

  return function()
    met = { {} }
    return value(0)
  end
end

-- ---- comparing ----

local same

local function same_table(a, b, seen)
  if seen[a] then return rawequal(seen[a], b) end
  seen[a] = b
  if getmetatable(a) ~= getmetatable(b) then return false end
  local na, nb = 0, 0
  for k, v in next, a do
    na = na + 1
    local kind = type(k)
    if (kind == "number" or kind == "string" or kind == "boolean") and not same(v, rawget(b, k), seen) then return false end
  end
  for _ in next, b do nb = nb + 1 end
  return na == nb
end

-- Functions are the same when they have the same code and the same variables.
-- A number of 7 bits a byte, the lowest ones first, and where the next byte is.
local function number_at(s, at)
  local v, unit = 0, 1
  while true do
    local byte = s:byte(at)
    v, unit, at = v + byte % 128 * unit, unit * 128, at + 1
    if byte < 128 then return v, at end
  end
end

-- The bytecode of a function, without the places of its variables in the function that made it: those of received ones have another maker.
local function code_of(f)
  local dump = string.dump(f, true)
  local at, last = 6, nil -- behind the header and, as it is stripped, no name
  while true do
    local length
    length, at = number_at(dump, at)
    if length == 0 then break end
    last, at = at, at + length
  end
  local variables, instructions = dump:byte(last + 3), nil
  at = last + 4
  for _ = 1, 3 do instructions, at = number_at(dump, at) end -- the numbers of its objects, its numbers and its instructions
  at = at + 4 * instructions
  return dump:sub(1, at - 1) .. dump:sub(at + 2 * variables)
end

local function same_function(a, b, seen)
  if seen[a] then return seen[a] == b end
  seen[a] = b
  if debug.getinfo(a, "S").what == "C" then return false end
  for i = 1, math.huge do
    local one, x = debug.getupvalue(a, i)
    local other, y = debug.getupvalue(b, i)
    if one ~= other then return false end
    if not one then return code_of(a) == code_of(b) end
    if not same(x, y, seen) then return false end
  end
end

function same(a, b, seen)
  if type(a) ~= type(b) then return false end
  if type(a) == "table" then return same_table(a, b, seen) end
  if type(a) == "function" then return a == b or same_function(a, b, seen) end
  if type(a) == "number" then return a ~= a and b ~= b or a == b and 1 / a == 1 / b end
  if type(a) == "cdata" then
    if tostring(ffi.typeof(a)) ~= tostring(ffi.typeof(b)) then return false end
    if istype(int64, a) or istype(uint64, a) then return a == b end
    return M.text(a) == M.text(b)
  end
  return a == b
end

-- Are two values the same, shared and cyclic parts alike?
function M.same(a, b) return same(a, b, {}) end

-- ---- one text ----

local function hex(s) return (s:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

local function number_text(v)
  if type(v) == "boolean" then return tostring(v) end
  if type(v) == "cdata" then return "i" .. tostring(v):gsub("U?LL$", "") end
  if v ~= v then return "nan" end
  return "d" .. hex(ffi.string(ffi.new("double[1]", v), 8):reverse())
end

local function element_text(v)
  if v == nil then return "nil" end
  return type(v) == "string" and "s" .. hex(v) or number_text(v)
end

local function elements_text(column_)
  local list = {}
  for i = 1, #column_ do list[i] = element_text(column_[i]) end
  return "(" .. table.concat(list, ",") .. ")"
end

local function array_text(a)
  local shape = a.shape and #a.shape > 1 and table.concat(a.shape, "x") or ""
  return ("A%s[%s]%s"):format(tostring(a):match("^array of (%S+)"), shape, elements_text(a))
end

local function hex_list(names)
  local list = {}
  for i, name_ in ipairs(names) do list[i] = hex(name_) end
  return table.concat(list, ",")
end

local function columns_text(t)
  local names, list, key = tabular._parts(t)
  local parts = {}
  for i, name_ in ipairs(names) do parts[i] = hex(name_) .. elements_text(list[i]) end
  return ("C[%s](%s)"):format(hex_list(key), table.concat(parts, ","))
end

local kinds = {
  { array.is, array_text },
  { tabular.is, columns_text },
  { strings.is, function(x) return "strings" .. elements_text(x) end },
  { bits.is, function(x) return "bits" .. elements_text(x) end },
  { pooled.is, function(x) return "pooled" .. elements_text(x) end },
  { nullable.is, function(x) return "nullable" .. elements_text(x) end },
}

local value_text

local function object_text(x, seen)
  if seen[x] then return "#" .. seen[x] end
  seen[x], seen.count = seen.count, seen.count + 1
  for _, kind in ipairs(kinds) do
    if kind[1](x) then return kind[2](x) end
  end
  local keys, by_text = {}, {}
  for k in next, x do
    local key = value_text(k, seen)
    keys[#keys + 1], by_text[key] = key, k
  end
  table.sort(keys)
  local parts = {}
  for i, key in ipairs(keys) do parts[i] = key .. "=" .. value_text(rawget(x, by_text[key]), seen) end
  return ("T%s(%s)"):format(getmetatable(x) == M.Class and M.CLASS or "", table.concat(parts, ","))
end

local NAMES = { [string.format] = "string.format", [math] = "math", [string] = "string", [M.Class] = M.CLASS }

function value_text(x, seen)
  local kind = type(x)
  if kind == "nil" or kind == "boolean" then return tostring(x) end
  if kind == "number" then return number_text(x) end
  if kind == "string" then return "s" .. hex(x) end
  if NAMES[x] then return "N" .. NAMES[x] end
  if istype(int64, x) then return "i" .. tostring(x):sub(1, -3) end
  if istype(uint64, x) then return "u" .. tostring(x):sub(1, -4) end
  return object_text(x, seen)
end

-- The text of a value whose tables have scalars as keys.
function M.text(x) return value_text(x, { count = 0 }) end

return M
