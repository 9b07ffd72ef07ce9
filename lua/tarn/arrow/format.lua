-- What Arrow's metadata says: types, fields, batches, messages and the footer, from FlatBuffers and to them. Numbers and names are those of
-- Arrow's format/{Schema,Message,File}.fbs. Pure: no file, no column.
local flatbuffer = require "tarn.arrow.flatbuffer"
local ffi = require "ffi"

local format = {
  MAGIC = "ARROW1",
  CONTINUATION = 0xffffffff,
  SCHEMA = 1, DICTIONARY = 2, BATCH = 3, -- kinds of message
  V4 = 3, V5 = 4, -- metadata versions that are read; V5 is written
}

local MAX_FIELDS, MAX_DEPTH = 65536, 64

-- ---- types ----

local integers = { [8] = "int8_t", [16] = "int16_t", [32] = "int32_t", [64] = "int64_t" }

local function fixed(ctype) return { kind = "fixed", ctype = ctype } end
local function bytes(width) return { kind = "bytes", width = width } end

local function integer(t)
  local ctype = integers[t:number(0, "int32_t", 0)]
  if not ctype then return nil end
  return fixed(t:number(1, "bool", false) and ctype or "u" .. ctype)
end

-- By Arrow's number of a type: its name, how many buffers a field of it has itself (children have theirs), and what column holds it:
-- {kind = "fixed", ctype}, {kind = "bits"}, {kind = "bytes", width of the offsets}, or nil: none. Dates and times are the numbers that
-- Arrow stores.
local types = {
  { "null", 0 },
  { "int", 2, integer },
  { "floating point", 2, function(t) return ({ [1] = fixed "float", [2] = fixed "double" })[t:number(0, "int16_t", 0)] end },
  { "binary", 3, function() return bytes(4) end },
  { "utf8", 3, function() return bytes(4) end },
  { "bool", 2, function() return { kind = "bits" } end },
  { "decimal", 2 },
  { "date", 2, function(t) return fixed(t:number(0, "int16_t", 1) == 0 and "int32_t" or "int64_t") end },
  { "time", 2, function(t) return fixed(t:number(1, "int32_t", 32) == 32 and "int32_t" or "int64_t") end },
  { "timestamp", 2, function() return fixed "int64_t" end },
  { "interval", 2, function(t) return t:number(0, "int16_t", 0) == 0 and fixed "int32_t" or nil end },
  { "list", 2 },
  { "struct", 1 },
  { "union", nil }, -- by its mode
  { "fixed-size binary", 2 },
  { "fixed-size list", 1 },
  { "map", 2 },
  { "duration", 2, function() return fixed "int64_t" end },
  { "large binary", 3, function() return bytes(8) end },
  { "large utf8", 3, function() return bytes(8) end },
  { "large list", 2 },
  { "run-end encoded", 0 },
  { "binary view", 2, function() return { kind = "views" } end, variadic = true },
  { "utf8 view", 2, function() return { kind = "views" } end, variadic = true },
  { "list view", 3 },
  { "large list view", 3 },
}
local UNION, INT, FLOAT, BINARY, UTF8, BOOL, LARGE_BINARY, LARGE_UTF8 = 14, 2, 3, 4, 5, 6, 19, 20

-- ---- reading ----

local function pairs_of(t, id)
  local metadata = {}
  for _, pair in ipairs(t:tables(id)) do
    local key = pair:string(0)
    if key then metadata[key] = pair:string(1) or "" end
  end
  return metadata
end

local function union_buffers(t) return t and t:number(0, "int16_t", 0) == 1 and 2 or 1 end -- dense: offsets too

local function dictionary_of(t)
  if not t then return nil end
  local index = t:table(1)
  return { id = t:number(0, "int64_t", 0), index = index and integer(index) or fixed "int32_t" }
end

local read_fields

local function read_field(t, fail, state, depth)
  state.count = state.count + 1
  if state.count > MAX_FIELDS or depth > MAX_DEPTH then fail "more fields, or deeper ones, than a file has" end
  local number, details = t:number(2, "uint8_t", 0), t:table(3)
  local type_ = types[number]
  local field = {
    name = t:string(0) or "",
    type = type_ and type_[1] or ("type %d"):format(number),
    buffers = number == UNION and union_buffers(details) or type_ and type_[2],
    variadic = type_ and type_.variadic,
    column = type_ and type_[3] and details and type_[3](details),
    dictionary = dictionary_of(t:table(4)),
    children = read_fields(t:tables(5), fail, state, depth + 1),
  }
  if not field.buffers then fail(("field '%s' is of %s, which is unknown"):format(field.name, field.type)) end
  return field
end

function read_fields(list, fail, state, depth)
  local fields = {}
  for i, t in ipairs(list) do fields[i] = read_field(t, fail, state, depth) end
  return fields
end

---Schema -> {fields = {{name, type, column, dictionary, children, buffers, variadic}...}, metadata}
function format.schema(t, fail)
  if t:number(0, "int16_t", 0) ~= 0 then fail "its numbers are big-endian" end
  return { fields = read_fields(t:tables(1), fail, { count = 0 }, 1), metadata = pairs_of(t, 2) }
end

