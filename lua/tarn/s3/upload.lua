-- Writing an object: what is small in one request, the rest in parts, a few at a time, read straight from the value. Nobody sees it before
-- all parts are there; when something fails, the parts that are there are thrown away.
local failure = require "tarn.s3.failure"
local parallel = require "tarn.s3.parallel"
local uv = require "luv"

local upload = {}

local MIB = 2 ^ 20
local PART_BYTES, PARTS_MAX, WIDTH = 8 * MIB, 10000, 4
local SIZE_MAX = 5 * 2 ^ 40

local function part_size(size) return math.max(PART_BYTES, math.ceil(size / PARTS_MAX / MIB) * MIB) end

local MARK = "x-amz-meta-tarn-save" -- in the object: by which save it was written

local function new_mark() return (uv.random(16):gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

-- What is there of it is thrown away; when even that fails, the error says so.
local function abort(client, id, e)
  local ok, why = pcall(client.send, client, { method = "DELETE", query = { { "uploadId", id } } })
  if ok or type(e) ~= "table" or type(why) ~= "table" or why.code == "NoSuchUpload" then return end
  e.message = ("%s (and the parts of upload %s that are there could not be deleted: %s)"):format(e.message, id, why.code or why.kind)
end

-- A save that is cancelled at this moment must not leave an upload whose id nobody has.
local function begin(client, mark)
  local r = { method = "POST", query = { { "uploads", "" } }, body = "", headers = { MARK .. ": " .. mark }, whole = true }
  local ok, reply = pcall(client.send, client, r)
  local answer = ok and reply or r.late
  local id = answer and failure.field(answer.text, "UploadId")
  if not ok then
    if id then abort(client, id, reply) end
    error(reply, 0)
  end
  if not id then client:fail("WrongReply", "the store does not name the upload that it has begun (UploadId)", reply.status) end
  return id
end

local function send_parts(client, form, id)
  local size = form:size()
  local step = part_size(size)
  local etags = {}
  parallel(math.ceil(size / step), WIDTH, function(i)
    local at = (i - 1) * step
    local reply = client:send { method = "PUT", query = { { "partNumber", tostring(i) }, { "uploadId", id } }, body = form, at = at,
      size = math.min(step, size - at) }
    local etag = reply.headers.etag
    if not etag then client:fail("WrongReply", ("the store does not confirm part %d (ETag)"):format(i), reply.status) end
    etags[i] = etag
  end)
  return etags
end

-- The store may have done it, and its answer been lost: then there is no such upload any more, but the object, with the mark.
local function is_done(client, mark)
  local ok, reply = pcall(client.send, client, { method = "HEAD" })
  return ok and reply.headers[MARK] == mark
end

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

local function complete(client, id, etags, mark)
  local xml = { "<CompleteMultipartUpload>" }
  for i, etag in ipairs(etags) do
    xml[i + 1] = ("<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>"):format(i, (etag:gsub('[&<>"]', ENTITIES)))
  end
  xml[#xml + 1] = "</CompleteMultipartUpload>"
  local ok, e = pcall(client.send, client, {
    method = "POST", query = { { "uploadId", id } }, body = table.concat(xml),
    accept = function(reply) return not reply.text:find("<Error>", 1, true) end, -- 200 may be said long before it is known
  })
  if not ok and not (type(e) == "table" and e.code == "NoSuchUpload" and is_done(client, mark)) then error(e, 0) end
end

local function in_parts(client, form)
  local mark = new_mark()
  local id = begin(client, mark)
  local ok, e = pcall(function()
    local etags = send_parts(client, form, id)
    if not form:holds() then client:fail("Changed", "it has been changed while it was being written: wait for that, or save a copy") end
    complete(client, id, etags, mark)
  end)
  if ok then return end
  abort(client, id, e)
  error(e, 0)
end

---@param client table
---@param form userdata core.remote_form: closed at the end, whatever comes
function upload.form(client, form)
  local size = form:size()
  local ok, e = pcall(function()
    if size > SIZE_MAX then client:fail("EntityTooLarge", ("it has %d bytes, and an object may have %d"):format(size, SIZE_MAX)) end
    if size > PART_BYTES then return in_parts(client, form) end
    client:send { method = "PUT", body = form:read(0, size) } -- a copy, which stays what it is
  end)
  form:close()
  if not ok then error(e, 0) end
end

return upload
