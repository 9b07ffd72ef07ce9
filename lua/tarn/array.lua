-- Fixed-length arrays of numbers or structs, outside the Lua heap: a view of a block of the pool. Indexing compiles to a load or a store.
--
-- Numbers read from a block are looked at before Lua sees them: LuaJIT keeps types in the bits of NaNs, so a NaN with a payload would be
-- taken for something else. They are read as the ordinary NaN.
local bit = require "bit"
local block = require "tarn.block"
local ctype = require "tarn.ctype"
local errors = require "tarn.errors"
local ffi = require "ffi"
local serializer = require "tarn.serializer"
local typeof, metatype = ffi.typeof, ffi.metatype -- busted replaces the FFI's by ones that remember their first argument only

local C = block.C
local band = bit.band
local nan = 0 / 0
local MAX_DIMS = 32

local array = {}
local methods = {}
-- Element types are ctype.of's, with view, pointer and const_pointer (ctypes) added.
local by_view = {} -- ctype id of a view -> element type
local shapes = setmetatable({}, { __mode = "k" }) -- view -> list of dimensions, where there is more than one

local function type_of(a) return by_view[tonumber(typeof(a))] end

local function argument_error(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end

local function describe(x)
  if type(x) == "string" then return ("'%s'"):format(#x > 40 and x:sub(1, 37) .. "..." or x) end
  return type(x) == "number" and ("%.14g"):format(x) or type(x) == "cdata" and tostring(typeof(x)) or tostring(x)
end

-- ---- reading and writing one element ----

local int64_t, uint64_t = typeof "int64_t", typeof "uint64_t"

local function is_int64(x) return ffi.istype(int64_t, x) or ffi.istype(uint64_t, x) end

-- Reading with what is not an index that exists: a field, a 64-bit index, or nothing.
local function read_other(self, key)
  local method = methods[key]
  if method then return method end
  if key == "shape" then return array.shape(self) end
  if key == "ctype" then return type_of(self).text end
  if key == "sealed" then return self.block.sealed ~= 0 end
  if type(key) == "cdata" and is_int64(key) then return self[tonumber(key)] end
end

local function assign(self, i, v) self.p[i - 1] = v end

-- By way of a struct of its own: a table that does not fit leaves the element as it was.
local function assign_struct(self, i, v, t) self.p[i - 1] = t.ctype(v) end

-- Writing that the fast path did not take: a rarer kind of value, or an error.
local function write_other(self, i, v)
  if type(i) == "cdata" and is_int64(i) then i = tonumber(i) end
  if type(i) ~= "number" or i % 1 ~= 0 then argument_error("an array's index is a whole number, not %s", describe(i)) end
  if i < 1 or i > self.n then argument_error("index %.14g is outside 1..%.14g", i, self.n) end
  if self.block.sealed ~= 0 then argument_error("the array is sealed: it has been stored; a:copy() gives a writable one") end
  local t = type_of(self)
  local fits = type(v) == "number" or is_int64(v)
  if t.struct then
    fits = type(v) == "table" or type(v) == "cdata"
  elseif t.text == "bool" then
    fits = type(v) == "boolean"
  end
  if not fits then argument_error("%s cannot be an element of an array of %s", describe(v), t.text) end
  local ok, problem = pcall(t.struct and assign_struct or assign, self, i, v, t)
  if not ok then argument_error("element %.14g: %s", i, tostring(problem):gsub("^[^:]*:%d+: ", "")) end
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

local function write_any(self, i, v) return write_other(self, i, v) end

-- ---- element types ----

local function length(self) return self.n end

local function next_element(a, i)
  i = i + 1
  if i <= a.n then return i, a[i] end
end

local function iterate(a) return next_element, a, 0 end

local function preview(a)
  local shown, parts = math.min(a.n, 8), {}
  local t = type_of(a)
  for i = 1, shown do parts[i] = t.struct and "{...}" or tostring(a[i]) end
  if shown < a.n then parts[#parts + 1] = "..." end
  local shape = shapes[a]
  local size = shape and table.concat(shape, "x") or ("%.14g"):format(a.n)
  return ("array of %s (%s): %s"):format(t.text, size, table.concat(parts, ", "))
end

local function reader_of(t)
  if t.struct then return readers.struct end
  return readers[t.text] or readers.plain
end

-- How a number's bits are looked at: in the same stride as the number itself, so that the compiler sees that both are the same memory.
local bits_of = { double = "const struct { int32_t low, high; }", float = "const int32_t" }

local function make_type(t)
  if not serializer.load("array") then error("serializers/array.lua is missing", 0) end
  t.pointer, t.const_pointer = typeof("$ *", t.ctype), typeof("const $ *", t.ctype)
  t.view = typeof(([[struct {
    uint32_t block_count; uint32_t flags; tarn_block_t *block;
    union { $ *p; const $ *c; %s *w; };
    double n; }]]):format(bits_of[t.text] or "const void"), t.ctype, t.ctype)
  metatype(t.view, {
    __index = reader_of(t),
    __newindex = (t.struct or t.text == "bool") and write_any or write_number,
    __len = length,
    __ipairs = iterate,
    __pairs = iterate,
    __tostring = preview,
    __gc = C.tarn_view_drop,
  })
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

-- For the serializer: a view of n elements from a byte offset on in a block that is mapped for it.
function array._view(t, n, shape, offset_bytes, take)
  local a = view_of(t, n)
  a.block = take()
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

local function check_count(n)
  if not (n >= 0 and n <= 2 ^ 52 and n % 1 == 0) then argument_error("tarn.array: the number of elements is %s", describe(n)) end
  return n
end

local function fill(a, list, n)
  for i = 1, n do
    local v = list[i]
    if v == nil then argument_error("tarn.array: element %d is nil", i) end
    a[i] = v
  end
end

local function is_view(x) return type(x) == "cdata" and type_of(x) ~= nil end

---A new array.
---@param declaration string a number type of C ("double", "int32_t"...), "struct {...}", or a name given to tarn.ctype
---@param x integer|table the number of elements (zeros); a list of elements; {shape = {rows, columns...}}, with or without elements; or
--- another array, to be converted
function array.new(declaration, x)
  if type(declaration) ~= "string" then
    argument_error('tarn.array: an element type such as "double" is needed, not %s', describe(declaration))
  end
  local ok, t = pcall(element_type, declaration)
  if not ok then argument_error("tarn.array: %s", tostring(t)) end
  if type(x) == "number" then return allocate(t, check_count(x), nil, true) end
  if type(x) == "table" then
    local n, shape = #x, nil
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
function array.is(x) return is_view(x) end

---The dimensions, as a new list.
function array.shape(a)
  local shape = shapes[a]
  return shape and { unpack(shape) } or { a.n }
end

local function check_self(a, method)
  if not is_view(a) then argument_error("array:%s: call it with a colon", method) end
end

---Pointer to the first element, 0-based; const when sealed. Valid while the array is reachable.
function methods:ptr()
  check_self(self, "ptr")
  if self.block.sealed ~= 0 then return self.c end
  return self.p
end

---A writable copy.
function methods:copy()
  check_self(self, "copy")
  local t = type_of(self)
  local a = allocate(t, self.n, shapes[self] and { unpack(shapes[self]) }, false)
  ffi.copy(a.p, self.c, self.n * t.size)
  return a
end

---Elements i to j (default: the last) as an array of their own on the same bytes: what one writes the other reads.
function methods:slice(i, j)
  check_self(self, "slice")
  if j == nil then j = self.n end
  if type(i) ~= "number" or type(j) ~= "number" or i % 1 ~= 0 or j % 1 ~= 0 or i < 1 or j > self.n or j < i - 1 then
    argument_error("array:slice: %s to %s is not within 1..%.14g", describe(i), describe(j), self.n)
  end
  local a = view_of(type_of(self), j - i + 1)
  a.block = block.share(self.block)
  a.p = self.p + (i - 1)
  return a
end

---All elements in a Lua table.
function methods:totable()
  check_self(self, "totable")
  local list = {}
  for i = 1, self.n do list[i] = self[i] end
  return list
end

-- ---- for the serializer ----

-- Element type, shape (nil for one dimension), offset in the block and bytes.
function array._parts(a)
  local t = type_of(a)
  local offset = ffi.cast("const uint8_t *", a.c) - ffi.cast("const uint8_t *", a.block.data)
  return t, shapes[a], tonumber(offset), a.n * t.size
end

return setmetatable(array, { __call = function(_, declaration, x) return array.new(declaration, x) end })
