-- Columns: what tarn.array, tarn.bits, tarn.strings, tarn.nullable and tarn.pooled have in common. A column is a view (cdata) of blocks of
-- the pool; tables, Arrow files and serializers use nothing else of it than this:
--
--   #c, c[i]                 elements 1..#c; nil where one is missing, and outside
--   pairs(c), ipairs(c)      over 1..#c, missing ones too (with the value nil)
--   tostring(c)              a short preview
--   c.kind                   "array", "bits", "strings", "nullable", "pooled"
--   c:valid(i)               is there a value? (false where it is missing, and outside)
--   c:valid_count()          how many there are
--   c:validity()             bits that share c's bytes, true where there is a value; nil when none can be missing
--   c:copy()                 a copy, writable if the kind is (strings and pooled never are)
--   c:slice(i, j)            elements i..j (default #c) on the same bytes
--   c:take(rows)             a new column of c's elements at rows (an array of numbers, or a list): c[rows[1]], c[rows[2]]...
--   c:nbytes()               the bytes of its elements (offsets, bits and distinct values counted in): tarn.approx_size(c)
--   c:totable()              all elements in a Lua table, with n where some may be missing
--
-- and, on bytes, without making Lua strings:
--
--   c:eq(i, value)           is element i that? (nil: is it missing, or outside?)
--   c:hash(i)                a number; equal elements have equal ones, whatever kinds of column they are in; nil where missing
--   c:compare(i, j, other)   -1, 0 or 1: element i beside element j of other (default c; of the same kind)
--   c:order(i, value)        -1, 0 or 1: element i beside a Lua value
--   c:find(value, from)      the first index from `from` (default 1) on, or nil
--   c:lower(value, i, j)     in a column that is sorted between i and j (default 1, #c): the first index whose element is not below value,
--                            else j + 1
--   c:upper(value, i, j)     the same, of the first element above value
--   c:sorted()               are they in order?
--   c:argsort(rows, down)    rows (default 1..#c) in the order of their elements, stable: an array of uint32_t. So a composite key is
--                            sorted by its last column first: a:argsort(b:argsort()). down: largest first
--   c:group(codes)           -> codes, first: an array of uint32_t with the number of each row's group, from 1 in order of appearance;
--                            and one with the first row of each group. codes (from another column's group): groups within those groups
--
-- The order: numbers by value, NaN behind them; strings by bytes; false, true; missing ones last, upwards and downwards. Arrays of structs
-- have none. argsort, group and take know rows up to 2^32 - 1.
--
-- The bytes themselves, and columns made of bytes that are there already (`take(from)` gives a block that is mapped for the new view, once
-- for each block in the order named; blocks too small for their elements are refused with a text):
--
--   array      c:ptr(), c.ctype, c.shape               array._view(element type, n, shape, offset_bytes, take, from)
--   bits       c:ptr() -> bytes, bit of element 1      bits._view(n, offset_bits, take, from)
--   strings    c:buffers() -> offsets, their width     strings._view(n, width, offsets_at, blob_at, blob_size, validity, take,
--              (4, 8), blob, bytes of it                 from) (take: offsets, blob; validity: bits or nil)
--   nullable   c.values, c:validity()                  nullable(values, bits)
--   pooled     c.codes (from 0), c.values, :validity() pooled._view(codes, values, validity)
local block = require "tarn.block"
local errors = require "tarn.errors"
local ffi = require "ffi"
local kernel = require "tarn.kernel"
local typeof, metatype = ffi.typeof, ffi.metatype -- busted replaces the FFI's by ones that remember their first argument only

local ROWS_MAX = 4294967295

local column = {
  ROWS_MAX = ROWS_MAX,
  members = {}, -- kind -> {methods, fields}: what a column of that kind is read with
}
local kinds = {} -- ctype id of a view -> kind

local function argument_error(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end
column.argument_error = argument_error

---A value as an error shows it.
function column.describe(x)
  if type(x) == "string" then return ("'%s'"):format(#x > 40 and x:sub(1, 37) .. "..." or x) end
  return type(x) == "number" and ("%.14g"):format(x) or type(x) == "cdata" and tostring(typeof(x)) or tostring(x)
end
local describe = column.describe

---The kind of column that x is; nil if it is none.
function column.kind(x) return type(x) == "cdata" and kinds[tonumber(typeof(x))] or nil end

---Raise an ArgumentError unless x is a column of that kind (nil: of any). who: "bits:count".
function column.check(x, kind, who)
  local found = column.kind(x)
  if not found or kind and found ~= kind then argument_error("%s: call it with a colon, on a column", who) end
end

local int64_t, uint64_t = typeof "int64_t", typeof "uint64_t"

function column.is_int64(x) return ffi.istype(int64_t, x) or ffi.istype(uint64_t, x) end

---For writing: i as a whole number within 1..n.
function column.index(i, n, what)
  if type(i) == "cdata" and column.is_int64(i) then i = tonumber(i) end
  if type(i) ~= "number" or i % 1 ~= 0 then argument_error("%s index is a whole number, not %s", what, describe(i)) end
  if i < 1 or i > n then argument_error("index %.14g is outside 1..%.14g", i, n) end
  return i
end

---For slices: j, the last by default; both checked.
function column.range(i, j, n, who)
  if j == nil then j = n end
  if type(i) ~= "number" or type(j) ~= "number" or i % 1 ~= 0 or j % 1 ~= 0 or i < 1 or j > n or j < i - 1 then
    argument_error("%s: %s to %s is not within 1..%.14g", who, describe(i), describe(j), n)
  end
  return i, j
end

---A number of elements, checked.
function column.count(n, who)
  if type(n) ~= "number" or not (n >= 0 and n <= 2 ^ 52 and n % 1 == 0) then
    argument_error("%s: the number of elements is %s", who, describe(n))
  end
  return n
end

---Is x a whole number of at least 0? For what was read.
function column.is_whole(x) return type(x) == "number" and x >= 0 and x <= 2 ^ 52 and x % 1 == 0 end

---For serializers: what was read is no such column. Raises Corrupt; an error object that is one already stays as it is.
function column.corrupt(kind, why)
  if type(why) == "table" then error(why, 0) end
  error(errors.new("Corrupt", ("%s: %s"):format(kind, tostring(why))), 0)
end

-- The bytes that n bits take.
function column.bit_bytes(n) return math.ceil(n / 8) end

-- ---- rows ----

local function new_rows(n) return require("tarn.array").new("uint32_t", n) end

local function all_rows(n)
  local rows = new_rows(n)
  local p = rows:ptr()
  for k = 0, n - 1 do p[k] = k + 1 end
  return rows
end

local function check_row_count(n, who)
  if n > ROWS_MAX then argument_error("%s: %.14g rows are more than 2^32 - 1", who, n) end
end

-- Rows as an array of uint32_t, each within 1..n.
local function rows_of(rows, n, who)
  local is_array = column.kind(rows) == "array"
  if is_array and rows.ctype == "uint32_t" then
    local bad = tonumber(kernel.tarn_column_rows_check(rows:ptr(), #rows, n))
    if bad < #rows then argument_error("%s: row %.14g is outside 1..%.14g", who, rows[bad + 1], n) end
    return rows
  end
  if not is_array and type(rows) ~= "table" then argument_error("%s: an array or a list of rows is needed, not %s", who, describe(rows)) end
  local list = new_rows(#rows)
  for k = 1, #rows do
    local row = tonumber(rows[k])
    if not (row and row >= 1 and row <= n and row % 1 == 0) then
      argument_error("%s: row %s is outside 1..%.14g", who, describe(rows[k]), n)
    end
    list[k] = row
  end
  return list
end

-- ---- what every kind does alike ----

-- A kind gives the rest, and, for these: _gather(rows), _keys(keys, rows, count), where equal keys may hide a difference _ties(keys, rows,
-- more_rows, count, down), and where there is a quicker way _group_keys(keys) -> text or nil, _search(value, from, to, above) -> place (as
-- in runtime/bind/column.h) or nil. _dense: none can be missing.
local common = {}

---All elements in a Lua table, with n where some may be missing.
---@return table list
function common:totable()
  column.check(self, nil, "column:totable")
  local list = { n = not self._dense and self.n or nil }
  for i = 1, self.n do list[i] = self[i] end
  return list
end

---Is there a value? False where it is missing, and outside.
---@param i integer
---@return boolean valid
function common:valid(i) return self[i] ~= nil end

---Bits that share this column's bytes, true where there is a value; nil when none can be missing.
---@return tarn.Bits|nil bits
function common.validity() return nil end

---How many elements are not missing.
---@return integer count
function common:valid_count() return self.n end

---A new column of the elements at those rows.
---@param rows integer[]|tarn.Array
---@return tarn.Column column of the same kind
function common:take(rows)
  column.check(self, nil, "column:take")
  return self:_gather(rows_of(rows, self.n, "column:take"))
end

---Element i beside element j of another column of the same kind: -1, 0 or 1. Missing ones are last.
---@param i integer
---@param j integer
---@param other? tarn.Column Default: this one
---@return integer order
function common:compare(i, j, other)
  if other == nil then other = self end
  return self:order(i, other[j])
end

---Is element i that value? nil: is it missing, or outside?
---@param i integer
---@param value any
---@return boolean equal
function common:eq(i, value) return self:order(i, value) == 0 end

---The first index of a value; nil looks for a missing one.
---@param value any
---@param from? integer Default: 1
---@return integer|nil index
function common:find(value, from)
  column.check(self, nil, "column:find")
  for i = from or 1, self.n do
    if self:order(i, value) == 0 then return i end
  end
end

-- The first index in i..j whose element is not below value, or with `above` is above it.
local function bisect(c, value, i, j, above)
  i, j = column.range(i or 1, j, c.n, "column:lower")
  j = j + 1
  local found = c._search and c:_search(value, i - 1, j - 1, above)
  if found then return found + 1 end
  local limit = above and 0 or -1
  while i < j do
    local middle = math.floor((i + j) / 2)
    if c:order(middle, value) > limit then j = middle else i = middle + 1 end
  end
  return i
end

---In a column that is sorted between i and j: the first index whose element is not below value, else j + 1.
---@param value any
---@param i? integer Default: 1
---@param j? integer Default: the last
---@return integer index
function common:lower(value, i, j) return bisect(self, value, i, j, false) end

---The same, of the first element above value.
---@param value any
---@param i? integer Default: 1
---@param j? integer Default: the last
---@return integer index
function common:upper(value, i, j) return bisect(self, value, i, j, true) end

---Are the elements in order?
---@return boolean sorted
function common:sorted()
  column.check(self, nil, "column:sorted")
  for i = 1, self.n - 1 do
    if self:compare(i, i + 1) > 0 then return false end
  end
  return true
end

---Rows in the order of their elements, stable. A composite key is sorted by its last column first: a:argsort(b:argsort()).
---@param rows? integer[]|tarn.Array Default: all
---@param down? boolean the largest first; missing ones stay last
---@return tarn.Array rows of uint32_t
function common:argsort(rows, down)
  column.check(self, nil, "column:argsort")
  check_row_count(self.n, "column:argsort")
  rows = rows and rows_of(rows, self.n, "column:argsort"):copy() or all_rows(self.n)
  local n = #rows
  local keys, more_keys, more_rows = block.scratch(n * 8), block.scratch(n * 8), block.scratch(n * 4)
  local validity = self:validity()
  local p, k, more = rows:ptr(), ffi.cast("uint64_t *", keys.block.data), ffi.cast("uint32_t *", more_rows.block.data)
  local ok, problem = pcall(self._keys, self, k, p, n)
  if ok then
    kernel.tarn_column_sort(k, p, ffi.cast("uint64_t *", more_keys.block.data), more, n, down and true or false)
    if self._ties then self:_ties(k, p, more, n, down and true or false) end
    if validity then kernel.tarn_column_missing_last(p, more, n, validity.p, validity.at) end
  end
  block.drop(keys)
  block.drop(more_keys)
  block.drop(more_rows)
  if not ok then error(problem, 0) end
  return rows
end

local function capacity_for(n)
  local capacity = 16
  while capacity < 2 * n do capacity = capacity * 2 end
  return capacity
end

local function group_keys(c, keys)
  if c._group_keys then return c:_group_keys(keys) end
  c:_keys(keys, nil, c.n)
end

-- codes, first rows, and the number of the group of the missing ones, 0 when there is none.
function column.group(c, outer)
  local n = c.n
  check_row_count(n, "column:group")
  if outer and (column.kind(outer) ~= "array" or outer.ctype ~= "uint32_t" or #outer ~= n) then
    argument_error("column:group: the outer groups are an array of uint32_t, one number for each row")
  end
  local g = ffi.new("tarn_group_t")
  g.n, g.capacity = n, capacity_for(n)
  local codes, first = new_rows(n), block.scratch(n * 4)
  local keys, slots = block.scratch(n * 8), block.scratch(tonumber(g.capacity) * 4)
  local validity, missing = c:validity(), ffi.new("uint32_t[1]")
  local k = ffi.cast("uint64_t *", keys.block.data)
  local ok, text = pcall(group_keys, c, k)
  local count = 0
  if ok then
    g.keys, g.text, g.outer = k, text, outer and outer:ptr()
    if validity then g.valid, g.valid_at = validity.p, validity.at end
    g.slots = ffi.cast("uint32_t *", slots.block.data)
    count = tonumber(kernel.tarn_column_group(g, codes:ptr(), ffi.cast("uint32_t *", first.block.data), missing))
  end
  block.drop(keys)
  block.drop(slots)
  local rows
  if ok then
    rows = new_rows(count)
    ffi.copy(rows:ptr(), first.block.data, count * 4)
  end
  block.drop(first)
  if not ok then error(text, 0) end
  return codes, rows, missing[0]
end

---Number the groups of equal elements, from 1 in order of appearance.
---@param codes? tarn.Array from another column's group: groups within those groups
---@return tarn.Array codes the number of each row's group, of uint32_t
---@return tarn.Array first the first row of each group
function common:group(codes)
  column.check(self, nil, "column:group")
  local groups, first = column.group(self, codes)
  return groups, first
end

-- ---- making a kind ----

local function next_element(c, i)
  i = i + 1
  if i <= c.n then return i, c[i] end
end

local function iterate(c) return next_element, c, 0 end

local function length(c) return c.n end

local function show(v)
  if type(v) == "string" then return ("%q"):format(#v > 20 and v:sub(1, 17) .. "..." or v) end
  if type(v) == "cdata" and not column.is_int64(v) then return "{...}" end
  return tostring(v)
end

local function preview(c)
  local shown, parts = math.min(c.n, 8), {}
  for i = 1, shown do parts[i] = show(c[i]) end
  if shown < c.n then parts[#parts + 1] = "..." end
  return ("%s: %s"):format(c:_title(), table.concat(parts, ", "))
end

---Reading a column with what is no number: a method, a field, a 64-bit index, or nothing.
---@param fields table name -> function(column)
function column.other_reader(kind, methods, fields)
  column.members[kind] = { methods = methods, fields = fields }
  return function(self, key)
    local method = methods[key]
    if method then return method end
    if key == "kind" then return kind end
    local field = fields[key]
    if field then return field(self) end
    if type(key) == "cdata" and column.is_int64(key) then return self[tonumber(key)] end
  end
end

column.method_names = {} -- name -> true, of all kinds: what the prompt completes

---The methods of a kind: its own, and those that every kind has.
function column.methods(own)
  for name, method in pairs(common) do own[name] = own[name] or method end
  for name in pairs(own) do column.method_names[name] = true end
  return own
end

---Make a struct (see runtime/bind/view.h for how it begins) that has n a column of that kind.
function column.define(ctype, kind, read, write)
  metatype(ctype, {
    __index = read, __newindex = write, __len = length, __ipairs = iterate, __pairs = iterate, __tostring = preview,
    __gc = block.C.tarn_view_drop,
  })
  kinds[tonumber(ctype)] = kind
end

return column
