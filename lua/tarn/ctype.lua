-- The element types of arrays: numbers, and structs of numbers, arrays of them and structs. A declaration is taken apart and put together
-- again in one canonical form, which is what travels; so a declaration from outside is only ever what this grammar allows, and never holds
-- a pointer.
local block = require "tarn.block"
local errors = require "tarn.errors"
local ffi = require "ffi"
local typeof = ffi.typeof -- busted replaces the FFI's by ones that remember their first argument only

local MAX_LENGTH, MAX_DEPTH = 8192, 16

-- Spellings of the numbers.
local scalars = { bool = "bool", _Bool = "bool", float = "float", double = "double" }
for _, width in ipairs { 8, 16, 32, 64 } do
  for _, sign in ipairs { "", "u" } do
    local name = sign .. "int" .. width .. "_t"
    scalars[name] = name
  end
end
for name, canonical in pairs {
  ["char"] = "int8_t", ["signed char"] = "int8_t", ["unsigned char"] = "uint8_t", ["short"] = "int16_t", ["unsigned short"] = "uint16_t",
  ["int"] = "int32_t", ["signed int"] = "int32_t", ["unsigned"] = "uint32_t", ["unsigned int"] = "uint32_t", ["long"] = "int64_t",
  ["unsigned long"] = "uint64_t", ["long long"] = "int64_t", ["unsigned long long"] = "uint64_t", ["size_t"] = "uint64_t",
  ["ptrdiff_t"] = "int64_t", ["intptr_t"] = "int64_t", ["uintptr_t"] = "uint64_t",
} do scalars[name] = canonical end

local number_words = { signed = true, unsigned = true, char = true, short = true, int = true, long = true }

local keywords = {}
for word in ("auto break case char const continue default do double else enum extern float for goto if inline int long register restrict "
  .. "return short signed sizeof static struct switch typedef union unsigned void volatile while bool _Bool"):gmatch("%S+") do
  keywords[word] = true
end

local named = {} -- by tarn.ctype: name -> canonical declaration
local known = {} -- canonical declaration -> type
local spelled = {} -- any spelling seen before -> type

-- ---- parsing ----

