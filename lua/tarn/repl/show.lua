-- Values as the prompt shows them: strings quoted, tables with what is in them, pool types as they print themselves.
local future = require "tarn.future"
local refs = require "tarn.refs"

local WIDTH, INDENT = 80, "  "
local DEPTH_MAX, ITEMS_MAX, STRING_MAX = 6, 100, 1000 -- of what is shown

local show = {}

local ESCAPES = { ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ['"'] = '\\"', ["\\"] = "\\\\" }

local function quote(s)
  local more = #s - STRING_MAX
  if more > 0 then s = s:sub(1, STRING_MAX) end
  s = s:gsub('[%c"\\\127]', function(c) return ESCAPES[c] or ("\\%03d"):format(c:byte()) end)
  return more > 0 and ('"%s"... (%d more bytes)'):format(s, more) or ('"%s"'):format(s)
end

local function safe_tostring(x)
  local ok, text = pcall(tostring, x)
  return ok and type(text) == "string" and text or ("(a %s whose tostring fails)"):format(type(x))
end

local function function_text(f)
  local info = debug.getinfo(f, "S")
  if info.what == "C" then return safe_tostring(f) end
  return ("function (%s:%d)"):format(info.short_src, info.linedefined)
end

local function atom(x)
  local kind = type(x)
  if kind == "string" then return quote(x) end
  if kind == "function" then return function_text(x) end
  if refs.is(x) then return ("%s on process %d"):format(tostring(x), x.owner) end
  return safe_tostring(x)
end

local KEYWORDS = {}
for _, word in ipairs(require "tarn.repl.keywords") do KEYWORDS[word] = true end

local function key_text(key)
  if type(key) == "string" and key:find("^[%a_][%w_]*$") and not KEYWORDS[key] then return key end
  return ("[%s]"):format(atom(key))
end

local RANK = { number = 1, string = 2 }

local function before(a, b)
  local x, y = RANK[type(a)] or 3, RANK[type(b)] or 3
  if x ~= y then return x < y end
  if x < 3 then return a < b end
  return safe_tostring(a) < safe_tostring(b)
end

local function sorted_keys(t, n)
  local keys = {}
  for key in next, t do
    if not (type(key) == "number" and key >= 1 and key <= n and key % 1 == 0) then keys[#keys + 1] = key end
  end
  table.sort(keys, before)
  return keys
end

local text

-- What stands between the braces: a list of texts, on one line where they fit.
local function items_of(t, depth, above)
  local n, items = #t, {}
  for i = 1, math.min(n, ITEMS_MAX) do items[i] = text(rawget(t, i), depth + 1, above) end
  if n > ITEMS_MAX then items[#items + 1] = ("... (%d more)"):format(n - ITEMS_MAX) end
  local keys = sorted_keys(t, n)
  for i = 1, math.min(#keys, ITEMS_MAX) do
    items[#items + 1] = ("%s = %s"):format(key_text(keys[i]), text(rawget(t, keys[i]), depth + 1, above))
  end
  if #keys > ITEMS_MAX then items[#items + 1] = ("... (%d more)"):format(#keys - ITEMS_MAX) end
  return items
end

-- Short items side by side, as many as a line takes.
local function fill(items, indent)
  local lines, line = {}, nil
  for i, item in ipairs(items) do
    local piece = i < #items and item .. "," or item
    if line and #line + 1 + #piece <= WIDTH and not piece:find("\n", 1, true) then
      line = line .. " " .. piece
    else
      lines[#lines + 1] = line
      line = indent .. piece
    end
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n")
end

local function table_text(t, depth, above)
  if above[t] then return "(itself, above)" end
  if next(t) == nil then return "{}" end
  if depth >= DEPTH_MAX then return "{...}" end
  above[t] = true
  local items = items_of(t, depth, above)
  above[t] = nil
  local line = ("{ %s }"):format(table.concat(items, ", "))
  if #line + depth * #INDENT <= WIDTH and not line:find("\n", 1, true) then return line end
  local indent = INDENT:rep(depth + 1)
  local named = next(t, #t > 0 and #t or nil) ~= nil
  if not named then return ("{\n%s\n%s}"):format(fill(items, indent), INDENT:rep(depth)) end
  for i, item in ipairs(items) do items[i] = indent .. item end
  return ("{\n%s\n%s}"):format(table.concat(items, ",\n"), INDENT:rep(depth))
end

function text(x, depth, above)
  if type(x) == "table" and not future.is(x) then
    local metatable = debug.getmetatable(x)
    if type(metatable) == "table" and rawget(metatable, "__tostring") ~= nil then return safe_tostring(x) end
    return table_text(x, depth, above)
  end
  local line = atom(x)
  if depth > 0 then line = line:match("^[^\n]*") end -- a tarn.table within a table: its first line says what it is
  return line
end

---A value as text, perhaps of several lines.
function show.value(x) return text(x, 0, {}) end

---The n values of a result, one after the other.
function show.values(n, ...)
  local list, several = {}, false
  for i = 1, n do
    list[i] = show.value((select(i, ...)))
    several = several or list[i]:find("\n", 1, true) ~= nil
  end
  return table.concat(list, several and "\n" or "  ")
end

return show
