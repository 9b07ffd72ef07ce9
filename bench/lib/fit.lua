-- A quantity as a sum of known shapes: coefficients by least squares of the relative errors, none of them negative.
local fit = {}

-- Solves the normal equations for one or two shapes.
local function solve(rows, y)
  local width = #rows[1]
  local aa, ab, bb, ay, by = 0, 0, 0, 0, 0
  for i, row in ipairs(rows) do
    local weight = 1 / y[i] ^ 2
    local a, b = row[1], row[2] or 0
    aa, ab, bb = aa + weight * a * a, ab + weight * a * b, bb + weight * b * b
    ay, by = ay + weight * a * y[i], by + weight * b * y[i]
  end
  if width == 1 then return { ay / aa } end
  local det = aa * bb - ab * ab
  return { (ay * bb - by * ab) / det, (by * aa - ay * ab) / det }
end

-- rows: for each measurement the values of one or two shapes; y: what was measured, positive. Returns the coefficients.
function fit.fit(rows, y)
  local found = solve(rows, y)
  for drop = 1, #found do
    if found[drop] < 0 then
      local rest = {}
      for i, row in ipairs(rows) do rest[i] = { row[3 - drop] } end
      local only = solve(rest, y)[1]
      return drop == 1 and { 0, only } or { only, 0 }
    end
  end
  return found
end

return fit
