-- A column of strings outside the Lua heap: offsets, one blob with all the bytes, and where some are missing a bitmap (as Arrow has it:
-- bit k of the bits is 1 where element k is there). A Lua string is made only for an element that is asked for; eq, hash and ptr make none.
local bit = require "bit"
local bits = require "tarn.bits"
local block = require "tarn.block"
local column = require "tarn.column"
local errors = require "tarn.errors"
local ffi = require "ffi"
local kernel = require "tarn.kernel"
local serializer = require "tarn.serializer"
local typeof = ffi.typeof -- busted replaces the FFI's by ones that remember their first argument only

local argument_error, describe = column.argument_error, column.describe
local band, lshift, bor = bit.band, bit.lshift, bit.bor
local floor = math.floor

local strings = {
  _narrow_max = 4294967295, -- bytes of blob up to which offsets are 32 bits wide
}

---Strings, of which some may be missing: offsets, and one blob with all the bytes. A Lua string is made only for an element that is asked
---for.
---@class tarn.Strings: tarn.Column
---@field kind "strings"
---@field [integer] string
local methods = {}

local view_t = typeof [[struct {
  uint32_t block_count; uint32_t wide;
  tarn_block_t *offsets_block, *blob_block, *there_block;
  union { const uint32_t *o; const uint64_t *o64; };
  const uint8_t *blob; const uint8_t *there;
  double there_at; double n; double blob_size; }]]

---Is x a column of strings?
---@param x any
---@return boolean is
local function is_column(x) return ffi.istype(view_t, x) end

local function check_self(s, method) column.check(s, "strings", "strings:" .. method) end

-- ---- one element ----

-- Offsets may have come from outside, unread until now.
local function corrupt(i)
  errors.raise("Corrupt", i and ("strings: the offsets of element %.14g are wrong"):format(i) or "strings: some offsets are wrong")
end

-- Where element i begins and ends in the blob; nil where it is missing or there is none.
local function bounds(s, i)
  if not (i >= 1 and i <= s.n and i % 1 == 0) then return nil end
  if s.there ~= nil then
    local k = s.there_at + i - 1
    if band(s.there[floor(k * 0.125)], lshift(1, band(k, 7))) == 0 then return nil end
  end
  local from, to
  if s.wide == 0 then
    from, to = s.o[i - 1], s.o[i]
  else
    from, to = tonumber(s.o64[i - 1]), tonumber(s.o64[i])
  end
  if from > to or to > s.blob_size then corrupt(i) end
  return from, to
end

local function get(s, i)
  local from, to = bounds(s, i)
  if from then return ffi.string(s.blob + from, to - from) end
end

local function check_text(text)
  if type(text) ~= "string" then argument_error("%s cannot be compared with strings", describe(text)) end
end

-- Is element i that text? Makes no string.
function methods:eq(i, text)
  local from, to = bounds(self, i)
  if not from or text == nil then return not from and text == nil end
  check_text(text)
  local size = to - from
  return size == #text and kernel.memcmp(self.blob + from, text, size) == 0
end

-- A number that depends on the bytes of element i alone; nil where missing. Makes no string.
function methods:hash(i)
  local from, to = bounds(self, i)
  if from then return kernel.tarn_view_hash(self.blob + from, to - from) end
end

---The bytes of element i, without making a string; nil where it is missing. Valid while the column is reachable.
---@param i integer
---@return ffi.cdata*|nil pointer
---@return integer|nil size in bytes
function methods:ptr(i)
  local from, to = bounds(self, i)
  if from then return self.blob + from, to - from end
end

---Is element i within the column, but missing?
---@param i integer
---@return boolean missing
function methods:missing(i) return i >= 1 and i <= self.n and i % 1 == 0 and bounds(self, i) == nil end

function methods:valid(i) return type(i) == "number" and bounds(self, i) ~= nil end

-- Element i beside element j of other (default: this column).
function methods:compare(i, j, other)
  other = other or self
  local from, to = bounds(self, i)
  local other_from, other_to = bounds(other, j)
  if not from then return other_from and 1 or 0 end
  if not other_from then return -1 end
  return kernel.tarn_column_text_compare(self.blob + from, to - from, other.blob + other_from, other_to - other_from)
end

