-- Tarn's errors: tables with kind, message, and where it applies pid, traceback, path, needed, available, cause.
local core = require "tarn.core"

local errors = {}

-- The kinds there are.
errors.kinds = {}
for kind in ("KeyError WorkerLost RemoteError Timeout Cancelled PoolFull DiskFull IOError Corrupt NotSerializable AuthError ProtocolError "
  .. "ArgumentError"):gmatch("%a+") do
  errors.kinds[kind] = true
end

local metatable = {}
errors.metatable = metatable -- found here by name when an error travels
metatable.__index = metatable

local function readable(x)
  local ok, text = pcall(tostring, x)
  return ok and type(text) == "string" and text or ("(a %s whose tostring fails)"):format(type(x))
end

local function indented(text) return (text:gsub("\n", "\n  ")) end

-- One text with all there is to say: kind, message, where, the remote traceback, the cause.
function metatable:__tostring()
  local kind, message = rawget(self, "kind"), rawget(self, "message")
  local text = ("%s: %s"):format(readable(kind), message == nil and "(no message)" or readable(message))
  local pid, traceback, cause = rawget(self, "pid"), rawget(self, "traceback"), rawget(self, "cause")
  if pid ~= nil and kind ~= "WorkerLost" then text = ("%s (on process %s)"):format(text, readable(pid)) end -- a WorkerLost names it
  if traceback ~= nil then
    traceback = readable(traceback)
    if pid ~= nil then traceback = ("process %s, %s"):format(readable(pid), traceback) end
    text = text .. "\n" .. traceback
  end
  -- The cause of a RemoteError is what the message says already, unless it is a table of its own.
  if cause ~= nil and cause ~= self and not (type(cause) == "string" and type(message) == "string" and message:find(cause, 1, true)) then
    text = text .. "\ncaused by " .. indented(readable(cause))
  end
  return text
end

function metatable.__concat(a, b) return tostring(a) .. tostring(b) end

---An error of a kind; not raised.
---@param kind string one of errors.kinds
---@param message string
---@param fields? table pid, traceback, path, needed (bytes), available (bytes), cause, and others
---@return table
function errors.new(kind, message, fields)
  local e = {}
  for k, v in pairs(fields or {}) do e[k] = v end
  e.kind, e.message = kind, message
  return setmetatable(e, metatable)
end

---Raise one. Its message begins with the user's file and line: the first caller that is not one of tarn's own files.
function errors.raise(kind, message, fields) core.raise(errors.new(kind, message, fields)) end

---Is e an error of tarn's, and of that kind if one is given?
---@param e any
---@param kind? tarn.ErrorKind
---@return boolean is
function errors.iserror(e, kind)
  return type(e) == "table" and getmetatable(e) == metatable and (kind == nil or rawget(e, "kind") == kind)
end

-- The user's file and line that led here, "sweep.lua:12"; nil where there is none.
function errors.place() return (core.place():match("^(.-): $")) end

-- The folder that holds lua/ and serializers/, "" for the current one; tarn's own chunks are named after it.
local source = debug.getinfo(1, "S").source
errors.home = source:match("^@(.*)lua/tarn/errors%.lua$")

core.set_hooks {
  error_metatable = metatable,
  own_sources = errors.home and { "@" .. errors.home .. "lua/tarn/", "@" .. errors.home .. "serializers/" } or {},
}

return errors
