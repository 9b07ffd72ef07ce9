-- Bits: their number, which bit of the block is the first, then the block.
local bits = require "tarn.bits"
local column = require "tarn.column"
local tarn_serializer = require "tarn.serializer"

local function mmwrite(out, b)
  -- A slice of less than a quarter of its block takes its own bits along, not all of them.
  if column.bit_bytes(b.n) * 4 < tonumber(b.block.size) then b = b:copy() end
  out:value(b.n)
  out:value(b.at)
  out:share(b.block)
end

local function mmread(inp)
  local n, at = inp:value(), inp:value()
  local ok, b = pcall(bits._view, n, at, inp.take_block, inp)
  return ok and b or column.corrupt("bits", b)
end

return tarn_serializer {
  name = "bits",
  version = 1,
  matches = bits.is,
  approx_size = function(b) return b:nbytes() end,
  mmwrite = mmwrite,
  mmread = mmread,
}
