-- A store for specs (spec/helper/store/main.lua says what it can do wrong), and the environment that leads to it.
local process = require "spec.helper.process"
local uv = require "luv"

local M = {}

local Store = {}
Store.__index = Store

local NAMES = {
  "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION",
  "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
  "AWS_MAX_ATTEMPTS", "AWS_CA_BUNDLE", "TARN_STORE_SILENCE_S",
}

-- These settings and no others while fn runs.
function M.with_env(settings, fn)
  local before = {}
  for _, name in ipairs(NAMES) do
    before[name] = os.getenv(name)
    if settings[name] then uv.os_setenv(name, settings[name]) else uv.os_unsetenv(name) end
  end
  local ok, e = pcall(fn)
  for _, name in ipairs(NAMES) do
    if before[name] then uv.os_setenv(name, before[name]) else uv.os_unsetenv(name) end
  end
  if not ok then error(e, 0) end
end

-- What leads to a store at that address; more settings, "" for none.
function M.settings(url, more)
  local all = { AWS_ACCESS_KEY_ID = "KEY", AWS_SECRET_ACCESS_KEY = "SECRET", AWS_ENDPOINT_URL = url, AWS_CONFIG_FILE = "/nowhere/config",
    AWS_SHARED_CREDENTIALS_FILE = "/nowhere/credentials" }
  for name, value in pairs(more or {}) do all[name] = value ~= "" and value or nil end
  return all
end

local function hex(text) return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

local function say(self, name, ...)
  self.program:write(("%s %s\n"):format(name, hex(tarn.encode { ... })))
  return (tarn.decode((self.program:line():gsub("..", function(h) return string.char(tonumber(h, 16)) end))))
end

for _, name in ipairs { "fault", "clear", "log", "uploads" } do
  Store[name] = function(self, ...) return say(self, name, ...) end
end

-- The bytes of an object; nil: there is none.
function Store:object(key)
  local path = process.tmpdir() .. "/object"
  return say(self, "object", key, path) and process.read_file(path) or nil
end

function Store:put(key, bytes) say(self, "put", key, process.write_file(process.tmpdir() .. "/object", bytes)) end

-- How many requests of a kind there have been since the log was taken last.
function Store:count(kind)
  local n = 0
  for _, r in ipairs(self:log()) do
    if r.kind == kind then n = n + 1 end
  end
  return n
end

function M.start()
  local program = process.start_tarn({ process.root .. "/spec/helper/store/main.lua" }, { env = { LUA_PATH = process.root .. "/?.lua;;" } })
  local self = setmetatable({ program = program }, Store)
  self.url = "http://127.0.0.1:" .. program:line()
  return self
end

-- Run fn(store), with the environment that leads to it, and end it.
function M.with(fn, more)
  local self = M.start()
  local ok, e = pcall(M.with_env, M.settings(self.url, more), function() fn(self) end)
  require("tarn.fetch").close()
  self.program:close_stdin()
  if not ok then error(e, 0) end
  self.program:wait()
  assert(self.program.err == "", self.program.err)
end

return M
