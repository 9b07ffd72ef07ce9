-- Elements of a column by row, where row 0 is a missing one: take() for rows that may have no counterpart.
local array = require "tarn.array"
local bits = require "tarn.bits"
local block = require "tarn.block"
local nullable = require "tarn.nullable"
local pooled = require "tarn.pooled"
local strings = require "tarn.strings"

-- n missing ones, of c's kind.
local function nothing(c, n)
  if c.kind == "strings" then return strings { n = n } end
  if c.kind == "pooled" then return pooled._view(array(c.codes.ctype, n), c.values, bits(n)) end
  return nullable(c.kind == "bits" and "bits" or c.ctype, n)
end

-- The rows as take() wants them, and bits: false where a row is 0, or has no value. Nil, nil when there is none that is 0.
local function there(c, rows)
  local some = rows:find(0)
  if not some then return nil end
  local safe, mask = rows:copy(), bits(#rows):fill(true)
  local valid = c:validity()
  for i = 1, #rows do
    local row = rows[i]
    if row == 0 then
      safe[i], mask[i] = 1, false
    elseif valid and not valid[row] then
      mask[i] = false
    end
  end
  return safe, mask
end

-- A column's elements with other bits.
local function with_validity(c, mask)
  if c.kind == "nullable" then return nullable(c.values, mask) end
  if c.kind == "pooled" then return pooled._view(c.codes, c.values, mask) end
  if c.kind ~= "strings" then return nullable(c, mask) end
  local _, width, _, blob_size = c:buffers()
  local blocks = { c.offsets_block, c.blob_block }
  return strings._view(#c, width, 0, 0, blob_size, mask, block.share_next, blocks)
end

---@param c any a column
---@param rows any an array of uint32_t
return function(c, rows)
  if #c == 0 then return nothing(c, #rows) end
  local safe, mask = there(c, rows)
  if not safe then return c:take(rows) end
  return with_validity(c:take(safe), mask)
end
