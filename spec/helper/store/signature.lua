-- AWS Signature Version 4, checked as a store does: written from its description, apart from libcurl.
local ffi = require "ffi"

ffi.cdef [[
typedef struct { uint8_t opaque[512]; } tarn_spec_hmac_t;
int crypto_auth_hmacsha256_init(tarn_spec_hmac_t *state, const char *key, size_t size);
int crypto_auth_hmacsha256_update(tarn_spec_hmac_t *state, const char *bytes, unsigned long long size);
int crypto_auth_hmacsha256_final(tarn_spec_hmac_t *state, unsigned char *out);
int crypto_hash_sha256(unsigned char *out, const char *bytes, unsigned long long size);
]]

local M = {}

local function hex(bytes) return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

function M.sha256(text)
  local out = ffi.new "unsigned char[32]"
  ffi.C.crypto_hash_sha256(out, text, #text)
  return hex(ffi.string(out, 32))
end

local function hmac(key, text)
  local state, out = ffi.new "tarn_spec_hmac_t", ffi.new "unsigned char[32]"
  ffi.C.crypto_auth_hmacsha256_init(state, key, #key)
  ffi.C.crypto_auth_hmacsha256_update(state, text, #text)
  ffi.C.crypto_auth_hmacsha256_final(state, out)
  return ffi.string(out, 32)
end

local function canonical_query(query)
  local parts = {}
  for part in query:gmatch("[^&]+") do parts[#parts + 1] = part:find("=", 1, true) and part or part .. "=" end
  table.sort(parts)
  return table.concat(parts, "&")
end

-- The signature that the request should have, by the secret.
local function expected(r, secret, date, region, service, signed)
  local lines = { r.method, r.path, canonical_query(r.query) }
  for name in signed:gmatch("[^;]+") do lines[#lines + 1] = name .. ":" .. (r.headers[name] or ""):gsub("%s+", " ") end
  lines[#lines + 1] = ""
  lines[#lines + 1] = signed
  lines[#lines + 1] = r.headers["x-amz-content-sha256"]
  local scope = table.concat({ date, region, service, "aws4_request" }, "/")
  local text = table.concat({ "AWS4-HMAC-SHA256", r.headers["x-amz-date"], scope, M.sha256(table.concat(lines, "\n")) }, "\n")
  local key = hmac(hmac(hmac(hmac("AWS4" .. secret, date), region), service), "aws4_request")
  return hex(hmac(key, text))
end

-- nil when it is signed well, over what the store wants; else the code of the error. keys: key -> secret.
function M.problem(r, keys, region)
  local key, date, in_region, service, signed, signature = (r.headers.authorization or ""):match(
    "^AWS4%-HMAC%-SHA256 Credential=([^/]+)/(%d+)/([^/]+)/([^/]+)/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(%x+)$")
  if not key then return "AccessDenied" end
  if not keys[key] then return "InvalidAccessKeyId" end
  if in_region ~= region then return "AuthorizationHeaderMalformed" end
  for name in pairs(r.headers) do
    local must_be = name == "host" or name:find("^x%-amz%-")
    if must_be and not (";" .. signed .. ";"):find(";" .. name .. ";", 1, true) then return "AccessDenied" end
  end
  if service ~= "s3" or expected(r, keys[key], date, in_region, service, signed) ~= signature then return "SignatureDoesNotMatch" end
end

return M
