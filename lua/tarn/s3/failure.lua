-- What a store has said that it will not do, as an error that says what to do about it.
local errors = require "tarn.errors"

local failure = {}

local ENTITIES = { amp = "&", lt = "<", gt = ">", quot = '"', apos = "'" }

-- The text of the first <name> in a reply's XML; nil: it has none.
function failure.field(xml, name)
  local text = xml:match("<" .. name .. ">([^<]*)</" .. name .. ">")
  return text and text:gsub("&#(%d+);", function(n) return tonumber(n) < 128 and string.char(n) or nil end):gsub("&(%a+);", ENTITIES)
end

local BY_STATUS = { [301] = "PermanentRedirect", [307] = "TemporaryRedirect", [403] = "AccessDenied", [404] = "NotFound",
  [412] = "PreconditionFailed", [416] = "InvalidRange", [429] = "TooManyRequests", [503] = "ServiceUnavailable" }

local TO_DO = {
  NoSuchBucket = "create the bucket, or look at its name, and at the endpoint",
  NoSuchKey = "look at the key; nothing is stored by it",
  NotFound = "look at bucket and key; nothing is stored by them",
  InvalidAccessKeyId = "the store does not know this access key: set AWS_ACCESS_KEY_ID, or the profile, to one of this store's",
  SignatureDoesNotMatch = "the secret is not that of this access key: set AWS_SECRET_ACCESS_KEY",
  AccessDenied = "these keys may not do it; where they may not list the bucket either, it may also be that there is no such key",
  ExpiredToken = "get new keys: these have expired",
  InvalidToken = "AWS_SESSION_TOKEN does not belong to these keys: set it anew, or unset it",
  RequestTimeTooSkewed = "set this machine's clock",
  PreconditionFailed = "it was replaced while it was being read: load it again",
  EntityTooLarge = "the store takes no object of this size",
}

local function region_of(reply)
  local region = reply.headers["x-amz-bucket-region"] or failure.field(reply.text, "Region")
  return region and ("set AWS_REGION=%s, where the bucket is"):format(region) or "set AWS_REGION to where the bucket is, or the endpoint"
end

local REDIRECTS = { PermanentRedirect = true, TemporaryRedirect = true, AuthorizationHeaderMalformed = true,
  IllegalLocationConstraintException = true }

-- The code of a reply that is no success.
function failure.code(reply)
  if reply.problem then return reply.kind == "Timeout" and "Silent" or "ConnectionFailed" end
  return failure.field(reply.text, "Code") or BY_STATUS[reply.status] or ("HTTP%d"):format(reply.status)
end

local function to_do(code, reply)
  if REDIRECTS[code] then return region_of(reply) end
  if reply.problem then return "look at the endpoint and the network" end
  return TO_DO[code] or (reply.status >= 500 or reply.status == 429) and "the store is in trouble: try again later" or nil
end

---An IOError about an object; not raised.
---@param at table place
---@param did string "read", "written"
---@param code string
---@param message string
---@param status? integer
function failure.new(at, did, code, message, status)
  return errors.new("IOError", ("%s cannot be %s: %s"):format(at.path, did, message),
    { path = at.path, bucket = at.bucket, key = at.key, status = status, code = code })
end

---The same for a reply that is no success, after so many attempts.
function failure.of(at, did, reply, attempts)
  local code = failure.code(reply)
  local said = failure.field(reply.text, "Message") -- none is in the reply to a HEAD
  local parts = { reply.problem or ("%s (%d)%s"):format(code, reply.status, said and ": " .. said:gsub("%.$", "") or "") }
  if attempts > 1 then parts[1] = ("%s, at the last of %d attempts"):format(parts[1], attempts) end
  parts[2] = to_do(code, reply)
  return failure.new(at, did, code, table.concat(parts, "; "), not reply.problem and reply.status or nil)
end

return failure