local function fail(text, why)
  error(("'%s': %s"):format(#text > 60 and text:sub(1, 57) .. "..." or text, why), 0)
end

local function tokens_of(text)
  local list, at = {}, 1
  while true do
    at = text:find("%S", at)
    if not at then return list end
    local token = text:match("^[%a_][%w_]*", at) or text:match("^%d+", at) or text:match("^[{};,%[%]]", at)
    if not token then
      local what = text:sub(at, at)
      fail(text, what == "*" and "pointers cannot be stored" or ("unexpected '%s' in a declaration"):format(what))
    end
    list[#list + 1] = token
    at = at + #token
  end
end

local parse_type

local function expect(p, token)
  if p[p.at] ~= token then fail(p.text, ("'%s' expected%s"):format(token, p[p.at] and " before '" .. p[p.at] .. "'" or " at the end")) end
  p.at = p.at + 1
end

local function parse_number(p)
  local words = {}
  while number_words[p[p.at] or ""] do
    words[#words + 1] = p[p.at]
    p.at = p.at + 1
  end
  local name = table.concat(words, " ")
  if name == "" then
    name = p[p.at] or ""
    p.at = p.at + 1
  elseif words[#words] == "int" and #words > 1 and words[#words - 1] ~= "unsigned" and words[#words - 1] ~= "signed" then
    name = name:sub(1, -5) -- "long int" is "long"
  end
  return scalars[name], name
end

-- name[3][4] -> name, "[3][4]", 12
local function parse_declarator(p)
  local name = p[p.at]
  if not name or not name:match("^[%a_]") then fail(p.text, "a field's name expected") end
  p.at = p.at + 1
  local dims, count = "", 1
  while p[p.at] == "[" do
    local size = tonumber(p[p.at + 1])
    if not size or size < 1 or size % 1 ~= 0 then fail(p.text, "an array's size must be a number from 1 on") end
    p.at = p.at + 2
    expect(p, "]")
    dims, count = dims .. "[" .. ("%d"):format(size) .. "]", count * size
    if count > 2 ^ 28 then fail(p.text, "an element of more than 2^28 numbers") end
  end
  return name, dims, count
end

local function round_up(n, align) return math.ceil(n / align) * align end

local function add_field(s, field, name, dims, count)
  if s.names[name] or keywords[name] then error(("a field cannot be called '%s' here"):format(name), 0) end
  s.names[name] = true
  s.size = round_up(s.size, field.align)
  for _, f in ipairs(field.floats or {}) do
    local steps = { unpack(f.dims) }
    if count > 1 then steps[#steps + 1] = { count = count, stride = field.size } end
    s.floats[#s.floats + 1] = { offset = s.size + f.offset, bytes = f.bytes, dims = steps }
  end
  s.size = s.size + field.size * count
  s.align = math.max(s.align, field.align)
  s.parts[#s.parts + 1] = ("%s %s%s;"):format(field.text, name, dims)
  s.const_parts[#s.const_parts + 1] = ("const %s %s%s;"):format(field.const_text or field.text, name, dims)
  s.nested = s.nested or field.struct or count > 1 or dims ~= ""
  if #s.parts > 1000 then error("a struct of more than 1000 fields", 0) end
end

local function parse_struct(p, depth)
  if depth > MAX_DEPTH then fail(p.text, "structs nested too deep") end
  if p[p.at] ~= "{" and p[p.at + 1] == "{" then p.at = p.at + 1 end -- a tag says nothing here
  expect(p, "{")
  local s = { size = 0, align = 1, parts = {}, const_parts = {}, floats = {}, names = {} }
  while p[p.at] ~= "}" do
    local field = parse_type(p, depth + 1)
    repeat
      add_field(s, field, parse_declarator(p))
      local more = p[p.at] == ","
      if more then p.at = p.at + 1 end
    until not more
    expect(p, ";")
  end
  expect(p, "}")
  if #s.parts == 0 then fail(p.text, "an empty struct") end
  local const_text = s.nested and "struct { " .. table.concat(s.const_parts, " ") .. " }" or nil
  return { text = "struct { " .. table.concat(s.parts, " ") .. " }", const_text = const_text,
    size = round_up(s.size, s.align), align = s.align, floats = #s.floats > 0 and s.floats or nil, struct = true }
end

function parse_type(p, depth)
  local word = p[p.at]
  if word == "const" or word == "volatile" then
    p.at = p.at + 1
    return parse_type(p, depth)
  end
  if word == "struct" then
    p.at = p.at + 1
    return parse_struct(p, depth)
  end
  if word == "union" or word == "enum" then fail(p.text, word .. "s cannot be stored") end
  if word and named[word] then
    p.at = p.at + 1
    return known[named[word]]
  end
  local canonical, spelling = parse_number(p)
  if not canonical then fail(p.text, ("no type '%s' that can be stored (numbers, structs of them, tarn.ctype names)"):format(spelling)) end
  local size = ffi.sizeof(canonical)
  local floating = canonical == "double" or canonical == "float"
  return { text = canonical, size = size, align = size, floats = floating and { { offset = 0, bytes = size, dims = {} } } or nil }
end

local function parse(text)
  if #text > MAX_LENGTH then fail(text, "a declaration of more than 8192 bytes") end
  local p = tokens_of(text)
  p.text, p.at = text, 1
  local t = parse_type(p, 0)
  if p[p.at] == ";" then p.at = p.at + 1 end
  if p[p.at] then fail(text, ("unexpected '%s' behind the type"):format(p[p.at])) end
  return t
end

-- ---- types ----

local function complete(t)
  local old = known[t.text]
  if old then return old end
  local ok, made = pcall(typeof, t.text)
  if not ok then fail(t.text, tostring(made)) end
  if ffi.sizeof(made) ~= t.size then fail(t.text, "a layout that differs from C's") end
  t.ctype = made
  -- LuaJIT forgets that a struct is const where a field of it is an array or a struct: there the fields themselves must be.
  t.const_ctype = t.const_text and typeof(t.const_text) or made
  known[t.text] = t
  return t
end

---Text -> type: {text (canonical), ctype, const_ctype (of the same layout: const throughout), size, align, struct (true for structs),
---floats}. Raises a text.
---@package
local function of(text)
  local t = spelled[text]
  if not t then
    t = complete(parse(text))
    spelled[text] = t
  end
  return t
end

-- One of a type's floating-point fields in count elements; d: the dimension of the field that is gone through.
local function mend_field(t, f, at, count, d)
  local dim = f.dims[d]
  if not dim then return block.C.tarn_view_mend_nans(at, count, t.size, f.bytes) end
  for k = 0, dim.count - 1 do mend_field(t, f, at + k * dim.stride, count, d + 1) end
end

---Every NaN in count elements made an ordinary one. For bytes from outside.
---@package
local function mend(t, pointer, count)
  for _, f in ipairs(t.floats or {}) do mend_field(t, f, ffi.cast("char *", pointer) + f.offset, count, 1) end
end

local ctype = { of = of, mend = mend }

---Name a struct, so that tarn.array(name, n) and other declarations can use it. The declaration travels with the data. Pointers are
---refused.
---@param name string an identifier
---@param declaration string "struct { double x, y; }"
---@return ffi.ctype* ctype
function ctype.define(name, declaration)
  if type(name) ~= "string" or not name:match("^[%a_][%w_]*$") or scalars[name] or number_words[name] or name == "struct" then
    errors.raise("ArgumentError", "tarn.ctype: the name must be an identifier that is no C type yet")
  end
  if type(declaration) ~= "string" then
    errors.raise("ArgumentError", 'tarn.ctype: a declaration is needed: "struct { double x, y; }"')
  end
  local ok, t = pcall(of, declaration)
  if not ok then errors.raise("ArgumentError", "tarn.ctype: " .. t) end
  if named[name] and named[name] ~= t.text then
    errors.raise("ArgumentError", ("tarn.ctype: '%s' is another type already: %s"):format(name, named[name]))
  end
  named[name] = t.text
  spelled = {}
  return t.ctype
end

return setmetatable(ctype, { __call = function(_, name, declaration) return ctype.define(name, declaration) end })
