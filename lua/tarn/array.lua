-- Fixed-length arrays of numbers or structs, outside the Lua heap: a view of a block of the pool. Indexing compiles to a load or a store.
--
-- Numbers read from a block are looked at before Lua sees them: LuaJIT keeps types in the bits of NaNs, so a NaN with a payload would be
-- taken for something else. They are read as the ordinary NaN.
local bit = require "bit"
local block = require "tarn.block"
local column = require "tarn.column"
local ctype = require "tarn.ctype"
local ffi = require "ffi"
local kernel = require "tarn.kernel"
local number = require "tarn.number"
local serializer = require "tarn.serializer"
local typeof = ffi.typeof -- busted replaces the FFI's by ones that remember their first argument only

local argument_error, describe, is_int64 = column.argument_error, column.describe, column.is_int64
local band = bit.band
local nan = 0 / 0
local MAX_DIMS = 32

local array = {}

---A fixed number of numbers or structs of C. `a[i]` reads, `a[i] = v` writes until it is stored; `#a`, `pairs`, `ipairs`. NaNs are read
---as the ordinary one.
---@class tarn.Array: tarn.Column
---@field kind "array"
---@field ctype string the declaration of an element
---@field shape integer[] the dimensions, as a new list
---@field sealed boolean it has been stored: writing is an error
---@field [integer] any
local methods = {}
-- Element types are ctype.of's, with view, pointer and const_pointer (ctypes), letter (see number.lua), read and write (for views) added.
local by_view = {} -- ctype id of a view -> element type
local shapes = setmetatable({}, { __mode = "k" }) -- view -> list of dimensions, where there is more than one

local function type_of(a) return by_view[tonumber(typeof(a))] end

-- ---- reading and writing one element ----

local read_other = column.other_reader("array", methods, {
  shape = function(a) return array.shape(a) end,
  ctype = function(a) return type_of(a).text end,
  sealed = function(a) return a.block.sealed ~= 0 end,
})

local function assign(self, i, v) self.p[i - 1] = v end

-- By way of a struct of its own: a table that does not fit leaves the element as it was.
local function assign_struct(self, i, v, t)
  if type(v) == "cdata" and t.const_text and ffi.istype(t.const_ctype, v) then -- an element of a sealed array
    ffi.copy(self.p + (i - 1), v, t.size)
  else
    self.p[i - 1] = t.ctype(v)
  end
end

-- Element i, which exists and may be written, becomes v; or an error that names v. For nullable columns too.
local function put(t, self, i, v)
  local fits = number.is(v)
  if t.struct then
    fits = type(v) == "table" or type(v) == "cdata"
  elseif t.text == "bool" then
    fits = type(v) == "boolean"
  end
  if not fits then argument_error("%s cannot be an element of an array of %s", describe(v), t.text) end
  local ok, problem = pcall(t.struct and assign_struct or assign, self, i, v, t)
  if not ok then argument_error("element %.14g: %s", i, tostring(problem):gsub("^[^:]*:%d+: ", "")) end
end
array._put = put

-- Writing that the fast path did not take: a rarer kind of value, or an error.
local function write_other(self, i, v)
  i = column.index(i, self.n, "an array's")
  if self.block.sealed ~= 0 then argument_error("the array is sealed: it has been stored; a:copy() gives a writable one") end
  return put(type_of(self), self, i, v)
end

-- One accessor a kind of element. `i % 1 == 0` costs nothing in compiled loops, where i is known to be whole.
local readers = {
  plain = function(self, i)
    if type(i) == "number" then
      if i >= 1 and i <= self.n and i % 1 == 0 then return self.p[i - 1] end
      return nil
    end
    return read_other(self, i)
  end,
  double = function(self, i)
    if type(i) == "number" then
      if i >= 1 and i <= self.n and i % 1 == 0 then
        if band(self.w[i - 1].high, 0x7fffffff) >= 0x7ff10000 then return nan end
        return self.p[i - 1]
      end
      return nil
    end
    return read_other(self, i)
  end,
  float = function(self, i)
    if type(i) == "number" then
      if i >= 1 and i <= self.n and i % 1 == 0 then
        if band(self.w[i - 1], 0x7fffffff) > 0x7f800000 then return nan end
        return self.p[i - 1]
      end
      return nil
    end
    return read_other(self, i)
  end,
  struct = function(self, i)
    if type(i) == "number" then
      if i >= 1 and i <= self.n and i % 1 == 0 then
        if self.block.sealed ~= 0 then return self.c[i - 1] end
        return self.p[i - 1]
      end
      return nil
    end
    return read_other(self, i)
  end,
}

