-- Serializers: how values of a type are written as plain values and raw blocks, and read back by mapping. The registry, the
-- methods of `out` and `inp` that deal in pointers, and what keeps a block alive for who points into it.
local core = require "tarn.core"
local errors = require "tarn.errors"
require "tarn.names"
local block = require "tarn.block"
local ffi = require "ffi"
local typeof = ffi.typeof -- busted replaces the FFI's by ones that remember their first argument only

local by_metatable = setmetatable({}, { __mode = "k" })
local by_ctype = {}  -- ctype id -> serializer
local by_name = {}
local matching = {}  -- serializers that have `matches`, in order of registration
local ctypes = {}    -- list of {ctype, serializer}, for what has the type but another id (a reference into an array)

-- A serializer is called like a function by who registers it: tarn.serializer{...}.
local serializer = {}

local function argument_error(fmt, ...) errors.raise("ArgumentError", "tarn.serializer: " .. fmt:format(...)) end

local function check(spec)
  if type(spec) ~= "table" then argument_error("a table is needed, not a %s", type(spec)) end
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

-- 8 bytes that tell this content from another: of the file that defines mmwrite, or of its text.
local function content_hash(spec)
  local source = debug.getinfo(spec.mmwrite, "S").source
  local text = source
  if source:sub(1, 1) == "@" then
    local file = io.open(source:sub(2), "rb")
    if file then
      text = file:read("*a")
      file:close()
    else
      text = string.dump(spec.mmwrite, true)
    end
  end
  return ffi.string(ffi.new("uint64_t[1]", block.hash64(text)), 8)
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

local function forget(old)
  for metatable, s in pairs(by_metatable) do
    if s == old then by_metatable[metatable] = nil end
  end
  for id, s in pairs(by_ctype) do
    if s == old then by_ctype[id] = nil end
  end
  remove(matching, function(s) return s ~= old end)
  remove(ctypes, function(pair) return pair[2] ~= old end)
end

-- Values of a further type are this serializer's too: built-in types make their ctypes as they are asked for.
local function bind(s, type_)
  if type(type_) == "cdata" then
    by_ctype[tonumber(typeof(type_))] = s
    ctypes[#ctypes + 1] = { typeof(type_), s }
  else
    by_metatable[type_] = s
  end
end
function serializer.bind(name, type_) bind(by_name[name], type_) end

-- What C reads: see TARN__SER_* in codec-private.h.
local function register(spec)
  local name, version = check(spec)
  local old = by_name[name]
  local s = { name, version, content_hash(spec), spec.mmwrite, spec.mmread, spec.approx_size or false, spec = spec }
  local types = {}
  if old then
    -- Types bound later than at registration stay the name's.
    for metatable, owner in pairs(by_metatable) do
      if owner == old and metatable ~= old.spec.type then types[#types + 1] = metatable end
    end
    for _, pair in ipairs(ctypes) do
      if pair[2] == old and not (type(old.spec.type) == "cdata" and pair[1] == typeof(old.spec.type)) then types[#types + 1] = pair[1] end
    end
    forget(old)
  end
  by_name[name] = s
  if spec.type ~= nil then bind(s, spec.type) end
  for _, t in ipairs(types) do bind(s, t) end
  if spec.matches then matching[#matching + 1] = s end
  return spec
end

-- For what no metatable or ctype id decides.
local function match(x)
  if type(x) == "cdata" then
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

-- The serializer that the head of an image names. May be replaced by who knows where to get one: serializer.missing(name, version, hash).
local function find(name, version, hash, may_load)
  local s = by_name[name] or load_builtin(name)
  if not s and may_load then
    for _, module in ipairs { "serializers." .. name, name } do
      if not s and package.loaded[module] == nil and pcall(require, module) then s = by_name[name] end
    end
    if not s and serializer.missing then
      serializer.missing(name, version, hash)
      s = by_name[name]
    end
  end
  if s and version > s[2] then
    error(("written by version %d, here is version %d"):format(version, s[2]), 0)
  end
  return s
end

function serializer.load(name) return by_name[name] or load_builtin(name) end

-- ---- out ----

local out = core.out_methods

---Write raw bytes as a block. They are copied: pointer need not stay valid.
---@param pointer any cdata pointer, array or struct, or a string
---@param nbytes integer
function out:block(pointer, nbytes)
  local kind = type(pointer)
  if kind ~= "cdata" and kind ~= "string" then errors.raise("ArgumentError", "out:block: a pointer is needed, not a " .. kind) end
  if nbytes == nil then nbytes = kind == "string" and #pointer or ffi.sizeof(pointer) end
  return self:_copy(ffi.cast("const void *", pointer), nbytes)
end

-- Write a block that exists, without copying it; it is written once, however often it is shared in a value.
function out:share(b) return self:_share(b) end

-- ---- inp ----

local inp = core.inp_methods

-- A block, mapped: the caller gives it to a view.
function inp:take_block() return ffi.cast("tarn_block_t *", self:_take()) end

-- What points into blocks -> the holds of those blocks.
local holds = setmetatable({}, { __mode = "k" })
local taken -- by the mmread under way

---The next block, mapped. It stays so while the value that mmread returns is reachable, or the pointer itself.
---@param ctype any of the elements; default uint8_t
---@return ffi.cdata* pointer to the first element, integer count of elements
function inp:block(ctype)
  local element = typeof(ctype or "uint8_t")
  local hold = block.hold()
  hold.block = self:take_block()
  local pointer = ffi.cast(typeof("$ *", element), hold.block.data)
  holds[pointer] = { hold }
  taken = taken or {}
  taken[#taken + 1] = hold
  return pointer, tonumber(hold.block.size) / ffi.sizeof(element)
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
  read = read,
  describe = function(x)
    local ctype = typeof(x)
    return tostring(ctype):match("^ctype<(.*)>$") or tostring(ctype), tonumber(ctype)
  end,
  int64 = int64,
  uint64 = uint64,
  int64_id = tonumber(typeof("int64_t")),
  uint64_id = tonumber(typeof("uint64_t")),
  int64_sample = ffi.new("int64_t", 1),
  uint64_sample = ffi.new("uint64_t", 1),
}

return setmetatable(serializer, { __call = function(_, spec) return register(spec) end })
