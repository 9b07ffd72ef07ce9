-- A small HTTP/1.1 server over luv: what the store of the specs listens with.
local uv = require "luv"

local M = {}

local REASONS = { [200] = "OK", [204] = "No Content", [206] = "Partial Content" }

local function parse_head(text)
  local method, target = text:match("^(%u+) (%S+) HTTP/1%.1\r\n")
  local headers = {}
  for name, value in text:gmatch("\r\n([^:\r\n]+):[ \t]*([^\r\n]*)") do headers[name:lower()] = value end
  local path, query = target:match("^([^?]*)%??(.*)$")
  local length = tonumber(headers["content-length"]) or 0
  return { method = method, path = path, query = query, headers = headers, length = length, got = 0, chunks = {} }
end

local Connection = {}
Connection.__index = Connection

function Connection:close()
  if not self.socket:is_closing() then self.socket:close() end
end

-- opts: status, headers, body; announce: the Content-Length, whatever the body is; cut: close behind so many bytes of the body; drip_ms: 1
-- KiB at a time.
function Connection:reply(r, opts)
  local body = opts.body or ""
  local lines = { ("HTTP/1.1 %d %s"):format(opts.status, REASONS[opts.status] or "Error"), "Content-Length: " .. (opts.announce or #body) }
  for name, value in pairs(opts.headers or {}) do lines[#lines + 1] = name .. ": " .. value end
  local head = table.concat(lines, "\r\n") .. "\r\n\r\n"
  if self.socket:is_closing() then return end
  if r.method == "HEAD" then body = "" end
  if opts.cut then
    return self.socket:write({ head, body:sub(1, opts.cut) }, function() self:close() end)
  end
  if opts.drip_ms then return self:drip(head, body, opts.drip_ms) end
  self.socket:write { head, body }
end

function Connection:drip(head, body, ms)
  self.socket:write(head)
  local at, timer = 1, uv.new_timer()
  timer:start(0, ms, function()
    if self.socket:is_closing() or at > #body then return timer:close() end
    self.socket:write(body:sub(at, at + 1023))
    at = at + 1024
  end)
end

local function feed(self, bytes)
  while true do
    local r = self.request
    if not r then
      self.head = self.head .. bytes
      local stop = self.head:find("\r\n\r\n", 1, true)
      if not stop then return end
      bytes = self.head:sub(stop + 4)
      r = parse_head(self.head:sub(1, stop + 1))
      self.head, self.request = "", r
      self.on_head(self, r)
    end
    if self.socket:is_closing() then return end
    local wanted = r.length - r.got
    if #bytes > 0 then r.chunks[#r.chunks + 1] = #bytes <= wanted and bytes or bytes:sub(1, wanted) end
    r.got = math.min(r.got + #bytes, r.length)
    if r.cut_at and r.got >= r.cut_at then return self:close() end
    if r.got < r.length then return end
    r.body = table.concat(r.chunks)
    r.chunks, self.request = nil, nil
    self.on_request(self, r)
    bytes = bytes:sub(wanted + 1)
    if bytes == "" or self.socket:is_closing() then return end
  end
end

-- on_head(connection, request), before its body: it may set cut_at; on_request(connection, request), with it. The port.
function M.listen(on_head, on_request)
  local server = uv.new_tcp()
  server:bind("127.0.0.1", 0)
  server:listen(128, function()
    local socket = uv.new_tcp()
    server:accept(socket)
    local self = setmetatable({ socket = socket, head = "", on_head = on_head, on_request = on_request }, Connection)
    socket:read_start(function(problem, bytes)
      if problem or not bytes then return self:close() end
      feed(self, bytes)
    end)
  end)
  return server:getsockname().port
end

return M
