-- Columns: building and reading, in ns of this process's time an element, beside a plain Lua table and a loop over raw memory. Median of
-- several rounds; each round measures every case once, so that a busy moment hits all alike. `tarn bench/columns.lua pooled`: those alone.
local ffi = require "ffi"
local median = require("bench.lib.stats").median

local N, ROUNDS = 1000000, 7

local texts, few, missing = {}, {}, { n = N }
for i = 1, N do
  texts[i] = ("text %d"):format(i * 7919 % N)
  few[i] = ("group %d"):format(i % 100)
  if i % 10 ~= 0 then missing[i] = i end
end
local numbers = tarn.array("double", N)
for i = 1, N do numbers[i] = i * 7919 % N end
local raw = ffi.new("double[?]", N)
local bits = tarn.bits(N)
for i = 1, N do bits[i] = i % 3 == 0 end
local nullable = tarn.nullable("double", missing)
local strings, pooled = tarn.strings(texts), tarn.pooled(few)
local few_strings = tarn.strings(few)
local structs = tarn.array("struct { double x, y; int32_t k; }", N)
local int64s = tarn.array("int64_t", numbers)
local grid = tarn.array("float", { shape = { 1000, 1000 } })
local rows = strings:argsort()

local function sum(c)
  local total = 0
  for i = 1, #c do total = total + c[i] end
  return total
end

local function count_present(c)
  local count = 0
  for i = 1, #c do
    if c[i] then count = count + 1 end
  end
  return count
end

local cases = {} -- {name, fn, elements}

local function case(name, fn, elements) cases[#cases + 1] = { name = name, fn = fn, elements = elements or N, ns = {} } end

case("raw double[]: sum", function()
  local total = 0
  for i = 0, N - 1 do total = total + raw[i] end
  return total
end)
case("table of numbers: sum", function()
  local total = 0
  for i = 1, N do total = total + (missing[i] or 0) end
  return total
end)
case("array double: sum", function() return sum(numbers) end)
case("array double: build", function()
  local a = tarn.array("double", N)
  for i = 1, N do a[i] = i end
end)
case("array double: from a list", function() return tarn.array("double", missing.list) end)
case("array int64_t: count", function() return count_present(int64s) end)
case("array float 2-d: sum by :at(i, j)", function()
  local total = 0
  for i = 1, 1000 do
    for j = 1, 1000 do total = total + grid:at(i, j) end
  end
  return total
end)
case("array struct: sum of a field", function()
  local total = 0
  for i = 1, N do total = total + structs[i].x end
  return total
end)
case("array struct: write a field", function()
  for i = 1, N do structs[i].k = i end
end)
case("bits: read", function() return count_present(bits) end)
case("bits: write", function()
  for i = 1, N do bits[i] = i % 3 == 0 end
end)
case("bits: count", function() return bits:count() end)
case("nullable double: sum", function()
  local total = 0
  for i = 1, N do
    local v = nullable[i]
    if v then total = total + v end
  end
  return total
end)
case("nullable double: write", function()
  for i = 1, N do nullable[i] = i % 10 ~= 0 and i or nil end
end)
case("strings: build from a list", function() return tarn.strings(texts) end)
case("strings: build by a builder", function()
  local b = tarn.strings.builder()
  for i = 1, N do b:add(texts[i]) end
  return b:finish()
end)
local kept = {}
local function keep(c)
  for i = 1, #c do kept[i] = c[i] end
  return kept
end
case("strings: read (makes strings)", function() keep(strings) end)
case("strings: read, 100 distinct", function() keep(few_strings) end)
case("strings: eq", function()
  local count = 0
  for i = 1, N do
    if strings:eq(i, "text 77") then count = count + 1 end
  end
  return count
end)
case("strings: hash", function()
  local total = 0
  for i = 1, N do total = total + strings:hash(i) end
  return total
end)
case("strings: find (the last)", function() return strings:find(texts[N]) end)
case("pooled: build from a list", function() return tarn.pooled(few) end)
case("pooled: build from strings", function() return tarn.pooled(few_strings) end)
case("pooled: read", function() keep(pooled) end)
case("pooled: eq", function()
  local count = 0
  for i = 1, N do
    if pooled:eq(i, "group 7") then count = count + 1 end
  end
  return count
end)
case("array double: argsort", function() return numbers:argsort() end)
case("array double: sort", function() return numbers:copy():sort() end)
case("strings: argsort", function() return strings:argsort() end)
case("strings: group", function() return strings:group() end)
case("strings: group, 100 distinct", function() return few_strings:group() end)
case("strings: take", function() return strings:take(rows) end)
case("array double: take", function() return numbers:take(rows) end)

local only = arg and arg[1]
missing.list = numbers:totable()
for _ = 1, ROUNDS do
  for _, c in ipairs(cases) do
    if not only or c.name:find(only, 1, true) then
      collectgarbage()
      c.fn() -- so that the memory has been touched before
      local start = os.clock()
      c.fn()
      c.ns[#c.ns + 1] = (os.clock() - start) / c.elements * 1e9
    end
  end
end

print(("columns of %d elements, ns an element, median of %d"):format(N, ROUNDS))
for _, c in ipairs(cases) do
  if c.ns[1] then print(("%-36s %8.2f"):format(c.name, median(c.ns))) end
end
