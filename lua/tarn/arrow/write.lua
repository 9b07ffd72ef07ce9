-- Columns as the bytes of an Arrow file: one record batch, every buffer at a multiple of 64, so that it can be mapped. The buffers are the
-- columns' own where Arrow has the same form; what it has otherwise (text that does not begin at 0, bits that begin within a byte, codes
-- that would be negative) is made anew.
local array = require "tarn.array"
local block = require "tarn.block"
local errors = require "tarn.errors"
local ffi = require "ffi"
local format = require "tarn.arrow.format"

local C = block.C

local ALIGN = 64
local NARROW_MAX = 2 ^ 31 - 1 -- the most that Arrow's 32-bit offsets reach
local EMPTY = ffi.cast("const void *", "")

local offset_types = { [4] = ffi.typeof "const uint32_t *", [8] = ffi.typeof "const uint64_t *" }
local new_types = { [4] = ffi.typeof "int32_t *", [8] = ffi.typeof "int64_t *" }

local function refuse(name, fmt, ...)
  errors.raise("NotSerializable", ("tarn.arrow.save: column '%s' %s"):format(name, fmt:format(...)))
end

-- A plan of a column: {column = what format has it as, n, nulls, buffers = {pointer, nbytes, ...}, keep = what the pointers need,
-- dictionary = {index, plan}}. Each buffer is a `const void *` and a size.
local function new_plan(c, column)
  return { column = column, n = #c, nulls = #c - c:valid_count(), buffers = {}, keep = { c } }
end

local function add_buffer(plan, pointer, nbytes, keep)
  local list = plan.buffers
  list[#list + 1], list[#list + 2] = nbytes > 0 and ffi.cast("const void *", pointer) or EMPTY, nbytes
  plan.keep[#plan.keep + 1] = keep
end

local function add_bits(plan, b)
  local pointer, first = b:ptr()
  if first ~= 0 then
    b = b:copy()
    pointer = b:ptr()
  end
  add_buffer(plan, pointer, math.ceil(#b / 8), b)
end

local function add_validity(plan, c)
  local valid = plan.nulls > 0 and c:validity()
  if valid then return add_bits(plan, valid) end
  add_buffer(plan, nil, 0)
end

local function scratch(nbytes)
  local hold = block.hold()
  hold.block = block.new(nbytes, false)
  return hold, hold.block.data
end

-- ---- the kinds ----

local kinds = {}

local function check_numbers(c, name)
  if #c.shape > 1 then refuse(name, "has %d dimensions, Arrow's have one", #c.shape) end
  if c.ctype:match "^struct" then refuse(name, "is an array of %s, which tarn does not write to Arrow files", c.ctype) end
end

-- One byte for a truth: Arrow has a bit.
local function add_truths(plan, c)
  local nbytes = math.ceil(#c / 8)
  local hold, data = scratch(nbytes)
  ffi.fill(data, nbytes)
  for i = 0, #c - 1 do
    if c[i + 1] then data[math.floor(i / 8)] = bit.bor(data[math.floor(i / 8)], bit.lshift(1, i % 8)) end
  end
  add_buffer(plan, data, nbytes, hold)
end

local function add_values(plan, c)
  if c.kind == "bits" then return add_bits(plan, c) end
  if c.ctype == "bool" then return add_truths(plan, c) end
  add_buffer(plan, c:ptr(), #c * ffi.sizeof(c.ctype), c)
end

local function values_column(c, name)
  if c.kind == "bits" then return { kind = "bits" } end
  if c.kind ~= "array" then refuse(name, "is a nullable column of %s, which Arrow cannot say", c.kind) end
  check_numbers(c, name)
  return c.ctype == "bool" and { kind = "bits" } or { kind = "fixed", ctype = c.ctype }
end

function kinds.array(c, name)
  local plan = new_plan(c, values_column(c, name))
  add_validity(plan, c)
  add_values(plan, c)
  return plan
end
kinds.bits = kinds.array

function kinds.nullable(c, name)
  local plan = new_plan(c, values_column(c.values, name))
  add_validity(plan, c)
  add_values(plan, c.values)
  return plan
end

local function copy_offsets(to, from, n, first)
  for i = 0, n do to[i] = from[i] - first end
end

-- Does no string begin within a character? The text as a whole is UTF-8.
local function begin_characters(offsets, n, blob, nbytes)
  for i = 0, n - 1 do
    local at = tonumber(offsets[i])
    if at < nbytes and bit.band(blob[at], 0xc0) == 0x80 then return false end
  end
  return true
end

function kinds.strings(c, name)
  local offsets, width, blob, blob_size = c:buffers()
  local n = #c
  local from = ffi.cast(offset_types[width], offsets)
  local text = ffi.cast("const uint8_t *", blob)
  local first, last = tonumber(from[0]), tonumber(from[n])
  if first > last or last > blob_size then refuse(name, "has offsets that are wrong") end
  local size = last - first
  local new_width = size > NARROW_MAX and 8 or 4
  if width == 8 and first == 0 then new_width = 8 end -- as it is
  local is_text = C.tarn_view_is_utf8(text + first, size) and begin_characters(from, n, text, last)
  local plan = new_plan(c, { kind = "bytes", width = new_width, text = is_text })
  add_validity(plan, c)
  if first == 0 and width == new_width then
    add_buffer(plan, from, (n + 1) * width, c)
  else
    local hold, data = scratch((n + 1) * new_width)
    copy_offsets(ffi.cast(new_types[new_width], data), from, n, first)
    add_buffer(plan, data, (n + 1) * new_width, hold)
  end
  add_buffer(plan, text + first, size, c)
  return plan
end

-- Many readers want an index with a sign; the bytes are the same as long as no code reaches it.
local signed = { uint8_t = { "int8_t", 127 }, uint16_t = { "int16_t", 32767 }, uint32_t = { "int32_t", 2 ^ 31 - 1 } }
local wider = { uint8_t = "int16_t", uint16_t = "int32_t", uint32_t = "int64_t" }

local plan_of

function kinds.pooled(c, name)
  local codes, index = c.codes, signed[c.codes.ctype][1]
  if #c.values > signed[codes.ctype][2] + 1 then
    index = wider[codes.ctype]
    codes = array(index, codes)
  end
  local values = plan_of(c.values, name)
  if values.dictionary then refuse(name, "is pooled of pooled, which tarn does not write to Arrow files") end
  local plan = new_plan(c, values.column)
  plan.dictionary = { index = { kind = "fixed", ctype = index }, plan = values }
  add_validity(plan, c)
  add_values(plan, codes)
  return plan
end

function plan_of(c, name)
  local kind = kinds[c.kind] or refuse(name, "is of kind '%s', which Arrow cannot say", tostring(c.kind))
  return kind(c, name)
end

-- ---- the file ----

local function padding(size, align) return (-size) % align end

-- File: {parts, size}. What is written of it so far.
local function append(file, bytes, nbytes)
  local parts = file.parts
  parts[#parts + 1] = bytes
  if nbytes then parts[#parts + 1] = nbytes end
  file.size = file.size + (nbytes or #bytes)
end

-- Its body begins at a multiple of 64. -> its block for the footer
local function append_message(file, kind, header, body)
  local nbytes = 0
  for i = 2, #body, 2 do nbytes = nbytes + body[i] + padding(body[i], ALIGN) end
  local metadata = format.message_bytes(kind, header, nbytes)
  local at = file.size
  local metadata_size = #metadata + padding(at + 8 + #metadata, ALIGN)
  append(file, ffi.string(ffi.new("uint32_t[2]", format.CONTINUATION, metadata_size), 8))
  append(file, metadata .. ("\0"):rep(metadata_size - #metadata))
  for i = 1, #body, 2 do
    if body[i + 1] > 0 then
      append(file, body[i], body[i + 1])
      append(file, ("\0"):rep(padding(body[i + 1], ALIGN)))
    end
  end
  return { at = at, metadata_size = 8 + metadata_size, body_size = nbytes }
end

local function batch(n, plans)
  local nodes, spans, body, at = {}, {}, {}, 0
  for _, plan in ipairs(plans) do
    nodes[#nodes + 1] = { plan.n, plan.nulls }
    for i = 1, #plan.buffers, 2 do
      local nbytes = plan.buffers[i + 1]
      spans[#spans + 1] = { at, nbytes }
      body[#body + 1], body[#body + 2] = plan.buffers[i], nbytes
      at = at + nbytes + padding(nbytes, ALIGN)
    end
  end
  return format.batch_table(n, nodes, spans), body
end

local function field_of(name, plan, number)
  local dictionary = plan.dictionary and { id = number, index = plan.dictionary.index }
  return { name = name, nullable = true, column = plan.column, dictionary = dictionary }
end

---The parts of a file with these columns, for core.raw_save; and what must be kept until they are written.
---@param n integer of rows
---@param columns table a list of {name, column}
---@param metadata table a list of {key, value}
local function parts(n, columns, metadata)
  local plans, fields = {}, {}
  for i, pair in ipairs(columns) do
    plans[i] = plan_of(pair[2], pair[1])
    fields[i] = field_of(pair[1], plans[i], i - 1)
  end
  local schema = format.schema_table { fields = fields, metadata = metadata }
  local file = { parts = {}, size = 0 }
  append(file, format.MAGIC .. "\0\0")
  append_message(file, format.SCHEMA, schema, {})
  local dictionaries = {}
  for i, plan in ipairs(plans) do
    if plan.dictionary then
      local header, body = batch(plan.dictionary.plan.n, { plan.dictionary.plan })
      dictionaries[#dictionaries + 1] = append_message(file, format.DICTIONARY, format.dictionary_table(i - 1, header), body)
    end
  end
  local rows = append_message(file, format.BATCH, batch(n, plans))
  append(file, ffi.string(ffi.new("uint32_t[2]", format.CONTINUATION, 0), 8))
  local footer = format.footer_bytes(schema, dictionaries, { rows })
  append(file, footer .. ffi.string(ffi.new("uint32_t[1]", #footer), 4) .. format.MAGIC)
  return file.parts, plans
end

return { parts = parts }
