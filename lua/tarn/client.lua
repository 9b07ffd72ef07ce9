-- A client of a process of another cluster, from outside: MessagePack-RPC, as any program may speak it (docs/PROTOCOL.md). What `tarn
-- top` and the dashboard look through.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local ffi = require "ffi"
local task = require "tarn.task"
local uv = require "luv"

-- net/net.h; specs may have declared it
pcall(ffi.cdef, [[
typedef struct tarn_framer tarn_framer_t;
tarn_framer_t *tarn_framer_create(uint64_t max_frame, uint32_t max_depth);
void tarn_framer_destroy(tarn_framer_t *f);
int tarn_framer_scan(tarn_framer_t *f, const uint8_t *bytes, size_t size, size_t *used, void *err);
]])
local C = ffi.C

local client = {}

local Client = {}
Client.__index = Client

local CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 5, 5
local MAX_FRAME, MAX_DEPTH = 64 * 2 ^ 20, 100

local function io_error(fmt, ...) return errors.new("IOError", fmt:format(...)) end

-- The host and the port of "HOST:PORT" or "[HOST]:PORT"; raises.
local function parse(address)
  local host, port = address:match("^%[(.+)%]:(%d+)$")
  if not host then host, port = address:match("^([^:]+):(%d+)$") end
  if not host then errors.raise("ArgumentError", ("'%s' is not an address (HOST:PORT)"):format(address)) end
  return host, tonumber(port)
end

---The secret in a file such as tarn.secret_file() gives: 64 hexadecimal digits in one line.
---@param path string
---@return string
function client.read_secret(path)
  local file, problem = io.open(path)
  if not file then errors.raise("IOError", "the secret file: " .. problem) end
  local line = file:read "*l"
  file:close()
  if not line or not line:match("^%x+$") or #line ~= 64 then
    errors.raise("IOError", ("%s is no secret file of tarn's: its one line is 64 hexadecimal digits"):format(path))
  end
  return line
end

---------------------------------------------------------------------------------------------------- what arrives

-- The connection is of no use any more: who waits is told why.
local function fail(self, e)
  if self.gone then return end
  self.gone = e
  if not self.stream:is_closing() then self.stream:close() end
  local pending = self.pending
  self.pending = {}
  for _, t in pairs(pending) do task.wake(t, false, e) end
  if self.on_gone then self.on_gone(e) end
end

local function answered(self, message)
  local t = self.pending[message[2]]
  if not t then return end -- it came too late
  self.pending[message[2]] = nil
  if message[3] ~= nil then
    local e = failure.received(message[3])
    return task.wake(t, false, errors.iserror(e) and e or io_error("%s answers: %s", self.address, failure.tostring(message[3])))
  end
  task.wake(t, true, message[4])
end

local function take_frames(self)
  local used = ffi.new "size_t[1]"
  while #self.bytes > self.scanned do
    local rest = self.bytes:sub(self.scanned + 1)
    local rc = C.tarn_framer_scan(self.framer, rest, #rest, used, nil)
    self.scanned = self.scanned + tonumber(used[0])
    if rc < 0 then return fail(self, io_error("%s does not speak MessagePack-RPC", self.address)) end
    if rc == 0 then return end
    local ok, message = pcall(core.decode, self.bytes:sub(1, self.scanned), { code = false })
    self.bytes, self.scanned = self.bytes:sub(self.scanned + 1), 0
    if not ok then return fail(self, message) end
    if message[1] == 1 then answered(self, message) end
  end
end

local function on_read(self, problem, bytes)
  if bytes then
    self.bytes = self.bytes .. bytes
    return take_frames(self)
  end
  fail(self, io_error("%s has closed the connection%s", self.address, problem and (" (%s)"):format(problem) or ""))
end

---------------------------------------------------------------------------------------------------- asking

local function forget(_, self, msgid) self.pending[msgid] = nil end

local function too_late(wait)
  local t = wait.task
  if wait.client.pending[wait.msgid] == t and task.abandon(t) then task.wake(t, false, wait.error) end
end

-- Wait for what self.pending[msgid] is answered.
local function await(self, t, msgid, seconds, e)
  self.pending[msgid] = t
  local timer = task.timer(seconds, too_late, { task = t, client = self, msgid = msgid, error = e })
  local ok, x = task.wait(forget, self, msgid)
  task.stop_timer(timer)
  if not ok then error(x, 0) end
  return x
end

---Call a method with plain arguments; its result. Suspends; raises what the process answers, or an IOError when it is gone.
---@param method string
function Client:ask(method, ...)
  local t = task.check("a question to " .. self.address)
  if self.gone then error(self.gone, 0) end
  self.last = self.last + 1
  self.stream:write(core.encode { 0, self.last, method, { ... } })
  local late = errors.new("Timeout", ("%s has not answered within %g s"):format(self.address, ANSWER_TIMEOUT_S))
  return await(self, t, self.last, ANSWER_TIMEOUT_S, late)
end

function Client:close() fail(self, io_error("the connection to %s is closed", self.address)) end

local function numeric(host)
  if host:match("^%d+%.%d+%.%d+%.%d+$") or host:find(":", 1, true) then return host end
  local found, problem = uv.getaddrinfo(host, nil, { socktype = "stream" })
  if not found or not found[1] then error(io_error("no such host: %s (%s)", host, tostring(problem)), 0) end
  return found[1].addr
end

---Connect to a process and prove to know its cluster's secret. Suspends; raises IOError, AuthError, Timeout.
---@param address string HOST:PORT; on another machine by a tunnel, since the secret is told as it is
---@param secret string 64 hexadecimal digits
---@return table client :ask(method, ...), :close(); on_gone(error), if set, is called when the connection has ended
function client.connect(address, secret)
  local host, port = parse(address)
  local self = setmetatable({ address = address, stream = uv.new_tcp(), pending = {}, last = 0, bytes = "", scanned = 0,
    framer = ffi.gc(C.tarn_framer_create(MAX_FRAME, MAX_DEPTH), C.tarn_framer_destroy) }, Client)
  local t = task.check("a connection to " .. address)
  local ok, e = pcall(function()
    assert(self.stream:connect(numeric(host), port, function(problem)
      if problem then return fail(self, io_error("cannot connect to %s: %s", address, problem)) end
      self.stream:nodelay(true)
      self.stream:read_start(function(...) on_read(self, ...) end)
      task.wake(t, true)
      self.pending[0] = nil
    end))
    await(self, t, 0, CONNECT_TIMEOUT_S, io_error("cannot connect to %s within %g s", address, CONNECT_TIMEOUT_S))
    self:ask("auth.secret", secret)
  end)
  if ok then return self end
  self:close()
  error(errors.iserror(e) and e or io_error("cannot connect to %s: %s", address, failure.tostring(e)), 0)
end

return client
