-- Tables: the names of the columns, the names of the key's, then the columns, each by its own serializer.
local core = require "tarn.core"
local tabular = require "tarn.table"
local tarn_serializer = require "tarn.serializer"

local function mmwrite(out, t)
  local names, columns, key = tabular._parts(t)
  out:value(names)
  out:value(key)
  for i = 1, #names do out:write(columns[i]) end
end

local function corrupt(what) error(require("tarn.errors").new("Corrupt", "table: " .. what), 0) end

local function mmread(inp)
  local names, key = inp:value(), inp:value()
  if type(names) ~= "table" then corrupt("malformed") end
  local columns = {}
  for i = 1, #names do columns[i] = inp:read() end
  local t, why = tabular._view(names, columns, key)
  return t or corrupt(why)
end

local function approx_size(t)
  local _, columns = tabular._parts(t)
  local size, seen = 0, {}
  for _, c in ipairs(columns) do
    if not seen[c] then size = size + core.approx_size(c) end
    seen[c] = true
  end
  return size
end

return tarn_serializer {
  name = "table",
  version = 1,
  matches = tabular.is,
  approx_size = approx_size,
  mmwrite = mmwrite,
  mmread = mmread,
}
