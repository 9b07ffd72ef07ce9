-- Columns of what an Arrow file has.
--
-- A large buffer of the only batch is mapped where it lies. The rest is copied: what is small, compressed, or not aligned for its numbers,
-- and everything where there are several batches, which become one column. What is made is never larger than its bytes in the file (but
-- for compressed ones, and texts that a file says once and uses often).
local array = require "tarn.array"
local bit = require "bit"
local bits = require "tarn.bits"
local block = require "tarn.block"
local core = require "tarn.core"
local ctype = require "tarn.ctype"
local ffi = require "ffi"
local nullable = require "tarn.nullable"
local pooled = require "tarn.pooled"
local reader = require "tarn.arrow.reader"
local strings = require "tarn.strings"

local floor, ceil = math.floor, math.ceil

local MAP_MIN = 65536 -- bytes from which on the pool maps
local WIDE_MIN = 2 ^ 32 -- bytes of text from which on offsets are 64 bits wide

local function total(parts, key)
  local sum = 0
  for _, part in ipairs(parts) do sum = sum + part[key] end
  return sum
end

-- A block with the first bytes of one source: the file's own where it can be.
local function block_of(r, s, nbytes, align)
  if s.at and nbytes >= MAP_MIN and s.at % align == 0 then
    local at = #r.mapped + 1
    r.mapped[at] = false -- first of all, as it may take memory
    core.raw_block(r.file, s.at, nbytes)
    r.mapped[at] = block.take()
    return r.mapped[at]
  end
  if s.hold then return block.share(s.hold.block) end
  local b = block.new(nbytes, false)
  ffi.copy(b.data, s.p, nbytes)
  block.seal(b)
  return b
end

-- The same for a view: of {r, source, bytes, align}, and of the first of a list of such.
local function take_source(x) return block_of(unpack(x, 1, 4)) end
local function take_next_source(list) return take_source(table.remove(list, 1)) end

local function share_held(hold) return block.share(hold.block) end
local function share_next_held(list) return share_held(table.remove(list, 1)) end

-- A hold of a block of so many bytes that fill(data, ...) writes.
local function made(nbytes, zero, fill, ...)
  local hold = block.hold()
  hold.block = block.new(nbytes, zero)
  fill(hold.block.data, ...)
  block.seal(hold.block)
  return hold
end

local function copy_fixed(data, parts, sources, size)
  for i, part in ipairs(parts) do
    ffi.copy(data, sources[i].p, part.n * size)
    data = data + part.n * size
  end
end

local function fixed(r, parts, n, type_, name)
  local t = ctype.of(type_)
  local sources = {}
  for i, part in ipairs(parts) do sources[i] = r:source(part.batch, part.buffer + 1, part.n * t.size, name) end
  local element = array._element_type(type_)
  if #parts == 1 then return array._view(element, n, nil, 0, take_source, { r, sources[1], n * t.size, t.size }) end
  return array._view(element, n, nil, 0, share_held, made(n * t.size, false, copy_fixed, parts, sources, t.size))
end

-- Bits 0..n-1 of `from` behind the first `at` bits of `to`, which are zeros from there on.
local function append_bits(to, at, from, n)
  local shift, k = at % 8, floor(at / 8)
  if shift == 0 then
    ffi.copy(to + k, from, ceil(n / 8))
  else
    for i = 0, ceil(n / 8) - 1 do
      local byte = from[i]
      to[k + i] = bit.bor(to[k + i], bit.lshift(byte, shift))
      if i * 8 + 8 - shift < n then to[k + i + 1] = bit.rshift(byte, 8 - shift) end
    end
  end
  local rest = (at + n) % 8 -- what lies behind the last must be zero for who comes next
  if rest ~= 0 then
    local last = floor((at + n) / 8)
    to[last] = bit.band(to[last], bit.lshift(1, rest) - 1)
  end
end

local function set_bits(to, at, n)
  for k = at, at + n - 1 do
    local byte = floor(k / 8)
    to[byte] = bit.bor(to[byte], bit.lshift(1, k % 8))
  end
end

