-- A column of strings outside the Lua heap: offsets, one blob with all the bytes, and where some are missing a bitmap (as Arrow has it:
-- bit k of the bits is 1 where element k is there). A Lua string is made only for an element that is asked for; eq, hash and ptr make none.
local bit = require "bit"
local block = require "tarn.block"
local errors = require "tarn.errors"
local ffi = require "ffi"
local serializer = require "tarn.serializer"
local typeof, metatype = ffi.typeof, ffi.metatype -- busted replaces the FFI's by ones that remember their first argument only

local C = block.C
local band, lshift, bor = bit.band, bit.lshift, bit.bor
local floor = math.floor

local NARROW_MAX = 4294967295 -- bytes of blob up to which offsets are 32 bits wide

local strings = {}
local methods = {}

local view_t = typeof [[struct {
  uint32_t block_count; uint32_t wide;
  tarn_block_t *offsets_block, *blob_block, *there_block;
  union { const uint32_t *o; const uint64_t *o64; };
  const uint8_t *blob; const uint8_t *there;
  double n; double blob_size; }]]

local function argument_error(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end

local function is_column(x) return ffi.istype(view_t, x) end

local function check_self(s, method)
  if not is_column(s) then argument_error("strings:%s: call it with a colon", method) end
end

-- ---- one element ----

-- Offsets may have come from outside, unread until now.
local function corrupt(i) errors.raise("Corrupt", ("strings: the offsets of element %.14g are wrong"):format(i)) end

-- Where element i begins and ends in the blob; nil where it is missing or there is none.
local function bounds(s, i)
  if not (i >= 1 and i <= s.n and i % 1 == 0) then return nil end
  local k = i - 1
  if s.there ~= nil and band(s.there[floor(k / 8)], lshift(1, k % 8)) == 0 then return nil end
  local from, to
  if s.wide == 0 then
    from, to = s.o[k], s.o[i]
  else
    from, to = tonumber(s.o64[k]), tonumber(s.o64[i])
  end
  if from > to or to > s.blob_size then corrupt(i) end
  return from, to
end

local function get(s, i)
  local from, to = bounds(s, i)
  if from then return ffi.string(s.blob + from, to - from) end
end

---Is element i that text? Makes no string.
function methods:eq(i, text)
  local from, to = bounds(self, i)
  if not from then return text == nil end
  local size = to - from
  return size == #text and C.memcmp(self.blob + from, text, size) == 0
end

---A number that depends on the bytes of element i alone; nil where missing. Makes no string.
function methods:hash(i)
  local from, to = bounds(self, i)
  if from then return C.tarn_view_hash(self.blob + from, to - from) end
end

---The bytes of element i: pointer and size; nil where missing. Valid while the column is reachable.
function methods:ptr(i)
  local from, to = bounds(self, i)
  if from then return self.blob + from, to - from end
end

---Is element i within the column, but missing?
function methods:missing(i) return i >= 1 and i <= self.n and i % 1 == 0 and bounds(self, i) == nil end

---The index of the first element from `from` on that is this text, or nil. Makes no strings.
function methods:find(text, from)
  check_self(self, "find")
  for i = from or 1, self.n do
    if self:eq(i, text) then return i end
  end
end

---All elements in a Lua table with n; missing ones are nil.
function methods:totable()
  check_self(self, "totable")
  local list = { n = self.n }
  for i = 1, self.n do list[i] = get(self, i) end
  return list
end

local function next_element(s, i)
  i = i + 1
  if i <= s.n then return i, get(s, i) end
end

-- ipairs and pairs go over 1..n; the value is nil where one is missing.
local function iterate(s) return next_element, s, 0 end

local function preview(s)
  local shown, parts = math.min(s.n, 8), {}
  for i = 1, shown do
    local text = get(s, i)
    if text and #text > 20 then text = text:sub(1, 17) .. "..." end
    parts[i] = text and ("%q"):format(text) or "nil"
  end
  if shown < s.n then parts[#parts + 1] = "..." end
  return ("strings (%.14g): %s"):format(s.n, table.concat(parts, ", "))
end

metatype(view_t, {
  __index = function(s, key)
    if type(key) == "number" then return get(s, key) end
    local method = methods[key]
    if method then return method end
    if type(key) == "cdata" then return get(s, tonumber(key)) end
  end,
  __newindex = function() argument_error("strings cannot be changed: make new ones with tarn.strings") end,
  __len = function(s) return s.n end,
  __ipairs = iterate,
  __pairs = iterate,
  __tostring = preview,
  __gc = C.tarn_view_drop,
})

-- ---- making ----

-- A view whose blocks are still to come.
local function empty_view(n, wide)
  local s = view_t()
  s.block_count = 3
  s.n = n
  s.wide = wide and 1 or 0
  return s
end

-- The pointers, once the blocks are there.
local function point(s)
  s.o = ffi.cast("const uint32_t *", s.offsets_block.data)
  s.blob = s.blob_block.data
  s.blob_size = tonumber(s.blob_block.size)
  if s.there_block ~= nil then s.there = s.there_block.data end
  return s
end

local function allocate(n, blob_size, some_missing)
  local wide = blob_size > NARROW_MAX
  local s = empty_view(n, wide)
  s.offsets_block = block.new((n + 1) * (wide and 8 or 4), false)
  s.blob_block = block.new(blob_size, false)
  if some_missing then
    local nbytes = floor((n + 7) / 8)
    s.there_block = block.new(nbytes, true)
  end
  return point(s)
end

local function offset_writer(s) return ffi.cast(s.wide == 0 and "uint32_t *" or "uint64_t *", s.offsets_block.data) end

local function measure(list, n)
  local total, some_missing = 0, false
  for i = 1, n do
    local text = list[i]
    if text == nil then
      some_missing = true
    elseif type(text) == "string" then
      total = total + #text
    else
      argument_error("tarn.strings: element %d is a %s, not a string", i, type(text))
    end
  end
  return total, some_missing
end

local function fill_dense(offsets, blob, list, n)
  local at = 0
  for i = 1, n do
    local text = list[i]
    ffi.copy(blob + at, text, #text)
    at = at + #text
    offsets[i] = at
  end
end

local function fill_sparse(offsets, blob, there, list, n)
  local at = 0
  for i = 1, n do
    local text = list[i]
    if text then
      ffi.copy(blob + at, text, #text)
      at = at + #text
      local k = i - 1
      there[floor(k / 8)] = bor(there[floor(k / 8)], lshift(1, k % 8))
    end
    offsets[i] = at
  end
end

local function from_list(list)
  local n = list.n
  if n == nil then n = table.maxn(list) end
  if type(n) ~= "number" or n < 0 or n % 1 ~= 0 then argument_error("tarn.strings: n must be a whole number") end
  local total, some_missing = measure(list, n)
  local s = allocate(n, total, some_missing)
  local offsets, blob = offset_writer(s), s.blob_block.data
  offsets[0] = 0
  if some_missing then
    fill_sparse(offsets, blob, s.there_block.data, list, n)
  else
    fill_dense(offsets, blob, list, n)
  end
  return s
end

---A column of strings from a list of them. Missing ones are nil: give n if the list may end in some.
---@param list string[] {"a", nil, "b", n = 3}
function strings.new(list)
  if is_column(list) then return list end -- never changes, so it is its own copy
  if type(list) ~= "table" then argument_error("tarn.strings: a list of strings is needed, not a %s", type(list)) end
  return from_list(list)
end

-- ---- builder: one string after another, their number and sizes not known yet ----

local Builder = {}
Builder.__index = Builder

local CHUNK_MIN, CHUNK_MAX = 65536, 16 * 1048576

-- A block of the builder's own, not shared with any view: given back at once.
local function drop(hold)
  C.tarn_block_unmap(hold.block)
  hold.block = nil
end

local function new_hold(nbytes)
  local hold = block.hold()
  hold.block = block.new(nbytes, false)
  return hold
end

---A builder: b:add(text or nil), then b:finish().
function strings.builder()
  return setmetatable({ n = 0, total = 0, missing = 0, chunks = {}, room = 0, size = 0, capacity = 0 }, Builder)
end

local function close_chunk(b)
  local last = b.chunks[#b.chunks]
  if last then last.used = b.used end
end

local function new_chunk(b, at_least)
  close_chunk(b)
  local size = math.max(at_least, math.min(CHUNK_MAX, math.max(CHUNK_MIN, b.total)))
  local hold = new_hold(size)
  b.chunks[#b.chunks + 1] = { hold = hold }
  b.at, b.room, b.used = hold.block.data, size, 0
end

-- Room for more ends of elements (doubles: exact to 2^53), twice what there was.
local function grow_ends(b)
  local capacity = math.max(1024, b.capacity * 2)
  local hold = new_hold(capacity * 8)
  local ends = ffi.cast("double *", hold.block.data)
  if b.ends_hold then
    ffi.copy(ends, b.ends, b.n * 8)
    drop(b.ends_hold)
  end
  b.ends_hold, b.ends, b.capacity = hold, ends, capacity
end

-- The end of element n is below zero (its complement) where it is missing.
local function add_end(b, value)
  if b.n >= b.capacity then grow_ends(b) end
  b.ends[b.n] = value
  b.n = b.n + 1
end

---@param text string|nil
function Builder:add(text)
  if text == nil then
    self.missing = self.missing + 1
    return add_end(self, -1 - self.total)
  end
  if type(text) ~= "string" then argument_error("builder:add: a string or nil is needed, not a %s", type(text)) end
  local size = #text
  if size > self.room then new_chunk(self, size) end
  ffi.copy(self.at + self.used, text, size)
  self.used = self.used + size
  self.room = self.room - size
  self.total = self.total + size
  return add_end(self, self.total)
end

---Raw bytes as one more element.
function Builder:add_bytes(pointer, size)
  if size > self.room then new_chunk(self, size) end
  ffi.copy(self.at + self.used, pointer, size)
  self.used = self.used + size
  self.room = self.room - size
  self.total = self.total + size
  return add_end(self, self.total)
end

local function join_blob(b, blob)
  local at = 0
  for _, chunk in ipairs(b.chunks) do
    ffi.copy(blob + at, chunk.hold.block.data, chunk.used)
    at = at + chunk.used
    drop(chunk.hold)
  end
end

local function join_ends(offsets, ends, n)
  offsets[0] = 0
  for i = 0, n - 1 do
    local to = ends[i]
    if to < 0 then to = -1 - to end
    offsets[i + 1] = to
  end
end

local function join_there(there, ends, n)
  for k = 0, n - 1 do
    if ends[k] >= 0 then there[floor(k / 8)] = bor(there[floor(k / 8)], lshift(1, k % 8)) end
  end
end

---The column. The builder is empty again after it.
function Builder:finish()
  close_chunk(self)
  local s = allocate(self.n, self.total, self.missing > 0)
  join_blob(self, s.blob_block.data)
  join_ends(offset_writer(s), self.ends, self.n)
  if self.missing > 0 then join_there(s.there_block.data, self.ends, self.n) end
  if self.ends_hold then drop(self.ends_hold) end
  for k, v in pairs(strings.builder()) do self[k] = v end
  self.ends_hold, self.ends, self.at, self.used = nil, nil, nil, nil
  return s
end

---A column of what an iterator gives, one string a turn.
function strings.from(iterator, state, control)
  if type(iterator) == "table" or is_column(iterator) then return strings.new(iterator) end
  if type(iterator) ~= "function" then argument_error("strings.from: an iterator is needed, not a %s", type(iterator)) end
  local b = strings.builder()
  for text in iterator, state, control do b:add(text) end
  return b:finish()
end

-- ---- for the serializer ----

strings.is = is_column

function strings._nbytes(s)
  local there = s.there_block ~= nil and tonumber(s.there_block.size) or 0
  return tonumber(s.offsets_block.size) + s.blob_size + there
end

-- A view of blocks that are mapped for it; nil when they do not fit n elements.
function strings._view(n, wide, some_missing, take)
  local s = empty_view(n, wide)
  s.offsets_block = take()
  s.blob_block = take()
  if some_missing then s.there_block = take() end
  local fits = tonumber(s.offsets_block.size) >= (n + 1) * (wide and 8 or 4)
    and (not some_missing or tonumber(s.there_block.size) * 8 >= n)
  if not fits then return nil end
  return point(s)
end

package.loaded["tarn.strings"] = strings -- the serializer asks for it
serializer.load("strings")
serializer.bind("strings", view_t)

return setmetatable(strings, { __call = function(_, list) return strings.new(list) end })
