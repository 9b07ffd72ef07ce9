-- Columns of booleans, a bit each: bit k % 8 of byte k / 8, as Arrow has them. A slice begins at any bit.
local bit = require "bit"
local block = require "tarn.block"
local column = require "tarn.column"
local ffi = require "ffi"
local kernel = require "tarn.kernel"
local serializer = require "tarn.serializer"
local typeof = ffi.typeof -- busted replaces the FFI's by ones that remember their first argument only

local argument_error, describe = column.argument_error, column.describe
local band, bor, bnot, lshift = bit.band, bit.bor, bit.bnot, bit.lshift
local floor = math.floor

local bits = {}

---Booleans, a bit each.
---@class tarn.Bits: tarn.Column
---@field kind "bits"
---@field sealed boolean
---@field [integer] boolean
local methods = {}

local view_t = typeof "struct { uint32_t block_count; uint32_t flags; tarn_block_t *block; uint8_t *p; double at; double n; }"

---Is x bits?
---@param x any
---@return boolean is
local function is_bits(x) return ffi.istype(view_t, x) end

-- ---- one element ----

local read_other = column.other_reader("bits", methods, { sealed = function(b) return b.block.sealed ~= 0 end })

local function read(self, i)
  if type(i) == "number" then
    if i >= 1 and i <= self.n and i % 1 == 0 then
      local k = self.at + i - 1
      return band(self.p[floor(k * 0.125)], lshift(1, band(k, 7))) ~= 0
    end
    return nil
  end
  return read_other(self, i)
end

local function put(self, i, v)
  local k = self.at + i - 1
  local byte, mask = floor(k * 0.125), lshift(1, band(k, 7))
  if v then
    self.p[byte] = bor(self.p[byte], mask)
  else
    self.p[byte] = band(self.p[byte], bnot(mask))
  end
end

bits._read, bits._put = read, put

local function write_other(self, i, v)
  i = column.index(i, self.n, "a bit's")
  if self.block.sealed ~= 0 then argument_error("the bits are sealed: they have been stored; b:copy() gives writable ones") end
  if type(v) ~= "boolean" then argument_error("%s cannot be an element of bits", describe(v)) end
  put(self, i, v)
end

local function write(self, i, v)
  if type(i) == "number" and i >= 1 and i <= self.n and type(v) == "boolean" and i % 1 == 0 and self.block.sealed == 0 then
    return put(self, i, v)
  end
  return write_other(self, i, v)
end

-- ---- making ----

local function view_of(n, at)
  local b = view_t()
  b.block_count = 1
  b.n, b.at = n, at
  return b
end

local function allocate(n, zero)
  local b = view_of(n, 0)
  b.block = block.new(column.bit_bytes(n), zero)
  b.p = b.block.data
  return b
end

-- A view of n bits from bit `at` on of a block that take(from) maps for it. Raises a text.
function bits._view(n, at, take, from)
  local b = view_of(0, at)
  b.block = take(from)
  if not (column.is_whole(n) and column.is_whole(at)) or at + n > tonumber(b.block.size) * 8 then error("bits outside their block", 0) end
  b.n = n
  b.p = b.block.data
  return b
end

---A new column of booleans, a bit each.
---@param x integer|boolean[]|tarn.Bits how many (all false), or a list; bits are copied
---@return tarn.Bits bits
function bits.new(x)
  if type(x) == "number" then return allocate(column.count(x, "tarn.bits"), true) end
  if is_bits(x) then return x:copy() end
  if type(x) ~= "table" then argument_error("tarn.bits: a number or a list of booleans is needed, not %s", describe(x)) end
  local n = #x
  local b = allocate(n, true)
  for i = 1, n do
    local v = x[i]
    if type(v) ~= "boolean" then argument_error("tarn.bits: element %d is %s, not a boolean", i, describe(v)) end
    put(b, i, v)
  end
  return b
end

-- ---- methods ----

bits.is = is_bits

local function check_self(b, method) column.check(b, "bits", "bits:" .. method) end

---How many are true.
---@return integer count
function methods:count()
  check_self(self, "count")
  return tonumber(kernel.tarn_column_bits_count(self.p, self.at, self.n))
end

