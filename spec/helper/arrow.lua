-- Arrow files that tarn would not write: several batches, dictionaries, whatever claims.
local ffi = require "ffi"
local format = require "tarn.arrow.format"

local M = {}

local function pad(s, align) return s .. ("\0"):rep(-#s % align) end

local function message(kind, header, body, body_size)
  local bytes = pad(format.message_bytes(kind, header, body_size or #body), 8)
  return ffi.string(ffi.new("uint32_t[2]", format.CONTINUATION, #bytes), 8) .. bytes .. body
end

--- A batch's header and body. buffers: a list of strings; spans: what is claimed of them instead, a list of {offset, size}.
local function batch_of(b)
  local body, spans = "", {}
  for i, bytes in ipairs(b.buffers) do
    spans[i] = { #body, #bytes }
    body = pad(body .. bytes, 8)
  end
  return format.batch_table(b.length, b.nodes, b.spans or spans), body
end

--- A file. spec: fields (as format.schema_table has them), batches = {{length, nodes = {{length, nulls}...}, buffers = {bytes...}}...},
--- dictionaries = {{id =, delta =, length, nodes, buffers}...}, stream (true: without a footer), footer = function(dictionaries, batches):
--- may change the lists of blocks.
function M.compose(spec)
  local schema = format.schema_table { fields = spec.fields, metadata = spec.metadata or {} }
  local out = spec.stream and "" or format.MAGIC .. "\0\0"
  out = out .. message(format.SCHEMA, schema, "")
  local dictionaries, batches = {}, {}
  local function append(list, kind, header, body)
    list[#list + 1] = { at = #out, metadata_size = 0, body_size = #body }
    out = out .. message(kind, header, body)
  end
  for _, d in ipairs(spec.dictionaries or {}) do
    local header, body = batch_of(d)
    local t = format.dictionary_table(d.id, header)
    t[3][3] = d.delta or false
    append(dictionaries, format.DICTIONARY, t, body)
  end
  for _, b in ipairs(spec.batches) do append(batches, format.BATCH, batch_of(b)) end
  out = out .. ffi.string(ffi.new("uint32_t[2]", format.CONTINUATION, 0), 8)
  if spec.stream then return out end
  if spec.footer then spec.footer(dictionaries, batches) end
  local footer = format.footer_bytes(schema, dictionaries, batches)
  return out .. footer .. ffi.string(ffi.new("uint32_t[1]", #footer), 4) .. format.MAGIC
end

--- Numbers of a C type as bytes.
function M.numbers(ctype, list) return ffi.string(ffi.new(ctype .. "[?]", #list + 1, list), #list * ffi.sizeof(ctype)) end

--- Field descriptions.
function M.fixed(name, ctype) return { name = name, nullable = true, column = { kind = "fixed", ctype = ctype } } end
function M.texts(name) return { name = name, nullable = true, column = { kind = "bytes", width = 4, text = true } } end
function M.truths(name) return { name = name, nullable = true, column = { kind = "bits" } } end
function M.dictionary(name, id, index)
  local field = M.texts(name)
  field.dictionary = { id = id, index = { kind = "fixed", ctype = index } }
  return field
end

return M
