-- What a path means: a file of this machine, by its path or as file://, or an object in a store, s3://bucket/key.
local errors = require "tarn.errors"
local failure = require "tarn.failure"

local place = {}

local function argument_error(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end

local function unescape(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function of_file(path, rest, what)
  local host, at = rest:match("^([^/]*)(/.*)$")
  if not host or (host ~= "" and host:lower() ~= "localhost") then
    argument_error("%s: '%s' names no file of this machine: file:///folder/name does", what, path)
  end
  at = unescape(at)
  if at:find("%z") then argument_error("%s: '%s' holds a zero byte", what, path) end
  return { path = at }
end

local KEY_MAX = 1024

local function of_s3(path, rest, what)
  local bucket, key = rest:match("^([^/]*)/?(.*)$")
  if not bucket:find("^%w[%w._-]*$") then
    argument_error("%s: '%s' has no bucket's name between s3:// and the next /, as s3://bucket/key has", what, path)
  end
  if key == "" then argument_error("%s: '%s' has no key behind its bucket, as s3://bucket/key has", what, path) end
  if #key > KEY_MAX then argument_error("%s: the key of '%s...' has %d bytes, and may have %d", what, path:sub(1, 60), #key, KEY_MAX) end
  if key:find("%c") then argument_error("%s: the key of %s holds a control character", what, ("%q"):format(path)) end
  return { bucket = bucket, key = key, path = ("s3://%s/%s"):format(bucket, key) }
end

local SCHEMES = { file = of_file, s3 = of_s3 }

---@param path any
---@param what string for errors, as "tarn.save"
---@return table place {path}: a file; {bucket, key, path}: an object in a store, whose path is s3://bucket/key
function place.of(path, what)
  if type(path) ~= "string" or path == "" or path:find("%z") then
    argument_error("%s: a path is needed, not %s", what, failure.describe(path))
  end
  local scheme, rest = path:match("^(%a[%w+.-]*)://(.*)$")
  if not scheme then return { path = path } end
  local of = SCHEMES[scheme:lower()]
  if not of then
    argument_error("%s: '%s': there are paths, file:// and s3://, but no %s:// (a folder of that name is ./%s:)", what, path, scheme,
      scheme)
  end
  return of(path, rest, what)
end

---The same for what only files can do.
---@param path any
---@param what string
---@return string path of a file
function place.file(path, what)
  local at = place.of(path, what)
  if at.bucket then argument_error("%s: '%s': only a file can be used here, not an object in a store", what, path) end
  return at.path
end

return place
