-- A store that others have written: s3rver, from npm. What tarn saves there curl reads, and the other way round.
local cluster = require "spec.helper.cluster"
local process = require "spec.helper.process"
local store = require "spec.helper.store"
local fails = cluster.fails

local MIB = 2 ^ 20

-- fn(url) with a server, by https with that key and certificate.
local function with_s3rver(fn, key, certificate)
  local program = process.start({ "/usr/bin/env", "node", process.root .. "/spec/peers/store.cjs", process.tmpdir(), key, certificate },
    { env = { NODE_PATH = process.root .. "/build/peers/node_modules" } })
  local url = (key and "https" or "http") .. "://127.0.0.1:" .. program:line(30)
  local settings = store.settings(url, { AWS_ACCESS_KEY_ID = "S3RVER", AWS_SECRET_ACCESS_KEY = "S3RVER" })
  local ok, e = pcall(store.with_env, settings, function() fn(url) end)
  require("tarn.fetch").close()
  program:close_stdin()
  if not ok then error(e, 0) end
  program:wait()
end

local function curl(...)
  local run = process.run({ "/usr/bin/env", "curl", "-sSf", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "S3RVER:S3RVER", "-H",
    "x-amz-content-sha256: UNSIGNED-PAYLOAD", ... }, { timeout_s = 60 })
  assert.equal(0, run.code, run.err)
end

describe("s3rver", function()
  it("keeps what is saved, small and in parts; curl reads the same bytes, and writes them", function()
    with_s3rver(function(url)
      local dir = process.tmpdir()
      local a = tarn.array("double", 3 * MIB)
      for i = 1, #a do a[i] = i end
      for name, x in pairs { small = { "x", { 1, 2 } }, ["large one+ü"] = { a, "y" } } do
        local path = "s3://bucket/folder/" .. name
        tarn.save(path, x)
        tarn.save(dir .. "/file", x)
        local back = tarn.load(path)
        assert.same({ #x, #x[1] }, { #back, #back[1] })
        local address = url .. "/bucket/folder/" .. name:gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end)
        curl("-o", dir .. "/read", address)
        assert.is_true(process.read_file(dir .. "/file") == process.read_file(dir .. "/read"))
        curl("-T", dir .. "/file", address .. "2")
        assert.same({ #x, #x[1] }, { #tarn.load(path .. "2"), #tarn.load(path .. "2")[1] })
      end
    end)
  end)

  it("is trusted over https for its certificate alone", function()
    local dir = process.tmpdir()
    local made = process.run { "/usr/bin/env", "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", dir .. "/key", "-out",
      dir .. "/certificate", "-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1" }
    assert.equal(0, made.code, made.err)
    with_s3rver(function(url)
      local more = { AWS_ACCESS_KEY_ID = "S3RVER", AWS_SECRET_ACCESS_KEY = "S3RVER", AWS_CA_BUNDLE = dir .. "/certificate" }
      store.with_env(store.settings(url, more), function()
        local a = tarn.array("double", 2 * MIB)
        a[#a] = 1
        tarn.save("s3://bucket/a", a)
        assert.equal(1, tarn.load("s3://bucket/a")[#a])
      end)
      require("tarn.fetch").close()
      local e = fails("IOError", tarn.load, "s3://bucket/a")
      assert.equal("ConnectionFailed", e.code)
      cluster.says(e.message, "certificate")
    end, dir .. "/key", dir .. "/certificate")
  end)

  it("refuses what AWS refuses", function()
    with_s3rver(function()
      assert.equal("NoSuchKey", fails("IOError", tarn.load, "s3://bucket/none").code)
      assert.equal("NoSuchBucket", fails("IOError", tarn.load, "s3://none/none").code)
      assert.equal("NoSuchBucket", fails("IOError", tarn.save, "s3://none/none", tarn.array("double", 2 * MIB)).code)
      store.with_env(store.settings(os.getenv "AWS_ENDPOINT_URL"), function()
        assert.equal("InvalidAccessKeyId", fails("IOError", tarn.save, "s3://bucket/x", 1).code)
      end)
    end)
  end)

  it("holds what FileRefs name", function()
    with_s3rver(function()
      local ref = tarn.poolset(tarn.array("double", 2 * MIB))
      local file = tarn.savetodisk(ref, "s3://bucket/ref")
      assert.equal(2 * MIB, #tarn.poolget(file))
      assert.equal(tarn.poolget(file), tarn.poolget(file))
      tarn.deletefromdisk(ref, file)
      assert.equal(404, fails("IOError", tarn.poolget, file).status)
    end)
  end)
end)
