-- Reading an object: its first MiB, which says what it is, then the rest in ranges, a few at a time, written straight to where the value
-- is to be.
local core = require "tarn.core"
local parallel = require "tarn.s3.parallel"
local task = require "tarn.task"

local download = {}

local PART_BYTES, WIDTH = 8 * 2 ^ 20, 4

local function wrong(client, reply, fmt, ...) client:fail("WrongReply", fmt:format(...), reply.status) end

-- What the reply to a range says it is; it must be what was asked for.
local function check(client, reply, from, size, whole)
  if reply.status ~= 206 then
    wrong(client, reply, "the store answers %d to a request for a part of it (Range), which it must know", reply.status)
  end
  local first, last, total = (reply.headers["content-range"] or ""):match("^bytes (%d+)-(%d+)/(%d+)$")
  first, last, total = tonumber(first), tonumber(last), tonumber(total)
  if not first then wrong(client, reply, "the store does not say which part of it this is (Content-Range)") end
  if whole and whole ~= total then wrong(client, reply, "it has %d bytes where it had %d: it was replaced; load it again", total, whole) end
  if first ~= from or last ~= math.min(from + size, total) - 1 then
    wrong(client, reply, "bytes %d to %d came where %d to %d were asked for", first, last, from, math.min(from + size, total) - 1)
  end
  return total, last - first + 1
end

-- One range into the sink. A connection that breaks costs what has not come yet, not what has.
local function fetch_range(client, sink, from, size, known)
  local r = { method = "GET", into = sink, into_at = from, into_size = size }
  local function aim()
    r.headers = { ("Range: bytes=%d-%d"):format(r.into_at, r.into_at + r.into_size - 1) }
    if known.etag then r.headers[2] = "If-Match: " .. known.etag end
  end
  function r.again(reply)
    if reply.status ~= 206 or reply.written == 0 or reply.written == r.into_size then return end
    check(client, reply, r.into_at, r.into_size, known.total)
    known.etag = known.etag or reply.headers.etag
    r.into_at, r.into_size = r.into_at + reply.written, r.into_size - reply.written
    aim()
  end
  aim()
  local reply = client:send(r)
  local total, count = check(client, reply, r.into_at, r.into_size, known.total)
  if reply.written ~= count then wrong(client, reply, "%d bytes came where the store had said %d", reply.written, count) end
  return total, reply.headers.etag
end

local function fetch_ranges(client, sink, from, size, known)
  parallel(math.ceil(size / PART_BYTES), WIDTH, function(i)
    local at = from + (i - 1) * PART_BYTES
    fetch_range(client, sink, at, math.min(PART_BYTES, from + size - at), known)
  end)
end

local function fill(client, sink, from, size)
  local known = {}
  local total, etag = fetch_range(client, sink, from, size, known)
  known.total, known.etag = total, known.etag or etag
  sink:begin(total)
  local at, more = sink:next()
  while at do
    fetch_ranges(client, sink, at, more, known)
    at, more = sink:next()
  end
  while not sink:verify() do task.sleep(0) end
  return known.etag
end

---@param client table
---@param code boolean functions are allowed in it
---@param stored boolean as an object of the pool
---@return any value
---@return tarn.DRef|nil ref when it is stored
---@return string|nil etag
function download.value(client, code, stored)
  local sink, from, size = core.remote_sink(client.at.path)
  local ok, etag = pcall(fill, client, sink, from, size)
  if not ok then
    sink:close()
    error(etag, 0)
  end
  local value, ref = sink:finish(code, stored)
  return value, ref, etag
end

return download
