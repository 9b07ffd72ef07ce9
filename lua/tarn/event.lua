-- Events and promises: what one process sets once, and any may wait for.
--
-- Each is an object of its owner's pool like any other, so that it is freed when nobody holds it any more (docs/REFERENCES.md). Its state,
-- a Future, is kept beside it by the owner's Lua, from the first call that asks for it until the object is gone. What travels is a
-- table with the DRef; requests name the object by its number, so that asking leaves no userdata with the owner.
local core = require "tarn.core"
local call = require "tarn.call"
local destructor = require "tarn.destructor"
local directory = require "tarn.directory"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local future = require "tarn.future"
local rpc = require "tarn.rpc"
local serializer = require "tarn.serializer"
local stand_in = require "tarn.stand_in"
local task = require "tarn.task"

local event = {}

---------------------------------------------------------------------------------------------------- the owner

local states = {} -- the object's number -> Future

local function gone()
  return errors.new("KeyError", ("process %d has no such event or promise any more"):format(core.myid()), { pid = core.myid() })
end

local function free(key)
  local id = tonumber(key:match("%d+$"))
  local f = states[id]
  states[id] = nil
  future.fail(f, gone())
end

local function state_of(id)
  local f = states[id]
  if f then return f end
  f = future.new()
  if not destructor.watch(id, ("%d:%d"):format(core.myid(), id), free) then error(gone(), 0) end
  states[id] = f
  return f
end

local owner = {}

function owner.isset(id) return state_of(id).state ~= nil end

function owner.notify(id)
  local f = state_of(id)
  if f.state then return false end
  future.succeed(f)
  return true
end

function owner.put(id, x)
  local f = state_of(id)
  if f.state then return false end
  if call.is_small(x) then
    future.succeed(f, x)
  else
    future.succeed_stored(f, 1, core.pool_set(x, 0))
  end
  return true
end

local function serve_payload()
  local name, id, x = core.payload()
  return owner[name](id, x)
end

function rpc.on_request.event(token, from, msgid) return rpc.serve(token, from, msgid, serve_payload) end

rpc.on_request["event.wait"] = function(token, from, msgid)
  local ok, f = pcall(state_of, (core.payload()))
  if not ok then return rpc.refuse(token, msgid, f) end
  call.answer_when_ready(f, token, from, msgid)
end

---------------------------------------------------------------------------------------------------- anybody

local function ask(what, self, name, x)
  local pid = self.ref.owner
  if pid == core.myid() then return owner[name](self.ref.id, x) end
  return rpc.call(what, pid, "event", name, self.ref.id, x)
end

-- A Future of it here, the same for all who wait.
local function here(self)
  local f = self.future
  if f and f.state ~= "failed" then return f end
  f = future.new()
  f.travelled = true
  local pid, id = self.ref.owner, self.ref.id
  if pid == core.myid() then
    future.follow(f, state_of(id))
  else
    rpc.ask(f, pid, "event.wait", id)
  end
  self.future = f
  return f
end

local function make(what, metatable, pid)
  if pid == nil then pid = core.myid() end
  rpc.check_pid(pid, what)
  if pid == core.myid() then return setmetatable({ ref = core.pool_set(true, 0) }, metatable) end
  task.check(what)
  return setmetatable({ ref = rpc.await(what, core.pool_set_at(pid, true, 0)) }, metatable)
end

local function check(self, metatable, what)
  if type(self) ~= "table" or getmetatable(self) ~= metatable then
    local message = "%s: call it with a colon, on what tarn.%s gave, not on %s"
    errors.raise("ArgumentError", message:format(what, what:match("%a+"), failure.describe(self)))
  end
end

local function same(a, b) return a.ref == b.ref end

local function travels(name, metatable)
  metatable.__index, metatable.__eq = metatable, same
  metatable.__tostring = function(self) return ("%s(%s)"):format(name, self.ref:key()) end
  serializer {
    name = "tarn." .. name, version = 1, type = metatable,
    approx_size = function() return 64 end,
    mmwrite = function(out, x) out:value(x.ref) end,
    mmread = function(inp) return setmetatable({ ref = inp:value() }, metatable) end,
  }
