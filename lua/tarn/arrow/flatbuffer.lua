-- FlatBuffers, as much of them as Arrow's metadata needs: read with every offset checked before it is followed, written front to back.
--
-- Reading: read.root(pointer, nbytes, fail) is a table; t:number(id, type, otherwise), t:string(id), t:table(id), t:tables(id),
-- t:structs(id, nbytes of one). What does not fit the bytes calls fail(text), which must raise.
--
-- Writing: write(table) is a string. A table is a list of fields {id, type, value}; type is a number's C type, or "table" (value: a
-- table), "string", "tables" (a list of tables), or "structs" (value: {bytes as a string, how many}).
local ffi = require "ffi"

local SIZES = { bool = 1, uint8_t = 1, int8_t = 1, uint16_t = 2, int16_t = 2, int32_t = 4, uint32_t = 4, int64_t = 8 }
local MAX_INTEGER = 2 ^ 53

local cells = {}
for name in pairs(SIZES) do cells[name] = ffi.new(name .. "[1]") end

-- ---- reading ----

-- What all tables of a buffer share: p, size, fail.
local Buffer = {}
Buffer.__index = Buffer

-- The bytes from at on must be there.
local function check(b, at, nbytes)
  if not (at >= 0 and at + nbytes <= b.size) then b.fail(("%d bytes at %.14g of %.14g"):format(nbytes, at, b.size)) end
end

---The number of a C type at an offset. 64-bit ones must fit a Lua number.
function Buffer:number(at, type_)
  local size, cell = SIZES[type_], cells[type_]
  check(self, at, size)
  ffi.copy(cell, self.p + at, size)
  if type_ == "bool" then return cell[0] end
  local n = tonumber(cell[0])
  if not (n >= -MAX_INTEGER and n <= MAX_INTEGER) then self.fail(("the number %.17g at %.14g"):format(n, at)) end
  return n
end

local function follow(b, at) return at + b:number(at, "uint32_t") end

local Table = {}
Table.__index = Table

local function table_at(b, at)
  check(b, at, 4)
  local vtable = at - b:number(at, "int32_t")
  local size = b:number(vtable, "uint16_t")
  check(b, vtable, size)
  return setmetatable({ buffer = b, at = at, vtable = vtable, vtable_size = size }, Table)
end

-- Where field id is; nil when it is absent.
local function field(t, id)
  local entry = 4 + 2 * id
  if entry + 2 > t.vtable_size then return nil end
  local offset = t.buffer:number(t.vtable + entry, "uint16_t")
  if offset ~= 0 then return t.at + offset end
end

function Table:number(id, type_, otherwise)
  local at = field(self, id)
  if not at then return otherwise end
  return self.buffer:number(at, type_)
end

-- Where a vector's elements begin, and how many they are.
local function vector(t, id, nbytes)
  local at = field(t, id)
  if not at then return 0, 0 end
  at = follow(t.buffer, at)
  local n = t.buffer:number(at, "uint32_t")
  check(t.buffer, at + 4, n * nbytes)
  return at + 4, n
end
Table.structs = vector

function Table:string(id)
  local at, n = vector(self, id, 1)
  if at ~= 0 then return ffi.string(self.buffer.p + at, n) end
end

function Table:table(id)
  local at = field(self, id)
  if at then return table_at(self.buffer, follow(self.buffer, at)) end
end

function Table:tables(id)
  local at, n = vector(self, id, 4)
  local list = {}
  for i = 1, n do list[i] = table_at(self.buffer, follow(self.buffer, at + 4 * (i - 1))) end
  return list
end

local function root(pointer, nbytes, fail)
  local b = setmetatable({ p = ffi.cast("const uint8_t *", pointer), size = nbytes, fail = fail }, Buffer)
  return table_at(b, follow(b, 0))
end

-- ---- writing ----

local uint8_array = ffi.typeof "uint8_t[?]"

-- Zeros up to the next multiple of align (a power of two), then room for so many bytes: where they begin.
local function reserve(out, align, nbytes)
  local at = math.ceil(out.size / align) * align
  local size = at + nbytes
  if size > out.capacity then
    local capacity = math.max(size, 2 * out.capacity)
    local p = uint8_array(capacity)
    if out.size > 0 then ffi.copy(p, out.p, out.size) end
    out.p, out.capacity = p, capacity
  end
  out.size = size
  return at
end

local function put(out, at, type_, value)
  local cell = cells[type_]
  cell[0] = value
  ffi.copy(out.p + at, cell, SIZES[type_])
end

local function put_bytes(out, bytes, count)
  local at = reserve(out, 8, 8) + 4 -- so that the elements begin at a multiple of 8
  put(out, at, "uint32_t", count)
  local data = reserve(out, 1, #bytes + 1)
  ffi.copy(out.p + data, bytes, #bytes)
  return at
end

local put_table

local putters = {
  string = function(out, text) return put_bytes(out, text, #text) end,
  structs = function(out, structs) return put_bytes(out, structs[1], structs[2]) end,
  tables = function(out, list)
    local at = reserve(out, 4, 4 + 4 * #list)
    put(out, at, "uint32_t", #list)
    for i, t in ipairs(list) do
      local child = put_table(out, t)
      put(out, at + 4 * i, "uint32_t", child - (at + 4 * i))
    end
    return at
  end,
}

-- The vtable, the table, then what it points to: offsets only go forward.
function put_table(out, fields)
  local last = -1
  for _, f in ipairs(fields) do last = math.max(last, f[1]) end
  local vtable_size = 4 + 2 * (last + 1)
  local vtable = reserve(out, 2, vtable_size)
  local start = reserve(out, 8, 4)
  local places = {}
  for i, f in ipairs(fields) do
    local size = SIZES[f[2]] or 4
    places[i] = reserve(out, size, size)
    put(out, vtable + 4 + 2 * f[1], "uint16_t", places[i] - start)
    if SIZES[f[2]] then put(out, places[i], f[2], f[3]) end
  end
  put(out, vtable, "uint16_t", vtable_size)
  put(out, vtable + 2, "uint16_t", out.size - start)
  put(out, start, "int32_t", start - vtable)
  for i, f in ipairs(fields) do
    local putter = putters[f[2]]
    if putter then put(out, places[i], "uint32_t", putter(out, f[3]) - places[i]) end
  end
  return start
end
putters.table = function(out, fields) return put_table(out, fields) end

local function write(fields)
  local out = { size = 0, capacity = 0 }
  reserve(out, 8, 8)
  put(out, 0, "uint32_t", put_table(out, fields))
  reserve(out, 8, 0)
  return ffi.string(out.p, out.size)
end

return { root = root, write = write }
