-- t:join: rows of two tables that agree in some columns, side by side.
--
-- Where both tables are in the order of those columns they are merged, by one walk through both. Else the rows of the other are put into a
-- hash table, in which those of this one look theirs up. Either way the outcome is a list of pairs of row numbers, of which columns are
-- made at the end.
local array = require "tarn.array"
local bit = require "bit"
local block = require "tarn.block"
local column = require "tarn.column"
local errors = require "tarn.errors"
local ffi = require "ffi"
local nullable = require "tarn.nullable"
local options = require "tarn.options"
local pick = require "tarn.table.pick"
local pooled = require "tarn.pooled"
local strings = require "tarn.strings"
local tabular = require "tarn.table"

local band, bxor, rol, tobit = bit.band, bit.bxor, bit.rol, bit.tobit

local OPTIONS = { on = true, how = true }

local function argument_error(fmt, ...) errors.raise("ArgumentError", "table:join: " .. fmt:format(...)) end

-- ---- pairs of rows ----

local uint32_pointer, int32_pointer = ffi.typeof "uint32_t *", ffi.typeof "int32_t *"

-- A growing list of pairs, outside Lua's heap: hold, left and right (pointers), n, capacity.
local function new_pairs()
  return { n = 0, capacity = 0 }
end

local function grow(list)
  local capacity = math.max(1024, list.capacity * 2)
  local hold = block.scratch(capacity * 8)
  local left = ffi.cast(uint32_pointer, hold.block.data)
  local right = left + capacity
  if list.hold then
    ffi.copy(left, list.left, list.n * 4)
    ffi.copy(right, list.right, list.n * 4)
    block.drop(list.hold)
  end
  list.hold, list.left, list.right, list.capacity = hold, left, right, capacity
end

local function add_pair(list, left, right)
  local n = list.n
  if n >= list.capacity then grow(list) end
  list.left[n], list.right[n], list.n = left, right, n + 1
end

-- As two arrays of rows; the list is gone.
local function finish_pairs(list)
  local left, right = array("uint32_t", list.n), array("uint32_t", list.n)
  if list.hold then
    ffi.copy(left:ptr(), list.left, list.n * 4)
    ffi.copy(right:ptr(), list.right, list.n * 4)
    block.drop(list.hold)
  end
  return left, right
end

-- ---- comparing ----

-- Row i of some columns beside row j of others.
local function compare(a, i, b, j)
  for k = 1, #a do
    local x, y = a[k], b[k]
    local order = x.kind == y.kind and x:compare(i, j, y) or x:order(i, y[j])
    if order ~= 0 then return order end
  end
  return 0
end

local function all_valid(columns, i)
  for k = 1, #columns do
    if not columns[k]:valid(i) then return false end
  end
  return true
end

-- ---- merging ----

-- For every row of the left in order: found(i, j) for each that it agrees with, or alone(i). The right's rows from j on are those that are
-- not below row i; k is the one that is looked at.
local function merge(a, n, b, m, take)
  local i, j, k, some = 1, 1, 1, false
  while i <= n do
    local order = k <= m and compare(a, i, b, k) or -1
    if order > 0 then
      k = k + 1
      j = k
    elseif order == 0 and all_valid(a, i) then
      take.found(i, k)
      k, some = k + 1, true
    else -- what is missing agrees with nothing
      if not some then take.alone(i) end
      i, k, some = i + 1, j, false
    end
  end
end

-- ---- hashing ----

-- Each row's hash over some columns, mixed.
local function mix_hashes(c, hashes, n)
  for i = 1, n do
    local h = c:hash(i)
    if h then hashes[i - 1] = bxor(rol(hashes[i - 1], 13), tobit(h)) end
  end
end

local function hashes_of(columns, n)
  local hold = block.scratch(n * 4)
  local hashes = ffi.cast(int32_pointer, hold.block.data)
  ffi.fill(hashes, n * 4)
  for k = 1, #columns do mix_hashes(columns[k], hashes, n) end
  return hold, hashes
