-- Saved files as objects in a store that speaks S3's protocol. What is here suspends the task, and raises IOErrors with bucket, key,
-- status and code (docs/STORES.md).
local client = require "tarn.s3.client"
local core = require "tarn.core"
local download = require "tarn.s3.download"
local errors = require "tarn.errors"
local task = require "tarn.task"
local upload = require "tarn.s3.upload"

local s3 = {}

local MAGIC = "\137TARN\r\n\26"

---Write a value. at: what place.of gives; the same in all that follows.
function s3.save(at, x, what)
  task.check(what)
  upload.form(client.new(at, "written", what), core.remote_form(x, at.path))
end

---Write an object of this process's pool.
function s3.save_object(at, ref, what)
  task.check(what)
  upload.form(client.new(at, "written", what), core.remote_form_of(ref, at.path))
end

---The value of an object.
function s3.load(at, code, what)
  task.check(what)
  return (download.value(client.new(at, "read", what), code, false))
end

---The same as an object of this process's pool.
---@return any value
---@return tarn.DRef ref
---@return string identity as s3.identity gives it
function s3.open(at, code, what)
  task.check(what)
  return download.value(client.new(at, "read", what), code, true)
end

---What differs when the object does. A store that gives no ETag says nothing: then it differs each time.
function s3.identity(at, what)
  task.check(what)
  return client.new(at, "read", what):send({ method = "HEAD" }).headers.etag or {}
end

---Delete an object, if it is a saved file.
function s3.delete(at, what)
  task.check(what)
  local first = client.new(at, "read", what):send { method = "GET", headers = { ("Range: bytes=0-%d"):format(#MAGIC - 1) } }
  if first.text:sub(1, #MAGIC) ~= MAGIC then
    errors.raise("Corrupt", at.path .. ": not a tarn file: it is left alone", { path = at.path, bucket = at.bucket, key = at.key })
  end
  client.new(at, "deleted", what):send { method = "DELETE" }
end

return s3