---RecordBatch -> {length, node(i) -> length, nulls; span(i) -> offset, size; variadic(i), nodes, buffers, variadics, codec}
function format.batch(t)
  local b = t.buffer
  local nodes, node_count = t:structs(1, 16)
  local buffers, buffer_count = t:structs(2, 16)
  local variadics, variadic_count = t:structs(4, 8)
  local compression = t:table(3)
  local function pair(at) return b:number(at, "int64_t"), b:number(at + 8, "int64_t") end
  return {
    length = t:number(0, "int64_t", 0),
    nodes = node_count, node = function(i) return pair(nodes + 16 * (i - 1)) end,
    buffers = buffer_count, span = function(i) return pair(buffers + 16 * (i - 1)) end,
    variadics = variadic_count, variadic = function(i) return b:number(variadics + 8 * (i - 1), "int64_t") end,
    codec = compression and ({ [0] = "lz4", "zstd" })[compression:number(0, "int8_t", 0)] or compression and "unknown" or nil,
  }
end

---DictionaryBatch -> id, batch, is it a delta?
function format.dictionary(t, fail)
  local data = t:table(1)
  if not data then fail "a dictionary without data" end
  return t:number(0, "int64_t", 0), format.batch(data), t:number(2, "bool", false)
end

---Message -> {kind, header (a table), version, body_size}
function format.message(pointer, nbytes, fail)
  local t = flatbuffer.root(pointer, nbytes, fail)
  local header = t:table(2)
  if not header then fail "a message without a header" end
  return { kind = t:number(1, "uint8_t", 0), header = header, version = t:number(0, "int16_t", 0), body_size = t:number(3, "int64_t", 0) }
end

---Footer -> {schema (a table), dictionaries, batches: lists of {at}}
function format.footer(pointer, nbytes, fail)
  local t = flatbuffer.root(pointer, nbytes, fail)
  local b = t.buffer
  local function blocks(id)
    local list, at, n = {}, t:structs(id, 24)
    for i = 1, n do
      local block = at + 24 * (i - 1)
      list[i] = { at = b:number(block, "int64_t") } -- the sizes that follow are in the message itself too
    end
    return list
  end
  local schema = t:table(1)
  if not schema then fail "a footer without a schema" end
  return { schema = schema, dictionaries = blocks(2), batches = blocks(3) }
end

-- ---- writing ----

-- The type's number and table for a column of that sort.
local function type_table(column)
  if column.kind == "bits" then return BOOL, {} end
  if column.kind == "bytes" then
    if column.text then return column.width == 4 and UTF8 or LARGE_UTF8, {} end
    return column.width == 4 and BINARY or LARGE_BINARY, {}
  end
  if column.ctype == "float" or column.ctype == "double" then return FLOAT, { { 0, "int16_t", column.ctype == "float" and 1 or 2 } } end
  return INT, { { 0, "int32_t", tonumber(column.ctype:match("%d+")) }, { 1, "bool", column.ctype:sub(1, 1) ~= "u" } }
end

local function field_table(field)
  local number, details = type_table(field.column)
  local t = {
    { 0, "string", field.name }, { 1, "bool", field.nullable }, { 2, "uint8_t", number }, { 3, "table", details }, { 5, "tables", {} },
  }
  if field.dictionary then
    local _, index = type_table(field.dictionary.index)
    t[#t + 1] = { 4, "table", { { 0, "int64_t", field.dictionary.id }, { 1, "table", index }, { 2, "bool", false } } }
  end
  return t
end

---{fields = {{name, nullable, column, dictionary}...}, metadata = {{key, value}...}} -> Schema
function format.schema_table(schema)
  local fields, metadata = {}, {}
  for i, field in ipairs(schema.fields) do fields[i] = field_table(field) end
  for i, pair in ipairs(schema.metadata) do metadata[i] = { { 0, "string", pair[1] }, { 1, "string", pair[2] } } end
  return { { 0, "int16_t", 0 }, { 1, "tables", fields }, { 2, "tables", metadata } }
end

local function pairs_bytes(list)
  local a = ffi.new("int64_t[?]", 2 * #list + 1)
  for i, pair in ipairs(list) do a[2 * i - 2], a[2 * i - 1] = pair[1], pair[2] end
  return { ffi.string(a, 16 * #list), #list }
end

---length, {{length, nulls}...}, {{offset, size}...} -> RecordBatch
function format.batch_table(length, nodes, spans)
  return { { 0, "int64_t", length }, { 1, "structs", pairs_bytes(nodes) }, { 2, "structs", pairs_bytes(spans) } }
end

function format.dictionary_table(id, batch) return { { 0, "int64_t", id }, { 1, "table", batch }, { 2, "bool", false } } end

---The bytes of a Message, without what frames it.
function format.message_bytes(kind, header, body_size)
  return flatbuffer.write { { 0, "int16_t", format.V5 }, { 1, "uint8_t", kind }, { 2, "table", header }, { 3, "int64_t", body_size } }
end

local block_array = ffi.typeof "struct { int64_t at; int32_t metadata_size; int32_t zero; int64_t body_size; }[?]"

local function blocks_bytes(list)
  local a = block_array(#list + 1)
  for i, block in ipairs(list) do a[i - 1] = { block.at, block.metadata_size, 0, block.body_size } end
  return { ffi.string(a, 24 * #list), #list }
end

function format.footer_bytes(schema, dictionaries, batches)
  return flatbuffer.write { { 0, "int16_t", format.V5 }, { 1, "table", schema }, { 2, "structs", blocks_bytes(dictionaries) },
    { 3, "structs", blocks_bytes(batches) } }
end

return format