end

-- Chains of rows, the first ones first.
local function build(heads, chain, hashes, mask, n)
  for i = n, 1, -1 do
    local slot = band(hashes[i - 1], mask)
    chain[i - 1] = heads[slot]
    heads[slot] = i
  end
end

local function probe(a, n, b, left_hashes, right_hashes, heads, chain, mask, take)
  for i = 1, n do
    local hash, some = left_hashes[i - 1], false
    if all_valid(a, i) then
      local j = heads[band(hash, mask)]
      while j ~= 0 do
        if right_hashes[j - 1] == hash and compare(a, i, b, j) == 0 then
          some = true
          take.found(i, j)
        end
        j = chain[j - 1]
      end
    end
    if not some then take.alone(i) end
  end
end

local function hash_join(a, n, b, m, take)
  local capacity = 16
  while capacity < 2 * m do capacity = capacity * 2 end
  local left_hold, left_hashes = hashes_of(a, n)
  local right_hold, right_hashes = hashes_of(b, m)
  local slots = block.scratch((capacity + m) * 4)
  local heads = ffi.cast(uint32_pointer, slots.block.data)
  local chain = heads + capacity
  ffi.fill(heads, capacity * 4)
  build(heads, chain, right_hashes, capacity - 1, m)
  probe(a, n, b, left_hashes, right_hashes, heads, chain, capacity - 1, take)
  block.drop(left_hold)
  block.drop(right_hold)
  block.drop(slots)
end

-- ---- what is asked for ----

local hows = { inner = true, left = true, outer = true, anti = true }

-- {"id", {"id", "their id"}} -> the columns and names on either side.
local function match_columns(s, o, on)
  if type(on) == "string" then on = { on } end
  if type(on) ~= "table" or #on == 0 then argument_error('on = {"name", ...} is needed: the columns in which rows agree') end
  local m = { left = {}, right = {}, left_names = {}, right_names = {}, is_right = {} }
  for i, term in ipairs(on) do
    local mine, theirs = term, term
    if type(term) == "table" then mine, theirs = term[1], term[2] end
    local a, b = s.by[mine], o.by[theirs]
    if not a then tabular._no_column("table:join: there is", mine, s.names) end
    if not b then tabular._no_column("table:join: the other table has", theirs, o.names) end
    m.left[i], m.right[i], m.left_names[i], m.right_names[i], m.is_right[theirs] = a, b, mine, theirs, true
  end
  return m
end

-- Numbers go with numbers, texts with texts, whatever columns they are in.
local function sort_of(c)
  if c.kind == "pooled" then return sort_of(c.values) end
  if c.kind == "strings" then return "strings" end
  local ctype = c.kind == "bits" and "bits" or c.ctype
  if ctype == "bits" or ctype == "bool" then return "booleans" end
  return ctype:match "^struct" and "structs" or "numbers"
end

local function check_sorts(m)
  for i, a in ipairs(m.left) do
    local mine, theirs = sort_of(a), sort_of(m.right[i])
    if mine == "structs" or mine ~= theirs then
      argument_error("'%s' is of %s, '%s' of the other table of %s", m.left_names[i], mine, m.right_names[i], theirs)
    end
  end
end

local function begins_with(key, names)
  for i, name in ipairs(names) do
    if key[i] ~= name then return false end
  end
  return true
end

-- Pairs of rows as two arrays, 0 where a row has no counterpart.
local function match(s, o, m, how)
  local list, matched = new_pairs(), how == "outer" and array("uint8_t", o.n)
  local take = {}
  function take.found(i, j)
    if how ~= "anti" then add_pair(list, i, j) end
    if matched then matched[j] = 1 end
  end
  function take.alone(i)
    if how ~= "inner" then add_pair(list, i, 0) end
  end
  if begins_with(s.key, m.left_names) and begins_with(o.key, m.right_names) then
    merge(m.left, s.n, m.right, o.n, take)
  else
    hash_join(m.left, s.n, m.right, o.n, take)
  end
  for j = 1, matched and o.n or 0 do
    if matched[j] == 0 then add_pair(list, 0, j) end
  end
  return finish_pairs(list)
