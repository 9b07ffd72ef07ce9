-- A tarn process that a spec plays itself, from docs/PROTOCOL.md alone: the handshake, and frames of its own making.
local ffi = require "ffi"
local pack = require "spec.helper.pack"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

ffi.cdef "int spec_crypto_auth(unsigned char *, const unsigned char *, unsigned long long, const unsigned char *) asm(\"crypto_auth\");"

local M = {}

local function hmac(secret, text)
  local out = ffi.new "unsigned char[32]"
  ffi.C.spec_crypto_auth(out, text, #text, secret)
  return ffi.string(out, 32)
end

local function fixed(text, size) return text .. ("\0"):rep(size - #text) end

local function u64(n)
  local bytes = ffi.new("uint64_t[1]", n)
  return ffi.string(bytes, 8)
end

-- The secret in a file of tarn.secret_file(), as bytes.
function M.secret_of(path)
  local file = assert(io.open(path))
  local hex = file:read "*l"
  file:close()
  return (hex:gsub("..", function(x) return string.char(tonumber(x, 16)) end))
end

local Wire = {}
Wire.__index = Wire

function Wire:write(bytes) return posix.write(self.fd, bytes) end
function Wire:close() posix.close(self.fd) end

-- The next message; nil: the connection is closed. Fails after some seconds.
function Wire:read(seconds)
  local deadline = posix.now() + (seconds or 5) * process.patience
  while true do
    local message, next_at = pack.read(self.bytes, 1)
    if next_at then
      self.bytes = self.bytes:sub(next_at)
      return message
    end
    assert(posix.poll({ self.fd }, deadline)[self.fd], "no message in time")
    local more = posix.read(self.fd)
    if not more or more == "" then return nil end
    self.bytes = self.bytes .. more
  end
end

-- The response to msgid; what comes before it is passed over.
function Wire:answer(msgid, seconds)
  repeat
    local message = self:read(seconds)
    if not message then return nil end
    if message[1] == 1 and message[2] == msgid then return message end
  until false
end

-- Say hello. fields: what is other than usual. The answer: {1, 1, error, welcome}.
function Wire:hello(fields)
  local h = { version = "0.1.0", role = "control", id = 0, incarnation = 9, os_pid = 4, want_id = 1, want_incarnation = 0,
    nonce = ("n"):rep(32), bytecode = M.bytecode or "", host = "" }
  for k, v in pairs(fields or {}) do h[k] = v end
  self.said = h
  self:write(pack.request(1, "hello", pack.map { "version", pack.str(h.version), "role", pack.str(h.role), "id", pack.int(h.id),
    "incarnation", pack.int(h.incarnation), "os_pid", pack.int(h.os_pid), "want", pack.array(pack.int(h.want_id),
    pack.int(h.want_incarnation)), "nonce", pack.bin(h.nonce), "bytecode", pack.str(h.bytecode), "host", pack.str(h.host) }))
  local message = self:answer(1)
  self.welcome = message and message[4]
  return message
end

-- The proof of this side ("tarn connector") or the other's ("tarn acceptor"), over what was said, with some fields of it changed.
function Wire:proof(secret, label, fields)
  local h, w = setmetatable(fields or {}, { __index = self.said }), self.welcome
  return hmac(secret, fixed(label, 16) .. fixed(h.version, 32) .. fixed(h.bytecode, 32) .. fixed(h.host, 64)
    .. u64(h.role == "bulk" and 1 or 0) .. u64(h.id) .. u64(h.incarnation) .. u64(h.os_pid) .. u64(h.want_id) .. u64(h.want_incarnation)
    .. h.nonce .. ("\0"):rep(16) .. fixed(w.host, 64) .. u64(w.id) .. u64(w.incarnation) .. u64(w.os_pid) .. u64(w.your_id)
    .. u64(w.your_incarnation) .. w.nonce)
end

function Wire:prove(proof)
  self:write(pack.request(2, "prove", pack.bin(proof)))
  return self:answer(2)
end

-- The same over something else than a socket: t has a method write, and answer (or read).
function M.over(t)
  t.bytes = ""
  return setmetatable(t, Wire)
end

function M.connect(address) return setmetatable({ fd = posix.connect(address), bytes = "" }, Wire) end

-- Learn what kind of bytecode the process at address has: it says so when it refuses another.
function M.learn_bytecode(address)
  local wire = M.connect(address)
  M.bytecode = wire:hello({ bytecode = "?" })[3]:match "this process has Lua bytecode '(%x+)'"
  wire:close()
end

-- A proven connection, of a new member of the cluster.
function M.join(address, secret)
  if not M.bytecode then M.learn_bytecode(address) end
  local wire = M.connect(address)
  wire:hello()
  assert(wire.welcome and wire.welcome.proof == wire:proof(secret, "tarn acceptor"), "the acceptor proves itself")
  wire.joined = wire:prove(wire:proof(secret, "tarn connector"))
  return wire
end

return M
