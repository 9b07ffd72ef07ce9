-- Arrow's bytes, checked: the messages of a file or a stream, where in them each field has its buffers, and the buffers themselves.
-- Nothing that the bytes say is believed before it is looked at.
local block = require "tarn.block"
local codecs = require "tarn.arrow.codecs"
local core = require "tarn.core"
local errors = require "tarn.errors"
local ffi = require "ffi"
local format = require "tarn.arrow.format"

local PREFIX = 8 -- before a message: the continuation mark and the size of its metadata

-- A reader: {path, file, size, p (its first byte), whole (what keeps p), mapped (blocks of columns), schema, batches,
-- dictionaries (id -> versions)}
local Reader = {}
Reader.__index = Reader

---Raise Corrupt, naming the file and what in it.
function Reader:corrupt(fmt, ...)
  errors.raise("Corrupt", ("%s: Arrow: %s"):format(self.path, fmt:format(...)), { path = self.path })
end

function Reader:refuse(fmt, ...) errors.raise("ArgumentError", ("%s: %s"):format(self.path, fmt:format(...)), { path = self.path }) end

-- What flatbuffer and format call.
local function failure(r, what)
  return function(text) r:corrupt("%s: %s", what, text) end
end

-- ---- messages ----

local function u32(r, at) return tonumber(ffi.cast("const uint32_t *", r.p + at)[0]) end

-- The message at an offset -> {kind, header, body_at, body_size, ends}; nil where a stream ends.
local function message_at(r, at)
  if at + PREFIX > r.size then
    if at == r.size then return nil end -- a stream may end without saying so
    r:corrupt("a message at %.14g is cut off", at)
  end
  if u32(r, at) ~= format.CONTINUATION then
    r:corrupt(at == 0 and "neither an Arrow IPC file (feather v2) nor a stream" or "no message at %.14g", at)
  end
  local metadata_size = u32(r, at + 4)
  if metadata_size == 0 then return nil end
  local body_at = at + PREFIX + metadata_size
  if body_at > r.size then r:corrupt("the message at %.14g claims %.14g bytes of metadata", at, metadata_size) end
  local m = format.message(r.p + at + PREFIX, metadata_size, failure(r, ("message at %.14g"):format(at)))
  if m.version ~= format.V4 and m.version ~= format.V5 then
    r:refuse("Arrow's metadata of version %d, where 4 and 5 are known", m.version + 1)
  end
  if m.body_size < 0 or m.body_size > r.size - body_at then
    r:corrupt("the message at %.14g claims a body of %.14g bytes", at, m.body_size)
  end
  m.at, m.body_at, m.ends = at, body_at, body_at + m.body_size
  return m
end

