-- Building a pooled column one value after another: the codes' type grows with the number of distinct ones. tarn.pooled.builder().
local array = require "tarn.array"
local bits = require "tarn.bits"
local block = require "tarn.block"
local column = require "tarn.column"
local ffi = require "ffi"
local kernel = require "tarn.kernel"
local pooled = require "tarn.pooled"
local strings = require "tarn.strings"

local argument_error, describe = column.argument_error, column.describe
local widths, width_for = pooled._widths, pooled._width_for

---@class tarn.PooledBuilder
local Builder = {}
Builder.__index = Builder

local NAN = {} -- stands for NaN, which can be no key

---Build a pooled column one value after another.
---@return tarn.PooledBuilder builder
local function new() return setmetatable({ n = 0, capacity = 0, text = "uint8_t", codes = {}, list = {} }, Builder) end

-- Room for so many codes of that type.
local function make_room(b, text, capacity)
  local hold = block.scratch(capacity * widths[text].bytes)
  local at = ffi.cast(text .. " *", hold.block.data)
  if b.hold then
    for k = 0, b.n - 1 do at[k] = b.at[k] end
    block.drop(b.hold)
  end
  b.hold, b.at, b.text, b.capacity = hold, at, text, capacity
end

-- Bits for n elements, with what is known of the first ones; all others are there.
local function bits_for(b, n)
  local there = bits.new(n):fill(true)
  if b.there then
    local known = math.min(n, b.there.n)
    kernel.tarn_column_bits_copy(there.p, b.there.p, 0, known)
    if known < n then there:fill(true, known + 1) end
  end
  return there
end

local function note_missing(b)
  if b.there == nil or b.there.n <= b.n then b.there = bits_for(b, math.max(1024, (b.n + 1) * 2)) end
  b.there[b.n + 1] = false
end

local function new_code(b, value, key)
  local kind = type(value)
  if kind ~= "string" and kind ~= "number" then
    argument_error("tarn.pooled: element %d is %s, not a string or a number", b.n + 1, describe(value))
  end
  if b.kind == nil then b.kind = kind end
  if b.kind ~= kind then argument_error("tarn.pooled: element %d is a %s among %ss", b.n + 1, kind, b.kind) end
  local code = #b.list
  b.list[code + 1] = value
  b.codes[key] = code
  local text = width_for(code + 1)
  if text ~= b.text then make_room(b, text, math.max(b.capacity, 1024)) end
  return code
end

---One more element: strings alone, or numbers alone.
---@param value string|number|nil nil: a missing one
function Builder:add(value)
  local code
  if value == nil then
    note_missing(self)
    code = 0
  else
    local key = value
    if value ~= value then key = NAN end
    code = self.codes[key] or new_code(self, value, key)
  end
  if self.n >= self.capacity then make_room(self, self.text, math.max(1024, self.capacity * 2)) end
  self.at[self.n] = code
  self.n = self.n + 1
end

---The column. The builder is empty again after it.
---@return tarn.Pooled pooled
function Builder:finish()
  local codes = array.new(self.text, self.n)
  if self.n > 0 then
    ffi.copy(codes:ptr(), self.at, self.n * widths[self.text].bytes)
    block.drop(self.hold)
  end
  local values = self.kind == "number" and array.new("double", self.list) or strings.new(self.list)
  local validity = self.there and bits_for(self, self.n)
  for k in pairs(self) do self[k] = nil end
  for k, v in pairs(new()) do self[k] = v end
  return pooled._view(codes, values, validity)
end

return { new = new }