end

-- ---- the outcome ----

-- A column that is filled from the first element on: put(i, value), then finish().
local Texts, Values = {}, {}
Texts.__index, Values.__index = Texts, Values

function Texts:put(_, v) self.builder:add(v) end

function Texts:finish()
  local c = self.builder:finish()
  return self.pooled and pooled(c) or c
end

function Values:put(i, v)
  local c = self.column
  if type(v) == "cdata" and c.ctype == "double" then v = tonumber(v) end
  c[i] = v
end

function Values:finish()
  local c = self.column
  return c:valid_count() == #c and c.values or c
end

-- For n values of a and of b.
local function blank(a, b, n)
  local sort = sort_of(a)
  if sort == "strings" then return setmetatable({ builder = strings.builder(), pooled = a.kind == "pooled" }, Texts) end
  return setmetatable({ column = nullable(sort == "booleans" and "bits" or a.ctype == b.ctype and a.ctype or "double", n) }, Values)
end

-- In an outer join a column that rows agree in has the left's value, or the right's where there is no left.
local function either(a, b, left, right)
  local to = blank(a, b, #left)
  for i = 1, #left do
    local row = left[i]
    if row ~= 0 then to:put(i, a[row]) else to:put(i, b[right[i]]) end
  end
  return to:finish()
end

local function take(c, rows) return c:take(rows) end

local function columns_of(s, o, m, how, left, right)
  local take_left = how == "outer" and pick or take
  local take_right = (how == "outer" or how == "left") and pick or take
  local names, list, taken, which = {}, {}, {}, {}
  for k, name in ipairs(m.left_names) do which[name] = k end
  local function add(name, c)
    names[#names + 1], list[#list + 1], taken[name] = name, c, true
  end
  for i, name in ipairs(s.names) do
    local k = how == "outer" and which[name]
    add(name, k and either(m.left[k], m.right[k], left, right) or take_left(s.list[i], left))
  end
  for i, name in ipairs(o.names) do
    if how ~= "anti" and not m.is_right[name] then
      local new = taken[name] and name .. "_right" or name
      if taken[new] then argument_error("two columns would be called '%s'", new) end
      add(new, take_right(o.list[i], right))
    end
  end
  return names, list
end

---Rows of this table beside those of another that agree in some columns; a missing value agrees with nothing. First this table's
---columns, then the other's without those
---in `on`; one whose name is taken is called name_right.
---@param other tarn.Table
---@param opts {on:string|table,how:string?} on: names, or {name here, name there}. how: "inner" (the default): rows that have a
--- counterpart; "left": all of this table; "outer": those of the other too, in the order of `on`; "anti": the rows of this table that have
--- none
---@return tarn.Table table
function tabular.methods:join(other, opts)
  local s = tabular._inside(self, "join")
  if not tabular.is(other) then argument_error("another table is needed") end
  if type(opts) ~= "table" then argument_error('{on = "name"} is needed') end
  options.check(opts, OPTIONS, "table:join")
  local how = opts.how or "inner"
  if not hows[how] then argument_error("how is inner, left, outer or anti, not '%s'", tostring(how)) end
  local o = tabular._inside(other, "join")
  if s.n > column.ROWS_MAX or o.n > column.ROWS_MAX then argument_error("more than 2^32 - 1 rows") end
  local m = match_columns(s, o, opts.on)
  check_sorts(m)
  local left, right = match(s, o, m, how)
  local names, list = columns_of(s, o, m, how, left, right)
  if how == "outer" then return tabular._make(names, list, m.left_names) end
  return tabular._view(names, list, s.key)
end