-- Element i beside a text.
function methods:order(i, text)
  local from, to = bounds(self, i)
  if not from then return text == nil and 0 or 1 end
  if text == nil then return -1 end
  check_text(text)
  return kernel.tarn_column_text_compare(self.blob + from, to - from, text, #text)
end

local read_other = column.other_reader("strings", methods, {})

local function read(s, key)
  if type(key) == "number" then return get(s, key) end
  return read_other(s, key)
end

local function write() argument_error("strings cannot be changed: make new ones with tarn.strings") end

-- ---- making ----

-- A view whose blocks are still to come.
local function empty_view(n, wide)
  local s = view_t()
  s.block_count = 3
  s.n = n
  s.wide = wide and 1 or 0
  return s
end

local function allocate(n, blob_size, some_missing)
  local wide = blob_size > strings._narrow_max
  local s = empty_view(n, wide)
  s.offsets_block = block.new((n + 1) * (wide and 8 or 4), false)
  s.blob_block = block.new(blob_size, false)
  if some_missing then
    s.there_block = block.new(column.bit_bytes(n), true)
    s.there = s.there_block.data
  end
  s.o = ffi.cast("const uint32_t *", s.offsets_block.data)
  s.blob = s.blob_block.data
  s.blob_size = blob_size
  return s
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

---A new column of strings from a list of them. It never changes.
---@param list table|tarn.Strings {"a", nil, "b", n = 3}: give n if the list may end in a missing one
---@return tarn.Strings strings
function strings.new(list)
  if is_column(list) then return list end -- never changes, so it is its own copy
  if type(list) ~= "table" then argument_error("tarn.strings: a list of strings is needed, not %s", describe(list)) end
  return from_list(list)
end

-- A view of n elements over bytes that are there: take(from) maps first the block of the offsets (width 4 or 8 bytes, from offsets_at on),
-- then that of the blob (blob_size bytes from blob_at on). validity: bits of n elements, or nil. Raises a text.
function strings._view(n, width, offsets_at, blob_at, blob_size, validity, take, from)
  local s = empty_view(0, width == 8)
  s.offsets_block = take(from)
  s.blob_block = take(from)
  local whole = column.is_whole(n) and column.is_whole(offsets_at) and column.is_whole(blob_at) and column.is_whole(blob_size)
  if not whole or width ~= 4 and width ~= 8 or offsets_at % width ~= 0 or offsets_at + (n + 1) * width > tonumber(s.offsets_block.size)
    or blob_at + blob_size > tonumber(s.blob_block.size) or validity and validity.n ~= n then
    error("blocks too small for their elements", 0)
  end
  if validity then
    s.there_block = block.share(validity.block)
    s.there, s.there_at = validity.p, validity.at
  end
  s.o = ffi.cast("const uint32_t *", s.offsets_block.data + offsets_at)
  s.blob = s.blob_block.data + blob_at
  s.blob_size = blob_size
  s.n = n
  return s
end

-- ---- methods of the whole column ----

local function text_of(s)
  local t = ffi.new("tarn_text_t")
  t.offsets, t.blob, t.valid, t.valid_at, t.blob_size, t.n, t.wide = s.o, s.blob, s.there, s.there_at, s.blob_size, s.n, s.wide
  return t
end

local CORRUPT = 0xffffffffffffffffULL -- see runtime/bind/column.h

local function checked(x)
  if x == CORRUPT then corrupt() end
  return tonumber(x)
end

-- The index of the first element from `from` on that is this text (nil: that is missing), or nil. Makes no strings.
function methods:find(text, from)
  check_self(self, "find")
  from = math.max(from or 1, 1)
  if text == nil then
    for i = from, self.n do
      if bounds(self, i) == nil then return i end
    end
    return nil
  end
  check_text(text)
  if from > self.n then return nil end
  local row = checked(kernel.tarn_column_text_find(text_of(self), from - 1, text, #text))
  if row < self.n then return row + 1 end
end

function methods:validity()
  if self.there == nil then return nil end
  return bits._view(self.n, self.there_at, block.share, self.there_block)
end

function methods:valid_count()
  return self.there == nil and self.n or tonumber(kernel.tarn_column_bits_count(self.there, self.there_at, self.n))
end

---The bytes themselves, as Arrow has them.
---@return ffi.cdata* offsets one more than there are elements; the first need not be 0
---@return integer width of an offset in bytes: 4 or 8
---@return ffi.cdata* blob what they count in
---@return integer size of the blob in bytes
function methods:buffers()
  check_self(self, "buffers")
  if self.wide ~= 0 then return self.o64, 8, self.blob, self.blob_size end
  return self.o, 4, self.blob, self.blob_size
end

---Elements i to j as a column of their own on the same bytes.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Strings strings
function methods:slice(i, j)
  check_self(self, "slice")
  i, j = column.range(i, j, self.n, "strings:slice")
  local s = empty_view(j - i + 1, self.wide ~= 0)
  s.offsets_block, s.blob_block = block.share(self.offsets_block), block.share(self.blob_block)
  if self.there_block ~= nil then
    s.there_block = block.share(self.there_block)
    s.there, s.there_at = self.there, self.there_at + i - 1
  end
  if self.wide ~= 0 then s.o64 = self.o64 + (i - 1) else s.o = self.o + (i - 1) end
  s.blob, s.blob_size = self.blob, self.blob_size
  return s
end

-- The elements at rows (null: all of them, n) in blocks of their own.
local function gather(s, rows, n)
  local t = text_of(s)
  local size = checked(kernel.tarn_column_text_measure(t, rows, n))
  local copy = allocate(n, size, s.there ~= nil)
  t = text_of(s) -- anew: s must be in use beyond the allocation, which may unmap what nobody uses any more
  kernel.tarn_column_text_take(t, rows, n, offset_writer(copy), copy.wide ~= 0, copy.blob_block.data,
    copy.there_block ~= nil and copy.there_block.data or nil)
  return copy
end

---A copy, in blocks that hold nothing else.
---@return tarn.Strings strings
function methods:copy()
  check_self(self, "copy")
  return gather(self, nil, self.n)
end

function methods:_gather(rows) return gather(self, rows:ptr(), #rows) end

function methods:_keys(keys, rows, count)
  local t = text_of(self)
  checked(kernel.tarn_column_text_keys(keys, t, kernel.tarn_column_text_skip(t, rows, count), rows, count))
end

function methods:_search(text, from, to, above)
  if type(text) ~= "string" then return nil end
  return checked(kernel.tarn_column_text_search(text_of(self), from, to, text, #text, above))
end

function methods:_ties(keys, rows, more_rows, count, down)
  kernel.tarn_column_sort_ties(text_of(self), keys, rows, more_rows, count, down)
end

function methods:_group_keys(keys)
  local t = text_of(self)
  checked(kernel.tarn_column_text_hashes(keys, t))
  return t
end

function methods:_title() return ("strings (%.14g)"):format(self.n) end

-- The bytes of the elements, and of their offsets and bits.
function methods:nbytes()
  local s = self
  local first, last
  if s.wide == 0 then first, last = s.o[0], s.o[s.n] else first, last = tonumber(s.o64[0]), tonumber(s.o64[s.n]) end
  if first > last or last > s.blob_size then first, last = 0, s.blob_size end -- not looked at yet, and wrong
  return (s.n + 1) * (s.wide == 0 and 4 or 8) + last - first + (s.there ~= nil and column.bit_bytes(s.n) or 0)
end

strings.is = is_column
column.methods(methods)
column.define(view_t, "strings", read, write)

local function add_all(b, iterator, state, control)
  for text in iterator, state, control do b:add(text) end
end
jit.off(add_all) -- what is compiled would keep the iterator (docs/REFERENCES.md)

---A column of what an iterator gives, one string a turn: tarn.strings.from(io.lines(path)).
---@param iterator function|table|tarn.Strings
---@param state? any as for a generic `for`
---@param control? any
---@return tarn.Strings strings
function strings.from(iterator, state, control)
  if type(iterator) == "table" or is_column(iterator) then return strings.new(iterator) end
  if type(iterator) ~= "function" then argument_error("strings.from: an iterator is needed, not %s", describe(iterator)) end
  local b = strings.builder()
  add_all(b, iterator, state, control)
  return b:finish()
end

strings._allocate, strings._offset_writer = allocate, offset_writer

package.loaded["tarn.strings"] = strings -- the serializer asks for it
strings.builder = require("tarn.strings_builder").new
serializer.load("strings")
serializer.bind("strings", view_t)

return setmetatable(strings, { __call = function(_, list) return strings.new(list) end })
