-- Objects of ours that are on their way elsewhere, or have just gone: who must wait for that.
local core = require "tarn.core"
local future = require "tarn.future"
local rpc = require "tarn.rpc"

local moving = {}

local busy = {}    -- key of an object of ours that is being moved or deleted -> Future, ready when that is over
local telling = {} -- key of one that has left, whose holders are being told -> Future, ready when all have understood

-- Wait until nobody moves or deletes the object of that key.
function moving.await_end(key)
  while busy[key] do busy[key]:wait() end
end

-- Run fn(...) while nobody else moves or deletes the object of that key; an error is raised after it.
function moving.alone(key, fn, ...)
  moving.await_end(key)
  local f = future.new()
  busy[key] = f
  local ok, e = pcall(fn, ...)
  busy[key] = nil
  future.succeed(f)
  if not ok then error(e, 0) end
  return e
end

local function told(key)
  local f = telling[key]
  telling[key] = nil
  if f then future.succeed(f) end
end

rpc.on_notify["migrate.told"] = function() told(("%d:%d"):format(core.payload())) end

-- Nobody has to be told any more: the object is ours again.
function moving.stays(ref) told(ref:key()) end

-- Wait until all who hold an object that has left here know where it is.
function moving.await_told(ref)
  while core.ref_telling(ref) do
    local key = ref:key()
    telling[key] = telling[key] or future.new()
    telling[key]:wait()
  end
end

return moving
