-- Modules that a worker lacks come from the driver: its package.path, its files. `require` cannot suspend, so the worker's Lua waits
-- for the answer; its service goes on. A large text is an object of the driver's for a while, so that many workers have it from each other.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local plug = require "tarn.plug"
local read_file = require "tarn.read_file"
local refs = require "tarn.refs"
local rpc = require "tarn.rpc"
local task = require "tarn.task"

local modules = {}

local DRIVER = 1
local LARGE_BYTES = 2 ^ 20 -- as of other objects that are handed on (runtime/service/spread.c)
local KEPT_S = 10

local kept = {} -- path -> {source, ref, timer}

local function drop(path) kept[path] = nil end

-- The object that has a large text; nil: there is no room for it.
local function object_of(source, path)
  local entry = kept[path]
  if not entry or entry.source ~= source then
    local ok, ref = pcall(core.pool_set_list, source)
    if not ok then return nil end
    task.stop_timer(entry and entry.timer)
    entry = { source = source, ref = ref }
    kept[path] = entry
  end
  task.stop_timer(entry.timer)
  entry.timer = task.timer(KEPT_S, drop, path)
  return entry.ref
end

-- The driver's answer: source and path, or nil. The source is a string, or a DRef to a list of it.
local function find(name)
  if type(name) ~= "string" then errors.raise("ArgumentError", "module.load: a module's name is needed") end
  local path = package.searchpath(name, package.path)
  local source = path and read_file(path)
  if not source then return nil end
  return #source >= LARGE_BYTES and object_of(source, path) or source, path
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
  if not refs.is(source) then return source, path end
  local text = rpc.get_waiting("require", source)[1]
  core.ref_release(source)
  return text, path
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

-- The pool has been cleared.
function modules.forget_all()
  for _, entry in pairs(kept) do task.stop_timer(entry.timer) end
  kept = {}
end

-- On a worker.
function modules.install() table.insert(package.loaders, search) end

return modules
