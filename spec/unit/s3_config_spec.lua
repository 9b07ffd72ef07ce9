-- Where a store is and by whose keys: the environment, and the files in ~/.aws.
local client = require "tarn.s3.client"
local config = require "tarn.s3.config"
local ini = require "tarn.s3.ini"
local place = require "tarn.place"
local process = require "spec.helper.process"
local store = require "spec.helper.store"

-- The configuration with these files and settings.
local function read(files, settings)
  local dir = process.tmpdir()
  local all = { AWS_CONFIG_FILE = process.write_file(dir .. "/config", files.config or ""),
    AWS_SHARED_CREDENTIALS_FILE = process.write_file(dir .. "/credentials", files.credentials or "") }
  for name, value in pairs(settings or {}) do all[name] = value end
  local result
  store.with_env(all, function() result = { config.read() } end)
  return unpack(result, 1, 2)
end

local KEYS = { AWS_ACCESS_KEY_ID = "K", AWS_SECRET_ACCESS_KEY = "S" }
local function with_keys(more)
  local all = {}
  for _, from in ipairs { KEYS, more } do
    for name, value in pairs(from) do all[name] = value end
  end
  return all
end

local function says(problem, ...)
  for _, part in ipairs { ... } do assert.truthy(tostring(problem):find(part, 1, true), tostring(problem)) end
end

describe("the form of ~/.aws/config", function()
  it("has sections, names with values, nested ones, and comments", function()
    assert.same({
      default = { region = "eu-west-1", s3 = { addressing_style = "path", max = "3" }, output = "json" },
      ["profile a b"] = { x = "1 = 2", y = "v" },
      empty = {},
    }, ini [[
# a comment
ignored = before any section
[default]
region = eu-west-1
s3 =
  addressing_style = path
  ; another
  max=3
output=json # behind
[ profile  a b ]
x = 1 = 2
no value here
y=v
[empty]
]])
    assert.same({ a = { b = "c" } }, ini "\r\n[a]\r\nb = c\r\n")
  end)
end)

describe("the configuration of a store", function()
  it("is the environment's, before that of files", function()
    local files = {
      credentials = "[default]\naws_access_key_id = FK\naws_secret_access_key = FS\n",
      config = "[default]\nregion = r-2\nendpoint_url = http://f\n",
    }
    local c = read(files, with_keys { AWS_SESSION_TOKEN = "T", AWS_REGION = "r-1", AWS_ENDPOINT_URL = "http://e:1/" })
    assert.same({ "K", "S", "T", "r-1", "http://e:1", true }, { c.key, c.secret, c.token, c.region, c.endpoint, c.path_style })
    c = read({}, with_keys { AWS_DEFAULT_REGION = "r-3", AWS_ENDPOINT_URL = "http://e", AWS_ENDPOINT_URL_S3 = "https://s3" })
    assert.same({ "r-3", "https://s3" }, { c.region, c.endpoint })
  end)

  it("is AWS's own, without an endpoint", function()
    local c = read({}, KEYS)
    assert.same({ "us-east-1", nil, false, 5, 30 }, { c.region, c.endpoint, c.path_style, c.attempts, c.silence_s })
  end)

  it("is that of the profile", function()
    local files = {
      credentials = "[default]\naws_access_key_id = D\naws_secret_access_key = DS\n"
        .. "[work]\naws_access_key_id = W\naws_secret_access_key = WS\naws_session_token = WT\n",
      config = "[default]\nregion = d\n"
        .. "[profile work]\nregion = w\nendpoint_url = http://general\nservices = mine\ns3 =\n  addressing_style = virtual\n"
        .. "[services mine]\ns3 =\n  endpoint_url = http://special\n"
        .. "[profile only]\naws_access_key_id = O\naws_secret_access_key = OS\nendpoint_url = http://o\n",
    }
    local c = read(files)
    assert.same({ "D", "DS", nil, "d" }, { c.key, c.secret, c.token, c.region })
    c = read(files, { AWS_PROFILE = "work" })
    assert.same({ "W", "WS", "WT", "w", "http://special", false }, { c.key, c.secret, c.token, c.region, c.endpoint, c.path_style })
    c = read(files, { AWS_PROFILE = "only" })
    assert.same({ "O", "OS", "http://o", true }, { c.key, c.secret, c.endpoint, c.path_style })
  end)

  it("says what is missing or wrong", function()
    local function problem(files, settings)
      local c, why = read(files, settings)
      assert.is_nil(c)
      return why
    end
    says(problem({}), "there are no keys", "AWS_ACCESS_KEY_ID", "/credentials")
    says(problem({}, { AWS_PROFILE = "none" }), "no profile 'none'", "/config")
    says(problem({}, { AWS_ACCESS_KEY_ID = "K" }), "AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not")
    says(problem({}, { AWS_SECRET_ACCESS_KEY = "S" }), "AWS_SECRET_ACCESS_KEY is set, and AWS_ACCESS_KEY_ID is not")
    says(problem({ config = "[default]\nrole_arn = x\n" }), "role_arn", "export-credentials")
    says(problem({}, { AWS_ACCESS_KEY_ID = "K\n", AWS_SECRET_ACCESS_KEY = "S" }), "a character that no key has")
    for _, url in ipairs { "localhost:9000", "ftp://x", "http://", "http://x?y", "http://x#y", "http://a b" } do
      says(problem({}, with_keys { AWS_ENDPOINT_URL = url }), ("'%s'"):format(url), "http://localhost:9000")
    end
    says(problem({}, with_keys { AWS_REGION = "eu west" }), "region 'eu west'")
    says(problem({}, with_keys { AWS_MAX_ATTEMPTS = "many" }), "AWS_MAX_ATTEMPTS is 'many'")
    says(problem({}, with_keys { TARN_STORE_SILENCE_S = "0" }), "TARN_STORE_SILENCE_S is '0'")
  end)
end)

describe("the address of an object", function()
  local function address(path, settings)
    local url
    store.with_env(with_keys(settings), function() url = client.new(place.of(path, "a spec"), "read", "a spec").url end)
    return url
  end

  it("has the bucket in the host's name at AWS, where that has a certificate", function()
    local region = { AWS_REGION = "eu-west-1" }
    assert.equal("https://my-bucket.s3.eu-west-1.amazonaws.com/a/b", address("s3://my-bucket/a/b", region))
    assert.equal("https://s3.eu-west-1.amazonaws.com/my.bucket/a/b", address("s3://my.bucket/a/b", region))
  end)

  it("has it in the path elsewhere, unless the profile says otherwise", function()
    assert.equal("http://host:9000/base/bucket/key", address("s3://bucket/key", { AWS_ENDPOINT_URL = "http://host:9000/base/" }))
    local file = process.write_file(process.tmpdir() .. "/config", "[default]\ns3 =\n  addressing_style = virtual\n")
    local settings = { AWS_ENDPOINT_URL = "http://host:9000", AWS_CONFIG_FILE = file }
    assert.equal("http://bucket.host:9000/key", address("s3://bucket/key", settings))
  end)

  it("has every byte of the key escaped that the signature wants escaped", function()
    assert.equal("http://h/bucket/%3F%23%25%2B%20%26%3D%3A%40%24%2C%3B~-._/../%C3%BC//x",
      address("s3://bucket/?#%+ &=:@$,;~-._/../\195\188//x", { AWS_ENDPOINT_URL = "http://h" }))
  end)
end)
