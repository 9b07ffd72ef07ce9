-- JSON, written: what the dashboard's page reads.
local json = {}

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

-- "<" and "/" are escaped too, so that text may stand in a page.
local function string_of(s)
  return '"' .. s:gsub('[%z\1-\31"\\\127</]', function(c) return ESCAPES[c] or ("\\u%04x"):format(c:byte()) end) .. '"'
end

local encode

local function list_of(t)
  local parts = {}
  for i = 1, #t do parts[i] = encode(t[i]) end
  return "[" .. table.concat(parts, ",") .. "]"
end

local function object_of(t)
  local keys, parts = {}, {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for i, key in ipairs(keys) do parts[i] = string_of(tostring(key)) .. ":" .. encode(t[key]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

---A value as JSON. A table with elements 1..n, or with nothing, is an array; a number that JSON does not have is null.
---@param x any nil, booleans, numbers, strings and tables of such
---@return string
function encode(x)
  local kind = type(x)
  if kind == "table" then return (x[1] ~= nil or next(x) == nil) and list_of(x) or object_of(x) end
  if kind == "string" then return string_of(x) end
  if kind == "number" then return x == x and math.abs(x) ~= math.huge and ("%.14g"):format(x) or "null" end
  if kind == "boolean" then return tostring(x) end
  if x == nil then return "null" end
  error("JSON has no " .. kind, 2)
end

json.encode = encode

return json
