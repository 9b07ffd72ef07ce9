-- Where a store is, and by whose keys: what the environment says, else the profile in ~/.aws (docs/STORES.md has the list).
local ini = require "tarn.s3.ini"
local read_file = require "tarn.read_file"

local config = {}

local function env(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

-- The sections of a file; those of none when it is not there.
local function sections(path)
  local text = read_file(path)
  return text and ini(text) or {}
end

-- What the two files say of the profile, the credentials' file first.
local function read_profile()
  local home = env "HOME" or ""
  local at = {
    credentials = env "AWS_SHARED_CREDENTIALS_FILE" or home .. "/.aws/credentials",
    config = env "AWS_CONFIG_FILE" or home .. "/.aws/config",
  }
  local named = env "AWS_PROFILE"
  local name = named or "default"
  local settings = sections(at.config)
  local keys = sections(at.credentials)[name]
  local rest = settings["profile " .. name] or name == "default" and settings.default or nil
  if named and not keys and not rest then
    return nil, ("there is no profile '%s' (AWS_PROFILE) in %s or %s"):format(name, at.credentials, at.config)
  end
  local services = rest and rest.services and settings["services " .. rest.services] or {}
  return { name = name, keys = keys or {}, rest = rest or {}, service = type(services.s3) == "table" and services.s3 or {}, files = at }
end

local OTHER_WAYS = { "role_arn", "sso_session", "sso_start_url", "credential_process", "web_identity_token_file" }

local function no_keys(profile)
  for _, way in ipairs(OTHER_WAYS) do
    if profile.rest[way] or profile.keys[way] then
      return ("profile '%s' gets its keys by %s, which tarn does not do: `eval \"$(aws configure export-credentials --format env)\"` "
        .. "puts them into the environment"):format(profile.name, way)
    end
  end
  return ("there are no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or put aws_access_key_id and aws_secret_access_key "
    .. "below [%s] in %s"):format(profile.name, profile.files.credentials)
end

-- key, secret, token; or nil, and why not.
local function credentials(profile)
  local key, secret = env "AWS_ACCESS_KEY_ID", env "AWS_SECRET_ACCESS_KEY"
  if key and secret then return key, secret, env "AWS_SESSION_TOKEN" end
  if key or secret then
    local one, other = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
    if secret then one, other = other, one end
    return nil, ("%s is set, and %s is not"):format(one, other)
  end
  for _, from in ipairs { profile.keys, profile.rest } do
    if from.aws_access_key_id and from.aws_secret_access_key then
      return from.aws_access_key_id, from.aws_secret_access_key, from.aws_session_token
    end
  end
  return nil, no_keys(profile)
end

local function number(name, otherwise, least)
  local text = env(name)
  if not text then return otherwise end
  local n = tonumber(text)
  if not n or n < least or n ~= n then return nil, ("%s is '%s', and must be a number of at least %g"):format(name, text, least) end
  return n
end

-- What the settings say; or nil, and what is wrong with them.
local function gather(profile)
  local key, secret, token = credentials(profile)
  if not key then return nil, secret end
  if (key .. secret .. (token or "")):find("%c") or key:find(":", 1, true) then
    return nil, "the access key, its secret or the session token holds a character that no key has (a line's end?)"
  end
  local region = env "AWS_REGION" or env "AWS_DEFAULT_REGION" or profile.rest.region or "us-east-1"
  if not region:find("^[%w-]+$") then return nil, ("the region '%s' is none"):format(region) end
  local endpoint = env "AWS_ENDPOINT_URL_S3" or env "AWS_ENDPOINT_URL" or profile.service.endpoint_url or profile.rest.endpoint_url
  if endpoint and not endpoint:find("^https?://[^/?#%s]+[^?#%s]*$") then
    return nil, ("the endpoint '%s' (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or endpoint_url) is no address such as http://localhost:9000")
      :format(endpoint)
  end
  local style = type(profile.rest.s3) == "table" and profile.rest.s3.addressing_style
  local self = { key = key, secret = secret, token = token, region = region, endpoint = endpoint and endpoint:gsub("/+$", "") }
  self.path_style = style == "path" or style ~= "virtual" and endpoint ~= nil
  self.ca_file = env "AWS_CA_BUNDLE" or profile.rest.ca_bundle
  return self
end

---Read anew each time: files are small, and keys are changed.
---@return table|nil config {key, secret, token, region, endpoint (nil: AWS), path_style, ca_file, attempts, silence_s}
---@return string|nil problem
function config.read()
  local profile, problem = read_profile()
  if not profile then return nil, problem end
  local self, wrong = gather(profile)
  if not self then return nil, wrong end
  self.attempts, problem = number("AWS_MAX_ATTEMPTS", 5, 1)
  if problem then return nil, problem end
  self.silence_s, problem = number("TARN_STORE_SILENCE_S", 30, 0.1)
  if problem then return nil, problem end
  return self
end

return config
