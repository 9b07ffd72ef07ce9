-- Columns with missing elements: the values (an array or bits), then bits, true where there is a value.
local column = require "tarn.column"
local nullable = require "tarn.nullable"
local tarn_serializer = require "tarn.serializer"

local function mmwrite(out, c)
  out:write(c.values)
  out:write(c:validity())
end

local function mmread(inp)
  local values, validity = inp:read(), inp:read()
  local kind = column.kind(values)
  if kind ~= "array" and kind ~= "bits" then column.corrupt("nullable", "no values") end
  if column.kind(validity) ~= "bits" or #validity ~= #values then column.corrupt("nullable", "bits that do not fit the values") end
  return nullable.new(values, validity)
end

return tarn_serializer {
  name = "nullable",
  version = 1,
  matches = nullable.is,
  approx_size = function(c) return c:nbytes() end,
  mmwrite = mmwrite,
  mmread = mmread,
}