local function write_number(self, i, v)
  if type(i) == "number" and i >= 1 and i <= self.n and type(v) == "number" and i % 1 == 0 and self.block.sealed == 0 then
    self.p[i - 1] = v
    return
  end
  return write_other(self, i, v)
end

local function write_boolean(self, i, v)
  if type(i) == "number" and i >= 1 and i <= self.n and type(v) == "boolean" and i % 1 == 0 and self.block.sealed == 0 then
    self.p[i - 1] = v
    return
  end
  return write_other(self, i, v)
end

local function write_integer(self, i, v)
  if type(v) == "cdata" and is_int64(v) and type(i) == "number" and i >= 1 and i <= self.n and i % 1 == 0 and self.block.sealed == 0 then
    self.p[i - 1] = v
    return
  end
  return write_number(self, i, v)
end

local function write_struct(self, i, v) return write_other(self, i, v) end

local writers = { bool = write_boolean, int64_t = write_integer, uint64_t = write_integer }

-- ---- element types ----

-- How a number's bits are looked at: in the same stride as the number itself, so that the compiler sees that both are the same memory.
local bits_of = { double = "const struct { int32_t low, high; }", float = "const int32_t" }

local function make_type(t)
  if not serializer.load("array") then error("serializers/array.lua is missing", 0) end
  t.pointer, t.const_pointer = typeof("$ *", t.ctype), typeof("const $ *", t.const_ctype)
  t.bits_of = bits_of[t.text] or "const void"
  t.view = typeof(([[struct {
    uint32_t block_count; uint32_t flags; tarn_block_t *block;
    union { $ *p; const $ *c; %s *w; };
    double n; }]]):format(t.bits_of), t.ctype, t.const_ctype)
  t.letter = number.letters[t.text]
  t.read = t.struct and readers.struct or readers[t.text] or readers.plain
  t.write = t.struct and write_struct or writers[t.text] or write_number
  column.define(t.view, "array", t.read, t.write)
  by_view[tonumber(t.view)] = t
  serializer.bind("array", t.view)
  return t
end

-- The element type for a declaration. Raises a text.
local function element_type(declaration)
  local t = ctype.of(declaration)
  return t.view and t or make_type(t)
end
array._element_type = element_type

-- ---- making ----

-- A view without a block yet: to be given one that it owns.
local function view_of(t, n)
  local a = t.view()
  a.block_count = 1
  a.n = n
  return a
end

-- A view of n elements of type t from a byte offset on in a block that take(from) maps for it. Raises a text.
function array._view(t, n, shape, offset_bytes, take, from)
  local a = view_of(t, 0)
  a.block = take(from)
  local size = tonumber(a.block.size)
  if not (column.is_whole(n) and column.is_whole(offset_bytes)) or offset_bytes % t.align ~= 0 or offset_bytes + n * t.size > size then
    error("elements outside their block", 0)
  end
  a.n = n
  a.p = ffi.cast(t.pointer, a.block.data + offset_bytes)
  if shape then shapes[a] = shape end
  return a
end

local function allocate(t, n, shape, zero)
  local a = view_of(t, n)
  a.block = block.new(n * t.size, zero)
  a.p = ffi.cast(t.pointer, a.block.data)
  if shape then shapes[a] = shape end
  return a
end

-- What a list has beside its n elements.
local function check_names(x, n)
  for key in next, x, n > 0 and n or nil do
    if type(key) == "string" and key ~= "shape" and key ~= "n" then
      argument_error("tarn.array: '%s' is no element; beside elements there is shape", key)
    end
  end
end

-- A checked copy of a list of dimensions, and its product.
local function check_shape(shape)
  if type(shape) ~= "table" or #shape == 0 or #shape > MAX_DIMS then
    argument_error("tarn.array: shape is a list of 1 to %d whole numbers", MAX_DIMS)
  end
  local copy, n = {}, 1
  for i = 1, #shape do
    local size = shape[i]
    if type(size) ~= "number" or size < 0 or size % 1 ~= 0 then
      argument_error("tarn.array: dimension %d of the shape is %s, not a whole number", i, describe(size))
    end
    copy[i], n = size, n * size
  end
  if n > 2 ^ 52 then argument_error("tarn.array: a shape of %.3g elements", n) end
  return #copy > 1 and copy or nil, n
end

local function fill(a, list, n)
  for i = 1, n do
    local v = list[i]
    if v == nil then argument_error("tarn.array: element %d is nil", i) end
    a[i] = v
  end
end

local function is_view(x) return type(x) == "cdata" and type_of(x) ~= nil end

