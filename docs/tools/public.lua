-- What tarn shows to its users, as the running program has it: the names in `tarn`, those in its modules, and the methods of its types;
-- each with the annotation that belongs to it. Names that begin with an underscore are nobody's, and so is what says ---@package.
local annotations = require "docs.tools.annotations"
local column = require "tarn.column"
local core = require "tarn.core"
local errors = require "tarn.errors"
local uv = require "luv"

local public = {}

local STUBS = "lua/tarn/meta/core.lua"

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do
    if type(key) == "string" and key:sub(1, 1) ~= "_" then keys[#keys + 1] = key end
  end
  table.sort(keys)
  return keys
end

-- All Lua sources below a folder, but for those that only editors read.
local function sources(folder, list)
  local request = assert(uv.fs_scandir(folder))
  while true do
    local name, kind = uv.fs_scandir_next(request)
    if not name then return list end
    if kind == "directory" then
      if name ~= "meta" then sources(folder .. "/" .. name, list) end
    elseif name:find("%.lua$") then
      list[#list + 1] = folder .. "/" .. name
    end
  end
end

-- The file of a function of tarn's own, from the root of the sources on, and its line; nil of C's.
local function place_of(fn)
  local info = debug.getinfo(fn, "S")
  local path = info.source:match("^@" .. errors.home:gsub("%p", "%%%0") .. "(.*)$")
  return path, info.linedefined
end

-- The names of a Lua function's parameters, "..." too.
local function arguments_of(fn)
  local info, names = debug.getinfo(fn, "u"), {}
  for i = 1, info.nparams do names[i] = debug.getlocal(fn, i) end
  if info.isvararg then names[#names + 1] = "..." end
  return names
end

-- The methods of each type. Those of columns and tables are no fields of anything: they are asked for where they are looked up.
local function types()
  local ref = tarn.poolset(true)
  local file = tarn.copytodisk(ref)
  local function methods_of(x) return getmetatable(x).__index end
  local list = {
    { class = "tarn.DRef", methods = core.ref_methods, sample = ref },
    { class = "tarn.FileRef", methods = core.fileref_methods, sample = file },
    { class = "tarn.Future", methods = methods_of(tarn.async(type, 1)) },
    { class = "tarn.Event", methods = methods_of(tarn.event()), sample = tarn.event() },
    { class = "tarn.Promise", methods = methods_of(tarn.promise()), sample = tarn.promise() },
    { class = "tarn.Array", methods = column.members.array.methods, sample = tarn.array("double", 2), column = true },
    { class = "tarn.Bits", methods = column.members.bits.methods, sample = tarn.bits(2), column = true },
    { class = "tarn.Strings", methods = column.members.strings.methods, sample = tarn.strings { "a" }, column = true },
    { class = "tarn.Nullable", methods = column.members.nullable.methods, sample = tarn.nullable("double", 2), column = true },
    { class = "tarn.Pooled", methods = column.members.pooled.methods, sample = tarn.pooled { "a" }, column = true },
    { class = "tarn.Table", methods = tarn.table.methods, sample = tarn.table { columns = { { "a", { 1 } } }, key = "a" } },
    { class = "tarn.StringsBuilder", methods = methods_of(tarn.strings.builder()) },
    { class = "tarn.PooledBuilder", methods = methods_of(tarn.pooled.builder()) },
    { class = "tarn.Writer", methods = core.out_methods },
    { class = "tarn.Reader", methods = core.inp_methods },
    { class = "tarn.Job", methods = methods_of(require("tarn.job").new({ options = {} }, 1, nil, {})) },
  }
  return list
end

---All that is public.
---@return table list of {name ("tarn.poolset", "tarn.array", "tarn.arrow.load", "tarn.Array:ptr"), fn (nil: a value), is_method, class,
--- key, module, arguments (of Lua's functions: without self), block (its annotation; nil: there is none), inherited (from tarn.Column)}
---@return table classes name -> block
---@return table list of {class, sample}: one of each type, where there can be one
function public.list()
  local stubs = annotations.stubs(STUBS)
  local list = {}

  local function add(entry)
    local fn = entry.fn
    local path, line = nil, nil
    if fn then path, line = place_of(fn) end
    local short = entry.name:gsub("^tarn%.(%u)", "%1")
    if stubs[short] then
      entry.block = stubs[short]
    elseif path then
      entry.block = annotations.above(path, line)
      entry.path = path
    end
    if path then
      entry.arguments = arguments_of(fn)
      if entry.is_method and (entry.arguments[1] == "self" or stubs[short]) or entry.is_call then table.remove(entry.arguments, 1) end
    end
    if not (entry.block and entry.block.package) then list[#list + 1] = entry end
    return entry
  end

  for _, key in ipairs(sorted_keys(tarn)) do
    local x = tarn[key]
    local name = "tarn." .. key
    if type(x) == "function" then
      add { name = name, key = key, fn = x }
    elseif type(x) == "table" then
      local meta = getmetatable(x)
      local new = x.new or x.define
      if meta and meta.__call then
        local entry = add { name = name, key = key, fn = meta.__call, is_call = true }
        if new then entry.block = annotations.above(place_of(new)) end
      end
      for _, member in ipairs(sorted_keys(x)) do
        if type(x[member]) == "function" and not (new and x[member] == new) then
          add { name = name .. "." .. member, key = member, fn = x[member], module = name }
        end
      end
    else
      list[#list + 1] = { name = name, key = key, value = x }
    end
  end

  local classes = annotations.classes(sources("lua/tarn", { STUBS }))
  local all = types()
  -- What columns have in common is annotated once: in column.lua, or among the stubs.
  local common = {}
  for name, block in pairs(stubs) do
    local key = name:match("^Column:(.*)$")
    if key then
      common[key] = { name = "tarn.Column:" .. key, key = key, class = "tarn.Column", is_method = true, block = block, is_stub = true }
    end
  end
  for _, t in ipairs(all) do
    for _, key in ipairs(sorted_keys(t.methods)) do
      local fn = t.methods[key]
      local path, line = place_of(fn)
      if t.column and path == "lua/tarn/column.lua" and not common[key] then
        common[key] = { name = "tarn.Column:" .. key, key = key, class = "tarn.Column", is_method = true, fn = fn, path = path,
          block = annotations.above(path, line) }
        common[key].arguments = arguments_of(fn)
        if common[key].arguments[1] == "self" then table.remove(common[key].arguments, 1) end
      end
    end
  end
  for _, key in ipairs(sorted_keys(common)) do list[#list + 1] = common[key] end
  for _, t in ipairs(all) do
    for _, key in ipairs(sorted_keys(t.methods)) do
      local fn = t.methods[key]
      if type(fn) == "function" and place_of(fn) ~= "lua/tarn/column.lua" then
        local entry = add { name = t.class .. ":" .. key, key = key, class = t.class, fn = fn, is_method = true }
        if t.column and common[key] and not entry.block then entry.block, entry.inherited = common[key].block, common[key].name end
      end
    end
  end
  return list, classes, all
end

return public
