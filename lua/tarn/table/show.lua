-- How a table prints: its size and key, then the first and last rows, columns aligned.
local EDGE = 5 -- rows at each end
local WIDTH_MAX, COLUMNS_MAX = 24, 12

local function cut(text) return #text > WIDTH_MAX and text:sub(1, WIDTH_MAX - 3) .. "..." or text end

local function show(v)
  if type(v) == "string" then return cut(("%q"):format(v):sub(2, -2):gsub("\\?\n", "\\n")) end
  if type(v) == "number" then return ("%.10g"):format(v) end
  if type(v) == "cdata" and not tostring(v):match "^-?%d+U?LL$" then return "{...}" end
  return v == nil and "-" or cut(tostring(v))
end

local function shown_rows(n)
  local rows = {}
  for i = 1, math.min(n, EDGE) do rows[#rows + 1] = i end
  if n > 2 * EDGE then rows[#rows + 1] = false end -- a gap
  for i = math.max(EDGE, n - EDGE) + 1, n do rows[#rows + 1] = i end
  return rows
end

-- The cells of a column, of one width; numbers to the right.
local function cells(name, c, rows)
  local list, width, right = { cut(name) }, #cut(name), true
  for _, i in ipairs(rows) do
    local v = i and c[i]
    right = right and (v == nil or not i or type(v) == "number" or type(v) == "cdata")
    list[#list + 1] = i and show(v) or ":"
  end
  for _, text in ipairs(list) do width = math.max(width, #text) end
  for k, text in ipairs(list) do
    local space = (" "):rep(width - #text)
    list[k] = right and space .. text or text .. space
  end
  return list
end

---@param s table the inside of a table
return function(s)
  local key = #s.key > 0 and (", key %s"):format(table.concat(s.key, ", ")) or ""
  local lines = { ("table of %.14g rows, %d columns%s"):format(s.n, #s.names, key) }
  local rows, columns = shown_rows(s.n), {}
  for k = 1, math.min(#s.names, COLUMNS_MAX) do columns[k] = cells(s.names[k], s.list[k], rows) end
  for line = 1, #rows + 1 do
    local parts = {}
    for k, list in ipairs(columns) do parts[k] = list[line] end
    if #s.names > COLUMNS_MAX then parts[#parts + 1] = "..." end
    lines[#lines + 1] = (table.concat(parts, "  "):gsub("%s+$", ""))
  end
  return table.concat(lines, "\n")
end
