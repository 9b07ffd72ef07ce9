-- What travels by name: a module's table, a function or C type found as a module or in one, a metatable likewise. The tables here go from
-- the object to the bytes of its name, ready to be written; the codec looks objects up in them and asks for a refresh when package.loaded
-- has a new entry, or before it would refuse something.
local core = require "tarn.core"

local weak = { __mode = "k" }
local modules, functions, metatables = setmetatable({}, weak), setmetatable({}, weak), setmetatable({}, weak) -- functions: C types, too

local names = { modules = modules }

-- A C type is a cdata too, and ffi.istype takes it for a value of itself: only its text tells.
function names.is_ctype(x)
  if type(x) ~= "cdata" then return false end
  local ok, text = pcall(tostring, x)
  return ok and type(text) == "string" and text:find("^ctype<") ~= nil
end
local is_ctype = names.is_ctype

local function is_named_alone(x) return type(x) == "function" or is_ctype(x) end

local function sorted_modules()
  local list = {}
  for name, module in pairs(package.loaded) do
    if type(name) == "string" and (type(module) == "table" or is_named_alone(module)) then list[#list + 1] = name end
  end
  -- Short names first, so that an alias such as "a.b.init" does not win over "a.b"; _G last.
  table.sort(list, function(a, b)
    if a == "_G" or b == "_G" then return b == "_G" and a ~= "_G" end
    if #a ~= #b then return #a < #b end
    return a < b
  end)
  return list
end

local function is_c(f) return debug.getinfo(f, "S").what == "C" end

local function add_fields(name, module)
  local globals = module == _G
  for key, value in next, module do
    if type(key) == "string" then
      if type(value) == "function" then
        -- A global function of the script's own is not there on another process: it travels by value.
        if not functions[value] and not (globals and not is_c(value)) then functions[value] = core.name_bytes(name, key) end
      elseif type(value) == "table" and not globals and not metatables[value] then
        metatables[value] = core.name_bytes(name, key)
      elseif not globals and is_ctype(value) and not functions[value] then
        functions[value] = core.name_bytes(name, key)
      end
    end
  end
end

local function clear(t)
  for k in next, t do t[k] = nil end
end

function names.refresh()
  clear(modules)
  clear(functions)
  clear(metatables)
  local list = sorted_modules()
  for _, name in ipairs(list) do
    local module = package.loaded[name]
    if type(module) ~= "table" then
      functions[module] = functions[module] or core.name_bytes(name)
    elseif not modules[module] then
      modules[module] = core.name_bytes(name)
      if module ~= _G then metatables[module] = modules[module] end
    end
  end
  for _, name in ipairs(list) do
    local module = package.loaded[name]
    if type(module) == "table" then add_fields(name, module) end
  end
  names.add_types(modules)
end

-- The metatables that serializers are for stand under this name, key: the serializer's. Set by serializer.lua: names.add_types(modules),
-- names.type_of(key, from).
names.TYPES = "tarn.serializer.types"

-- The object that a name stands for. Raises a text. from: the process that sent the name, or 0.
local function resolve(name, key, may_load, from)
  if name == names.TYPES then return names.type_of(key, from) end
  local module = package.loaded[name]
  if module == nil then
    if not may_load then error(("module '%s' is not loaded here, and loading code is refused"):format(name), 0) end
    local ok, found = pcall(require, name)
    if not ok then error(("module '%s' is missing on this process: %s"):format(name, tostring(found)), 0) end
    module = found
  end
  if key == nil then return module end
  local value
  if type(module) == "table" then value = rawget(module, key) end
  if value == nil then error(("module '%s' has no '%s' on this process"):format(name, key), 0) end
  return value
end
names.resolve = resolve

-- `require` (and who fills package.loaded by hand) sets a new field through this; so nobody has to look all the time.
if getmetatable(package.loaded) == nil then
  setmetatable(package.loaded, {
    __newindex = function(loaded, name, module)
      rawset(loaded, name, module)
      core.names_changed()
    end,
  })
end

core.set_hooks {
  module_names = modules,
  function_names = functions,
  metatable_names = metatables,
  refresh_names = names.refresh,
  resolve_name = resolve,
}

return names
