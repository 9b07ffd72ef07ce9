-- Serializers: how values of a type are written as plain values and raw blocks, and read back by mapping. The registry, the
-- methods of `out` and `inp` that deal in pointers, and what keeps a block alive for who points into it.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local names = require "tarn.names"
local options = require "tarn.options"
local plug = require "tarn.plug"
local block = require "tarn.block"
local ffi = require "ffi"
local typeof = ffi.typeof -- busted replaces the FFI's by ones that remember their first argument only

local by_metatable = setmetatable({}, { __mode = "k" })
local by_ctype = {}  -- ctype id -> serializer
local by_name = {}
local matching = {}  -- serializers that have `matches`, in order of registration
local ctypes = {}    -- list of {ctype, serializer}, for what has the type but another id (a reference into an array)
local older = {}     -- name -> set of hashes: contents that the one here has replaced, or that are not newer

-- A serializer is called like a function by who registers it: tarn.serializer{...}.
local serializer = {}

local function argument_error(fmt, ...) errors.raise("ArgumentError", "tarn.serializer: " .. fmt:format(...)) end

---@class tarn.Serializer
---@field name string
---@field version? integer Default: 1. Of two the higher counts; of two contents of one version the later
---@field type? table|ffi.ctype* the metatable or ctype of the values
---@field matches? fun(x:any):boolean instead of `type`
---@field approx_size? fun(x:any):number what a value counts for in the pool, in bytes
---@field mmwrite fun(out:tarn.Writer,x:any) says what the value consists of
---@field mmread fun(inp:tarn.Reader):any makes it again. Neither may suspend
local OPTIONS = { name = true, version = true, type = true, matches = true, approx_size = true, mmwrite = true, mmread = true }

local function check(spec)
  if type(spec) ~= "table" then argument_error("a table is needed, not %s", failure.describe(spec)) end
  options.check(spec, OPTIONS, "tarn.serializer")
  local name, version = spec.name, spec.version == nil and 1 or spec.version
  if type(name) ~= "string" or name == "" or #name > 200 then argument_error("name must be a string of 1 to 200 bytes") end
  if type(version) ~= "number" or version < 0 or version > 4294967295 or version % 1 ~= 0 then
    argument_error("version of '%s' must be a whole number", name)
  end
  for _, method in ipairs { "mmwrite", "mmread" } do
    if type(spec[method]) ~= "function" then argument_error("%s of '%s' must be a function", method, name) end
  end
  for _, method in ipairs { "approx_size", "matches" } do
    if spec[method] ~= nil and type(spec[method]) ~= "function" then argument_error("%s of '%s' must be a function", method, name) end
  end
  local kind = type(spec.type)
  if kind ~= "nil" and kind ~= "table" and kind ~= "cdata" then
    argument_error("type of '%s' must be a metatable or a ctype", name)
  end
  if spec.type == nil and not spec.matches then argument_error("'%s' needs a type or matches", name) end
  return name, version
end

local function remove(list, keep)
  local n = 0
  for i = 1, #list do
    local item = list[i]
    list[i] = nil
    if keep(item) then
      n = n + 1
      list[n] = item
    end
  end
end

local function same_type(a, b)
  if type(a) == "cdata" and type(b) == "cdata" then return typeof(a) == typeof(b) end
  return rawequal(a, b)
end