local function join_bits(data, parts, sources)
  local at = 0
  for i, part in ipairs(parts) do
    if sources[i] then
      append_bits(data, at, sources[i].p, part.n)
    else
      set_bits(data, at, part.n)
    end
    at = at + part.n
  end
end

-- Bits from one source a part; nil: all ones.
local function bit_column(r, parts, n, sources)
  if #parts == 1 then return bits._view(n, 0, take_source, { r, sources[1], ceil(n / 8), 1 }) end
  return bits._view(n, 0, share_held, made(ceil(n / 8), true, join_bits, parts, sources))
end

-- Which values are there: bits, or nil when all are.
local function validity(r, parts, n)
  if total(parts, "nulls") == 0 then return nil end
  local sources = {}
  for i, part in ipairs(parts) do sources[i] = part.valid or false end
  return bit_column(r, parts, n, sources)
end

local function booleans(r, parts, n, name)
  local sources = {}
  for i, part in ipairs(parts) do sources[i] = r:source(part.batch, part.buffer + 1, ceil(part.n / 8), name) end
  return bit_column(r, parts, n, sources)
end

local offset_types = { [4] = ffi.typeof "const int32_t *", [8] = ffi.typeof "const int64_t *" }

-- A part's offsets and text, for n strings. part.text: how many bytes of it those are.
local function text_part(r, part, width, name)
  if part.n == 0 then
    part.text = 0
    return
  end
  part.offsets = r:source(part.batch, part.buffer + 1, (part.n + 1) * width, name)
  local o = ffi.cast(offset_types[width], part.offsets.p)
  local first, last = tonumber(o[0]), tonumber(o[part.n])
  if first < 0 or last < first then r:corrupt("column '%s': its offsets run from %.14g to %.14g", name, first, last) end
  part.first, part.last, part.text = first, last, last - first
  part.blob = r:source(part.batch, part.buffer + 2, last, name)
end

-- Offsets of one part, moved so that its text begins at `base`. False: they are wrong.
local function append_offsets(to, from, n, first, last, base)
  local before = first
  for i = 1, n do
    local offset = tonumber(from[i])
    if offset < before or offset > last then return false end
    to[i] = base + (offset - first)
    before = offset
  end
  return true
end

local function join_offsets(data, wide, r, parts, width, name)
  local to, base = ffi.cast(wide == 4 and "uint32_t *" or "uint64_t *", data), 0
  to[0] = 0
  for _, part in ipairs(parts) do
    if part.n > 0 and not append_offsets(to, ffi.cast(offset_types[width], part.offsets.p), part.n, part.first, part.last, base) then
      r:corrupt("column '%s': its offsets are not in order", name)
    end
    to, base = to + part.n, base + part.text
  end
end

local function join_blobs(data, parts)
  for _, part in ipairs(parts) do
    if part.n > 0 then
      ffi.copy(data, part.blob.p + part.first, part.text)
      data = data + part.text
    end
  end
end

local function join_texts(r, parts, n, width, valid, name)
  local size = total(parts, "text")
  local wide = size >= WIDE_MIN and 8 or 4
  local offsets = made((n + 1) * wide, false, join_offsets, wide, r, parts, width, name)
  local blob = made(size, false, join_blobs, parts)
  return strings._view(n, wide, 0, 0, size, valid, share_next_held, { offsets, blob })
end

-- One part's offsets are looked at when an element is read, by the column.
local function texts(r, parts, n, width, valid, name)
  for _, part in ipairs(parts) do text_part(r, part, width, name) end
  if #parts ~= 1 or n == 0 then return join_texts(r, parts, n, width, valid, name) end
  local part = parts[1]
  local sources = { { r, part.offsets, (n + 1) * width, width }, { r, part.blob, part.last, 1 } }
  return strings._view(n, width, 0, 0, part.last, valid, take_next_source, sources)
end

-- ---- texts that lie anywhere: 16 bytes each, with the text if it is short, else where it is ----

local view_pointer = ffi.typeof "const struct { int32_t size; union { uint8_t text[12]; struct { int32_t prefix, blob, at; }; }; } *"
local SHORT_MAX = 12

