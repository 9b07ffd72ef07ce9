-- Tables: named columns of one length, rows in the order of a key. A table holds its columns as they are, shared and not copied; sorting
-- them by the key, and whatever picks rows, makes new ones. So a table never changes, though who holds a writable column can write it: not
-- one of the key.
--
--   t = tarn.table{columns = {{"id", array}, {"name", strings}}, key = {"id"}}
--   #t, t[i], ipairs(t)              rows; row.name is a value, row() a plain table of them
--   t.columns, t.key                 as given to tarn.table
--   t.name, t:column("name")         a column (the latter also where its name is that of something else here)
--   t:lookup(k1, k2...)              the first row with that key, and its number
--   t:range(lo, hi), t:slice(i, j)   rows as a table on the same bytes
--   t:select(names or predicate), t:sort(by), t:groupreduce(by, what), t:join(other, {on = names})
--
-- Rows are made as they are asked for: in a compiled loop they cost nothing, and may be kept.
local array = require "tarn.array"
local bits = require "tarn.bits"
local column = require "tarn.column"
local errors = require "tarn.errors"
local ffi = require "ffi"
local nullable = require "tarn.nullable"
local options = require "tarn.options"
local own_code = require "tarn.own_code"
local serializer = require "tarn.serializer"
local strings = require "tarn.strings"
local suggest = require "tarn.suggest"
local typeof, metatype = ffi.typeof, ffi.metatype -- busted replaces the FFI's by ones that remember their first argument only

local tabular = {}

local FIELDS = { columns = true, key = true }

---Named columns of one length, with rows in the order of a key. `#t`, `t[i]`, `pairs`, `ipairs`: rows. `t.name`: a column. It never
---changes.
---@class tarn.Table
---@field columns table[] {{name, column}, ...}
---@field key string[]
---@field [integer] tarn.Row
---@field [string] tarn.Column
local methods = {}
tabular.methods = methods -- groupreduce, join and the preview are in files of their own

local view_t = typeof "struct { double rows__; }" -- a column of that name would be hidden

-- View -> {n, names, list (columns), by (name -> column), key (names), key_columns}
local states = setmetatable({}, { __mode = "k" })

