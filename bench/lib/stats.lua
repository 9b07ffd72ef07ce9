-- The few figures that a list of measurements is told by. None changes the list.
local stats = {}

local function sorted(list)
  local copy = {}
  for i = 1, #list do copy[i] = list[i] end
  table.sort(copy)
  return copy
end

-- The value below which a share q (0..1) of the list lies; nil of an empty list.
function stats.quantile(list, q)
  local s = sorted(list)
  return s[math.max(1, math.ceil(#s * q))]
end

function stats.median(list)
  local s = sorted(list)
  local middle = #s / 2
  if middle % 1 == 0 and middle > 0 then return (s[middle] + s[middle + 1]) / 2 end
  return s[math.ceil(middle)]
end

-- How far apart the list lies: (largest - smallest) / median.
function stats.spread(list)
  local s = sorted(list)
  local median = stats.median(s)
  return median ~= 0 and (s[#s] - s[1]) / median or 0
end

-- Of fn(x) for each x of the list.
function stats.mean(list, fn)
  local sum = 0
  for _, x in ipairs(list) do sum = sum + fn(x) end
  return sum / #list
end

return stats
