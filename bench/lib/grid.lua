-- Tables of text on standard output, and the figures in them.
local grid = {}

-- A figure in at most six characters.
function grid.number(v)
  local size = math.abs(v)
  if size >= 1e9 then return ("%.3gG"):format(v / 1e9) end
  if size >= 1e6 then return ("%.2fM"):format(v / 1e6) end
  if size >= 1e5 then return ("%.0fk"):format(v / 1e3) end
  if size >= 100 then return ("%.0f"):format(v) end
  return ("%.3g"):format(v)
end

-- Print lines, each a list of texts, with aligned columns. to_the_right(column): so it is aligned.
function grid.print(lines, to_the_right)
  local widths = {}
  for _, line in ipairs(lines) do
    for i, text in ipairs(line) do widths[i] = math.max(widths[i] or 0, #text) end
  end
  for _, line in ipairs(lines) do
    local parts = {}
    for i, text in ipairs(line) do
      local space = (" "):rep(widths[i] - #text)
      parts[i] = to_the_right(i) and space .. text or text .. space
    end
    print((table.concat(parts, "  "):gsub("%s+$", "")))
  end
end

return grid
