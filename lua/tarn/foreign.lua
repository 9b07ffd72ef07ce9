-- What a foreign MessagePack-RPC client may ask of Lua: call(name, args) and eval(code, args), both answered with the first result; and the
-- pool's calls for objects that are not here, or have a record (record.lua). docs/PROTOCOL.md, "Clients".
local core = require "tarn.core"
local errors = require "tarn.errors"
local ffi = require "ffi"
local pool = require "tarn.pool"
local refs = require "tarn.refs"
local rpc = require "tarn.rpc"

local foreign = {}

---------------------------------------------------------------------------------------------------- results

local MAX_INTEGER = 2 ^ 53
local int64, uint64 = ffi.typeof("int64_t"), ffi.typeof("uint64_t")

-- A small one travels as itself between processes of tarn, by an extension; here as the integer that it is.
local function number_of(x)
  local n = tonumber(x)
  return n >= -MAX_INTEGER and n <= MAX_INTEGER and n or x
end

local plain

local function plain_table(t, held, around)
  if around[t] then errors.raise("NotSerializable", "a table that holds itself has no form for a foreign client") end
  around[t] = true
  local copy = {}
  for k, v in pairs(t) do copy[plain(k, held, around)] = plain(v, held, around) end
  around[t] = nil
  return copy
end

-- x in forms that MessagePack has by itself, as far as there are any: keys in place of DRefs (which go to held), a copy for each place
-- where a table stands, numbers in place of 64-bit integers.
function plain(x, held, around)
  local kind = type(x)
  if kind == "table" then
    if getmetatable(x) then return x end
    return plain_table(x, held, around)
  elseif kind == "userdata" and refs.is(x) then
    held[#held + 1] = x
    return x:key()
  elseif kind == "cdata" and (ffi.istype(int64, x) or ffi.istype(uint64, x)) then
    return number_of(x)
  end
  return x
end

-- core.reply's arguments: the result, and the DRefs in it.
local function answer(x)
  local held = {}
  x = plain(x, held, {})
  return x, held[1] and held or nil
end

---------------------------------------------------------------------------------------------------- call, eval

local function arguments(what, text, args)
  if type(text) ~= "string" then errors.raise("ArgumentError", what .. ": its first argument is a string") end
  if args ~= nil and type(args) ~= "table" then
    errors.raise("ArgumentError", what .. ": its second argument is an array of arguments")
  end
  return text, args or {}
end

-- "tarn.poolstats", "string.rep", a global function: by the name's path from _G, else "module.function".
local function find(name)
  local at = _G
  for part in name:gmatch("[^.]+") do at = type(at) == "table" and rawget(at, part) or nil end
  if at == nil then
    local module, key = name:match("^(.+)%.([^.]+)$")
    local loaded = module and package.loaded[module]
    at = type(loaded) == "table" and loaded[key] or nil
  end
  if type(at) ~= "function" then errors.raise("ArgumentError", ("call: no function '%s'"):format(name)) end
  return at
end

local function call()
  local name, args = arguments("call", core.payload())
  return answer((find(name)(unpack(args, 1, table.maxn(args)))))
end

local function eval()
  local code, args = arguments("eval", core.payload())
  local fn, problem = loadstring(code, "=eval")
  if not fn then errors.raise("ArgumentError", "eval: " .. problem) end
  return answer((fn(unpack(args, 1, table.maxn(args)))))
end

---------------------------------------------------------------------------------------------------- the pool

-- The DRef whose key (or number, and origin) came: of an object to which a reference is here, C has seen to that.
local function ref_of_payload()
  local id, origin = core.payload()
  if type(id) == "string" then origin, id = id:match("^(%d+):(%d+)$") end
  origin = tonumber(origin) or core.myid()
  return core.ref_of(origin, tonumber(id), 0, origin)
end

local function get() return answer(pool.poolget(ref_of_payload())) end

local function delete()
  pool.pooldelete(ref_of_payload())
  return true
end

---------------------------------------------------------------------------------------------------- installed

local function serve(method, work)
  rpc.on_request["foreign." .. method] = function(token, from, msgid) return rpc.serve(token, from, msgid, work) end
end

function foreign.install()
  serve("call", call)
  serve("eval", eval)
  serve("pool.get", get)
  serve("pool.delete", delete)
  local get_by_lua = rpc.on_request["foreign.pool.get"]
  rpc.on_request["foreign.pool.get"] = function(token, from, msgid)
    -- A live value of ours becomes an image, once. What stands against that is found again below.
    if not pcall(core.answer_get) then return get_by_lua(token, from, msgid) end
  end
end

return foreign
