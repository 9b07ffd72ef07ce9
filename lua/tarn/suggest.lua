-- What somebody may have meant who has misspelt a name.
local suggest = {}

local function plain(name) return (name:lower():gsub("_", "")) end

-- How many letters must be put in, left out, replaced, or swapped with their neighbour to make b of a.
local function distance(a, b)
  local before, last
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    before, last, row = last, row, { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if before and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then row[j] = math.min(row[j], before[j - 2] + 1) end
    end
  end
  return row[#b]
end

---The name that is meant, if one is close: few letters differ, or one is the beginning of the other.
---@param name string
---@param names table name -> anything
---@return string|nil
function suggest.near(name, names)
  local best, least
  local wanted = plain(name)
  for other in pairs(names) do
    if type(other) == "string" then
      local candidate = plain(other)
      local d = distance(wanted, candidate)
      local begins = #wanted >= 3 and candidate:sub(1, #wanted) == wanted or #candidate >= 3 and wanted:sub(1, #candidate) == candidate
      if (d <= #wanted / 3 or begins) and (not least or d < least or d == least and other < best) then best, least = other, d end
    end
  end
  return best
end

---For the message about an unknown name: " (did you mean 'batch'?)", or which ones there are.
---@param name any
---@param names table name -> anything
---@return string
function suggest.instead(name, names)
  local near = type(name) == "string" and suggest.near(name, names)
  if near then return ("; did you mean '%s'?"):format(near) end
  local list = {}
  for other in pairs(names) do list[#list + 1] = other end
  table.sort(list)
  return "; there are " .. table.concat(list, ", ")
end

return suggest