-- Values of a further type are this serializer's too: built-in types make their ctypes as they are asked for.
local function bind(s, type_)
  if type(type_) ~= "cdata" then
    by_metatable[type_] = s
    return
  end
  type_ = typeof(type_)
  by_ctype[tonumber(type_)] = s
  for _, pair in ipairs(ctypes) do
    if pair[1] == type_ then
      pair[2] = s
      return
    end
  end
  ctypes[#ctypes + 1] = { type_, s }
end

---Values of a further type are this serializer's too.
---@package
function serializer.bind(name, type_) bind(by_name[name], type_) end

-- What was old's is new's, but for values of old's own type where new is for another one: there may be some left, and old writes them.
local function replace(old, new)
  local left = not same_type(old.spec.type, new.spec.type) and old.spec.type
  for metatable, s in pairs(by_metatable) do
    if s == old and not rawequal(metatable, left) then by_metatable[metatable] = new end
  end
  for id, s in pairs(by_ctype) do
    if s == old then by_ctype[id] = nil end
  end
  for _, pair in ipairs(ctypes) do
    if pair[2] == old then bind(same_type(pair[1], left) and old or new, pair[1]) end
  end
  remove(matching, function(s) return s ~= old end)
  older[old[1]] = older[old[1]] or {}
  older[old[1]][old[3]] = true
end

-- What C reads: see TARN__SER_* in codec-private.h.
local function register(spec)
  local name, version = check(spec)
  local origin = plug.origin(spec)
  local old = by_name[name]
  local s = { name, version, origin.hash, spec.mmwrite, spec.mmread, spec.approx_size or false, origin.own or false, false,
    spec = spec, origin = origin }
  if old then
    if old[3] ~= s[3] then origin.born = math.max(origin.born, old.origin.born + 0.001) end
    replace(old, s)
    older[name][s[3]] = nil
  end
  by_name[name] = s
  if spec.type ~= nil then bind(s, spec.type) end
  if spec.matches then matching[#matching + 1] = s end
  if type(spec.type) == "table" then core.names_changed(true) end
  return spec
end

-- For what no metatable or ctype id decides.
local function match(x)
  if type(x) == "cdata" then
    if names.is_ctype(x) then return end
    for _, pair in ipairs(ctypes) do
      if ffi.istype(pair[1], x) then
        by_ctype[tonumber(typeof(x))] = pair[2]
        return pair[2]
      end
    end
  end
  for _, s in ipairs(matching) do
    if s.spec.matches(x) then return s end
  end
end

-- Built-in ones, each in a file of its own, are loaded when first needed.
local home = errors.home and errors.home .. "serializers/"
local function load_builtin(name)
  if not home or not name:match("^[%w_]+$") then return end
  local chunk = loadfile(home .. name .. ".lua")
  if chunk then chunk() end
  return by_name[name]
end

-- From a module of package.path.
local function load_module(name)
  for _, module in ipairs { "serializers." .. name, name } do
    if not by_name[name] and package.loaded[module] == nil then pcall(require, module) end
  end
end

local ADVICE = "require the module that declares it"

-- The serializer that the head of an image names, at least as new as who wrote the image had it. Raises a text. may_load: code may be
-- loaded by name. from: the process that the image came from, or 0.
local function find(name, version, hash, may_load, from)
  local s = by_name[name] or load_builtin(name)
  if s and version <= s[2] then
    local known = older[name]
    if version < s[2] or hash == s[3] or s.origin.own or (known and known[hash]) then return s end
  end
  local problem = plug.fetch(name, version, s, from, register)
  if not by_name[name] and may_load then load_module(name) end
  s = by_name[name]
  if not s then error(problem or ADVICE, 0) end
  if version > s[2] then
    local why = problem and "; " .. problem or ""
    error(("written by version %d, here is version %d%s"):format(version, s[2], why), 0)
  end
  if hash ~= s[3] then -- not to be asked for again
    older[name] = older[name] or {}
    older[name][hash] = true
  end
  return s
end

-- ---- metatables by name ----

function names.add_types(modules)
  for name, s in pairs(by_name) do
    local metatable = s.spec.type
    if type(metatable) == "table" and not modules[metatable] then
      s[8] = core.name_bytes(names.TYPES, name)
      modules[metatable] = s
    end
  end
end

function names.type_of(name, from)
  local s = by_name[name]
  local problem = not s and plug.fetch(name, 0, nil, from, register)
  s = by_name[name]
  if not s or type(s.spec.type) ~= "table" then
    error(("the metatable of serializer '%s' is not here: %s"):format(name, problem or ADVICE), 0)
  end
  return s.spec.type
end

---The serializer of that name, loaded if it is a built-in one.
---@package
function serializer.load(name) return by_name[name] or load_builtin(name) end

-- ---- out ----

local out = core.out_methods

-- The bytes that an array or a struct has; nil for a pointer, which does not tell.
local function size_of(x)
  local text = tostring(typeof(x))
  if text:find("(*", 1, true) or (text:find("*", 1, true) and text:sub(-2) ~= "]>") then return nil end
  return ffi.sizeof(x)
end

---Write raw bytes as a block: others map it, aligned to 64. They are copied: the pointer need not stay valid.
---@param pointer ffi.cdata*|string a pointer, array or struct, or a string
---@param nbytes? integer default: all, which a pointer does not tell
function out:block(pointer, nbytes)
  local kind = type(pointer)
  if kind ~= "cdata" and kind ~= "string" then errors.raise("ArgumentError", "out:block: a pointer is needed, not a " .. kind) end
  local has = kind == "string" and #pointer or size_of(pointer)
  if nbytes == nil then nbytes = has end
  if type(nbytes) == "cdata" then nbytes = tonumber(nbytes) end
  if type(nbytes) ~= "number" or not (nbytes >= 0 and nbytes < 2 ^ 53) or nbytes % 1 ~= 0 then
    errors.raise("ArgumentError", "out:block: a size in bytes is needed, not " .. tostring(nbytes))
  end
  if has and nbytes > has then
    errors.raise("ArgumentError", ("out:block: %.14g bytes of something that has %.14g"):format(nbytes, has))
  end
  return self:_copy(ffi.cast("const void *", pointer), nbytes)
end

---Write a block that exists, without copying it; it is written once, however often it is shared in a value.
---@package
function out:share(b) return self:_share(b) end

-- ---- inp ----

local inp = core.inp_methods

---A block, mapped: the caller gives it to a view.
---@package
function inp:take_block()
  self:_take()
  return block.take()
end

-- What points into blocks -> the holds of those blocks.
local holds = setmetatable({}, { __mode = "k" })
local taken -- by the mmread under way

local FLOATING = { [tonumber(typeof("double"))] = 8, [tonumber(typeof("float"))] = 4 }

-- Numbers that nobody vouches for: LuaJIT keeps types in the bits of NaNs, and would take one with a payload for something else. What is
-- mapped from a file cannot be mended.
local function mend(pointer, element, count, sealed)
  local width = FLOATING[tonumber(element)]
  if width and sealed == 0 then block.C.tarn_view_mend_nans(ffi.cast("void *", pointer), count, width, width) end
end

---The next block, mapped. It stays so while the value that mmread returns is reachable, or the pointer itself.
---@param ctype? any the type of its elements. Default: uint8_t
---@return ffi.cdata* pointer to the first element, 0-based
---@return integer count of elements
function inp:block(ctype)
  local ok, element = pcall(typeof, ctype or "uint8_t")
  if not ok then errors.raise("ArgumentError", ("inp:block: '%s' is no type of elements: %s"):format(tostring(ctype), element)) end
  if not ffi.sizeof(element) then errors.raise("ArgumentError", "inp:block: elements without a size: " .. tostring(element)) end
  local hold = block.hold()
  hold.block = self:take_block()
  local pointer = ffi.cast(typeof("$ *", element), hold.block.data)
  holds[pointer] = { hold }
  taken = taken or {}
  taken[#taken + 1] = hold
  local nbytes, each = tonumber(hold.block.size), ffi.sizeof(element)
  if nbytes % each ~= 0 then
    errors.raise("ArgumentError", ("inp:block: a block of %.14g bytes is not of whole elements of %.14g"):format(nbytes, each))
  end
  if not self:trusted() then mend(pointer, element, nbytes / each, hold.block.sealed) end
  return pointer, nbytes / each
end

local function keep(value, mine)
  local kind = type(value)
  if kind ~= "table" and kind ~= "cdata" and kind ~= "userdata" and kind ~= "function" then return end
  local had = holds[value]
  if had then
    for _, hold in ipairs(mine) do had[#had + 1] = hold end
  else
    holds[value] = mine
  end
end

local function finish_read(outer, ok, value)
  local mine = taken
  taken = outer
  if not ok then error(value, 0) end
  if mine then keep(value, mine) end
  return value
end

local function read(mmread, from)
  local outer = taken
  taken = nil
  return finish_read(outer, pcall(mmread, from))
end

local int64, uint64 = ffi.new("int64_t[1]"), ffi.new("uint64_t[1]")

core.set_hooks {
  by_metatable = by_metatable,
  by_ctype = by_ctype,
  match = match,
  find = find,
  offer = function(s) plug.offer(s, names.modules) end,
  read = read,
  describe = function(x)
    local ctype, is_type = typeof(x), names.is_ctype(x)
    return tostring(ctype):match("^ctype<(.*)>$") or tostring(ctype), is_type and 0 or tonumber(ctype), is_type
  end,
  int64 = int64,
  uint64 = uint64,
  int64_id = tonumber(typeof("int64_t")),
  uint64_id = tonumber(typeof("uint64_t")),
  int64_sample = ffi.new("int64_t", 1),
  uint64_sample = ffi.new("uint64_t", 1),
}

---Declare how values of a type become plain values and raw blocks, and come back. See docs/serializers.md. Declared again, the new one
---counts from then on.
---@param spec tarn.Serializer
---@return tarn.Serializer spec
return setmetatable(serializer, { __call = function(_, spec) return register(spec) end })
