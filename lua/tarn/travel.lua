-- Futures that travel: one that is ready goes as its values or its DRef, one that is not as a key by which the sender is asked.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local future = require "tarn.future"
local rpc = require "tarn.rpc"
local serializer = require "tarn.serializer"

local travel = {}

-- What is not ready is known to others by a key. It is kept until each copy that was sent has asked for it; one that never
-- arrives is let go after KEEP_S.
local KEEP_S = 600
local by_key = setmetatable({}, { __mode = "v" })
local keys = setmetatable({}, { __mode = "k" })
local kept, last_key, swept = {}, 0, 0

local function sweep()
  local now = core.clock()
  if now - swept < KEEP_S then return end
  swept = now
  for key, entry in pairs(kept) do
    if now - entry.since > KEEP_S then kept[key] = nil end
  end
end

local function export(f)
  sweep()
  local key = keys[f]
  if not key then
    last_key = last_key + 1
    key = last_key
    keys[f], by_key[key] = key, f
  end
  local entry = kept[key] or { future = f, copies = 0 }
  entry.copies, entry.since = entry.copies + 1, core.clock()
  kept[key] = entry
  return key
end

-- The Future that another process asks for.
function travel.exported(key)
  local entry = kept[key]
  if entry then
    entry.copies = entry.copies - 1
    if entry.copies <= 0 then kept[key] = nil end
  end
  local f = by_key[key]
  if f then return f end
  return nil, errors.new("KeyError", ("process %d has no such Future any more"):format(core.myid()))
end

-- What is written of a Future.
local function write(f)
  if f.state == "failed" then return { err = failure.outgoing(f.err) } end
  if f.values then return { n = f.n, values = f.values } end
  if f.ref then
    future.share(f)
    return { n = f.n, ref = f.ref }
  end
  return { pid = core.myid(), key = export(f) }
end

local function read(v)
  if v.pid and v.pid == core.myid() then
    local own = travel.exported(v.key)
    if own then return own end
  end
  local f = future.new()
  f.travelled = true -- others have it too
  if v.err then
    f.state, f.err = "failed", failure.received(v.err)
  elseif not v.pid then
    f.state, f.n, f.values, f.ref = "done", v.n, v.values, v.ref
  else
    local ok, result = pcall(rpc.ask, f, v.pid, "future.wait", v.key)
    if ok then f.msgid = result else future.fail(f, failure.received(result)) end
  end
  return f
end

serializer {
  name = "tarn.future",
  version = 1,
  type = future.Future,
  approx_size = function() return 64 end,
  mmwrite = function(out, f) out:value(write(f)) end,
  mmread = function(inp) return read(inp:value()) end,
}

return travel
