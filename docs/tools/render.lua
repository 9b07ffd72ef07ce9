-- Annotations as text: docs/API.md for people, lua/tarn/meta/tarn.lua for editors.
local render = {}

-- The reference in order: a title where one begins, a word about it, names of functions, then a class with its methods.
-- Functions that stand in no section come last.
local SECTIONS = {
  { title = "Processes", text = "The driver is process 1; workers are 2, 3, ... Ids are never used again.",
    names = "addprocs rmprocs procs workers nprocs nworkers myid everywhere on" },
  { title = "Jobs", text = "A call that waits suspends its task only; others go on. Where Lua cannot suspend (a sort comparator, a gsub "
    .. "callback, a finalizer, a module being loaded) the error says so.",
    names = "remotecall remotecall_fetch remote_do spawn pmap as_completed fetch async sleep timeout log",
    class = "tarn.Future" },
  { title = "Events, promises, names", text = "What one process sets, and any may wait for or find.", names = "event",
    class = "tarn.Event" },
  { names = "promise", class = "tarn.Promise" },
  { names = "publish lookup" },
  { title = "The pool", text = "Where data live: in memory up to a bound, then on disk.",
    names = "poolset poolget pooldelete poolset_all poolget_all pooldelete_all access migrate destroyonevict approx_size max_memsize "
      .. "max_disksize poolstats cleanup", class = "tarn.DRef" },
  { title = "Files", text = "A file with a path is the user's: tarn never deletes it by itself.",
    names = "movetodisk copytodisk savetodisk deletefromdisk who_has_read save load encode decode", class = "tarn.FileRef" },
  { title = "Columns", class = "tarn.Column" },
  { title = "tarn.array", names = "array array.is array.shape ctype", class = "tarn.Array" },
  { title = "tarn.bits", names = "bits bits.is", class = "tarn.Bits" },
  { title = "tarn.strings", names = "strings strings.from strings.is", class = "tarn.Strings" },
  { names = "strings.builder", class = "tarn.StringsBuilder" },
  { title = "tarn.nullable", names = "nullable nullable.is", class = "tarn.Nullable" },
  { title = "tarn.pooled", names = "pooled pooled.is", class = "tarn.Pooled" },
  { names = "pooled.builder", class = "tarn.PooledBuilder" },
  { title = "tarn.table", text = "More in [TABLES.md](TABLES.md).", names = "table table.is", class = "tarn.Table" },
  { class = "tarn.Row" },
  { title = "tarn.arrow", text = "More in [TABLES.md](TABLES.md).", names = "arrow.save arrow.load" },
  { title = "Serializers", text = "More in [serializers.md](serializers.md).", names = "serializer", class = "tarn.Writer" },
  { class = "tarn.Reader" },
  { title = "Errors", names = "iserror", class = "tarn.Error" },
  { alias = "tarn.ErrorKind" },
  { title = "From outside", text = "A process's port speaks MessagePack-RPC ([PROTOCOL.md](PROTOCOL.md)).",
    names = "address secret_file dashboard" },
  { title = "Launchers", text = "More in [LAUNCHERS.md](LAUNCHERS.md).", class = "tarn.Job" },
  { class = "tarn.JobProcess" },
}

local NOTE = "Made from the annotations in the sources by ./dev docs: change those, not this."

-- ---- API.md ----

local function code(text) return "`" .. text .. "`" end

local function item(indent, name, kind, text)
  local line = ("%s- %s %s"):format(indent, name, code(kind))
  return text ~= "" and line .. ": " .. text or line
end

-- "tarn.poolset(x, pid?, opts?)", "array:slice(i, j?)"
local function signature(entry)
  local names = {}
  for i, param in ipairs(entry.block.params) do names[i] = param.name .. (param.optional and "?" or "") end
  local name = entry.name:gsub("^tarn%.(%u)", string.lower)
  return ("%s(%s)"):format(name, table.concat(names, ", "))
end

local Page = {}
Page.__index = Page