local function is_there(part, k)
  return not part.valid or bit.band(part.valid.p[floor(k / 8)], bit.lshift(1, k % 8)) ~= 0
end

-- A part's views, and the blobs that they point into. The bytes of text in all; nil: a view is wrong.
local function measure_views(part)
  local views, sizes, blobs, text = part.views, part.sizes, #part.blobs, 0
  for k = 0, part.n - 1 do
    local v = views[k]
    if is_there(part, k) then
      if v.size < 0 then return nil end
      if v.size > SHORT_MAX and (v.blob < 0 or v.blob >= blobs or v.at < 0 or v.at + v.size > sizes[v.blob]) then return nil end
      text = text + v.size
    end
  end
  return text
end

local function view_part(r, part, name)
  part.blobs = {}
  part.source = r:source(part.batch, part.buffer + 1, part.n * 16, name)
  part.views = ffi.cast(view_pointer, part.source.p)
  for i = 1, part.buffers - 2 do part.blobs[i] = r:source(part.batch, part.buffer + 1 + i, 0, name) end
  part.sizes, part.starts = ffi.new("double[?]", #part.blobs + 1), ffi.new("const uint8_t *[?]", #part.blobs + 1)
  for i, blob in ipairs(part.blobs) do part.sizes[i - 1], part.starts[i - 1] = blob.size, blob.p end
  part.text = measure_views(part) or r:corrupt("column '%s': a view of what is not there", name)
end

local function copy_views(part, blob, offsets, base)
  local views, starts = part.views, part.starts
  for k = 0, part.n - 1 do
    if is_there(part, k) then
      local v = views[k]
      ffi.copy(blob + base, v.size <= SHORT_MAX and v.text or starts[v.blob] + v.at, v.size)
      base = base + v.size
    end
    offsets[k + 1] = base
  end
end

local function join_views(data, width, parts, blob)
  local to, base = ffi.cast(width == 4 and "uint32_t *" or "uint64_t *", data), 0
  to[0] = 0
  for _, part in ipairs(parts) do
    copy_views(part, blob.block.data, to, base)
    to, base = to + part.n, base + part.text
  end
end

local function texts_of_views(r, parts, n, valid, name)
  for _, part in ipairs(parts) do view_part(r, part, name) end
  local size = total(parts, "text")
  local width = size >= WIDE_MIN and 8 or 4
  local blob = block.scratch(size)
  local offsets = made((n + 1) * width, false, join_views, width, parts, blob)
  block.seal(blob.block)
  return strings._view(n, width, 0, 0, size, valid, share_next_held, { offsets, blob })
end

-- ---- dictionaries ----

local read_column

-- The values of a version of a dictionary.
local function dictionary_values(r, field, version)
  local plain = setmetatable({ dictionary = false }, { __index = field }) -- the field as it would be without one
  for _, batch in ipairs(version) do r:prepare(batch, { plain }) end
  local values = read_column(r, version, plain)
  if values.kind == "bits" or values.kind == "nullable" and values.ctype == "bits" then
    r:refuse("column '%s' is a dictionary of booleans, for which tarn has no column", field.name)
  end
  return values
end

-- Codes from 0 without a sign, as pooled columns have them.
local function codes_of(r, parts, n, index, name)
  local width = tonumber(index.ctype:match "%d+")
  local codes = fixed(r, parts, n, width == 64 and "uint64_t" or ("uint%d_t"):format(width), name)
  if width < 64 then return codes end
  local narrow = array("uint32_t", n)
  for i = 1, n do narrow[i] = math.min(tonumber(codes[i]), 2 ^ 32 - 1) end
  return narrow
end

-- The values without those that are missing or said before, and a list: which of them each code (from 0) is now; false for a missing one.
local function distinct(values)
  local _, first = values:group()
  if #first == #values and values:valid_count() == #values then return values.kind == "nullable" and values.values or values end
  local groups, kept, rows, new = values:group(), {}, {}, {}
  for k = 1, #values do
    local group = groups[k]
    if values:valid(k) and not kept[group] then
      rows[#rows + 1] = k
      kept[group] = #rows - 1
    end
    new[k - 1] = values:valid(k) and kept[group]
  end
  local taken = values:take(rows)
  return taken.kind == "nullable" and taken.values or taken, new
end

local function renumber(r, codes, valid, new, name)
  local n = #codes
  local renumbered, there = array("uint32_t", n), bits(n)
  for i = 1, n do
    if not valid or valid[i] then
      local code = new[codes[i]]
      if code == nil then r:corrupt("column '%s': code %.14g is of none of its values", name, codes[i]) end
      if code then renumbered[i], there[i] = code, true end
    end
  end
  return renumbered, there
end

local function pooled_of(r, batches, field, version)
  local parts = r:parts(batches, field)
  local n = total(parts, "n")
  local valid = validity(r, parts, n)
  local codes = codes_of(r, parts, n, field.dictionary.index, field.name)
  local values, new = distinct(dictionary_values(r, field, version))
  if new then codes, valid = renumber(r, codes, valid, new, field.name) end
  return pooled._view(codes, values, valid)
end

-- The batches, by the version of the dictionary that they are of: a list of {version, batches...}.
local function by_version(r, batches, field)
  local versions = r.dictionaries[field.dictionary.id] or {}
  local runs, v = {}, 0
  for number, batch in ipairs(batches) do
    while versions[v + 1] and versions[v + 1].before < number do v = v + 1 end
    if v == 0 then r:corrupt("column '%s': dictionary %.14g is missing", field.name, field.dictionary.id) end
    local run = runs[#runs]
    if not run or run.version ~= versions[v] then
      run = { version = versions[v] }
      runs[#runs + 1] = run
    end
    run[#run + 1] = batch
  end
  return runs
end

-- Columns of several dictionaries as one of a new one.
local function join_pooled(r, columns, name)
  local builder = pooled.builder()
  for _, c in ipairs(columns) do
    if c.values.ctype == "int64_t" or c.values.ctype == "uint64_t" then
      r:refuse("column '%s': its dictionary, of 64-bit integers, is replaced between batches", name)
    end
    for i = 1, #c do builder:add(c[i]) end
  end
  return builder:finish()
end

local function dictionary_column(r, batches, field)
  local runs, columns = by_version(r, batches, field), {}
  for i, run in ipairs(runs) do columns[i] = pooled_of(r, run, field, run.version) end
  if #columns == 1 then return columns[1] end
  if #columns > 1 then return join_pooled(r, columns, field.name) end
  return pooled._view(array("uint8_t", 0), read_column(r, {}, setmetatable({ dictionary = false }, { __index = field })))
end

-- ---- any column ----

-- A column of a field over the batches.
function read_column(r, batches, field)
  local column, name = field.column, field.name
  if not column then
    r:refuse("column '%s' is of type %s, which tarn has no column for: choose others by {columns = {...}}", name, field.type)
  end
  if field.dictionary then return dictionary_column(r, batches, field) end
  local parts = r:parts(batches, field)
  local n = total(parts, "n")
  local valid = validity(r, parts, n)
  if column.kind == "bytes" then return texts(r, parts, n, column.width, valid, name) end
  if column.kind == "views" then return texts_of_views(r, parts, n, valid, name) end
  local values = column.kind == "bits" and booleans(r, parts, n, name) or fixed(r, parts, n, column.ctype, name)
  return valid and nullable(values, valid) or values
end

local function choose(r, names)
  if not names then return r.schema.fields end
  if type(names) ~= "table" then r:refuse("columns are a list of names") end
  local by_name, chosen = {}, {}
  for _, field in ipairs(r.schema.fields) do by_name[field.name] = field end
  for i, name in ipairs(names) do chosen[i] = by_name[name] or r:refuse("it has no column '%s'", tostring(name)) end
  return chosen
end

---The columns of a file: a list of {name, column}, and the schema's metadata. names: of the columns wanted; nil: all.
return function(path, names)
  local r = reader.open(path)
  local columns = {}
  for i, field in ipairs(choose(r, names)) do columns[i] = { field.name, read_column(r, r.batches, field) } end
  block.drop(r.whole) -- until here it has kept the bytes
  for _, b in ipairs(r.mapped) do block.prefetch(b) end
  return columns, r.schema.metadata
end
