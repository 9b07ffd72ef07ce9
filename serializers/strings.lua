-- Columns of strings: the number of elements, whether the offsets are 64 bits wide, whether some are missing; then the blocks: offsets,
-- blob, and where some are missing the bitmap.
local strings = require "tarn.strings"
local tarn_serializer = require "tarn.serializer"

local function mmwrite(out, s)
  local some_missing = s.there_block ~= nil
  out:value(s.n)
  out:value(s.wide ~= 0)
  out:value(some_missing)
  out:share(s.offsets_block)
  out:share(s.blob_block)
  if some_missing then out:share(s.there_block) end
end

local function corrupt(what) error(require("tarn.errors").new("Corrupt", "strings: " .. what), 0) end

local function mmread(inp)
  local n, wide, some_missing = inp:value(), inp:value(), inp:value()
  if type(n) ~= "number" or not (n >= 0 and n <= 2 ^ 52) or n % 1 ~= 0 or type(wide) ~= "boolean" or type(some_missing) ~= "boolean" then
    corrupt("malformed")
  end
  return strings._view(n, wide, some_missing, function() return inp:take_block() end) or corrupt("blocks too small for their elements")
end

return tarn_serializer {
  name = "strings",
  version = 1,
  matches = strings.is,
  approx_size = strings._nbytes,
  mmwrite = mmwrite,
  mmread = mmread,
}
