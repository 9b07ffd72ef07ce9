-- Columns with few distinct values: for each element a code, in the smallest type that has room for all, and the distinct values once, in
-- a column of strings or an array. Elements are equal where their codes are; one that is missing has its bit cleared (so does Arrow, whose
-- dictionaries these are). A value is made a Lua value when it is first asked for, and kept.
local bit = require "bit"
local array = require "tarn.array"
local bits = require "tarn.bits"
local block = require "tarn.block"
local column = require "tarn.column"
local errors = require "tarn.errors"
local ffi = require "ffi"
local kernel = require "tarn.kernel"
local number = require "tarn.number"
local serializer = require "tarn.serializer"
local strings = require "tarn.strings"
local typeof = ffi.typeof -- busted replaces the FFI's by ones that remember their first argument only

local argument_error, describe = column.argument_error, column.describe
local band, lshift = bit.band, bit.lshift
local floor = math.floor

local pooled = {}

---Values of which few are distinct, strings or numbers: codes, and each value once.
---@class tarn.Pooled: tarn.Column
---@field kind "pooled"
---@field codes tarn.Array from 0
---@field values tarn.Strings|tarn.Array the distinct values
---@field [integer] any
local methods = {}

-- A pool: the values, and what has been found out of them: [code + 1] the Lua value, codes (value -> code), rank (of each code). Shared
-- by all views of it.
local pools = setmetatable({}, { __mode = "k" })      -- view -> pool
local pool_of = setmetatable({}, { __mode = "kv" })   -- values -> pool

local widths = {} -- ctype of the codes -> {view (ctype), text, bytes}
local by_view = {}

local function corrupt(why) errors.raise("Corrupt", "pooled: " .. why) end

-- ---- one element ----

local function is_there(c, i)
  local k = c.there_at + i - 1
  return band(c.there[floor(k * 0.125)], lshift(1, band(k, 7))) ~= 0
end

local FEW = 1024 -- values that are all made at once: a loop over the elements then never leaves its fast path

