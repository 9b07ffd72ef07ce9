-- Columns of strings: the number of elements, the offsets' width in bytes, where they begin in their block, where the blob begins in its
-- block, how long it is; bits, true where there is a value, or nil where none is missing; then the blocks: offsets, blob.
local block = require "tarn.block"
local column = require "tarn.column"
local strings = require "tarn.strings"
local tarn_serializer = require "tarn.serializer"

local function whole_bytes(s) return tonumber(s.offsets_block.size) + tonumber(s.blob_block.size) end

local function mmwrite(out, s)
  -- A slice of less than a quarter of its blocks takes its own bytes along, not all of them.
  if s:nbytes() * 4 < whole_bytes(s) then s = s:copy() end
  local validity = s:validity()
  local offsets, width, blob, blob_size = s:buffers()
  out:value(s.n)
  out:value(width)
  out:value(block.offset(s.offsets_block, offsets))
  out:value(block.offset(s.blob_block, blob))
  out:value(blob_size)
  out:write(validity)
  out:share(s.offsets_block)
  out:share(s.blob_block)
end

local function mmread(inp)
  local n, width, offsets_at, blob_at, blob_size = inp:value(), inp:value(), inp:value(), inp:value(), inp:value()
  local validity = inp:read()
  if validity ~= nil and column.kind(validity) ~= "bits" then column.corrupt("strings", "no bits") end
  local ok, s = pcall(strings._view, n, width, offsets_at, blob_at, blob_size, validity, inp.take_block, inp)
  return ok and s or column.corrupt("strings", s)
end

return tarn_serializer {
  name = "strings",
  version = 1,
  matches = strings.is,
  approx_size = function(s) return s:nbytes() end,
  mmwrite = mmwrite,
  mmread = mmread,
}
