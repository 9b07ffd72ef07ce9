-- One large value, from here to every worker, over TCP (map = false): an array that all read, and an argument of everywhere. How long
-- until all have it, and how many times its bytes leave this process. Argument: MiB (default 32).
local case = require "bench.lib.case"
local ffi = require "ffi"
local peer = require "bench.lib.peer"
local tarn = require "tarn"

local MIB = tonumber(arg[1]) or 32
local BYTES, WORKERS = MIB * 2 ^ 20, { 4, 16 }

local turn = 0
local function make()
  turn = turn + 1
  local array = tarn.array("double", BYTES / 8)
  ffi.fill(array:ptr(), BYTES, turn % 100)
  array[1], array[#array] = turn, -turn
  return array
end

local function check(array, expected)
  if array[1] ~= expected or array[#array] ~= -expected then error("what was got is not what was made", 0) end
  return true
end

local function read(ref, expected, fn) return fn(tarn.poolget(ref), expected) end
local function read_from_owner(ref, expected, fn) return fn(tarn.poolget_all({ ref })[1], expected) end -- which names nobody else

local function all_read(ids, get)
  local ref, jobs = tarn.poolset(make()), {}
  local start = peer.now()
  for i, id in ipairs(ids) do jobs[i] = tarn.remotecall(id, get, ref, turn, check) end
  for _, job in ipairs(jobs) do assert(job:fetch()) end
  local took = peer.now() - start
  tarn.pooldelete(ref)
  return took
end

local function everywhere()
  local array = make()
  local start = peer.now()
  tarn.everywhere(check, array, turn)
  return peer.now() - start
end

-- The same, sent to each.
local function each(ids)
  local array, jobs = make(), {}
  local start = peer.now()
  for i, id in ipairs(ids) do jobs[i] = tarn.remotecall(id, check, array, turn) end
  for _, job in ipairs(jobs) do assert(job:fetch()) end
  return peer.now() - start
end

-- Milliseconds, and the value's bytes that have left this process.
local function measured(fn, ...)
  local before = tarn.poolstats().tcp_out_bytes
  local took = fn(...)
  collectgarbage()
  return { took * 1e3, (tarn.poolstats().tcp_out_bytes - before) / BYTES }
end

case.run("broadcast", ("a value of %g MiB from one process to all, over TCP"):format(MIB), function(c)
  tarn.max_memsize("1GiB")
  for _, count in ipairs(WORKERS) do
    local ids = tarn.addprocs(count, { map = false, memory = "128MiB" })
    local function compare(name, ours, theirs, get, get_theirs)
      c:compare_several({
        { name = ("%d workers, %s"):format(count, name), unit = "ms", less = true },
        { name = "... leaves the driver", unit = "times", less = true },
      }, { ours = function() return measured(ours, ids, get) end,
        theirs = { { "sent to each", function() return measured(theirs, ids, get_theirs) end } } })
    end
    compare("an array that all read", all_read, all_read, read, read_from_owner)
    compare("an argument of everywhere", everywhere, each)
    tarn.rmprocs(unpack(ids))
  end
end)
