-- Pooled columns: the codes (an array), the distinct values (an array or strings), and bits, true where there is a value, or nil where
-- none is missing.
local column = require "tarn.column"
local pooled = require "tarn.pooled"
local tarn_serializer = require "tarn.serializer"

local function mmwrite(out, c)
  local validity = c:validity()
  out:write(c.codes)
  out:write(c.values)
  out:write(validity)
end

local function mmread(inp)
  local codes, values, validity = inp:read(), inp:read(), inp:read()
  local ok, c = pcall(pooled._view, codes, values, validity)
  return ok and c or column.corrupt("pooled", c)
end

return tarn_serializer {
  name = "pooled",
  version = 1,
  matches = pooled.is,
  approx_size = function(c) return c:nbytes() end,
  mmwrite = mmwrite,
  mmread = mmread,
}
