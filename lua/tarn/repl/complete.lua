-- What may stand after what has been typed: globals and fields, methods, modules to require, published names.
local directory = require "tarn.directory"
local KEYWORDS = require "tarn.repl.keywords"
local refs = require "tarn.refs"
local uv = require "luv"

local complete = {}

local INHERITED_MAX = 8 -- steps from metatable to metatable
local FILES_MAX = 2000  -- of a folder of modules

---------------------------------------------------------------------------------------------------- fields

-- Methods and fields of what is no table: asked for by name, because their metatables do not list them.
local OTHERS = { DRef = { "delete", "get", "id", "key", "owner", "size" }, FileRef = { "delete", "get", "host", "path", "size" } }

local VIEW_FIELDS = { "columns", "key", "kind", "n", "shape" }
-- What any column or table may have.
local function names_of_views()
  local list = { unpack(VIEW_FIELDS) }
  for name in pairs(require("tarn.column").method_names) do list[#list + 1] = name end
  for name in pairs(require("tarn.table").methods) do list[#list + 1] = name end
  return list
end

local function get(x, key)
  local ok, value = pcall(function() return x[key] end)
  return ok and value or nil
end

local function add_asked(names, x, list)
  for _, name in ipairs(list) do
    local value = get(x, name)
    if value ~= nil then names[name] = value end
  end
end

-- name -> value of the fields of x that can be written with a dot. Calls no metamethod of a table's.
local function fields(x)
  local names = {}
  if refs.is(x) then
    add_asked(names, x, OTHERS.DRef)
  elseif refs.is_file(x) then
    add_asked(names, x, OTHERS.FileRef)
  elseif type(x) == "cdata" then
    add_asked(names, x, names_of_views())
  end
  for _ = 1, INHERITED_MAX do
    if type(x) == "table" then
      for name, value in next, x do
        if type(name) == "string" and names[name] == nil then names[name] = value end
      end
    end
    local metatable = debug.getmetatable(x)
    x = type(metatable) == "table" and rawget(metatable, "__index")
    if type(x) ~= "table" then break end
  end
  return names
end

-- Sorted names that begin so and are identifiers; private ones only when asked for.
local function matching(names, prefix, only_functions)
  local list = {}
  for name, value in pairs(names) do
    if name:sub(1, #prefix) == prefix and name:find("^[%a_][%w_]*$") and (prefix ~= "" or name:sub(1, 1) ~= "_")
      and (not only_functions or type(value) == "function") then
      list[#list + 1] = name
    end
  end
  table.sort(list)
  return list
end

local function field(x, name)
  if type(x) == "table" then return fields(x)[name] end
  return get(x, name)
end

local function path_candidates(path, globals)
  local base, separator, last = path:match("^(.*)([.:])([%w_]*)$")
  if not base then
    local names = fields(globals)
    for _, word in ipairs(KEYWORDS) do names[word] = true end
    return matching(names, path), path
  end
  local x = globals
  for name in base:gmatch("[%a_][%w_]*") do
    x = field(x, name)
    if x == nil then return {}, last end
  end
  return matching(fields(x), last, separator == ":"), last
end

---------------------------------------------------------------------------------------------------- modules

local function files_of(folder)
  local list, handle = {}, uv.fs_scandir(folder)
  while handle and #list < FILES_MAX do
    local name, kind = uv.fs_scandir_next(handle)
    if not name then break end
    list[#list + 1] = { name = name, kind = kind }
  end
  return list
end

-- Modules in the folder for that many leading parts ("a.b."), of each entry of a search path.
local function add_modules(names, search, parents)
  local inside = parents:gsub("%.", "/")
  for entry in search:gmatch("[^;]+") do
    local folder, suffix = entry:match("^(.-)%?(.*)$")
    if folder and (suffix:find("^%.") or suffix == "/init.lua") then
      folder = folder == "" and "./" or folder
      for _, file in ipairs(files_of(folder .. inside)) do
        local name = suffix ~= "/init.lua" and file.name:sub(-#suffix) == suffix and file.name:sub(1, -#suffix - 1)
        if name and name ~= "" and not name:find(".", 1, true) then names[parents .. name] = true end
        if suffix == "/init.lua" and uv.fs_stat(folder .. inside .. file.name .. suffix) then names[parents .. file.name] = true end
      end
    end
  end
end

local function modules(prefix)
  local names, list = {}, {}
  for name in pairs(package.loaded) do names[name] = true end
  for name in pairs(package.preload) do names[name] = true end
  local parents = prefix:match("^(.*%.)") or ""
  add_modules(names, package.path, parents)
  add_modules(names, package.cpath, parents)
  for name in pairs(names) do
    if type(name) == "string" and name:sub(1, #prefix) == prefix then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

---------------------------------------------------------------------------------------------------- the call

local function published(prefix)
  local list = {}
  for _, name in ipairs(directory.names()) do
    if name:sub(1, #prefix) == prefix then list[#list + 1] = name end
  end
  return list
end

---What the end of `before` may become.
---@param before string what stands before the cursor
---@param globals table|nil _G by default
---@return string[] candidates sorted
---@return string prefix what of them has been typed
function complete.candidates(before, globals)
  local prefix = before:match("require%s*%(?%s*[\"']([%w_.%-]*)$")
  if prefix then return modules(prefix), prefix end
  prefix = before:match("lookup%s*%(?%s*[\"']([^\"']*)$") or before:match("publish%s*%(?%s*[\"']([^\"']*)$")
  if prefix then return published(prefix), prefix end
  local path = before:match("([%a_][%w_.:]*)$")
  if not path then return {}, "" end
  return path_candidates(path, globals or _G)
end

return complete