function Page:out(line) self[#self + 1] = line end

-- The fields of a record that has no place of its own, below what first names it.
function Page:record(kind)
  local class = self.classes[kind]
  if not class or self.placed[kind] or self.told[kind] then return end
  self.told[kind] = true
  for _, field in ipairs(class.fields) do
    self:out(item("  ", code(field.name .. (field.optional and "?" or "")), field.type, field.text))
  end
end

function Page:fn(entry)
  local block = entry.block
  self:out("### " .. code(signature(entry)) .. "\n")
  self:out(block.text .. "\n")
  for _, param in ipairs(block.params) do
    self:out(item("", code(param.name), param.type, param.text))
    self:record(param.type)
  end
  for _, result in ipairs(block.returns) do
    self:out(item("", "returns" .. (result.name and " " .. code(result.name) or ""), result.type, result.text))
    self:record(result.type)
  end
  self:out ""
end

function Page:class(name)
  local class = self.classes[name]
  self:out(("### %s\n"):format(name))
  self:out(class.text .. "\n")
  if class.parent ~= "" then self:out(("It has the methods of %s too.\n"):format(code(class.parent))) end
  for _, field in ipairs(class.fields) do
    if field.name:find("^%a") then self:out(item("", code(field.name .. (field.optional and "?" or "")), field.type, field.text)) end
  end
  self:out ""
end

function Page:alias(name)
  self:out(("### %s\n"):format(name))
  for _, value in ipairs(self.aliases[name]) do
    self:out(("- %s%s"):format(code(value.value), value.text ~= "" and ": " .. value.text or ""))
  end
  self:out ""
end

-- Names by class, and those that stand in no section.
local function sort_out(list)
  local by_name, methods, rest = {}, {}, {}
  for _, entry in ipairs(list) do
    if not entry.inherited and entry.block then
      by_name[entry.name] = entry
      if entry.class then
        methods[entry.class] = methods[entry.class] or {}
        table.insert(methods[entry.class], entry)
      else
        rest[entry.name] = true
      end
    end
  end
  for _, section in ipairs(SECTIONS) do
    for name in (section.names or ""):gmatch("%S+") do rest["tarn." .. name] = nil end
  end
  local left = {}
  for name in pairs(rest) do left[#left + 1] = name:gsub("^tarn%.", "") end
  table.sort(left)
  return by_name, methods, left
end

---docs/API.md.
---@param list table[] as public.list gives it
---@param classes table<string,table>
---@param aliases table<string,table>
---@return string text
function render.reference(list, classes, aliases)
  local by_name, methods, left = sort_out(list)
  local page = setmetatable({ classes = classes, aliases = aliases, told = {}, placed = {} }, Page)
  local sections = { unpack(SECTIONS) }
  if #left > 0 then sections[#sections + 1] = { title = "More", names = table.concat(left, " ") } end
  local titles = {}
  for _, section in ipairs(sections) do
    if section.class then page.placed[section.class] = true end
    if section.title then
      titles[#titles + 1] = ("[%s](#%s)"):format(section.title, section.title:lower():gsub("[^%w%- ]", ""):gsub(" ", "-"))
    end
  end
  page:out(("# Reference\n\n<!-- %s -->\n"):format(NOTE))
  page:out("Every name in `local tarn = require \"tarn\"` (inside tarn it is a global too), and the methods of every type.\n"
    .. "What has a question mark may be left out. Sizes are in bytes, times in seconds. What goes wrong is raised as a\n"
    .. "[tarn.Error](#tarnerror).\n")
  page:out(table.concat(titles, " | ") .. "\n")
  for _, field in ipairs(classes.tarn.fields) do page:out(item("", code("tarn." .. field.name), field.type, field.text)) end
  page:out ""
  for _, section in ipairs(sections) do
    if section.title then page:out(("## %s\n"):format(section.title)) end
    if section.text then page:out(section.text .. "\n") end
    for name in (section.names or ""):gmatch("%S+") do
      local entry = by_name["tarn." .. name]
      if entry then page:fn(entry) end
    end
    if section.class then page:class(section.class) end
    for _, entry in ipairs(section.class and methods[section.class] or {}) do page:fn(entry) end
    if section.alias then page:alias(section.alias) end
  end
  return (table.concat(page, "\n"):gsub("\n\n\n+", "\n\n"):gsub("%s*$", "")) .. "\n"
end

-- ---- for editors ----

-- A block's own lines, but for those that say how a class hangs together, which are written anew.
local function annotation(block) return table.concat(block.raw, "\n") end

local function stub(name, block)
  local names = {}
  for i, param in ipairs(block.params) do names[i] = param.name end
  return ("%s\nfunction %s(%s) end\n"):format(annotation(block), name, table.concat(names, ", "))
end

-- A module that can be called: a class with an overload.
local function module_of(entry)
  local params, results = {}, {}
  for i, param in ipairs(entry.block.params) do
    params[i] = ("%s%s: %s"):format(param.name, param.optional and "?" or "", param.type)
  end
  for i, result in ipairs(entry.block.returns) do results[i] = result.type end
  local text = entry.block.text:gsub("([^\n]+)", "---%1")
  return ("%s\n---@class %s_module\n---@overload fun(%s): %s\n%s = {}\n"):format(text, entry.name, table.concat(params, ", "),
    table.concat(results, ", "), entry.name)
end

---lua/tarn/meta/tarn.lua: all that lua/tarn/meta/core.lua does not have.
---@param list table[] as public.list gives it
---@param classes table<string,table>
---@param by_hand table<string,table> the stubs of core.lua
---@return string text
function render.meta(list, classes, by_hand)
  local lines = { "---@meta tarn", "-- For editors. Never run. " .. NOTE .. "\n", "---@class tarn", "tarn = {}\n" }
  local function out(text) lines[#lines + 1] = text end
  local names = {}
  for name, class in pairs(classes) do
    if not class.by_hand then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    out(annotation(classes[name]))
    out(("local %s = {}\n"):format(name:match("%u%w*$")))
  end
  local modules = {}
  for _, entry in ipairs(list) do
    local short = entry.name:gsub("^tarn%.(%u)", "%1")
    if entry.block and not by_hand[short] and not entry.inherited then
      if entry.module and not modules[entry.module] then
        modules[entry.module] = true
        out(entry.module .. " = {}\n")
      end
      if entry.class and classes[entry.class].by_hand and not modules[entry.class] then
        modules[entry.class] = true
        out(("---@class %s\nlocal %s = {}\n"):format(entry.class, short:match("^%w+")))
      end
      if entry.is_call then
        modules[entry.name] = true
        out(module_of(entry))
      else
        out(stub(short, entry.block))
      end
    end
  end
  out "return tarn"
  return table.concat(lines, "\n") .. "\n"
end

return render
