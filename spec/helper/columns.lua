-- Columns of every kind with random elements, beside plain Lua lists of the same: for specs that hold one against the other.
local tarn = require "tarn"

local M = {}

-- A seed that a failure names, so that it can be run again: TARN_SEED.
M.seed = tonumber(os.getenv("TARN_SEED")) or os.time()

local words = { "", "a", "b", "ab", "abc", "abcdefgh", "abcdefghi", "abcdefghj", "a\0", "a\0b", "\xff\xfe", ("long "):rep(40),
  ("long "):rep(40) .. "x" }

local function text() return words[math.random(#words)] .. (math.random(3) == 1 and math.random(20) or "") end

-- Each: {name, make(list) -> column, value() -> a random element, missing (may some be?), ordered}
M.kinds = {}

local function kind(name, value, missing, make)
  M.kinds[#M.kinds + 1] = { name = name, value = value, missing = missing, make = make }
end

local function integer(low, high)
  return function() return math.random() < 0.5 and math.random(-3, 3) % (high + 1) or math.random(low, high) end
end

local function real()
  local pick = math.random(12)
  if pick == 1 then return 0 / 0 end
  if pick == 2 then return (math.random(2) * 2 - 3) / 0 end
  if pick == 3 then return -0.0 end
  return math.random(-5, 5) / 2
end

local numbers = {
  int8_t = integer(-128, 127), uint8_t = integer(0, 255), int16_t = integer(-32768, 32767), uint16_t = integer(0, 65535),
  int32_t = integer(-2 ^ 31, 2 ^ 31 - 1), uint32_t = integer(0, 2 ^ 31 - 1), double = real, float = real,
  bool = function() return math.random(2) == 1 end,
}

for name, value in pairs(numbers) do
  kind(name .. " array", value, false, function(list) return tarn.array(name, list) end)
  kind("nullable " .. name, value, true, function(list) return tarn.nullable(name, list) end)
end
kind("int64_t array", function() return math.random(-4, 4) * 0x100000000000001LL end, false, function(list)
  return tarn.array("int64_t", list)
end)
kind("bits", numbers.bool, false, tarn.bits)
kind("nullable bits", numbers.bool, true, function(list) return tarn.nullable("bits", list) end)
kind("strings", text, true, tarn.strings)
kind("pooled strings", text, true, tarn.pooled)
kind("pooled of strings", text, true, function(list) return tarn.pooled(tarn.strings(list)) end)
kind("pooled numbers", real, true, tarn.pooled)
kind("pooled of nullable", numbers.int16_t, true, function(list) return tarn.pooled(tarn.nullable("int16_t", list)) end)

-- A list of n elements of that kind, with n.
function M.list(of, n)
  local list = { n = n }
  for i = 1, n do
    if not (of.missing and math.random(5) == 1) then list[i] = of.value() end
  end
  return list
end

-- Are two elements the same one: NaN is, zeros are.
function M.same(a, b) return a == b or a ~= a and b ~= b end

-- The order that column.lua states.
function M.order(a, b)
  if a == nil or b == nil then return a == b and 0 or a == nil and 1 or -1 end
  if type(a) == "boolean" then a, b = a and 1 or 0, b and 1 or 0 end
  if a ~= a or b ~= b then return a ~= a and (b ~= b and 0 or 1) or -1 end
  return a < b and -1 or a > b and 1 or 0
end

local function wrong(fmt, ...) error(fmt:format(...), 3) end

-- Raises where the column is not the list.
function M.check(column, list)
  if #column ~= list.n then wrong("%d elements, not %d", #column, list.n) end
  for i = 1, list.n do
    local v = column[i]
    if not M.same(v, list[i]) then wrong("element %d is %s, not %s", i, tostring(v), tostring(list[i])) end
    if column:valid(i) ~= (list[i] ~= nil) then wrong("element %d: valid says %s", i, tostring(column:valid(i))) end
  end
  if column[0] ~= nil or column[list.n + 1] ~= nil or column[1.5] ~= nil then wrong("elements outside of the column") end
end

-- A part of a list, as slice gives it.
function M.slice(list, i, j)
  local part = { n = j - i + 1 }
  for k = i, j do part[k - i + 1] = list[k] end
  return part
end

-- The image of a value as a foreign or hostile writer may make it: what the serializer of that name would have written, in order. A part
-- is a plain value, a column, or {block = bytes}.
function M.forge(name, parts)
  local serializer = require "tarn.serializer"
  local kept = serializer.load(name).spec
  local forged = setmetatable({}, {})
  serializer {
    name = name, version = kept.version, type = getmetatable(forged), mmread = kept.mmread,
    mmwrite = function(out)
      for i = 1, parts.n or #parts do
        local part = parts[i]
        if type(part) == "table" and part.block then out:block(part.block) else out:value(part) end
      end
    end,
  }
  local ok, image = pcall(require("tarn.core").encode, forged)
  serializer(kept)
  if not ok then error(image, 0) end
  return image
end

return M
