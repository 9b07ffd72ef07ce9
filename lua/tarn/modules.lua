-- Modules that a worker lacks come from the driver: its package.path, its files. `require` cannot suspend, so the worker's Lua waits
-- for the answer; its service goes on.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local plug = require "tarn.plug"
local rpc = require "tarn.rpc"

local modules = {}

local DRIVER = 1

-- The driver's answer: source and path, or nil.
local function find(name)
  if type(name) ~= "string" then errors.raise("ArgumentError", "module.load: a module's name is needed") end
  local path = package.searchpath(name, package.path)
  local file = path and io.open(path, "rb")
  if not file then return nil end
  local source = file:read("*a")
  file:close()
  return source, path
end

local function answer(token, msgid, ok, ...)
  if ok then return core.reply(token, msgid, ...) end
  return rpc.refuse(token, msgid, (...))
end

local function find_payload() return find(core.payload()) end

rpc.on_request["module.load"] = function(token, _, msgid) return answer(token, msgid, pcall(find_payload)) end

local function ask(name)
  local ok, source, path = core.wait(core.request(DRIVER, "module.load", name))
  if not ok then error(failure.received(source), 0) end
  return source, path
end

-- One more of package.loaders. What it returns as text becomes part of require's message.
local function search(name)
  local ok, source, path = pcall(ask, name)
  if not ok then
    local text = "\n\tmodule '%s' not found on process %d, and the driver could not be asked: %s"
    return text:format(name, core.myid(), failure.tostring(source))
  end
  if not source then
    return ("\n\tmodule '%s' not found on process %d nor on the driver"):format(name, core.myid())
  end
  local chunk, problem = loadstring(source, "@" .. path)
  plug.fetched[name] = { path = path, text = source }
  if not chunk then error(("error loading module '%s' from the driver's file '%s':\n\t%s"):format(name, path, problem), 0) end
  return chunk
end

-- On a worker.
function modules.install() table.insert(package.loaders, search) end

return modules