-- Each dictionary is a list of versions {before = how many batches came before it, and its own batches}: a stream may replace one.
local function take_dictionary(r, m)
  local id, batch, delta = format.dictionary(m.header, failure(r, "a dictionary"))
  batch.body_at, batch.body_size = m.body_at, m.body_size
  local versions = r.dictionaries[id] or {}
  r.dictionaries[id] = versions
  local last = versions[#versions]
  if last and delta then
    last[#last + 1] = batch
  else
    versions[last and last.before == #r.batches and #versions or #versions + 1] = { before = #r.batches, batch }
  end
end

local function take_batch(r, m)
  local batch = format.batch(m.header)
  batch.body_at, batch.body_size = m.body_at, m.body_size
  r.batches[#r.batches + 1] = batch
end

local function take_message(r, m)
  if m.kind == format.SCHEMA then
    r.schema = format.schema(m.header, failure(r, "the schema"))
  elseif m.kind == format.DICTIONARY then
    take_dictionary(r, m)
  elseif m.kind == format.BATCH then
    take_batch(r, m)
  else
    r:refuse("it holds a tensor, not a table")
  end
end

local function read_stream(r)
  local at = 0
  while true do
    local m = message_at(r, at)
    if not m then break end
    if not r.schema and m.kind ~= format.SCHEMA then r:corrupt("it does not begin with a schema") end
    take_message(r, m)
    at = m.ends
  end
  if not r.schema then r:corrupt("it does not begin with a schema") end
end

-- In a file each message has bytes of its own: else a few would claim any number of rows.
local function check_apart(r, messages)
  table.sort(messages, function(a, b) return a.at < b.at end)
  for i = 2, #messages do
    if messages[i].at < messages[i - 1].ends then r:corrupt("messages at %.14g and %.14g overlap", messages[i - 1].at, messages[i].at) end
  end
end

local function read_file(r)
  local tail = 4 + #format.MAGIC
  if r.size < 8 + tail or ffi.string(r.p + r.size - #format.MAGIC, #format.MAGIC) ~= format.MAGIC then
    r:corrupt("its end is missing")
  end
  local footer_size = u32(r, r.size - tail)
  local footer_at = r.size - tail - footer_size
  if footer_at < 8 then r:corrupt("it claims a footer of %.14g bytes", footer_size) end
  local fail = failure(r, "the footer")
  local footer = format.footer(r.p + footer_at, footer_size, fail)
  r.schema = format.schema(footer.schema, fail)
  local messages = {}
  for _, kind in ipairs { "dictionaries", "batches" } do
    for _, b in ipairs(footer[kind]) do
      if b.at < 8 or b.at >= footer_at then r:corrupt("the footer names a message at %.14g", b.at) end
      local m = message_at(r, b.at)
      if not m or m.kind ~= (kind == "batches" and format.BATCH or format.DICTIONARY) then
        r:corrupt("the footer names a message at %.14g, where there is another", b.at)
      end
      messages[#messages + 1] = m
      take_message(r, m)
    end
  end
  check_apart(r, messages)
end

-- ---- buffers ----

-- Where each field of the schema, and of what they hold, has its node and buffers in a batch: the numbers behind it.
local function skip(r, batch, field, at)
  at.node, at.buffer = at.node + 1, at.buffer + (field.dictionary and 2 or field.buffers)
  if field.dictionary then return end
  if field.variadic then
    at.variadic = at.variadic + 1
    if at.variadic > batch.variadics then r:corrupt("column '%s': its number of buffers is missing", field.name) end
    local more = batch.variadic(at.variadic)
    if more < 0 or more > batch.buffers then r:corrupt("column '%s': %.14g buffers", field.name, more) end
    at.buffer = at.buffer + more
  end
  for _, child in ipairs(field.children) do skip(r, batch, child, at) end
end

-- For every batch: field -> {node, buffer}: the numbers of its first.
local function locate(r, batch, fields)
  local at = { node = 1, buffer = 1, variadic = 0 }
  local places = {}
  for _, field in ipairs(fields) do
    local place = { node = at.node, buffer = at.buffer }
    skip(r, batch, field, at)
    place.buffers = at.buffer - place.buffer
    places[field] = place
  end
  if at.node - 1 > batch.nodes or at.buffer - 1 > batch.buffers then
    r:corrupt("a batch of %d columns and %d buffers, too few for its schema", batch.nodes, batch.buffers)
  end
  return places
end

-- No two buffers may claim the same bytes, or a small file would hold any number of them.
local function check_sum(r, batch)
  local sum = 0
  for i = 1, batch.buffers do
    local offset, size = batch.span(i)
    if offset < 0 or size < 0 or offset + size > batch.body_size then
      r:corrupt("buffer %d of a batch is %.14g bytes at %.14g of %.14g", i, size, offset, batch.body_size)
    end
    sum = sum + size
  end
  if sum > batch.body_size then r:corrupt("the buffers of a batch overlap") end
end

---Buffer i of a batch, of which at least `need` bytes will be read: {p, size, at (in the file), or hold (of a block: it was compressed)}.
function Reader:source(batch, i, need, name)
  local r = self
  local offset, size = batch.span(i)
  local s = { p = r.p + batch.body_at + offset, size = size, at = batch.body_at + offset }
  if batch.codec and size > 0 then s = codecs.decompress(r, batch.codec, s, need, name) end
  if s.size < need then r:corrupt("column '%s': a buffer of %.14g bytes where %.14g are needed", name, s.size, need) end
  return s
end

---What each batch has of a field: {n, nulls, valid (source; nil: all are there), batch, buffer (the first's number), buffers}.
function Reader:parts(batches, field)
  local r, parts = self, {}
  for i, batch in ipairs(batches) do
    local place = batch.places[field]
    local n, nulls = batch.node(place.node)
    if n ~= batch.length or n < 0 then r:corrupt("column '%s': %.14g rows in a batch of %.14g", field.name, n, batch.length) end
    if nulls < 0 or nulls > n then r:corrupt("column '%s': %.14g of %.14g values missing", field.name, nulls, n) end
    local part = { n = n, nulls = nulls, batch = batch, buffer = place.buffer, buffers = place.buffers }
    if nulls > 0 then part.valid = r:source(batch, place.buffer, math.ceil(n / 8), field.name) end
    parts[i] = part
  end
  return parts
end

---Find the fields in a batch, once: it gets `places`.
function Reader:prepare(batch, fields)
  if batch.length < 0 then self:corrupt("a batch of %.14g rows", batch.length) end
  check_sum(self, batch)
  batch.places = locate(self, batch, fields)
end

---A file that has been looked at: its schema, its batches (prepared) and its dictionaries.
---@return table r
local function open(path)
  local file, size = core.raw_open(path)
  local r = { path = path, file = file, size = size, batches = {}, dictionaries = {}, mapped = {}, whole = block.hold() }
  setmetatable(r, Reader)
  core.raw_block(file, 0, size)
  r.whole.block = block.take()
  r.p = ffi.cast("const uint8_t *", r.whole.block.data)
  if size >= 8 and ffi.string(r.p, #format.MAGIC) == format.MAGIC then
    read_file(r)
  else
    read_stream(r)
  end
  for _, batch in ipairs(r.batches) do r:prepare(batch, r.schema.fields) end
  return r
end

return { open = open }