local function value_of(pool, code)
  local values = pool.values
  local v = values[code + 1]
  if v == nil then corrupt(("code %.14g is of none of the %.14g values"):format(code, #values)) end
  for k = 1, #values <= FEW and #values or 0 do pool[k] = values[k] end
  pool[code + 1] = v
  return v
end

local fields = {
  values = function(c) return pools[c].values end,
  codes = function(c)
    local t = array._element_type(by_view[tonumber(typeof(c))].text)
    return array._view(t, c.n, nil, block.offset(c.block, c.c), block.share, c.block)
  end,
}

local read_other = column.other_reader("pooled", methods, fields)

local function read(self, i)
  if type(i) == "number" then
    if i >= 1 and i <= self.n and i % 1 == 0 then
      if self.there ~= nil and not is_there(self, i) then return nil end
      local pool, code = pools[self], self.c[i - 1]
      local v = pool[code + 1]
      if v ~= nil then return v end
      return value_of(pool, code)
    end
    return nil
  end
  return read_other(self, i)
end

local function write() argument_error("a pooled column cannot be changed: make a new one with tarn.pooled") end

for bytes, text in pairs { [1] = "uint8_t", [2] = "uint16_t", [4] = "uint32_t" } do
  local view = typeof(([[struct { uint32_t block_count; uint32_t flags; tarn_block_t *block, *there_block; const %s *c;
    const uint8_t *there; double there_at; double n; }]]):format(text))
  widths[text] = { view = view, text = text, bytes = bytes }
  by_view[tonumber(view)] = widths[text]
end

local function width_for(count) return count <= 256 and "uint8_t" or count <= 65536 and "uint16_t" or "uint32_t" end

-- The code of element i (from 0), nil where it is missing or outside.
local function code_at(c, i)
  if type(i) ~= "number" or not (i >= 1 and i <= c.n and i % 1 == 0) or c.there ~= nil and not is_there(c, i) then return nil end
  return c.c[i - 1]
end

-- ---- the pool ----

local function pool_for(values)
  local pool = pool_of[values]
  if not pool then
    pool = { values = values }
    pool_of[values] = pool
  end
  return pool
end

-- Bytes from outside may say a value twice; then codes say nothing about equality.
local function check_distinct(pool)
  if pool.distinct then return end
  local _, first = pool.values:group()
  if #first < #pool.values then corrupt("a value stands twice among the distinct ones") end
  pool.distinct = true
end

local function index_of(pool)
  local codes, values = pool.codes, pool.values
  if not codes then
    check_distinct(pool)
    codes = {}
    for k = 1, #values do
      local v = values[k]
      if type(v) ~= "cdata" and v == v then codes[v] = k - 1 end
    end
    pool.codes = codes
  end
  return codes
end

-- The code of a value; nil where no element has it.
local function code_of(pool, value)
  local code = index_of(pool)[value]
  if code == nil and number.is(value) and pool.values.kind == "array" then -- 64-bit ones, NaN
    local at = pool.values:find(value)
    return at and at - 1
  end
  return code
end

local function rank_of(pool)
  if not pool.rank then
    check_distinct(pool)
    local order = pool.values:argsort()
    local rank = array.new("uint32_t", #order)
    local to, from = rank:ptr(), order:ptr()
    for k = 0, #order - 1 do to[from[k] - 1] = k end
    pool.rank = rank
  end
  return pool.rank
end

pooled._widths, pooled._width_for = widths, width_for

-- ---- making ----

local function has_missing(c)
  local validity = c:validity()
  return validity ~= nil and not validity:all()
end

-- A column of codes (an array of uint8_t, uint16_t or uint32_t, from 0), values (strings or an array, distinct, none missing) and bits, or
-- nil where none is missing. All are shared, not copied. Raises a text.
function pooled._view(codes, values, validity)
  local width = column.kind(codes) == "array" and widths[codes.ctype]
  local kind = column.kind(values)
  if not width then error("codes that are no array of uint8_t, uint16_t or uint32_t", 0) end
  if kind ~= "strings" and (kind ~= "array" or not number.letters[values.ctype]) or has_missing(values) then
    error("values that are no strings and no array of numbers, or some are missing", 0)
  end
  if validity ~= nil and (column.kind(validity) ~= "bits" or #validity ~= #codes) then error("bits that do not fit the codes", 0) end
  local c = width.view()
  c.block_count = 2
  c.block, c.c = block.share(codes.block), codes.c
  if validity ~= nil then
    c.there_block = block.share(validity.block)
    c.there, c.there_at = validity.p, validity.at
  end
  c.n = codes.n
  pools[c] = pool_for(values)
  return c
end

-- Without the bits: every element is there.
local function without_missing(values)
  if values.kind == "nullable" then return values.values end
  if values.kind ~= "strings" or values.there == nil then return values end
  local _, width, _, blob_size = values:buffers()
  local from = { values.offsets_block, values.blob_block }
  local offsets_at, blob_at = block.offset(from[1], values.o), block.offset(from[2], values.blob)
  return strings._view(values.n, width, offsets_at, blob_at, blob_size, nil, block.share_next, from)
end

-- Another column's elements, by their bytes.
local function from_column(c)
  if c.kind == "bits" or c.kind == "nullable" and c.ctype == "bits" then argument_error("tarn.pooled: bits are small already") end
  local groups, first, missing = column.group(c)
  local rows = first
  if missing > 0 then
    rows = array.new("uint32_t", #first - 1)
    for k = 1, #first - 1 do rows[k] = first[k < missing and k or k + 1] end
  end
  local width = widths[width_for(#rows)]
  local codes = array.new(width.text, c.n)
  kernel.tarn_column_narrow(codes:ptr(), width.bytes, groups:ptr(), c.n, missing)
  return pooled._view(codes, without_missing(c:take(rows)), missing > 0 and c:validity():copy() or nil)
end

---A column of values of which few are distinct: small codes, and each value once. It never changes.
---@param x table|tarn.Column a list of strings or of numbers, {"x", nil, "y", n = 3}; or another column
---@return tarn.Pooled pooled
function pooled.new(x)
  local kind = column.kind(x)
  if kind == "pooled" then return x end -- never changes, so it is its own copy
  if kind then return from_column(x) end
  if type(x) ~= "table" then argument_error("tarn.pooled: a list or a column is needed, not %s", describe(x)) end
  local n = x.n
  if n == nil then n = table.maxn(x) end
  local b = pooled.builder()
  for i = 1, column.count(n, "tarn.pooled") do b:add(x[i]) end
  return b:finish()
end

-- ---- methods ----

---Is x a pooled column?
---@param x any
---@return boolean is
function pooled.is(x) return column.kind(x) == "pooled" end

local function check_self(c, method) column.check(c, "pooled", "pooled:" .. method) end

---The code of a value, from 0; nil where no element can have it.
---@param value any
---@return integer|nil code
function methods:code(value)
  check_self(self, "code")
  return code_of(pools[self], value)
end

function methods:valid(i) return code_at(self, i) ~= nil end

function methods:validity()
  if self.there == nil then return nil end
  return bits._view(self.n, self.there_at, block.share, self.there_block)
end

function methods:valid_count()
  return self.there == nil and self.n or tonumber(kernel.tarn_column_bits_count(self.there, self.there_at, self.n))
end

---A copy; the values are shared.
---@return tarn.Pooled pooled
function methods:copy()
  check_self(self, "copy")
  local validity = self:validity()
  return pooled._view(self.codes:copy(), self.values, validity and validity:copy())
end

---Elements i to j on the same bytes.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Pooled pooled
function methods:slice(i, j)
  check_self(self, "slice")
  i, j = column.range(i, j, self.n, "pooled:slice")
  local validity = self:validity()
  return pooled._view(self.codes:slice(i, j), self.values, validity and validity:slice(i, j))
end

function methods:_gather(rows)
  local validity = self:validity()
  return pooled._view(self.codes:_gather(rows), self.values, validity and validity:_gather(rows))
end

function methods:eq(i, value)
  local code = code_at(self, i)
  if code == nil or value == nil then return code == nil and value == nil end
  return code == code_of(pools[self], value)
end

function methods:hash(i)
  local code = code_at(self, i)
  if code then return pools[self].values:hash(code + 1) end
end

function methods:order(i, value)
  local code = code_at(self, i)
  if code == nil then return value == nil and 0 or 1 end
  return pools[self].values:order(code + 1, value)
end

function methods:compare(i, j, other)
  other = other or self
  local a, b = code_at(self, i), code_at(other, j)
  if a == nil or b == nil then return a == b and 0 or a == nil and 1 or -1 end
  local pool, other_pool = pools[self], pools[other]
  if pool == other_pool and a == b then return 0 end
  return pool.values:compare(a + 1, b + 1, other_pool.values)
end

function methods:find(value, from)
  check_self(self, "find")
  from = math.max(from or 1, 1)
  if value == nil then
    local validity = self:validity()
    return validity and validity:find(false, from)
  end
  local code = code_of(pools[self], value)
  if code == nil then return nil end
  for i = from, self.n do
    if self.c[i - 1] == code and (self.there == nil or is_there(self, i)) then return i end
  end
end

function methods:_group_keys(keys, rows, count)
  check_distinct(pools[self])
  kernel.tarn_column_number_keys(keys, number.letters[by_view[tonumber(typeof(self))].text]:byte(), self.c, rows, count or self.n)
end

function methods:_keys(keys, rows, count)
  local rank = rank_of(pools[self])
  self:_group_keys(keys, rows, count)
  local done = tonumber(kernel.tarn_column_map_keys(keys, rank:ptr(), #rank, self.there, self.there_at, rows, count))
  if done < count then corrupt("a code that is of none of the values") end
end

function methods:nbytes()
  local there = self.there ~= nil and column.bit_bytes(self.n) or 0
  return self.n * by_view[tonumber(typeof(self))].bytes + there + pools[self].values:nbytes()
end

function methods:_title() return ("pooled (%.14g of %.14g values)"):format(self.n, #pools[self].values) end

column.methods(methods)
for _, width in pairs(widths) do column.define(width.view, "pooled", read, write) end

package.loaded["tarn.pooled"] = pooled -- the serializer asks for it
pooled.builder = require("tarn.pooled_builder").new
serializer.load("pooled")
for _, width in pairs(widths) do serializer.bind("pooled", width.view) end

return setmetatable(pooled, { __call = function(_, x) return pooled.new(x) end })
