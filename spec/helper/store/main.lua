-- A store as far as tarn needs one, for specs (spec/helper/store.lua): a process of its own, which keeps objects in memory, checks
-- signatures, and does wrong what it is told to. Commands are lines of Lua on standard input; each is answered by a line: a value, encoded
-- and in hexadecimal.
--
-- A fault is {on = "GET", "PART", ..., skip = requests of that kind that are let pass, times = that are not (default: 1), and what
-- happens: status and code; cut = bytes of the body after which the connection is closed, of the request's for what writes, else of the
-- response's; silent; late_ms; drip_ms; announce; shift: of the range said; touch: the object gets another ETag before; done: it is
-- done, and then the connection closed; lost: uploads are, and then the same; error: 200 with an error in it}
local http = require "spec.helper.store.http"
local serve = require "spec.helper.input"
local signature = require "spec.helper.store.signature"
local uv = require "luv"

local KEYS, REGION = { KEY = "SECRET" }, "us-east-1"
local buckets = { bucket = {} }
local uploads, upload_count = {}, 0
local faults, log = {}, {}

local function kind_of(r)
  if r.method == "PUT" then return r.query:find("partNumber=") and "PART" or "PUT" end
  if r.method == "POST" then return r.query:find("^uploads=") and "BEGIN" or "COMPLETE" end
  if r.method == "DELETE" then return r.query:find("uploadId=") and "ABORT" or "DELETE" end
  return r.method
end

local function unescape(text) return (text:gsub("%%(%x%x)", function(h) return string.char(tonumber(h, 16)) end)) end

local function refuse(status, code, more)
  local body = ('<?xml version="1.0"?>\n<Error><Code>%s</Code><Message>The specs say &quot;%s&quot;.</Message>%s</Error>')
    :format(code, code, more or "")
  return { status = status, body = body, headers = { ["Content-Type"] = "application/xml" } }
end

local object_count = 0
local function new_object(body, parts)
  object_count = object_count + 1
  return { body = body, etag = ('"%d%s"'):format(object_count, parts and "-" .. parts or "") }
end

