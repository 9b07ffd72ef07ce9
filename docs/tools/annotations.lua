-- Reads LuaCATS annotations: the block of `---` lines above a function, a stub, or a class.
local annotations = {}

local files = {}

-- The lines of a file.
local function lines_of(path)
  if not files[path] then
    local lines = {}
    for line in io.lines(path) do lines[#lines + 1] = line end
    files[path] = lines
  end
  return files[path]
end

local function is_doc(line) return line ~= nil and line:sub(1, 3) == "---" and line:sub(4, 4) ~= "-" end

-- A type at the start of a text, and what follows it. Types have no spaces, but within brackets.
local function split_type(text)
  local depth = 0
  for i = 1, #text do
    local c = text:sub(i, i)
    if c:find("[({%[<]") then depth = depth + 1 end
    if c:find("[)}%]>]") then depth = depth - 1 end
    if c == " " and depth == 0 then return text:sub(1, i - 1), text:sub(i + 1) end
  end
  return text, ""
end

local tags = {}

function tags.param(block, rest)
  local name, optional, more = rest:match("^([%w_.]+)(%??)%s+(.*)$")
  if not name then return end
  local kind, text = split_type(more)
  table.insert(block.params, { name = name, optional = optional == "?", type = kind, text = text })
end

-- A return has a name where the first word behind its type is one.
tags["return"] = function(block, rest)
  local kind, more = split_type(rest)
  local name, text = more:match("^([%a_.][%w_.]*)%s*(.*)$")
  table.insert(block.returns, { type = kind, name = name, text = text or more })
end

function tags.class(block, rest)
  block.class, block.parent = rest:match("^([%w_.]+)%s*:?%s*([%w_.]*)")
end

function tags.field(block, rest)
  local name, optional, more = rest:match("^(%[?[%w_.]+%]?)(%??)%s+(.*)$")
  local kind, text = split_type(more)
  table.insert(block.fields, { name = name, optional = optional == "?", type = kind, text = text })
end

function tags.package(block) block.package = true end

-- The block in lines i to j: {text, params, returns, fields, class, parent, package, raw (its lines)}.
local function parse(lines, i, j)
  local block = { text = {}, params = {}, returns = {}, fields = {}, raw = {} }
  local entries = {}
  for k = i, j do
    local line = lines[k]
    table.insert(block.raw, line)
    local tag, rest = line:match("^%-%-%-@(%a+)%s*(.*)$")
    if tag then
      entries[#entries + 1] = { tag = tag, rest = rest }
    elseif #entries == 0 then
      table.insert(block.text, (line:gsub("^%-%-%-%s?", "")))
    elseif line:sub(1, 4) == "--- " then -- the rest of a long line
      entries[#entries].rest = entries[#entries].rest .. " " .. line:sub(5)
    end
  end
  for _, entry in ipairs(entries) do
    if tags[entry.tag] then tags[entry.tag](block, entry.rest) end
  end
  block.text = table.concat(block.text, " ")
  return block
end

---The annotation above a line of a file; nil without one.
---@param path string
---@param line integer
---@return table|nil block
function annotations.above(path, line)
  local lines = lines_of(path)
  local first = line
  while is_doc(lines[first - 1]) do first = first - 1 end
  if first < line then return parse(lines, first, line - 1) end
end

---The functions of a stub file and the names of their parameters: "tarn.myid" or "DRef:get" -> block.
---@param path string
---@return table<string,table> blocks
function annotations.stubs(path)
  local found = {}
  for at, line in ipairs(lines_of(path)) do
    local name, names = line:match("^function ([%w_.:]+)%((.-)%) end$")
    if name then
      local block = annotations.above(path, at) or parse({}, 1, 0)
      block.arguments = {}
      for word in names:gmatch("[%w_.]+") do table.insert(block.arguments, word) end
      found[name] = block
    end
  end
  return found
end

---The classes that files declare: name -> block.
---@param paths string[]
---@return table<string,table> classes
function annotations.classes(paths)
  local found = {}
  for _, path in ipairs(paths) do
    local lines = lines_of(path)
    for at = 2, #lines + 1 do
      if is_doc(lines[at - 1]) and not is_doc(lines[at]) then
        local block = annotations.above(path, at)
        if block.class then found[block.class] = block end
      end
    end
  end
  return found
end

---The aliases that a file declares, lists of values with a text: name -> list of {value, text}.
---@param path string
---@return table<string,table> aliases
function annotations.aliases(path)
  local found, list = {}, nil
  for _, line in ipairs(lines_of(path)) do
    local name = line:match("^%-%-%-@alias ([%w_.]+)$")
    local value, text = line:match('^%-%-%-| "(%w+)"%s*#?%s*(.*)$')
    if name then
      list = {}
      found[name] = list
    elseif value then
      table.insert(list, { value = value, text = text })
    end
  end
  return found
end

return annotations
