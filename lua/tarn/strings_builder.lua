-- Building a column of strings one after another, their number and sizes not known yet: tarn.strings.builder().
local bit = require "bit"
local block = require "tarn.block"
local column = require "tarn.column"
local ffi = require "ffi"
local strings = require "tarn.strings"

local argument_error, describe = column.argument_error, column.describe
local bor, lshift = bit.bor, bit.lshift
local floor = math.floor

---@class tarn.StringsBuilder
local Builder = {}
Builder.__index = Builder

local CHUNK_MIN, CHUNK_MAX = 65536, 16 * 1048576

---Build a column of strings one after another, their number and sizes not known yet.
---@return tarn.StringsBuilder builder
local function new()
  -- Without a chunk there is no room, not even for "".
  return setmetatable({ n = 0, total = 0, missing = 0, chunks = {}, room = -1, size = 0, capacity = 0 }, Builder)
end

local function close_chunk(b)
  local last = b.chunks[#b.chunks]
  if last then last.used = b.used end
end

local function new_chunk(b, at_least)
  close_chunk(b)
  local size = math.max(at_least, math.min(CHUNK_MAX, math.max(CHUNK_MIN, b.total)))
  local hold = block.scratch(size)
  b.chunks[#b.chunks + 1] = { hold = hold }
  b.at, b.room, b.used = hold.block.data, size, 0
end

-- Room for more ends of elements (doubles: exact to 2^53), twice what there was.
local function grow_ends(b)
  local capacity = math.max(1024, b.capacity * 2)
  local hold = block.scratch(capacity * 8)
  local ends = ffi.cast("double *", hold.block.data)
  if b.ends_hold then
    ffi.copy(ends, b.ends, b.n * 8)
    block.drop(b.ends_hold)
  end
  b.ends_hold, b.ends, b.capacity = hold, ends, capacity
end

-- The end of element n is below zero (its complement) where it is missing.
local function add_end(b, value)
  if b.n >= b.capacity then grow_ends(b) end
  b.ends[b.n] = value
  b.n = b.n + 1
end

---One more element.
---@param text string|nil nil: a missing one
function Builder:add(text)
  if text == nil then
    self.missing = self.missing + 1
    return add_end(self, -1 - self.total)
  end
  if type(text) ~= "string" then argument_error("builder:add: a string or nil is needed, not %s", describe(text)) end
  local size = #text
  if size > self.room then new_chunk(self, size) end
  ffi.copy(self.at + self.used, text, size)
  self.used = self.used + size
  self.room = self.room - size
  self.total = self.total + size
  return add_end(self, self.total)
end

---Raw bytes as one more element.
---@param pointer ffi.cdata*|string
---@param size integer in bytes
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
    block.drop(chunk.hold)
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
---@return tarn.Strings strings
function Builder:finish()
  close_chunk(self)
  local s = strings._allocate(self.n, self.total, self.missing > 0)
  join_blob(self, s.blob_block.data)
  join_ends(strings._offset_writer(s), self.ends, self.n)
  if self.missing > 0 then join_there(s.there_block.data, self.ends, self.n) end
  if self.ends_hold then block.drop(self.ends_hold) end
  for k, v in pairs(new()) do self[k] = v end
  self.ends_hold, self.ends, self.at, self.used = nil, nil, nil, nil
  return s
end

return { new = new }
