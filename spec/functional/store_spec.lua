-- Saved files as objects in a store: what is written is read, by signed requests in bounded parts; and every way in which a store, or what
-- leads to it, can fail.
local cluster = require "spec.helper.cluster"
local core = require "tarn.core"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local store = require "spec.helper.store"
local uv = require "luv"
local fails, says, with = cluster.fails, cluster.says, cluster.with

local MIB = 2 ^ 20
local PATH = "s3://bucket/folder/a key+ü.tarn"
local KEY = "folder/a key+ü.tarn"

local function numbers(n, first)
  local a = tarn.array("double", n)
  for i = 1, n do a[i] = (first or 0) + i end
  return a
end

-- Larger than a part, smaller than two.
local LARGE = 1.25 * MIB
local function large(first) return numbers(LARGE, first) end

-- The IOError that it must raise: about the object, and saying each of the parts.
local function refused(code, status, fn, ...)
  local e = fails("IOError", fn, ...)
  says(e.message, "s3://bucket/")
  assert.same({ "bucket", code, status }, { e.bucket, e.code, e.status }, tostring(e))
  assert.equal("s3://bucket/" .. e.key, e.path)
  return e
end

describe("a store", function()
  local s -- the present case's

  -- A case with a store, and the environment that leads to it; no upload may be left in it.
  local function case(name, fn, more)
    it(name, function()
      store.with(function(new)
        s = new
        fn()
        assert.equal(0, s:uploads(), "uploads are left")
      end, more)
    end)
  end

  local function met_all()
    for i, met in ipairs(s:clear()) do assert.is_true(met > 0, ("fault %d was not met"):format(i)) end
  end

  ---------------------------------------------------------------------------------------------------- what is written is read

  case("keeps values of every size around its bounds", function()
    for _, n in ipairs { 0, 1, 100, MIB / 8 - 30, MIB / 8, MIB - 40, MIB - 1, MIB, MIB + 100001, 3 * MIB } do
      tarn.save(PATH, { numbers(n), "between", n = n })
      local back = tarn.load(PATH)
      assert.same({ n, n, "between" }, { back.n, #back[1], back[2] })
      for i = 1, n, 997 do assert.equal(i, back[1][i]) end
      assert.equal(n > 0 and n or nil, back[1][n])
    end
  end)

  case("keeps plain values and many columns, and gives what was saved last", function()
    local text = ("x"):rep(11 * MIB) .. "end"
    tarn.save(PATH, text)
    assert.equal(text, tarn.load(PATH))
    local many = {}
    for i = 1, 3000 do many[i] = numbers(i % 700, i) end
    tarn.save(PATH, many)
    local back = tarn.load(PATH)
    for i = 1, 3000 do assert.same({ i % 700, i % 700 > 0 and i + 1 or nil }, { #back[i], back[i][1] }) end
    tarn.save(PATH, nil)
    assert.is_nil(tarn.load(PATH))
  end)

  case("gives the bytes of a saved file", function()
    local path = process.tmpdir() .. "/x"
    local x = { large(), "two", { 3 } }
    tarn.save(path, x)
    tarn.save(PATH, x)
    assert.is_true(process.read_file(path) == s:object(KEY))
    s:put("copied", process.read_file(path))
    assert.equal("two", tarn.load("s3://bucket/copied")[2])
  end)

  case("reads columns as sealed as those of a file", function()
    tarn.save(PATH, numbers(100000))
    local back = tarn.load(PATH)
    fails("ArgumentError", function() back[1] = 0 end)
    local copy = back:copy()
    copy[1] = 0
    assert.equal(1, back[1])
  end)

  case("loads what is larger than the budget", function()
    tarn.save(PATH, large())
    with(1, function(ids)
      local sum = tarn.remotecall_fetch(ids[1], function(path)
        local a, sum = tarn.load(path), 0
        for i = 1, #a do sum = sum + a[i] end
        return sum
      end, PATH)
      assert.equal(LARGE * (LARGE + 1) / 2, sum)
    end, { memory = "8MB" })
  end)

  case("refuses functions unless they are allowed, and references", function()
    tarn.save(PATH, { f = function() return 42 end })
    says(fails("Corrupt", tarn.load, PATH).message, "holds a function")
    assert.equal(42, tarn.load(PATH, { code = true }).f())
    says(fails("ArgumentError", tarn.load, PATH, { cod = true }).message, "unknown option 'cod'")
    says(fails("NotSerializable", tarn.save, PATH, { tarn.poolset(1) }).message, "DRef cannot be saved")
  end)

  ---------------------------------------------------------------------------------------------------- requests

  case("is asked for signed parts of at most 8 MiB, few at a time", function()
    tarn.save(PATH, large())
    local kinds, parts = {}, 0
    for _, r in ipairs(s:log()) do
      kinds[r.kind] = (kinds[r.kind] or 0) + 1
      if r.kind == "PART" then
        parts = parts + r.length
        assert.is_true(r.length <= 8 * MIB)
        assert.matches("^%x+$", r.digest) -- over http the body is signed too
      end
    end
    assert.same({ BEGIN = 1, PART = 2, COMPLETE = 1 }, kinds)
    assert.equal(#s:object(KEY), parts)
    tarn.load(PATH)
    local first
    for i, r in ipairs(s:log()) do
      local from, to = r.range:match("bytes=(%d+)-(%d+)")
      first = first or tonumber(to)
      assert.is_true(to - from < 8 * MIB)
      assert.equal(i == 1 and 0 or first + 1, i <= 2 and tonumber(from) or first + 1)
    end
    assert.equal(MIB - 1, first)
  end)

  case("gets one request for what is small", function()
    tarn.save(PATH, { 1, 2, 3 })
    tarn.load(PATH)
    local kinds = {}
    for i, r in ipairs(s:log()) do kinds[i] = r.kind end
    assert.same({ "PUT", "GET" }, kinds)
  end)

  case("gets the session's token", function()
    tarn.save(PATH, 1)
    assert.equal("the token", s:log()[1].token)
  end, { AWS_SESSION_TOKEN = "the token" })

  case("is asked as `curl --aws-sigv4` asks", function()
    tarn.save(PATH, 1)
    tarn.load(PATH)
    for _, r in ipairs(s:log()) do
      local argv = { "/usr/bin/env", "curl", "-sS", "-o", "/dev/null", "-X", r.method, "--aws-sigv4", "aws:amz:us-east-1:s3", "--user",
        "KEY:SECRET", "-H", "x-amz-date: " .. r.date, "-H", "x-amz-content-sha256: " .. r.digest, "-H", "Content-Type:", "-H", "Expect:" }
      if r.range then
        argv[#argv + 1] = "-H"
        argv[#argv + 1] = "Range: " .. r.range
      else
        argv[#argv + 1] = "--data-binary"
        argv[#argv + 1] = "@" .. process.write_file(process.tmpdir() .. "/body", s:object(KEY))
      end
      argv[#argv + 1] = s.url .. r.path
      assert.equal("", process.run(argv).err)
      local theirs = s:log()[1]
      assert.same({ r.method, r.date, r.authorization }, { theirs.method, theirs.date, theirs.authorization })
    end
  end)

  case("lets other tasks go on while it is slow", function()
    tarn.save(PATH, numbers(2000))
    s:fault { on = "GET", drip_ms = 20 }
    local ticks, done = 0, false
    local other = tarn.async(function()
      while not done do
        tarn.sleep(0.005)
        ticks = ticks + 1
      end
    end)
    assert.equal(2000, tarn.load(PATH)[2000])
    done = true
    other:fetch()
    assert.is_true(ticks > 10)
    met_all()
  end, { TARN_STORE_SILENCE_S = "1" })

  ---------------------------------------------------------------------------------------------------- refusals

  case("refuses wrong keys: the error says which and what to do", function()
    store.with_env(store.settings(s.url, { AWS_SECRET_ACCESS_KEY = "wrong" }), function()
      local e = refused("SignatureDoesNotMatch", 403, tarn.save, PATH, 1)
      says(e.message, "cannot be written", "AWS_SECRET_ACCESS_KEY", 'The specs say "')
      refused("SignatureDoesNotMatch", 403, tarn.save, PATH, large())
      refused("SignatureDoesNotMatch", 403, tarn.load, PATH)
    end)
    store.with_env(store.settings(s.url, { AWS_ACCESS_KEY_ID = "OTHER" }), function()
      says(refused("InvalidAccessKeyId", 403, tarn.load, PATH).message, "cannot be read", "AWS_ACCESS_KEY_ID")
    end)
    store.with_env(store.settings(s.url, { AWS_REGION = "eu-west-1" }), function()
      says(refused("AuthorizationHeaderMalformed", 400, tarn.load, PATH).message, "AWS_REGION=us-east-1")
    end)
  end)

  case("has no such bucket or key", function()
    says(refused("NoSuchKey", 404, tarn.load, PATH).message, "look at the key")
    local e = fails("IOError", tarn.save, "s3://other/key", 1)
    assert.same({ "other", "key", 404, "NoSuchBucket" }, { e.bucket, e.key, e.status, e.code })
    says(e.message, "s3://other/key cannot be written", "create the bucket")
    says(fails("IOError", tarn.save, "s3://other/key", large()).code, "NoSuchBucket")
  end)

  case("is not asked without keys, nor at an address that is none", function()
    store.with_env(store.settings(s.url, { AWS_ACCESS_KEY_ID = "", AWS_SECRET_ACCESS_KEY = "" }), function()
      says(refused("BadConfiguration", nil, tarn.load, PATH).message, "there are no keys", "AWS_ACCESS_KEY_ID", "/nowhere/credentials")
    end)
    store.with_env(store.settings("localhost:9000"), function()
      says(refused("BadConfiguration", nil, tarn.load, PATH).message, "'localhost:9000'", "http://localhost:9000")
    end)
    assert.same({}, s:log())
  end)

  case("cannot be reached: tried again, then an error", function()
    store.with_env(store.settings("http://127.0.0.1:1", { AWS_MAX_ATTEMPTS = "2" }), function()
      says(refused("ConnectionFailed", nil, tarn.load, PATH).message, "127.0.0.1 port 1", "at the last of 2 attempts", "endpoint")
    end)
    store.with_env(store.settings("http://nowhere.invalid", { AWS_MAX_ATTEMPTS = "1" }), function()
      says(refused("ConnectionFailed", nil, tarn.load, PATH).message, "nowhere.invalid")
    end)
  end)

  it("is named by paths that make sense", function()
    local long = "s3://bucket/" .. ("x"):rep(1025)
    for _, path in ipairs { "s3://", "s3://bucket", "s3://bucket/", "s3:///key", "s3://a b/c", "s3://bucket/a\nb", "ftp://x/y", long } do
      fails("ArgumentError", tarn.save, path, 1)
      fails("ArgumentError", tarn.load, path)
    end
    local ref = tarn.poolset(1)
    says(fails("ArgumentError", tarn.movetodisk, ref, PATH).message, "tarn.savetodisk")
    fails("ArgumentError", tarn.copytodisk, ref, PATH)
    says(fails("ArgumentError", tarn.arrow.load, PATH).message, "only a file")
  end)

  ---------------------------------------------------------------------------------------------------- faults that pass

  local function passes(name, fault, settings)
    case("is asked again: " .. name, function()
      local object, small = large(7), numbers(10)
      tarn.save("s3://bucket/before", object)
      tarn.save("s3://bucket/small", small)
      s:fault(fault)
      tarn.save(PATH, object)
      assert.equal(7 + LARGE, tarn.load("s3://bucket/before")[LARGE])
      tarn.save("s3://bucket/small", small)
      assert.equal(10, tarn.load("s3://bucket/small")[10])
      met_all()
      assert.equal(8, tarn.load(PATH)[1])
    end, settings)
  end

  local QUICK = { TARN_STORE_SILENCE_S = "0.5" }
  passes("500 to a part, twice", { on = "PART", status = 500, code = "InternalError", times = 2 })
  passes("503 to the beginning", { on = "BEGIN", status = 503, code = "SlowDown" })
  passes("429 to a range", { on = "GET", skip = 1, status = 429, code = "TooManyRequests" })
  passes("an error in a 200 at the end", { on = "COMPLETE", error = "InternalError" })
  passes("a connection cut within a part", { on = "PART", skip = 1, cut = MIB })
  passes("a connection cut within what is small", { on = "PUT", cut = 1 })
  passes("a connection cut at the end, and it was done", { on = "COMPLETE", done = true })
  passes("a connection cut within the first range", { on = "GET", cut = 1000 })
  passes("connections cut within ranges", { on = "GET", skip = 1, times = 3, cut = MIB / 2 })
  passes("a range without an answer", { on = "GET", skip = 2, silent = true }, QUICK)
  passes("a part without an answer", { on = "PART", silent = true }, QUICK)
  passes("a range that ends too soon", { on = "GET", skip = 1, announce = 2 * MIB * 4 + 1, cut = 4 * MIB })

  case("is asked for the rest of a range, not for what has come", function()
    tarn.save(PATH, large())
    s:log()
    s:fault { on = "GET", skip = 1, cut = MIB / 2 }
    tarn.load(PATH)
    met_all()
    local starts = {}
    for _, r in ipairs(s:log()) do starts[tonumber(r.range:match("=(%d+)"))] = true end
    local resumed = false
    for from in pairs(starts) do resumed = resumed or (from - MIB) % (8 * MIB) ~= 0 and from > MIB end
    assert.is_true(resumed, "the range began anew")
  end)

  ---------------------------------------------------------------------------------------------------- faults that do not

  -- An error with that code from a save and a load under the fault, and afterwards the old object, and no parts.
  local function stays(name, fault, code, status, parts, settings)
    case("fails, and the old object stays: " .. name, function()
      tarn.save(PATH, large(1))
      local old = s:object(KEY)
      s:log()
      s:fault(fault)
      local e = refused(code, status, tarn.save, PATH, large())
      says(e.message, unpack(parts))
      met_all()
      assert.equal(1, s:count("ABORT"))
      assert.is_true(old == s:object(KEY))
    end, settings)
  end

  local TWO = { AWS_MAX_ATTEMPTS = "2", TARN_STORE_SILENCE_S = "0.5" }
  stays("500 to every part", { on = "PART", status = 500, code = "InternalError", times = 100 }, "InternalError", 500,
    { "cannot be written", "at the last of 2 attempts", "try again later" }, TWO)
  stays("every part cut", { on = "PART", cut = MIB, times = 100 }, "ConnectionFailed", nil, { "at the last of 2 attempts" }, TWO)
  stays("no answer to parts", { on = "PART", silent = true, times = 100 }, "Silent", nil, { "not a byte for 0.5 s" }, TWO)
  stays("a refused part", { on = "PART", skip = 1, status = 403, code = "AccessDenied" }, "AccessDenied", 403, { "these keys" })
  stays("an error in a 200 at the end", { on = "COMPLETE", error = "InvalidPart" }, "InvalidPart", 200, { "InvalidPart" })
  stays("the upload is lost at the end, and the old object is as large", { on = "COMPLETE", lost = true }, "NoSuchUpload", 404,
    { "NoSuchUpload" })
  stays("no answer to the end", { on = "COMPLETE", silent = true, times = 100 }, "Silent", nil, { "not a byte" }, TWO)

  local function unreadable(name, fault, code, status, parts, settings)
    case("cannot be read: " .. name, function()
      tarn.save(PATH, large())
      s:fault(fault)
      says(refused(code, status, tarn.load, PATH).message, "cannot be read", unpack(parts))
      met_all()
      assert.equal(1, tarn.load(PATH)[1])
    end, settings)
  end

  unreadable("replaced between two ranges", { on = "GET", skip = 1, touch = true }, "PreconditionFailed", 412, { "load it again" })
  unreadable("another range than was asked for", { on = "GET", skip = 1, shift = 1 }, "WrongReply", 206, { "were asked for" })
  unreadable("another first range", { on = "GET", shift = 1 }, "WrongReply", 206, { "bytes 1 to" })
  unreadable("fewer bytes than said", { on = "GET", skip = 1, announce = 1000, times = 3 }, "WrongReply", 206, { "1000 bytes came" })
  unreadable("no answer", { on = "GET", silent = true, times = 2 }, "Silent", nil, { "not a byte for 0.5 s", "2 attempts" }, TWO)
  unreadable("cut each time", { on = "GET", cut = 0, times = 2 }, "ConnectionFailed", nil, { "2 attempts" }, TWO)
  unreadable("500 each time", { on = "GET", status = 500, code = "InternalError", times = 2 }, "InternalError", 500, { "2 attempts" }, TWO)

  case("holds what is no saved file, or a damaged one", function()
    tarn.save(PATH, large())
    local bytes = s:object(KEY)
    local function corrupt(text, part)
      s:put(KEY, text)
      local e = fails("Corrupt", tarn.load, PATH)
      assert.equal(PATH, e.path)
      says(e.message, PATH, part)
    end
    local function spoilt(at) return bytes:sub(1, at - 1) .. string.char((bytes:byte(at) + 1) % 256) .. bytes:sub(at + 1) end
    corrupt(("hello, world"):rep(100), "not a tarn file")
    corrupt("hello", "5 bytes")
    corrupt(spoilt(20), "checksum")
    corrupt(spoilt(66), "checksum")
    corrupt(spoilt(130), "checksum")
    corrupt(spoilt(5 * MIB), "checksum of block 0")
    corrupt(spoilt(#bytes), "checksum of block 0")
    corrupt(bytes:sub(1, -2), "bytes")
    corrupt(bytes .. "x", "bytes")
    s:put(KEY, "")
    assert.equal("InvalidRange", fails("IOError", tarn.load, PATH).code)
    s:put(KEY, bytes)
    assert.equal(1, tarn.load(PATH)[1])
  end)

  case("gets nothing of a value that is changed meanwhile", function()
    local a = large()
    s:fault { on = "PART", silent = true }
    local saving = tarn.async(tarn.save, PATH, a)
    assert.is_true(cluster.becomes(function() return s:uploads() == 1 end))
    a[LARGE] = -1
    says(fails("IOError", saving.fetch, saving).message, "changed while it was being written")
    assert.is_nil(s:object(KEY))
  end, QUICK)

  ---------------------------------------------------------------------------------------------------- ends

  case("is left clean by a save that is given up", function()
    local a = large()
    s:fault { on = "PART", silent = true, times = 100 }
    fails("Timeout", tarn.timeout, 0.3, tarn.save, PATH, a)
    assert.is_true(cluster.becomes(function() return s:uploads() == 0 end))
    assert.is_nil(s:object(KEY))
    s:clear()
    tarn.save(PATH, a)
    fails("Timeout", function()
      s:fault { on = "GET", silent = true, times = 100 }
      tarn.timeout(0.3, tarn.load, PATH)
    end)
    s:clear()
    assert.equal(1, tarn.load(PATH)[1])
  end)

  case("is left clean by a save that is given up while it begins", function()
    s:fault { on = "BEGIN", late_ms = 500 }
    fails("Timeout", tarn.timeout, 0.2, tarn.save, PATH, large())
    assert.is_true(cluster.becomes(function() return s:count("ABORT") == 1 end))
    assert.equal(0, s:uploads())
    met_all()
  end)

  local function ends(how, script, finish)
    case("is left clean by a process that ends in the middle of a save: " .. how, function()
      s:fault { on = "PART", silent = true, times = 100 }
      local run = process.start_script(script, { env = store.settings(s.url) })
      assert.is_true(cluster.becomes(function() return s:uploads() == 1 end))
      finish(run)
      assert.is_true(run:wait().seconds < 10 * process.patience)
      assert.equal(0, s:uploads())
    end)
  end

  ends("by itself", [[tarn.async(function() tarn.save("s3://bucket/key", tarn.array("double", 4e6)) end)]] .. process.SERVE .. "()",
    function(run) run:close_stdin() end)
  ends("by Ctrl-C", [[tarn.save("s3://bucket/key", tarn.array("double", 4e6))]], function(run) run:kill(posix.SIGINT) end)

  -- In a process of its own: where TLS between processes has been used, OpenSSL's memory is tarn's, and libcurl's use of it does not expect
  -- that to fail.
  case("is saved to and loaded from as long as there is memory: each allocation fails in turn", function()
    tarn.save(PATH, large())
    local result = process.run_script(([[
      package.path = %q .. package.path
      local faults = require "spec.helper.faults"
      local small, path = { ("x"):rep(100), { 1, 2 } }, %q
      local function run(n)
        faults.alloc_at(n)
        local ok, e = pcall(function()
          tarn.save("s3://bucket/small", small)
          tarn.load("s3://bucket/small")
          tarn.load(path)
        end)
        local failed = faults.alloc_stop()
        if not ok then assert(tarn.iserror(e), tostring(e)) end
        collectgarbage()
        return failed
      end
      print(faults.sweep(run), #tarn.load(path))
    ]]):format(uv.cwd() .. "/?.lua;", PATH), { env = store.settings(s.url, { AWS_MAX_ATTEMPTS = "1" }) })
    assert.equal(0, result.code, result.err)
    local failed, length = result.out:match("^(%d+)\t(%d+)\n$")
    assert.is_true(tonumber(failed) > 20, result.out)
    assert.equal(LARGE, tonumber(length))
  end)

  -- On a worker: by how much its anonymous memory, in which the value itself is not, is more meanwhile than before.
  local function grown(path)
    local function anonymous()
      local file = io.open("/proc/self/status")
      local text = file:read("*a")
      file:close()
      return tonumber(text:match("RssAnon:%s*(%d+)")) * 1024
    end
    local function peak_of(fn)
      local before, peak, done = anonymous(), 0, false
      local watching = tarn.async(function()
        while not done do
          peak = math.max(peak, anonymous())
          tarn.sleep(0.001)
        end
      end)
      fn()
      done = true
      watching:fetch()
      return peak - before
    end
    local a = tarn.array("double", 16 * 2 ^ 20)
    a[#a] = 1
    tarn.save(path, 1) -- libcurl is loaded
    local saving = peak_of(function() tarn.save(path, a) end)
    a = nil
    local back
    local loading = peak_of(function() back = tarn.load(path) end)
    assert(back[#back] == 1)
    return saving, loading
  end

  case("is used with a few MiB beside a value of 128 #footprint", function()
    with(1, function(ids)
      local saving, loading = tarn.remotecall_fetch(ids[1], grown, PATH)
      assert.is_true(saving < 8 * MIB, "saving took " .. saving)
      assert.is_true(loading < 8 * MIB, "loading took " .. loading)
    end)
  end)

  ---------------------------------------------------------------------------------------------------- FileRefs

  case("holds what FileRefs name, for every process", function()
    with(2, function(ids)
      local ref = tarn.remotecall_fetch(ids[1], function()
        local a = tarn.array("double", 100000)
        a[100000] = 5
        return tarn.poolset(a)
      end)
      local file = tarn.savetodisk(ref, PATH)
      assert.same({ PATH, 800000, nil }, { file.path, file.size, file.host })
      assert.equal(("FileRef(%s, 800000 bytes)"):format(PATH), tostring(file))
      assert.equal(file, tarn.savetodisk(ref, PATH))
      assert.equal(file:key(), tarn.remotecall_fetch(ids[2], function(f) return f:key() end, file))
      tarn.pooldelete(ref)
      local function last(f) return tarn.poolget(f)[100000] end
      for _, id in ipairs { 1, ids[1], ids[2] } do assert.equal(5, tarn.remotecall_fetch(id, last, file)) end
      assert.equal(3, #tarn.who_has_read(file))
      assert.equal(3, #tarn.who_has_read(PATH))
      s:log()
      assert.equal(tarn.poolget(file), tarn.poolget(file))
      local kinds = {}
      for i, r in ipairs(s:log()) do kinds[i] = r.kind end
      assert.same({ "HEAD", "HEAD" }, kinds) -- it is looked at, not read again
    end)
  end)

  case("holds what FileRefs name: read anew when it has changed, and gone when it is deleted", function()
    local ref = tarn.poolset(numbers(1000))
    local file = tarn.savetodisk(ref, PATH)
    assert.equal(1000, tarn.poolget(file)[1000])
    tarn.save(PATH, { "new" })
    assert.equal("new", tarn.poolget(file)[1])
    s:put(KEY, "hello, world")
    says(fails("Corrupt", tarn.deletefromdisk, ref, file).message, PATH, "left alone")
    assert.equal("hello, world", s:object(KEY))
    tarn.savetodisk(ref, PATH)
    tarn.deletefromdisk(ref, file)
    assert.is_nil(s:object(KEY))
    assert.equal(404, fails("IOError", tarn.poolget, file).status)
    assert.same({}, tarn.who_has_read(file))
    assert.equal(404, fails("IOError", tarn.deletefromdisk, ref, PATH).status)
  end)

  case("is read once for tasks that get at the same time", function()
    local file = tarn.savetodisk(tarn.poolset(large()), PATH)
    s:log()
    local futures = {}
    for i = 1, 10 do futures[i] = tarn.async(function() return tarn.poolget(file) end) end
    for i = 1, 10 do assert.equal(futures[1]:fetch(), futures[i]:fetch()) end
    local first = 0
    for _, r in ipairs(s:log()) do first = first + (r.range and r.range:find("=0-", 1, true) and 1 or 0) end
    assert.equal(1, first)
  end)

  case("takes many at once", function()
    local futures = {}
    for i = 1, 60 do futures[i] = tarn.async(function() tarn.save("s3://bucket/" .. i, { i }) end) end
    for i = 1, 60 do futures[i]:fetch() end
    for i = 1, 60 do futures[i] = tarn.async(function() return tarn.load("s3://bucket/" .. i)[1] end) end
    for i = 1, 60 do assert.equal(i, futures[i]:fetch()) end
  end)

  case("gives errors that travel", function()
    with(1, function(ids)
      local e = fails("IOError", tarn.remotecall_fetch, ids[1], function(path) return tarn.load(path) end, PATH)
      assert.same({ ids[1], "bucket", KEY, 404, "NoSuchKey" }, { e.pid, e.bucket, e.key, e.status, e.code })
    end)
  end)
end)

describe("file://", function()
  it("names a file of this machine", function()
    local dir = process.tmpdir()
    tarn.save("file://" .. dir .. "/a%20b", { 1, 2 })
    assert.equal(2, tarn.load(dir .. "/a b")[2])
    assert.equal(2, tarn.load("file://localhost" .. dir .. "/a b")[2])
    local ref = tarn.poolset { "x" }
    local file = tarn.savetodisk(ref, "FILE://" .. dir .. "/c")
    assert.same({ dir .. "/c", core.host() }, { file.path, file.host })
    assert.equal("x", tarn.poolget(file)[1])
    tarn.deletefromdisk(ref, "file://" .. dir .. "/c")
    says(fails("ArgumentError", tarn.save, "file://host/x", 1).message, "file:///folder/name")
    says(fails("ArgumentError", tarn.save, "file://x", 1).message, "file:///folder/name")
  end)
end)
