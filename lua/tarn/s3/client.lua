-- Signed requests about one object of a store, sent again where that makes sense: after a broken connection, a silent store, 429 and 5xx.
local config = require "tarn.s3.config"
local core = require "tarn.core"
local failure = require "tarn.s3.failure"
local fetch = require "tarn.fetch"
local task = require "tarn.task"

local client = {}

local Client = {}
Client.__index = Client

local FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 20
local EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

local function escape(text, kept) return (text:gsub("[^%w._~" .. kept .. "-]", function(c) return ("%%%02X"):format(c:byte()) end)) end

-- A bucket whose name has dots in it has no certificate as a host.
local function address(self)
  local c, at = self.config, self.at
  local path = escape(at.key, "/")
  if not c.endpoint and not c.path_style and not at.bucket:find(".", 1, true) then
    return ("https://%s.s3.%s.amazonaws.com/%s"):format(at.bucket, c.region, path)
  end
  local endpoint = c.endpoint or ("https://s3.%s.amazonaws.com"):format(c.region)
  if c.endpoint and not c.path_style then return (endpoint:gsub("://", "://" .. at.bucket .. ".", 1)) .. "/" .. path end
  return ("%s/%s/%s"):format(endpoint, at.bucket, path)
end

---@param at table place
---@param did string what is done to it, for errors: "read", "written", "deleted"
---@param what string who asks, as "tarn.save"
function client.new(at, did, what)
  local settings, problem = config.read()
  local self = setmetatable({ at = at, did = did, what = what, config = settings }, Client)
  if not settings then self:fail("BadConfiguration", problem) end
  self.url = address(self)
  return self
end

-- Raise: its message begins with the user's line.
function Client:fail(code, message, status) core.raise(failure.new(self.at, self.did, code, message, status)) end

-- {{name, value}, ...} in the order of names, as it is signed.
local function query_of(query)
  local parts = {}
  for i, pair in ipairs(query or {}) do parts[i] = pair[1] .. "=" .. escape(pair[2], "") end
  return #parts > 0 and "?" .. table.concat(parts, "&") or ""
end

-- Over https nobody can change what is sent; over http the signature covers it, which costs its digest.
local function digest(self, r)
  if not r.body or r.body == "" then return EMPTY_SHA256 end
  if self.url:find("^https:") then return "UNSIGNED-PAYLOAD" end
  if type(r.body) == "string" then return core.sha256(r.body) end
  return r.body:sha256(r.at, r.size)
end

local function make(self, r)
  local c = self.config
  local headers = { "Expect:", "Content-Type:", "x-amz-content-sha256: " .. digest(self, r) }
  if c.token then headers[#headers + 1] = "x-amz-security-token: " .. c.token end
  for _, header in ipairs(r.headers or {}) do headers[#headers + 1] = header end
  return {
    method = r.method, url = self.url .. query_of(r.query), headers = headers, sign = ("aws:amz:%s:s3"):format(c.region),
    user_key = c.key .. ":" .. c.secret, ca_file = c.ca_file, silence_ms = c.silence_s * 1000,
    whole = r.whole, body = r.body, at = r.at, size = r.size, into = r.into, into_at = r.into_at, into_size = r.into_size,
  }
end

local AGAIN = { [408] = true, [429] = true, [500] = true, [502] = true, [503] = true, [504] = true }
local AGAIN_CODES = { RequestTimeout = true, SlowDown = true, InternalError = true, ServiceUnavailable = true, Throttling = true }

local function is_success(reply) return not reply.problem and reply.status >= 200 and reply.status < 300 end

local function may_pass(reply) return reply.passing or AGAIN[reply.status] or AGAIN_CODES[failure.code(reply)] or false end

-- Longer each time, and not the same for all (math.random is the user's); as long as the store says, if it does.
local function pause(attempt, reply)
  local longest = math.min(FIRST_PAUSE_S * 2 ^ attempt, LONGEST_PAUSE_S)
  local wanted = tonumber(reply.headers["retry-after"]) or 0
  local any = core.clock() * 1e6 % 1
  task.sleep(math.min(math.max(longest * (1 + any) / 2, wanted), LONGEST_PAUSE_S))
end

---Send until it succeeds, or cannot.
---@param r table {method, query, headers, body, at, size, into, into_at, into_size; accept(reply): is one of 2xx a success; again(reply):
--- change r for the next attempt}
---@return table reply
---@return integer attempts
function Client:send(r)
  for attempt = 1, self.config.attempts do
    local request = make(self, r)
    local sent, reply = pcall(fetch.send, request, self.what)
    if not sent then
      r.late = request.late
      error(reply, 0)
    end
    if is_success(reply) and (not r.accept or r.accept(reply)) then return reply, attempt end
    if attempt + 1 > self.config.attempts or not may_pass(reply) or task.stopping() then
      core.raise(failure.of(self.at, self.did, reply, attempt))
    end
    pause(attempt, reply)
    if r.again then r.again(reply) end
  end
end

return client