---A new array. Zero-filled, unless it is made of something; it counts against the process's memory at once. May suspend; no room:
---PoolFull or DiskFull.
---@param declaration string a number type of C ("double", "int32_t", ...), "struct {...}", or a name given to tarn.ctype
---@param x integer|table|tarn.Array how many elements; a list of them; {shape = {rows, columns, ...}}, with or without elements; or
--- another array, to be converted
---@return tarn.Array array
function array.new(declaration, x)
  if type(declaration) ~= "string" then
    argument_error('tarn.array: an element type such as "double" is needed, not %s', describe(declaration))
  end
  local ok, t = pcall(element_type, declaration)
  if not ok then argument_error("tarn.array: %s", tostring(t)) end
  if type(x) == "number" then return allocate(t, column.count(x, "tarn.array"), nil, true) end
  if type(x) == "table" then
    local n, shape = #x, nil
    check_names(x, n)
    if x.shape ~= nil then
      local count
      shape, count = check_shape(x.shape)
      if n ~= 0 and n ~= count then argument_error("tarn.array: %d elements for a shape of %.14g", n, count) end
      if n == 0 then return allocate(t, count, shape, true) end
    end
    local a = allocate(t, n, shape, false)
    fill(a, x, n)
    return a
  end
  if is_view(x) then
    local a = allocate(t, x.n, shapes[x], false)
    fill(a, x, x.n)
    return a
  end
  return argument_error("tarn.array: the number of elements, a list or {shape = {...}} is needed, not %s", describe(x))
end

-- ---- methods ----

---Is x an array?
---@param x any
---@return boolean is
function array.is(x) return is_view(x) end

---The dimensions of an array, as a new list.
---@param a tarn.Array
---@return integer[] shape
function array.shape(a)
  local shape = shapes[a]
  return shape and { unpack(shape) } or { a.n }
end

local function check_self(a, method) column.check(a, "array", "array:" .. method) end

---A pointer to the first element, 0-based; const when sealed. Valid while the array is reachable, else until the next tarn call of the
---task.
---@return ffi.cdata* pointer
function methods:ptr()
  check_self(self, "ptr")
  if self.block.sealed ~= 0 then return self.c end
  return self.p
end

---A writable copy.
---@return tarn.Array array
function methods:copy()
  check_self(self, "copy")
  local t = type_of(self)
  local a = allocate(t, self.n, shapes[self] and { unpack(shapes[self]) }, false)
  ffi.copy(a.p, self.c, self.n * t.size)
  return a
end

-- n elements behind the first `skip` ones as an array of their own on the same bytes.
local function part(a, skip, n, shape)
  local b = view_of(type_of(a), n)
  b.block = block.share(a.block)
  b.p = a.p + skip
  if shape then shapes[b] = shape end
  return b
end

---Elements i to j as an array of their own on the same bytes: what one writes the other reads.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Array array
function methods:slice(i, j)
  check_self(self, "slice")
  i, j = column.range(i, j, self.n, "array:slice")
  return part(self, i - 1, j - i + 1)
end

-- ---- more than one dimension: the last one's elements lie beside each other ----

---The same bytes in another shape.
---@param shape integer[]
---@return tarn.Array array
function methods:reshape(shape)
  check_self(self, "reshape")
  local copy, n = check_shape(shape)
  if n ~= self.n then argument_error("array:reshape: %.14g elements for a shape of %.14g", self.n, n) end
  return part(self, 0, n, copy)
end