local function argument_error(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end

local function describe(x)
  if type(x) == "string" then return ("'%s'"):format(x) end
  return type(x) == "number" and ("%.14g"):format(x) or column.kind(x) or type(x)
end

---Is x a tarn table?
---@param x any
---@return boolean is
function tabular.is(x) return ffi.istype(view_t, x) end
local is_table = tabular.is

local function no_column(what, name, names)
  argument_error("%s no column %s; there are %s", what, describe(name), table.concat(names, ", "))
end
tabular._no_column = no_column

-- The inside of a table. who: the method, for the error.
local function inside(t, who)
  local s = states[t]
  if not s then argument_error("table:%s: call it with a colon, on a table", who) end
  return s
end
tabular._inside = inside

-- ---- making ----

local function make_view(names, list, key)
  local t = view_t(#list[1])
  local s = { n = #list[1], names = names, list = list, by = {}, key = key, key_columns = {} }
  for i, name in ipairs(names) do s.by[name] = list[i] end
  for i, name in ipairs(key) do s.key_columns[i] = s.by[name] end
  states[t] = s
  return t
end

-- A plain list as a column: of what its first element is.
local function from_list(list, name)
  local n = list.n or table.maxn(list)
  local first, holes
  for i = 1, n do
    local v = list[i]
    if v == nil then
      holes = true
    elseif first == nil then
      first = v
    elseif type(v) ~= type(first) and type(v) ~= "cdata" then
      argument_error("tarn.table: column '%s': element %d is %s, not a %s", name, i, describe(v), type(first))
    end
  end
  local kind = type(first)
  if kind == "boolean" then return holes and nullable("bits", list) or bits(list) end
  if kind == "string" then return strings(list) end
  if kind == "number" then
    if holes then return nullable("double", list) end
    return array("double", list)
  end
  local of = n == 0 and "nothing" or kind == "nil" and "nils" or kind .. "s"
  argument_error("tarn.table: column '%s': a list of %s cannot be one", name, of)
end

local function check_name(name, i, seen)
  if type(name) ~= "string" or name == "" or name:sub(1, 1) == "\0" then
    argument_error("tarn.table: the name of column %d is %s, not a text", i, describe(name))
  end
  if seen[name] then argument_error("tarn.table: two columns are called '%s'", name) end
  seen[name] = true
  return name
end

local FORM = 'columns = {{"name", column}, ...}'

local function take_columns(columns)
  if type(columns) ~= "table" or #columns == 0 then argument_error("tarn.table: %s is needed", FORM) end
  local names, list, seen = {}, {}, {}
  for i, pair in ipairs(columns) do
    if type(pair) ~= "table" then argument_error('tarn.table: column %d is %s, not {"name", column}', i, describe(pair)) end
    local name, c = check_name(pair[1], i, seen), pair[2]
    if type(c) == "table" then c = from_list(c, name) end
    if not column.kind(c) then argument_error("tarn.table: column '%s' is %s, not a column or a list", name, describe(c)) end
    if list[1] and #c ~= #list[1] then
      argument_error("tarn.table: column '%s' has %.14g elements, '%s' has %.14g", name, #c, names[1], #list[1])
    end
    names[i], list[i] = name, c
  end
  return names, list, seen
end

-- A list of names from one or several, each of a column of the table (s: its by and names). what: for the error.
local function name_list(names, s, what)
  if type(names) == "string" then names = { names } end
  if type(names) ~= "table" then argument_error("%s: a name or a list of names is needed, not %s", what, describe(names)) end
  local list, seen = {}, {}
  for i, name in ipairs(names) do
    if type(name) ~= "string" or not s.by[name] then no_column(what .. ": there is", name, s.names) end
    if seen[name] then argument_error("%s: '%s' stands twice", what, name) end
    list[i], seen[name] = name, true
  end
  return list
end
tabular._name_list = name_list

local function check_ordered(c, name)
  if c.kind == "array" and (#c.shape > 1 or c.ctype:match "^struct") then
    argument_error("tarn.table: '%s' cannot be of the key: %s has no order", name, tostring(c):match "^[^:]*")
  end
end

-- Is row i behind row i + 1?
local function descends(columns, i)
  for k = 1, #columns do
    local c = columns[k]
    local order = c:compare(i, i + 1)
    if order ~= 0 then return order > 0 end
  end
  return false
end

local function is_sorted(columns, n)
  if #columns == 0 then return true end
  if #columns == 1 then return columns[1]:sorted() end
  for i = 1, n - 1 do
    if descends(columns, i) then return false end
  end
  return true
end

-- The rows in the order of columns, stable. down[k]: column k with the largest first.
local function order_of(columns, down)
  local rows
  for k = #columns, 1, -1 do rows = columns[k]:argsort(rows, down and down[k]) end
  return rows
end

local function take_rows(list, rows)
  local taken, once = {}, {}
  for i, c in ipairs(list) do
    once[c] = once[c] or c:take(rows)
    taken[i] = once[c]
  end
  return taken
end

-- A table in the order of its key.
local function make(names, list, key)
  local by = {}
  for i, name in ipairs(names) do by[name] = list[i] end
  local columns = {}
  for i, name in ipairs(key) do
    columns[i] = by[name]
    check_ordered(by[name], name)
  end
  if not is_sorted(columns, #list[1]) then list = take_rows(list, order_of(columns)) end
  return make_view(names, list, key)
end
tabular._make = make

-- Columns themselves, where options should be, are what people write first.
local function check_options(spec)
  for name in pairs(spec) do
    if not FIELDS[name] and not (type(name) == "string" and suggest.near(name, FIELDS)) then
      argument_error("tarn.table: %s is no option: columns go into %s", describe(name), FORM)
    end
  end
  options.check(spec, FIELDS, "tarn.table")
end

---A new table: named columns of one length, rows in the order of a key. Columns are shared, not copied, unless the rows have to be
---sorted.
---@param spec {columns:table,key:(string|string[])?} columns: a list of {name, column}; a plain list of numbers, booleans or strings
--- becomes a column. key: the names of the columns in whose order the rows are kept
---@return tarn.Table table
function tabular.new(spec)
  if is_table(spec) then return spec end
  if type(spec) ~= "table" then argument_error("tarn.table: {columns = ..., key = ...} is needed, not %s", describe(spec)) end
  check_options(spec)
  local names, list, known = take_columns(spec.columns)
  return make(names, list, name_list(spec.key or {}, { by = known, names = names }, "tarn.table: key"))
end

-- ---- rows ----

---A row of a table. Its fields have the names of the columns; a name that is none's is an error. `row()` is a plain table, which can
---travel.
---@class tarn.Row
---@field [string] any
-- Its own fields have names that no column has. They are written out, so that a compiled loop need not make the table at all.
local Row = {}

local function row_at(s, i) return setmetatable({ ["\0state"] = s, ["\0index"] = i }, Row) end
tabular._row_at = row_at

function Row.__index(row, name)
  local c = row["\0state"].by[name]
  if not c then no_column("the row has", name, row["\0state"].names) end
  return c[row["\0index"]]
end

function Row.__newindex() argument_error("a row cannot be changed: write to its column, or make a new table") end

---A plain table: name -> value.
function Row.__call(row)
  local s, plain = row["\0state"], {}
  for i, name in ipairs(s.names) do plain[name] = s.list[i][row["\0index"]] end
  return plain
end

function Row.__tostring(row)
  local s, parts = row["\0state"], {}
  for i, name in ipairs(s.names) do
    local v = s.list[i][row["\0index"]]
    parts[i] = name .. " = " .. (type(v) == "string" and ("%q"):format(v) or tostring(v))
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

function Row.__eq(a, b) return a["\0state"] == b["\0state"] and a["\0index"] == b["\0index"] end

local function next_row(t, i)
  i = i + 1
  local s = states[t]
  if i <= s.n then return i, row_at(s, i) end
end

local function iterate(t) return next_row, t, 0 end

-- ---- reading ----

local fields = {
  columns = function(s)
    local list = {}
    for i, name in ipairs(s.names) do list[i] = { name, s.list[i] } end
    return list
  end,
  key = function(s) return { unpack(s.key) } end,
}

metatype(view_t, {
  __index = function(t, key)
    local method = methods[key]
    if method then return method end
    local s = states[t]
    if type(key) == "number" then
      if key >= 1 and key <= s.n and key % 1 == 0 then return row_at(s, key) end
      return nil
    end
    local field = fields[key]
    if field then return field(s) end
    return s.by[key] or no_column("the table has no method and", key, s.names)
  end,
  __newindex = function() argument_error("a table cannot be changed: make a new one of its columns") end,
  __len = function(t) return t.rows__ end,
  __ipairs = iterate,
  __pairs = iterate,
  __tostring = function(t) return require("tarn.table.show")(states[t]) end,
})

---The column of that name, also where the table has something else under it.
---@param name string
---@return tarn.Column column
function methods:column(name)
  local s = inside(self, "column")
  return s.by[name] or no_column("table:column: there is", name, s.names)
end

---Rows one after another: for i, row in t:rows() do.
---@return function iterator
---@return tarn.Table table
---@return integer start
function methods:rows()
  inside(self, "rows")
  return next_row, self, 0
end

---All rows as plain tables.
---@return table[] rows
function methods:totable()
  local s, list = inside(self, "totable"), {}
  for i = 1, s.n do list[i] = row_at(s, i)() end
  return list
end

-- ---- lookup ----

local function check_keys(s, count, who)
  if count == 0 then argument_error("table:%s: a key is needed", who) end
  if count > #s.key then
    argument_error("table:%s: %d values, but the key has %d: {%s}", who, count, #s.key, table.concat(s.key, ", "))
  end
end

-- The first row whose key begins with these values; nil. One more column narrows the rows that the ones before left.
local function find_first(s, values, count)
  local from, to = 1, s.n
  for k = 1, count do
    local c, value = s.key_columns[k], values[k]
    from = c:lower(value, from, to)
    if from > to or not c:eq(from, value) then return nil end
    if k < count then to = c:upper(value, from, to) - 1 end
  end
  return from
end

---The first row with that key, or whose key begins so. Makes no strings.
---@param value any of the first column of the key
---@param ... any of the next ones
---@return tarn.Row|nil row
---@return integer|nil index
function methods:lookup(value, ...)
  local s = inside(self, "lookup")
  local more = select("#", ...)
  check_keys(s, more + 1, "lookup")
  local i
  if more == 0 then
    local c = s.key_columns[1]
    i = c:lower(value)
    if i > s.n or not c:eq(i, value) then return nil end
  else
    i = find_first(s, { value, ... }, more + 1)
    if not i then return nil end
  end
  return row_at(s, i), i
end

-- The first row whose key is at or above, or with `above` above, a bound: a value or a list of them, the first ones of a key.
local function bound(s, values, above)
  if type(values) ~= "table" then values = { values } end
  local from, to = 1, s.n
  check_keys(s, #values, "range")
  for k = 1, #values do
    local c = s.key_columns[k]
    local lower, upper = c:lower(values[k], from, to), c:upper(values[k], from, to)
    if lower == upper then return lower end -- none has it: here it would be
    from, to = lower, upper - 1
  end
  return above and to + 1 or from
end

-- Rows i to j on the same bytes; the key holds there too.
local function part(s, i, j)
  if i == 1 and j == s.n then return make_view(s.names, s.list, s.key) end
  local list, once = {}, {}
  for k, c in ipairs(s.list) do
    once[c] = once[c] or c:slice(i, j)
    list[k] = once[c]
  end
  return make_view(s.names, list, s.key)
end

---The rows from key lo to key hi, both included, as a table on the same bytes. A bound is a value, or a list of the first values of
---the key.
---@param lo any nil: no bound
---@param hi any nil: no bound; rows whose key begins with hi are included
---@return tarn.Table table
function methods:range(lo, hi)
  local s = inside(self, "range")
  if #s.key == 0 then argument_error("table:range: the table has no key") end
  local from = lo ~= nil and bound(s, lo, false) or 1
  local to = (hi ~= nil and bound(s, hi, true) or s.n + 1) - 1
  return part(s, from, math.max(to, from - 1))
end

---Rows i to j as a table on the same bytes.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Table table
function methods:slice(i, j)
  local s = inside(self, "slice")
  i, j = column.range(i, j, s.n, "table:slice")
  return part(s, i, j)
end

-- ---- other tables ----

-- The key of some of the columns: its first names, up to one that is not there.
local function key_within(key, names)
  local there, list = {}, {}
  for _, name in ipairs(names) do there[name] = true end
  for i, name in ipairs(key) do
    if not there[name] then break end
    list[i] = name
  end
  return list
end

local function select_columns(s, names)
  names = name_list(names, s, "table:select")
  if #names == 0 then argument_error("table:select: no columns") end
  local list = {}
  for i, name in ipairs(names) do list[i] = s.by[name] end
  return make_view(names, list, key_within(s.key, names))
end

-- Those rows, which are in order.
local function select_rows(s, rows)
  if #rows == s.n then return make_view(s.names, s.list, s.key) end
  return make_view(s.names, take_rows(s.list, rows), s.key)
end

local mark_rows = own_code(function(s, row_of, predicate, wanted)
  for i = 1, s.n do
    if predicate(row_of(s, i)) then wanted[i] = true end
  end
end)

local function rows_where(s, predicate)
  local wanted = bits(s.n)
  mark_rows(s, row_at, predicate, wanted)
  return wanted:which()
end

---Some columns, shared: t:select("a", "b") or t:select{"a", "b"}. Or some rows, copied: those for which a function is true, or whose
---bit is.
---@param what string|string[]|tarn.Bits|fun(row:tarn.Row):boolean
---@param ... string further names
---@return tarn.Table table
function methods:select(what, ...)
  local s = inside(self, "select")
  if type(what) == "function" then return select_rows(s, rows_where(s, what)) end
  if column.kind(what) == "bits" then
    if #what ~= s.n then argument_error("table:select: %.14g bits for %.14g rows", #what, s.n) end
    return select_rows(s, what:which())
  end
  if type(what) == "string" then what = { what, ... } end
  if type(what) ~= "table" then argument_error("table:select: names, a function or bits are needed, not %s", describe(what)) end
  return select_columns(s, what)
end

-- {"a", {"b", down = true}} -> names, list of down
local function sort_terms(s, by)
  if type(by) == "string" then by = { by } end
  if type(by) ~= "table" then argument_error("table:sort: a name or a list of names is needed, not %s", describe(by)) end
  local names, down, any = {}, {}, false
  for i, term in ipairs(by) do
    local is_pair = type(term) == "table"
    names[i], down[i] = is_pair and term[1] or term, is_pair and term.down and true or false
    any = any or down[i]
  end
  return name_list(names, s, "table:sort"), down, any
end

---The rows in another order, which becomes the key, unless a column goes down. Rows that are equal stay as they were.
---@param by string|table a name, or a list of names and of {name, down = true}
---@return tarn.Table table
function methods:sort(by)
  local s = inside(self, "sort")
  local names, down, any = sort_terms(s, by)
  if not any then return make(s.names, s.list, names) end
  local columns = {}
  for i, name in ipairs(names) do
    columns[i] = s.by[name]
    check_ordered(columns[i], name)
  end
  return make_view(s.names, take_rows(s.list, order_of(columns, down)), {})
end

-- ---- for the serializer ----

-- Names, columns and key: not to be changed.
function tabular._parts(t)
  local s = states[t]
  return s.names, s.list, s.key
end

-- A table of what was read. nil, why: it does not fit together. The order of the rows is believed.
function tabular._view(names, list, key)
  local lists = type(names) == "table" and type(list) == "table" and type(key) == "table"
  if not lists or #names == 0 or #names ~= #list then return nil, "malformed" end
  local seen = {}
  for i, name in ipairs(names) do
    if type(name) ~= "string" or name == "" or seen[name] then return nil, "a column's name is none" end
    if not column.kind(list[i]) then return nil, ("column '%s' is none"):format(name) end
    if #list[i] ~= #list[1] then return nil, ("column '%s' has another length"):format(name) end
    seen[name] = list[i]
  end
  for _, name in ipairs(key) do
    if type(name) ~= "string" or not seen[name] then return nil, "the key is of no column" end
    if not pcall(check_ordered, seen[name], name) then return nil, "the key is of a column without order" end
  end
  return make_view(names, list, key)
end

package.loaded["tarn.table"] = tabular -- the other files, and the serializer, ask for it
require "tarn.table.groupreduce"
require "tarn.table.join"
serializer.load("table")
serializer.bind("table", view_t)

return setmetatable(tabular, { __call = function(_, spec) return tabular.new(spec) end })
