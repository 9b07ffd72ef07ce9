-- Columns whose elements may be missing: an array (or bits) of values, and bits that are true where there is one. Both may be used by
-- themselves too: they are shared, not copied. A view has the fields of the values' own, so that the values' own accessors read it.
local bit = require "bit"
local array = require "tarn.array"
local bits = require "tarn.bits"
local block = require "tarn.block"
local column = require "tarn.column"
local ffi = require "ffi"
local kernel = require "tarn.kernel"
local serializer = require "tarn.serializer"
local typeof = ffi.typeof -- busted replaces the FFI's by ones that remember their first argument only

local argument_error, describe = column.argument_error, column.describe
local band, bor, bnot, lshift = bit.band, bit.bor, bit.bnot, bit.lshift
local floor = math.floor

local nullable = {}

---An array, or bits, of which some elements may be missing: nil.
---@class tarn.Nullable: tarn.Column
---@field kind "nullable"
---@field values tarn.Array|tarn.Bits what is beneath, on the same bytes
---@field bits tarn.Bits true where there is a value
---@field ctype string the declaration of an element, or "bits"
---@field sealed boolean
---@field [integer] any
local methods = {}
-- Kinds of values, by the text that names them and by the ctype id of their view: {text, view (ctype), read(c, i), write(c, i, v), point(c,
-- values), values(c, skip, n) -> values on the same bytes, order(v, value), hash(v), size(n)}
local by_text, by_view = {}, {}

local function kind_of(c) return by_view[tonumber(typeof(c))] end

-- ---- one element ----

local function is_valid(c, i)
  local k = c.there_at + i - 1
  return band(c.there[floor(k * 0.125)], lshift(1, band(k, 7))) ~= 0
end

local function set_valid(c, i, is)
  local k = c.there_at + i - 1
  local byte, mask = floor(k * 0.125), lshift(1, band(k, 7))
  c.there[byte] = is and bor(c.there[byte], mask) or band(c.there[byte], bnot(mask))
end

local fields = {
  values = function(c) return kind_of(c).values(c, 0, c.n) end,
  bits = function(c) return c:validity() end,
  sealed = function(c) return c.block.sealed ~= 0 or c.valid_block.sealed ~= 0 end,
  ctype = function(c) return kind_of(c).text end,
}

local read_other = column.other_reader("nullable", methods, fields)

local function reader(read_value)
  return function(self, i)
    if type(i) == "number" then
      if i >= 1 and i <= self.n and i % 1 == 0 then
        local k = self.there_at + i - 1
        if band(self.there[floor(k * 0.125)], lshift(1, band(k, 7))) ~= 0 then return read_value(self, i) end
      end
      return nil
    end
    return read_other(self, i)
  end
end

local function writer(put_value)
  return function(self, i, v)
    i = column.index(i, self.n, "a column's")
    if self.block.sealed ~= 0 or self.valid_block.sealed ~= 0 then
      argument_error("the column is sealed: it has been stored; c:copy() gives a writable one")
    end
    if v ~= nil then put_value(self, i, v) end
    set_valid(self, i, v ~= nil)
  end
end

-- ---- kinds of values ----

local function finish_kind(kind)
  column.define(kind.view, "nullable", reader(kind.read), writer(kind.write))
  by_view[tonumber(kind.view)] = kind
  by_text[kind.text] = kind
  serializer.bind("nullable", kind.view)
  return kind
end

local THERE = "uint8_t *there; double there_at;"

local function array_kind(t)
  local kind = { text = t.text, read = t.read, type = t }
  kind.view = typeof(([[struct { uint32_t block_count; uint32_t flags; tarn_block_t *block, *valid_block;
    union { $ *p; const $ *c; %s *w; }; double n; %s }]]):format(t.bits_of, THERE), t.ctype, t.ctype)
  function kind.write(c, i, v)
    if type(v) == "number" and not t.struct and t.letter ~= "?" then
      c.p[i - 1] = v
    else
      array._put(t, c, i, v)
    end
  end
  function kind.point(c, values) c.p = values.p end
  function kind.values(c, skip, n)
    return array._view(t, n, nil, block.offset(c.block, c.c) + skip * t.size, block.share, c.block)
  end
  function kind.order(v, value) return array._order(t, v, value) end
  function kind.hash(v) return array._hash(t, v) end
  function kind.size(n) return n * t.size end
  return finish_kind(kind)
end