end

---------------------------------------------------------------------------------------------------- events

---@class tarn.Event
---@field ref tarn.DRef what holds it
local Event = {}
travels("event", Event)

---A one-shot event. It may travel, and any process may notify it, look at it and wait for it.
---@param pid? integer the process that owns it. Default: this one
---@return tarn.Event event
function event.event(pid) return make("tarn.event", Event, pid) end

---Set it, and wake all who wait. Once is enough, more does no harm.
function Event:notify()
  check(self, Event, "event:notify")
  ask("event:notify", self, "notify")
end

---Has it been set? An owner that is lost: WorkerLost.
---@return boolean isset
function Event:isset()
  check(self, Event, "event:isset")
  return (self.future and self.future.state == "done") or ask("event:isset", self, "isset")
end

---Wait until it is set. An owner that is lost: WorkerLost.
---@param timeout_s? number
---@return boolean isset false after timeout_s without
function Event:wait(timeout_s)
  check(self, Event, "event:wait")
  timeout_s = task.check_seconds(timeout_s, "event:wait")
  task.check("event:wait")
  local f = here(self)
  if not f:wait(timeout_s) then return false end
  f:fetch() -- raises what went wrong
  return true
end

---------------------------------------------------------------------------------------------------- promises

---@class tarn.Promise
---@field ref tarn.DRef what holds it
local Promise = {}
travels("promise", Promise)
stand_in.guard(Promise, Promise, "a promise", "promise:fetch()", { future = true })

---A value that is put once, by any process, and fetched by any.
---@param pid? integer the process that keeps it. Default: this one
---@return tarn.Promise promise
function event.promise(pid) return make("tarn.promise", Promise, pid) end

---Give it its value. A second put is ignored.
---@param x any
---@return boolean taken false if it had a value already
function Promise:put(x)
  check(self, Promise, "promise:put")
  return ask("promise:put", self, "put", x)
end

---Has it a value? An owner that is lost: WorkerLost.
---@return boolean ready
function Promise:ready()
  check(self, Promise, "promise:ready")
  return (self.future and self.future.state == "done") or ask("promise:ready", self, "isset")
end

---Wait for the value. Not there in time: Timeout. An owner that is lost: WorkerLost.
---@param timeout_s? number
---@return any value
function Promise:fetch(timeout_s)
  check(self, Promise, "promise:fetch")
  timeout_s = task.check_seconds(timeout_s, "promise:fetch")
  task.check("promise:fetch")
  return here(self):fetch(timeout_s)
end

---------------------------------------------------------------------------------------------------- published names

local DRIVER = 1

local function directory_payload()
  local what, name, ref = core.payload()
  return directory[what](name, ref)
end

function rpc.on_request.published(token, from, msgid) return rpc.serve(token, from, msgid, directory_payload) end

local function ask_directory(what, name, ref)
  if type(name) ~= "string" then
    errors.raise("ArgumentError", ("tarn.%s: a name is a string, not %s"):format(what, failure.describe(name)))
  end
  if core.myid() == DRIVER then return directory[what](name, ref) end
  return rpc.call("tarn." .. what, DRIVER, "published", what, name, ref)
end

---Make a DRef known under a name to the whole cluster. The object is held until the name is published anew, or as nil.
---@param name string
---@param ref tarn.DRef|nil
function event.publish(name, ref)
  if ref ~= nil and not require("tarn.refs").is(ref) then
    errors.raise("ArgumentError", "tarn.publish: a DRef or nil is needed, not " .. failure.describe(ref))
  end
  ask_directory("publish", name, ref)
end

---The DRef that was published under a name.
---@param name string
---@return tarn.DRef|nil ref
function event.lookup(name) return ask_directory("lookup", name) end

return event