---Part i of the first dimension, as an array of the other dimensions on the same bytes: a:row(2)[3] is a:at(2, 3).
---@param i integer
---@return tarn.Array array
function methods:row(i)
  check_self(self, "row")
  local shape = shapes[self]
  if not shape then argument_error("array:row: the array has one dimension") end
  i = column.index(i, shape[1], "a row's")
  local n = self.n / shape[1]
  return part(self, (i - 1) * n, n, #shape > 2 and { unpack(shape, 2) } or nil)
end

local function check_dims(count, shape)
  local dims = shape and #shape or 1
  if count ~= dims then argument_error("array:at: %d indices where there are %d dimensions", count, dims) end
  return dims
end

-- The index of the element at those indices; nil where one of them is outside.
local function place(a, count, ...)
  local shape, at = shapes[a], 0
  for d = 1, check_dims(count, shape) do
    local i, size = select(d, ...), shape and shape[d] or a.n
    if type(i) ~= "number" or not (i >= 1 and i <= size and i % 1 == 0) then return nil end
    at = at * size + i - 1
  end
  return at + 1
end

---The element at indices i, j, ...; nil where one of them is outside.
---@param i integer
---@param j? integer
---@param ... integer
---@return any element
function methods:at(i, j, ...)
  local shape = shapes[self]
  if shape and shape[3] == nil and select("#", ...) == 0 and type(i) == "number" and type(j) == "number" then
    local columns = shape[2]
    if j >= 1 and j <= columns and i % 1 == 0 and j % 1 == 0 then return self[(i - 1) * columns + j] end
    return nil
  end
  check_self(self, "at")
  local k = j == nil and place(self, 1, i) or j ~= nil and place(self, 2 + select("#", ...), i, j, ...)
  if k then return self[k] end
end

---Write the element at indices i, j, ...
---@param value any
---@param ... integer the indices
function methods:put(value, ...)
  check_self(self, "put")
  local k = place(self, select("#", ...), ...)
  if not k then
    local shape = shapes[self] or { self.n }
    argument_error("array:put: (%s) is outside %s", table.concat({ ... }, ", "), table.concat(shape, "x"))
  end
  self[k] = value
end

-- ---- order ----

local function check_order(t)
  if not t.letter then argument_error("arrays of structs have no order: take the field that is meant") end
  return t
end

local function rank(v, t)
  if type(v) == "boolean" and t.letter == "?" then return v and 1 or 0 end
  if t.letter == "?" or not number.is(v) then
    argument_error("%s cannot be compared with an array's elements, which are %s", describe(v), t.text)
  end
  return v
end

-- An element of type t, or nil, beside a Lua value.
function array._order(t, v, value)
  check_order(t)
  if v == nil then return value == nil and 0 or 1 end
  if value == nil then return -1 end
  return number.order(rank(v, t), rank(value, t))
end

function array._hash(t, v)
  check_order(t)
  if t.letter == "?" then return v and 1 or 0 end
  return number.hash(v)
end

function methods:order(i, value) return array._order(type_of(self), self[i], value) end

function methods:hash(i)
  local v = self[i]
  if v ~= nil then return array._hash(type_of(self), v) end
end

---Sort the elements themselves. Not of arrays of structs.
---@param down? boolean the largest first
---@return tarn.Array self
function methods:sort(down)
  check_self(self, "sort")
  local t = check_order(type_of(self))
  if self.block.sealed ~= 0 then argument_error("the array is sealed: it has been stored; a:copy() gives a writable one") end
  local keys, more = block.scratch(self.n * 8), block.scratch(self.n * 8)
  local k = ffi.cast("uint64_t *", keys.block.data)
  kernel.tarn_column_number_keys(k, t.letter:byte(), self.p, nil, self.n)
  kernel.tarn_column_sort(k, nil, ffi.cast("uint64_t *", more.block.data), nil, self.n, down and true or false)
  kernel.tarn_column_keys_numbers(self.p, t.letter:byte(), k, self.n)
  block.drop(keys)
  block.drop(more)
  return self
end

function methods:_keys(keys, rows, count)
  kernel.tarn_column_number_keys(keys, check_order(type_of(self)).letter:byte(), self.p, rows, count)
end

function methods:sorted()
  check_self(self, "sorted")
  local t = check_order(type_of(self))
  return kernel.tarn_column_number_ascends(t.letter:byte(), self.c, t.size, self.n)
end

-- Beyond 2^53 a 64-bit integer may round to value: those are searched one by one, as are values that are 64-bit themselves.
function methods:_search(value, from, to, above)
  local letter = type_of(self).letter
  if type(value) ~= "number" or value ~= value or not letter or letter == "?" then return nil end
  if (letter == "q" or letter == "Q") and not (value > -2 ^ 53 and value < 2 ^ 53) then return nil end
  return tonumber(kernel.tarn_column_number_search(letter:byte(), self.c, from, to, value, above))
end

function methods:_gather(rows)
  local t = type_of(self)
  local a = allocate(t, #rows, nil, false)
  kernel.tarn_column_take(a.p, self.c, t.size, rows:ptr(), #rows)
  return a
end

function methods:nbytes() return self.n * type_of(self).size end

function methods:_title()
  local shape = shapes[self]
  return ("array of %s (%s)"):format(type_of(self).text, shape and table.concat(shape, "x") or ("%.14g"):format(self.n))
end

-- ---- for the serializer ----

-- Element type, shape (nil for one dimension), offset in the block in bytes.
function array._parts(a)
  local t = type_of(a)
  return t, shapes[a], block.offset(a.block, a.c)
end

array._type_of = type_of
methods._dense = true
column.methods(methods)

return setmetatable(array, { __call = function(_, declaration, x) return array.new(declaration, x) end })
