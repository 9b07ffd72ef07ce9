-- How a serializer gets from one process to another. Before values of it leave, a process offers what others need in order to have the
-- same one: the text of its module, or where it is in none (in a script, typed in) its functions and its metatable. Who meets a name or a
-- newer content in the head of an image asks for it before it decodes: where the bytes came from, then the driver, then everybody.
--
-- Offers are served by C, whatever Lua is doing there, so two processes that wait for each other's serializers both get them. Decoding
-- cannot suspend, so this process's Lua waits for the answer; its service goes on.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local read_file = require "tarn.read_file"
local block = require "tarn.block"
local ffi = require "ffi"

local plug = {
  fetched = {}, -- module -> {path, text}: those that tarn.modules has got from the driver
}

local DRIVER = 1

-- The offer that is being loaded, if any: what its text registers under its name has its origin.
local loading

-- ---- where a serializer comes from ----

-- The module that is being loaded from that file: its name and its text. Nil: none.
local function module_of(path)
  for name, module in pairs(package.loaded) do
    local kind = type(module)
    if kind == "number" or kind == "userdata" then -- what require puts there meanwhile
      local got = plug.fetched[name]
      if got and got.path == path then return name, got.text end
      if package.searchpath(tostring(name), package.path) == path then return name, read_file(path) end
    end
  end
end

local function written_at(path)
  local ok, uv = pcall(require, "luv")
  local stat = ok and uv.fs_stat(path)
  return stat and stat.mtime.sec + stat.mtime.nsec / 1e9
end

local function hash(text) return ffi.string(ffi.new("uint64_t[1]", block.hash64(text)), 8) end

local function bytecode(fn)
  local ok, text = pcall(string.dump, fn, true)
  return ok and text or ""
end

local own = errors.home and { "@" .. errors.home .. "lua/tarn/", "@" .. errors.home .. "serializers/" } or {}

local function is_own(source)
  for _, prefix in ipairs(own) do
    if source:sub(1, #prefix) == prefix then return true end
  end
  return false
end

-- Of a serializer that is being registered: hash, 8 bytes that tell its content from another; born, by which two contents of one version
-- are put in order; and module, path, text where it is part of a module. own: every process has it.
function plug.origin(spec)
  if loading and loading.name == spec.name then return loading end
  local source = debug.getinfo(spec.mmwrite, "S").source
  local path = source:match("^@(.*)")
  if is_own(source) then return { own = true, hash = hash(read_file(path) or bytecode(spec.mmwrite)), born = 0 } end
  local module, text
  if path then module, text = module_of(path) end
  if text then return { hash = hash(text), born = written_at(path) or os.time(), module = module, path = path, text = text } end
  local code = bytecode(spec.mmwrite) .. bytecode(spec.mmread) .. bytecode(spec.approx_size) .. bytecode(spec.matches)
  return { hash = hash(code), born = os.time() }
end

-- ---- offering ----

-- Encode what a serializer outside any module consists of. Its metatable travels by value here, and the one which that has in turn, mostly
-- for a constructor Point(1, 2), beside it.
local function encode_parts(offer, spec, modules)
  local kind = spec.type
  if type(kind) == "cdata" then return false, "it is for a C type: declare it in a module, and require that (docs/serializers.md)" end
  local meta = type(kind) == "table" and getmetatable(kind)
  offer.parts = { type = kind, matches = spec.matches, approx_size = spec.approx_size, mmwrite = spec.mmwrite, mmread = spec.mmread }
  local apart = type(meta) == "table" and debug.getmetatable(kind) == meta
  local named = kind ~= nil and modules[kind]
  if apart then
    offer.meta = meta
    debug.setmetatable(kind, nil)
  end
  if named then modules[kind] = nil end
  local ok, image = pcall(core.encode, offer)
  if named then modules[kind] = named end
  if apart then debug.setmetatable(kind, meta) end
  return ok, image
end

-- Let other processes load s, the registry's entry. modules: what travels by name (see names.lua).
function plug.offer(s, modules)
  s[7] = true
  if s.origin.own or not core.offer_serializer then return end
  local o = s.origin
  local offer = { name = s[1], version = s[2], hash = o.hash, born = o.born, module = o.module, path = o.path, text = o.text }
  local ok, image
  if o.text then
    ok, image = pcall(core.encode, offer)
  else
    ok, image = encode_parts(offer, s.spec, modules)
  end
  if not ok then
    offer.parts, offer.meta, offer.problem = nil, nil, failure.tostring(image)
    image = core.encode(offer)
  end
  core.offer_serializer(s[1], image)
end

-- ---- loading ----

local function run_module(offer)
  local name = offer.module
  local chunk, problem = loadstring(offer.text, "@" .. offer.path)
  if not chunk then error(problem, 0) end
  local had, preload = package.loaded[name], package.preload[name]
  package.loaded[name] = nil
  package.preload[name] = chunk
  local ok, e = pcall(require, name)
  package.preload[name] = preload
  if not ok then
    package.loaded[name] = had
    error(e, 0)
  end
end

local function run_parts(offer, register)
  local spec = { name = offer.name, version = offer.version }
  for key, part in pairs(offer.parts) do spec[key] = part end
  if offer.meta then setmetatable(spec.type, offer.meta) end
  register(spec)
end

-- Make it this process's. Nil, or why it is not.
local function load_offer(offer, register)
  if offer.problem then return offer.problem end
  local outer = loading
  loading = offer
  local ok, e = pcall(offer.text and run_module or run_parts, offer, register)
  loading = outer
  if not ok then return failure.tostring(e) end
end

local asking = {} -- names

local function ask(pid, name)
  local ok, offer = core.wait(core.serializer_at(pid, name))
  if not ok then return nil, failure.tostring(failure.received(offer).message) end
  if type(offer) == "table" and offer.name == name and type(offer.version) == "number" then return offer end
end

-- Whom to ask, in order.
local function processes(from)
  local list, listed = {}, { [core.myid()] = true }
  local function add(pid)
    if pid and pid > 0 and not listed[pid] then
      listed[pid] = true
      list[#list + 1] = pid
    end
  end
  add(from)
  add(DRIVER)
  for _, pid in ipairs(core.members()) do add(pid) end
  return list
end

-- Is what a process offers to be had instead of mine (nil: none)? wanted: the version of the bytes.
local function is_newer(offer, wanted, mine)
  if offer.version < wanted then return false end
  if not mine or offer.version > mine[2] then return true end
  return offer.version == mine[2] and offer.hash ~= mine[3] and offer.born > mine.origin.born
end

---Load the serializer that bytes from a process (0: not known) were written by. mine: the one here, older or perhaps older; or nil.
---@return string? problem why there is none; nil also when the one here is as new
function plug.fetch(name, version, mine, from, register)
  if not core.serializer_at then return nil end
  if asking[name] then return "it is needed in order to load it" end
  asking[name] = true
  local problem
  for _, pid in ipairs(processes(from)) do
    local ok, offer, why = pcall(ask, pid, name)
    if not ok then why = failure.tostring(offer) end
    if ok and offer and is_newer(offer, version, mine) then
      why = load_offer(offer, register)
      if not why then
        problem = nil
        break
      end
    end
    if why then problem = problem or ("process %d has it, but %s"):format(pid, why) end
  end
  asking[name] = nil
  return problem
end

return plug