local function range_of(r, object)
  local first, last = (r.headers.range or ""):match("^bytes=(%d+)-(%d+)$")
  if not first then return nil end
  return tonumber(first), math.min(tonumber(last), #object.body - 1)
end

local do_ = {}

function do_.PUT(r, bucket, key)
  bucket[key] = new_object(r.body)
  return { status = 200, headers = { ETag = bucket[key].etag } }
end

function do_.BEGIN(r)
  upload_count = upload_count + 1
  local id = "upload/" .. upload_count
  uploads[id] = { mark = r.headers["x-amz-meta-tarn-save"] }
  return { status = 200, body = ("<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>"):format(id) }
end

local function upload_of(r) return uploads[unescape(r.query:match("uploadId=([^&]*)"))] end

function do_.PART(r)
  local upload = upload_of(r)
  if not upload then return refuse(404, "NoSuchUpload") end
  local part = new_object(r.body)
  upload[tonumber(r.query:match("partNumber=(%d+)"))] = part
  return { status = 200, headers = { ETag = part.etag } }
end

function do_.COMPLETE(r, bucket, key)
  local upload = upload_of(r)
  if not upload then return refuse(404, "NoSuchUpload") end
  local parts = {}
  for number, etag in r.body:gmatch("<PartNumber>(%d+)</PartNumber><ETag>(.-)</ETag>") do
    local part = upload[tonumber(number)]
    if not part or etag:gsub("&quot;", '"') ~= part.etag or tonumber(number) ~= #parts + 1 then return refuse(400, "InvalidPart") end
    parts[#parts + 1] = part.body
  end
  bucket[key] = new_object(table.concat(parts), #parts)
  bucket[key].mark = upload.mark
  for id, other in pairs(uploads) do
    if other == upload then uploads[id] = nil end
  end
  return { status = 200, body = "<CompleteMultipartUploadResult/>" }
end

function do_.ABORT(r)
  if not upload_of(r) then return refuse(404, "NoSuchUpload") end
  uploads[unescape(r.query:match("uploadId=([^&]*)"))] = nil
  return { status = 204 }
end

function do_.DELETE(_, bucket, key)
  bucket[key] = nil
  return { status = 204 }
end

function do_.GET(r, bucket, key, fault)
  local object = bucket[key]
  if not object then return refuse(404, "NoSuchKey") end
  if r.headers["if-match"] and r.headers["if-match"] ~= object.etag then return refuse(412, "PreconditionFailed") end
  local first, last = range_of(r, object)
  if not first then return { status = 200, body = object.body, headers = { ETag = object.etag } } end
  if first > last then return refuse(416, "InvalidRange") end
  local shift = fault and fault.shift or 0
  return { status = 206, body = object.body:sub(first + 1, last + 1),
    headers = { ETag = object.etag, ["Content-Range"] = ("bytes %d-%d/%d"):format(first + shift, last + shift, #object.body) } }
end

function do_.HEAD(_, bucket, key)
  local object = bucket[key]
  if not object then return { status = 404 } end
  return { status = 200, headers = { ETag = object.etag, ["x-amz-meta-tarn-save"] = object.mark }, body = object.body }
end

---------------------------------------------------------------------------------------------------- faults

local function fault_for(kind)
  for _, fault in ipairs(faults) do
    if fault.on == kind then
      if (fault.skip or 0) > 0 then
        fault.skip = fault.skip - 1
      elseif fault.times > 0 then
        fault.times = fault.times - 1
        fault.met = (fault.met or 0) + 1
        return fault
      end
    end
  end
end

local WRITES = { PUT = true, PART = true }

local function on_head(_, r)
  r.kind = kind_of(r)
  r.fault = fault_for(r.kind)
  if r.fault and r.fault.cut and WRITES[r.kind] then r.cut_at = r.fault.cut end
  log[#log + 1] = { kind = r.kind, method = r.method, path = r.path, query = r.query, range = r.headers.range, length = r.length,
    date = r.headers["x-amz-date"], authorization = r.headers.authorization, token = r.headers["x-amz-security-token"],
    digest = r.headers["x-amz-content-sha256"] }
end

local function problem_of(r)
  local code = signature.problem(r, KEYS, REGION)
  local said = r.headers["x-amz-content-sha256"]
  if not code and said ~= "UNSIGNED-PAYLOAD" and said ~= signature.sha256(r.body) then code = "XAmzContentSHA256Mismatch" end
  return code
end

local function answer(r)
  local fault = r.fault
  if fault and fault.status then return refuse(fault.status, fault.code, fault.more) end
  local code = problem_of(r)
  if code == "AuthorizationHeaderMalformed" then return refuse(400, code, "<Region>" .. REGION .. "</Region>") end
  if code then return refuse(403, code) end
  local name, key = r.path:match("^/([^/]+)/(.*)$")
  local bucket = buckets[name]
  if not bucket then return refuse(404, "NoSuchBucket") end
  if fault and fault.error then return refuse(200, fault.error) end
  key = unescape(key)
  if fault and fault.touch and bucket[key] then bucket[key].etag = '"touched"' end
  return do_[r.kind](r, bucket, key, fault)
end

local function on_request(connection, r)
  local fault = r.fault or {}
  if fault.silent then return end
  if fault.lost then
    uploads = {}
    return connection:close()
  end
  local reply = answer(r)
  if fault.done then return connection:close() end
  reply.announce, reply.drip_ms = fault.announce or r.method == "HEAD" and #(reply.body or "") or nil, fault.drip_ms
  if not WRITES[r.kind] then reply.cut = fault.cut end
  if fault.late_ms then
    local timer = uv.new_timer()
    return timer:start(fault.late_ms, 0, function()
      timer:close()
      connection:reply(r, reply)
    end)
  end
  connection:reply(r, reply)
end

---------------------------------------------------------------------------------------------------- commands

local commands = {}

function commands.fault(fault)
  fault.times = fault.times or 1
  faults[#faults + 1] = fault
end

-- How often each fault was met, and none any more.
function commands.clear()
  local met = {}
  for i, fault in ipairs(faults) do met[i] = fault.met or 0 end
  faults = {}
  return met
end

-- The requests since the last call.
function commands.log()
  local list = log
  log = {}
  return list
end

function commands.uploads()
  local count = 0
  for _ in pairs(uploads) do count = count + 1 end
  return count
end

-- Objects go by way of files: they may be large.
function commands.object(key, path)
  local object = buckets.bucket[key]
  if not object then return false end
  local file = assert(io.open(path, "wb"))
  file:write(object.body)
  file:close()
  return true
end

function commands.put(key, path)
  local file = assert(io.open(path, "rb"))
  buckets.bucket[key] = new_object(file:read("*a"))
  file:close()
end

local function run(line)
  local name, arguments = line:match("^(%w+) (%x*)$")
  local bytes = arguments:gsub("..", function(h) return string.char(tonumber(h, 16)) end)
  local args = tarn.decode(bytes)
  local value = commands[name](unpack(args, 1, 3))
  io.stdout:write(tarn.encode(value):gsub(".", function(c) return ("%02x"):format(c:byte()) end), "\n")
  io.stdout:flush()
end

io.stdout:write(http.listen(on_head, on_request), "\n")
io.stdout:flush()
serve(run)
