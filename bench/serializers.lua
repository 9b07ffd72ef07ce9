-- Writing and reading values, beside lua-mpack, lua-cjson and LuaJIT's string.buffer in the same process, and Python's pickle. What tarn
-- stores in blocks is not parsed when it is opened; plain tables are, as by the others.
local buffer = require "string.buffer"
local case = require "bench.lib.case"
local cjson = require "cjson"
local ffi = require "ffi"
local mpack = require "mpack"
local peer = require "bench.lib.peer"
local tarn = require "tarn"

ffi.cdef "void *malloc(size_t); void free(void *);"

local PYTHON = peer.here("python3") and "bench/lib/python.py"
local HASTE = 1 / 1.5 -- no worse than by half
local ROUNDS = 3      -- of up to five sides, each after a full collection

-- Milliseconds of fn(...), after a collection; what it gave is checked outside of that time.
local function time(check, fn, ...)
  collectgarbage()
  local start = peer.now()
  local result = fn(...)
  local ms = (peer.now() - start) * 1e3
  if not check(result) then error("a wrong result", 0) end
  return ms
end

local pack, unpacker = mpack.Packer(), mpack.Unpacker()
local function unpack_all(s) return (unpacker(s)) end

local others = {
  { "lua-mpack", pack, unpack_all },
  { "string.buffer", buffer.encode, buffer.decode },
  { "lua-cjson", cjson.encode, cjson.decode },
}

local function pickle(what, direction)
  return PYTHON and function() return peer.figure { "python3", PYTHON, what, direction } end
end

local function is_text(s) return type(s) == "string" and #s > 1000 end

