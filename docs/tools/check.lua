-- What is wrong with the annotations of what is public, in words; nothing, when they agree with the running program.
local column = require "tarn.column"

local function names_of(params)
  local names = {}
  for i, param in ipairs(params) do names[i] = param.name end
  return names
end

-- Do the annotations name the parameters that the function has? A stub that stands for a Lua function may have fewer.
local function check_parameters(entry, complain)
  local named = table.concat(names_of(entry.block.params), ", ")
  local block = entry.block
  local written = block.arguments and table.concat(block.arguments, ", ")
  if written and written ~= named then complain("%s: the stub has (%s), its annotation (%s)", entry.name, written, named) end
  local arguments = entry.arguments
  if not arguments then return end
  if entry.inherited then -- they may be called otherwise
    if #arguments ~= #block.params then
      complain("%s has %d parameters, %s has %d", entry.name, #arguments, entry.inherited, #block.params)
    end
  elseif written then
    if #arguments < #block.params then complain("%s has %d parameters, its stub has %d", entry.name, #arguments, #block.params) end
  elseif table.concat(arguments, ", ") ~= named then
    complain("%s has the parameters (%s), its annotation has (%s)", entry.name, table.concat(arguments, ", "), named)
  end
end

-- The types that a block names are classes of ours.
local function check_types(name, block, classes, complain)
  for _, list in ipairs { block.params, block.returns, block.fields } do
    for _, item in ipairs(list) do
      for class in item.type:gmatch("tarn%.%u%w*") do
        if not classes[class] and class ~= "tarn.ErrorKind" then complain("%s: there is no class %s", name, class) end
      end
    end
  end
end

-- A type has the fields that are annotated, and no others.
local function check_fields(t, class, complain)
  local named = {}
  for _, field in ipairs(class.fields) do
    named[field.name] = true
    local is_name, may_lack = field.name:find("^%a"), field.optional or field.type:find("nil", 1, true)
    if t.sample and is_name and not may_lack and t.sample[field.name] == nil then
      complain("a %s has no field '%s'", t.class, field.name)
    end
  end
  local members = t.column and column.members[t.sample.kind]
  for name in pairs(members and members.fields or {}) do
    if not named[name] then complain("the field '%s' of %s has no annotation", name, t.class) end
  end
end

---@param list table as public.list gives it
---@param classes table<string,table>
---@param types table[]
---@return string[] problems
return function(list, classes, types)
  local problems = {}
  local function complain(fmt, ...) problems[#problems + 1] = fmt:format(...) end
  local values = {}
  for _, field in ipairs(classes.tarn.fields) do values[field.name] = true end
  for _, entry in ipairs(list) do
    if not entry.fn and not entry.is_stub and not entry.class then
      if not values[entry.key] then complain("%s has no annotation: it is no @field of the class tarn", entry.name) end
    elseif not entry.block or entry.block.text == "" then
      complain("%s has no annotation%s", entry.name, entry.path and ": " .. entry.path or "")
    else
      check_parameters(entry, complain)
      check_types(entry.name, entry.block, classes, complain)
    end
  end
  for name, class in pairs(classes) do check_types(name, class, classes, complain) end
  for _, t in ipairs(types) do
    if classes[t.class] then check_fields(t, classes[t.class], complain) else complain("%s has no @class", t.class) end
  end
  table.sort(problems)
  return problems
end