---The first index whose element is value.
---@param value? boolean Default: true
---@param from? integer Default: 1
---@return integer|nil index
function methods:find(value, from)
  check_self(self, "find")
  from = from or 1
  if type(from) ~= "number" or from % 1 ~= 0 then argument_error("bits:find: the index is %s", describe(from)) end
  if value == nil then value = true end
  if type(value) ~= "boolean" or from > self.n then return nil end
  local k = tonumber(kernel.tarn_column_bits_find(self.p, self.at, self.n, math.max(from, 1) - 1, value))
  if k < self.n then return k + 1 end
end

---Is any true?
---@return boolean any
function methods:any() return self:find(true) ~= nil end

---Are all true?
---@return boolean all
function methods:all() return self:find(false) == nil end

---Set all, or those from i to j.
---@param value boolean
---@param i? integer Default: 1
---@param j? integer Default: the last
---@return tarn.Bits self
function methods:fill(value, i, j)
  check_self(self, "fill")
  if type(value) ~= "boolean" then argument_error("bits:fill: a boolean is needed, not %s", describe(value)) end
  if self.block.sealed ~= 0 then argument_error("the bits are sealed: they have been stored; b:copy() gives writable ones") end
  i, j = column.range(i or 1, j, self.n, "bits:fill")
  kernel.tarn_column_bits_fill(self.p, self.at + i - 1, j - i + 1, value)
  return self
end

---The indices of those that are true: what column:take wants.
---@return tarn.Array rows of uint32_t
function methods:which()
  check_self(self, "which")
  if self.n > column.ROWS_MAX then argument_error("bits:which: more than 2^32 - 1 bits") end
  local rows = require("tarn.array").new("uint32_t", self:count())
  kernel.tarn_column_bits_which(self.p, self.at, self.n, rows:ptr())
  return rows
end

---A writable copy.
---@return tarn.Bits bits
function methods:copy()
  check_self(self, "copy")
  local b = allocate(self.n, false)
  kernel.tarn_column_bits_copy(b.p, self.p, self.at, self.n)
  return b
end

---Bits i to j as bits of their own on the same bytes.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Bits bits
function methods:slice(i, j)
  check_self(self, "slice")
  i, j = column.range(i, j, self.n, "bits:slice")
  local b = view_of(j - i + 1, self.at + i - 1)
  b.block = block.share(self.block)
  b.p = b.block.data
  return b
end

---A pointer to the byte that has element 1. Valid while the bits are reachable; const when sealed.
---@return ffi.cdata* pointer
---@return integer bit which of its bits that is, 0 to 7
function methods:ptr()
  check_self(self, "ptr")
  local byte = floor(self.at / 8)
  return ffi.cast(self.block.sealed ~= 0 and "const uint8_t *" or "uint8_t *", self.p + byte), self.at - byte * 8
end

function methods:valid(i) return read(self, i) ~= nil end

local function rank(v)
  if v == nil then return 2 end
  if type(v) ~= "boolean" then argument_error("%s cannot be compared with bits", describe(v)) end
  return v and 1 or 0
end

-- An element, or nil, beside a Lua value.
function bits._order(v, value)
  local a, b = rank(v), rank(value)
  return a < b and -1 or a > b and 1 or 0
end

function bits._hash(v) return v and 1 or 0 end

function methods:order(i, value) return bits._order(read(self, i), value) end

function methods:hash(i)
  local v = read(self, i)
  if v ~= nil then return bits._hash(v) end
end

function methods:_gather(rows)
  local b = allocate(#rows, false)
  kernel.tarn_column_bits_take(b.p, self.p, self.at, rows:ptr(), #rows)
  return b
end

function methods:_keys(keys, rows, count) kernel.tarn_column_bit_keys(keys, self.p, self.at, rows, count) end

function methods:nbytes() return column.bit_bytes(self.n) end

function methods:_title() return ("bits (%.14g)"):format(self.n) end

methods._dense = true
column.methods(methods)
column.define(view_t, "bits", read, write)

package.loaded["tarn.bits"] = bits -- the serializer asks for it
serializer.load("bits")
serializer.bind("bits", view_t)

return setmetatable(bits, { __call = function(_, x) return bits.new(x) end })