local function bits_kind()
  local kind = { text = "bits", read = bits._read }
  kind.view = typeof([[struct { uint32_t block_count; uint32_t flags; tarn_block_t *block, *valid_block; uint8_t *p; double at, n; ]]
    .. THERE .. " }")
  function kind.write(c, i, v)
    if type(v) ~= "boolean" then argument_error("%s cannot be an element of bits", describe(v)) end
    bits._put(c, i, v)
  end
  function kind.point(c, values) c.p, c.at = values.p, values.at end
  function kind.values(c, skip, n) return bits._view(n, c.at + skip, block.share, c.block) end
  kind.order, kind.hash, kind.size = bits._order, bits._hash, column.bit_bytes
  return finish_kind(kind)
end

local function kind_for(values)
  local kind = column.kind(values)
  if kind == "array" then
    local t = array._type_of(values)
    return by_text[t.text] or array_kind(t)
  end
  if kind == "bits" then return by_text.bits or bits_kind() end
  argument_error("tarn.nullable: an array or bits are needed, not %s", kind or describe(values))
end

-- ---- making ----

local function over(values, validity)
  local kind = kind_for(values)
  local c = kind.view()
  c.block_count = 2
  c.block = block.share(values.block)
  c.valid_block = block.share(validity.block)
  kind.point(c, values)
  c.there, c.there_at = validity.p, validity.at
  c.n = values.n
  return c
end

-- All are there unless bits say otherwise.
local function from_values(values, validity)
  if validity == nil then
    validity = bits.new(values.n):fill(true)
  elseif type(validity) == "table" then
    validity = bits.new(validity)
  elseif column.kind(validity) ~= "bits" then
    argument_error("tarn.nullable: bits or a list of booleans are needed, not %s", describe(validity))
  end
  if validity.n ~= values.n then argument_error("tarn.nullable: %.14g bits for %.14g elements", validity.n, values.n) end
  return over(values, validity)
end

local function from_declaration(declaration, list)
  local n = list
  if type(list) == "table" then n = list.n or table.maxn(list) end
  n = column.count(n, "tarn.nullable")
  local c = over(declaration == "bits" and bits.new(n) or array.new(declaration, n), bits.new(n))
  if type(list) == "table" then
    for i = 1, n do
      if list[i] ~= nil then c[i] = list[i] end
    end
  end
  return c
end

---A new column whose elements may be missing.
---@param values tarn.Array|tarn.Bits|string an array or bits, which is shared; or an element type ("double", ..., "bits")
---@param validity? tarn.Bits|boolean[]|integer|table bits (shared) or booleans, true where there is a value (default: everywhere). After
--- an element type: how many elements (all missing), or a list of them: {1, nil, 3, n = 4}
---@return tarn.Nullable nullable
function nullable.new(values, validity)
  if type(values) == "string" then return from_declaration(values, validity) end
  if column.kind(values) == "nullable" then return values:copy() end
  kind_for(values)
  return from_values(values, validity)
end

-- ---- methods ----

---Is x a nullable column?
---@param x any
---@return boolean is
function nullable.is(x) return column.kind(x) == "nullable" end

local function check_self(c, method) column.check(c, "nullable", "nullable:" .. method) end

function methods:valid(i)
  if type(i) ~= "number" or not (i >= 1 and i <= self.n and i % 1 == 0) then return false end
  return is_valid(self, i)
end

function methods:valid_count() return tonumber(kernel.tarn_column_bits_count(self.there, self.there_at, self.n)) end

local function part_of_validity(c, skip, n)
  return bits._view(n, c.there_at + skip, block.share, c.valid_block)
end

function methods:validity() return part_of_validity(self, 0, self.n) end

---A writable copy.
---@return tarn.Nullable nullable
function methods:copy()
  check_self(self, "copy")
  return over(self.values:copy(), self:validity():copy())
end

---Elements i to j on the same bytes.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Nullable nullable
function methods:slice(i, j)
  check_self(self, "slice")
  i, j = column.range(i, j, self.n, "nullable:slice")
  local n = j - i + 1
  return over(kind_of(self).values(self, i - 1, n), part_of_validity(self, i - 1, n))
end

-- ---- order: the values' own, and the missing behind them ----

function methods:order(i, value) return kind_of(self).order(self[i], value) end

function methods:hash(i)
  local v = self[i]
  if v ~= nil then return kind_of(self).hash(v) end
end

function methods:_gather(rows) return over(self.values:_gather(rows), self:validity():_gather(rows)) end
function methods:_keys(keys, rows, count) return self.values:_keys(keys, rows, count) end

function methods:nbytes() return kind_of(self).size(self.n) + column.bit_bytes(self.n) end

function methods:_title() return ("nullable %s (%.14g)"):format(kind_of(self).text, self.n) end

column.methods(methods)

package.loaded["tarn.nullable"] = nullable -- the serializer asks for it
serializer.load("nullable")

return setmetatable(nullable, { __call = function(_, values, validity) return nullable.new(values, validity) end })