-- Rows for a value of plain tables: writing and reading. aims: {write = {name = ratio}, read = {...}}.
local function plain(c, name, what, value, check, aims)
  local ours = tarn.encode(value)
  local writers, readers = {}, {}
  for i, other in ipairs(others) do
    local text = other[2](value)
    writers[i] = { other[1], function() return time(is_text, other[2], value) end, aim = aims.write[other[1]] }
    readers[i] = { other[1], function() return time(check, other[3], text) end, aim = aims.read[other[1]] }
  end
  writers[#writers + 1] = { "pickle", pickle(what, "write") }
  readers[#readers + 1] = { "pickle", pickle(what, "read") }
  c:compare { name = name .. ", write", unit = "ms", less = true, rounds = ROUNDS, theirs = writers,
    ours = function() return time(is_text, tarn.encode, value) end }
  c:compare { name = name .. ", read", unit = "ms", less = true, rounds = ROUNDS, theirs = readers,
    ours = function() return time(check, tarn.decode, ours) end }
end

local PLAIN_AIMS = { ["lua-mpack"] = 2, ["string.buffer"] = HASTE }

local function plain_tables(c)
  local integers, records = {}, {}
  for i = 1, 1e6 do integers[i] = i % 1000 end
  for i = 1, 1e5 do records[i] = { id = i, name = "name " .. i, x = i * 0.5, ok = i % 2 == 0, tag = "t" .. i % 100 } end
  local aims = { write = PLAIN_AIMS, read = PLAIN_AIMS }
  plain(c, "1e6 small integers", "integers", integers, function(t) return #t == 1e6 and t[1e6 - 1] == 999 end, aims)
  plain(c, "1e5 records of 5 fields", "records", records, function(t) return #t == 1e5 and t[1e5].name == "name 100000" end, aims)
end

---------------------------------------------------------------------------------------------------- opening

-- Microseconds to open, the median of many times in one round: the file is in the page cache, its blocks are mapped. What was opened
-- the last time is collected before.
local function open_us(open, check)
  local times = {}
  for i = 1, 101 do
    collectgarbage()
    collectgarbage()
    tarn.sleep(0)
    local start = peer.now()
    local x = open()
    times[i] = (peer.now() - start) * 1e6
    if not check(x) then error("a wrong result", 0) end
  end
  table.sort(times)
  return times[51]
end

-- What make() gives, opened from a saved file, and from the disk of the pool that it is in. Nothing else is in memory, which the
-- collections before each opening would have to go through.
local function opening(c, name, make, check)
  local path, value = os.tmpname(), make()
  tarn.save(path, value)
  local ref = tarn.poolset { value }
  tarn.movetodisk(ref)
  value = nil -- luacheck: ignore 311
  c:compare { name = name .. ", open the file", unit = "us", less = true, rounds = ROUNDS, limit = 50,
    ours = function() return open_us(function() return tarn.load(path) end, check) end }
  os.remove(path)
  c:compare { name = name .. ", open the spilled object", unit = "us", less = true, rounds = ROUNDS, limit = 50,
    ours = function()
      return open_us(function() return tarn.poolget(ref) end, function(x) return check(x[1]) end)
    end }
  tarn.pooldelete(ref)
end

---------------------------------------------------------------------------------------------------- strings

local function list_of(n)
  local list = {}
  for i = 1, n do list[i] = "string " .. i end
  return list
end

local function read_all(column)
  local bytes = 0
  for _, s in ipairs(column) do bytes = bytes + #s end
  return bytes
end

local function read_list(decode, text)
  local bytes = 0
  for _, s in ipairs(decode(text)) do bytes = bytes + #s end
  return bytes
end

local function short_strings(c)
  local list = list_of(1e6)
  local column, total = tarn.strings(list), 0
  for _, s in ipairs(list) do total = total + #s end
  local image = tarn.encode(column)
  local function all(bytes) return bytes == total end
  local writers, makers, readers = {}, {}, {}
  for i, other in ipairs(others) do
    local text = other[2](list)
    local name = other[1]
    writers[i] = { name, function() return time(is_text, other[2], list) end, aim = name == "lua-mpack" and 5 or nil }
    makers[i] = { name, function() return time(is_text, other[2], list) end }
    readers[i] = { name, function() return time(all, read_list, other[3], text) end, aim = name == "lua-mpack" and 1.5 or nil }
  end
  writers[#writers + 1] = { "pickle", pickle("strings", "write") }
  readers[#readers + 1] = { "pickle", pickle("strings", "read") }
  c:compare { name = "1e6 short strings, write the column", unit = "ms", less = true, rounds = ROUNDS, theirs = writers,
    ours = function() return time(is_text, tarn.encode, column) end }
  c:compare { name = "1e6 short strings, make the column and write it", unit = "ms", less = true, rounds = ROUNDS, theirs = makers,
    ours = function() return time(is_text, function() return tarn.encode(tarn.strings(list)) end) end }
  c:compare { name = "1e6 short strings, open and read all", unit = "ms", less = true, rounds = ROUNDS, theirs = readers,
    ours = function() return time(all, function() return read_all(tarn.decode(image)) end) end }
end

---------------------------------------------------------------------------------------------------- pooled and nullable columns

local function sum_of(column)
  local sum = 0
  for i = 1, #column do sum = sum + (column[i] or 0) end
  return sum
end

local function count_of(column, text)
  local count = 0
  for i = 1, #column do
    if column[i] == text then count = count + 1 end
  end
  return count
end

-- A column beside the same values as a list, where a missing one is false: writing, opening, and opening and reading all by fn(column).
local function column_rows(c, name, column, list, fn)
  local image, expected = tarn.encode(column), fn(column)
  local function same(x) return x == expected end
  local writers, readers = {}, {}
  for i, other in ipairs(others) do
    local text = other[2](list)
    writers[i] = { other[1], function() return time(is_text, other[2], list) end }
    readers[i] = { other[1], function() return time(same, function() return fn(other[3](text)) end) end }
  end
  c:compare { name = name .. ", write the column", unit = "ms", less = true, rounds = ROUNDS, theirs = writers,
    ours = function() return time(is_text, tarn.encode, column) end }
  c:compare { name = name .. ", open and read all", unit = "ms", less = true, rounds = ROUNDS, theirs = readers,
    ours = function() return time(same, function() return fn(tarn.decode(image)) end) end }
end

local ROWS = 1e6

-- A column, and the same as a list.
local function pooled_names()
  local names = {}
  for i = 1, ROWS do names[i] = "category " .. i % 100 end
  return tarn.pooled(names), names
end

local function nullable_doubles()
  local values, there, list = tarn.array("double", ROWS), tarn.bits(ROWS), {}
  for i = 1, ROWS do
    there[i] = i % 10 ~= 0
    values[i] = i
    list[i] = i % 10 ~= 0 and i
  end
  return tarn.nullable(values, there), list
end

local POOLED, NULLABLE = "1e6 pooled strings, 100 distinct", "1e6 nullable doubles, a tenth missing"

local function pooled_and_nullable(c)
  local column, list = pooled_names()
  column_rows(c, POOLED, column, list, function(x) return count_of(x, "category 7") end)
  column, list = nullable_doubles()
  column_rows(c, NULLABLE, column, list, sum_of)
end

---------------------------------------------------------------------------------------------------- a table

-- Microseconds for each of many look-ups in no order; every one is checked.
local function lookup_us(n, name_of, id_of)
  local count, at = 2e4, 1
  local start = peer.now()
  for _ = 1, count do
    at = (at * 48271) % 2147483647
    local i = at % n + 1
    if id_of(name_of(i)) ~= i then error("a wrong row", 0) end
  end
  return (peer.now() - start) / count * 1e6
end

-- A table of n rows, its names in a list, and the rows by name.
local function named_rows(n)
  local ids, names, plain_rows = tarn.array("int32_t", n), {}, {}
  for i = 1, n do
    names[i] = ("name %07d"):format(i)
    ids[i] = i
    plain_rows[names[i]] = i
  end
  return tarn.table { columns = { { "name", tarn.strings(names) }, { "id", ids } }, key = { "name" } }, names, plain_rows
end

local function table_lookup(c)
  local n = 1e6
  local t, names, plain_rows = named_rows(n)
  local function name_of(i) return names[i] end
  local function measure(id_of)
    return function() return lookup_us(n, name_of, id_of) end
  end
  c:compare { name = "a table of 1e6 rows, lookup by a string key", unit = "us", less = true, rounds = ROUNDS,
    ours = measure(function(name) return t:lookup(name).id end),
    theirs = { { "a Lua table in memory", measure(function(name) return plain_rows[name] end) } } }
end

---------------------------------------------------------------------------------------------------- doubles

local function quarters(n)
  local a = tarn.array("double", n)
  local p = a:ptr()
  for i = 0, n - 1 do p[i] = i + 0.25 end
  return a
end

local function doubles(c)
  local n = 1e7
  local a = quarters(n)
  local from, used = ffi.new("double[?]", n), ffi.new("double[?]", n)
  ffi.copy(from, a:ptr(), 8 * n)
  local function same(x) return x[n] == n - 0.75 end
  local function copied(to)
    ffi.copy(to, from, 8 * n)
    return { [n] = to[n - 1] }
  end
  local function copied_to_new()
    local to = ffi.cast("double *", ffi.C.malloc(8 * n))
    local result = copied(to)
    ffi.C.free(to)
    return result
  end
  c:compare { name = "1e7 doubles, write into blocks", unit = "ms", less = true, rounds = ROUNDS,
    theirs = { { "memcpy to new memory", function() return time(same, copied_to_new) end, aim = 0.8 },
      { "memcpy to memory in use", function() return time(same, copied, used) end } },
    ours = function() return time(same, a.copy, a) end }
  local list = {}
  for i = 1, 1e6 do list[i] = i + 0.25 end
  local function whole(t) return #t == 1e6 and t[1e6] == 1e6 + 0.25 end
  plain(c, "1e6 doubles in a plain table", "doubles", list, whole, { write = {}, read = {} })
end

---------------------------------------------------------------------------------------------------- what opening costs

local function short_string_column(n)
  local builder = tarn.strings.builder()
  for i = 1, n do builder:add("string " .. i % 1000) end
  return builder:finish()
end

local function first(make, ...)
  local arguments = { ... }
  return function() return (make(unpack(arguments))) end
end

local function openings(c)
  for _, n in ipairs { 1e4, 1e6, 1e7 } do
    opening(c, ("%g short strings"):format(n), first(short_string_column, n), function(x) return #x == n and x[1] == "string 1" end)
  end
  local function is_whole(x) return #x == ROWS end
  opening(c, POOLED, first(pooled_names), is_whole)
  opening(c, NULLABLE, first(nullable_doubles), is_whole)
  opening(c, "a table of 1e6 rows", first(named_rows, 1e6), function(x) return x:lookup("name 0000007").id == 7 end)
  opening(c, "1e7 doubles", first(quarters, 1e7), function(x) return x[1e7] == 1e7 - 0.75 end)
end

case.run("serializers", "writing and reading values, in one process", function(c)
  tarn.max_memsize("1GiB")
  openings(c)
  plain_tables(c)
  short_strings(c)
  pooled_and_nullable(c)
  table_lookup(c)
  doubles(c)
end)
