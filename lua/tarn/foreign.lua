-- What a foreign MessagePack-RPC client may ask of Lua: call(name, args) and eval(code, args). Both answer with the first result.
local core = require "tarn.core"
local errors = require "tarn.errors"
local rpc = require "tarn.rpc"

local foreign = {}

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
  return (find(name)(unpack(args)))
end

local function eval()
  local code, args = arguments("eval", core.payload())
  local fn, problem = loadstring(code, "=eval")
  if not fn then errors.raise("ArgumentError", "eval: " .. problem) end
  return (fn(unpack(args)))
end

function foreign.install()
  rpc.on_request["foreign.call"] = function(token, from, msgid) return rpc.serve(token, from, msgid, call) end
  rpc.on_request["foreign.eval"] = function(token, from, msgid) return rpc.serve(token, from, msgid, eval) end
end

return foreign
