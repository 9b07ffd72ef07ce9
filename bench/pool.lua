-- The pool of one process, beside what the machine, Tarantool and Redis do. bench/README.md says what each row means.
local case = require "bench.lib.case"
local footprint = require "spec.helper.footprint"
local peer = require "bench.lib.peer"
local ramp = require "bench.lib.ramp"
local redis = require "bench.lib.redis"
local setget = require "bench.lib.setget"
local tarn = require "tarn"
local uv = require "luv"

local MiB, GiB = 2 ^ 20, 2 ^ 30
local DOUBLES = GiB / 8
local FOLDER = "." -- spilled bytes are below it too

local function since(start) return peer.now() - start end

---------------------------------------------------------------------------------------------------- writing

local PIECE = 16 * MiB

-- Pieces of 16 MiB in the pool, each of one repeated number; returns their refs.
local function store_pieces(first, count)
  local refs = {}
  for i = 1, count do
    local piece = tarn.array("double", PIECE / 8)
    local p = piece:ptr()
    for k = 0, PIECE / 8 - 1 do p[k] = first + i + k end
    refs[i] = tarn.poolset(piece)
  end
  return refs
end

local function check_pieces(refs, first)
  for i, ref in ipairs(refs) do
    local piece = tarn.poolget(ref)
    local p, wrong = piece:ptr(), 0
    for k = 0, PIECE / 8 - 1 do
      if p[k] ~= first + i + k then wrong = wrong + 1 end
    end
    if wrong > 0 then error(("%d elements of piece %d are wrong"):format(wrong, i), 0) end
    tarn.pooldelete(ref)
  end
  collectgarbage()
end

-- 1 GiB is in memory; the budget becomes 64 MiB; bytes written per second until it is kept to.
local function spill_rate()
  tarn.max_memsize(1.25 * GiB)
  local refs = store_pieces(0, 64)
  collectgarbage()
  local before, start = tarn.poolstats().spill_written_bytes, peer.now()
  tarn.max_memsize(64 * MiB)
  local stats
  repeat
    tarn.sleep(0.001)
    stats = tarn.poolstats()
  until stats.resident_bytes <= 64 * MiB
  local rate = (stats.spill_written_bytes - before) / since(start)
  check_pieces(refs, 0)
  return rate
end

-- 2 GiB are made and stored within a budget of 256 MiB; bytes per second, the making included.
local function through_rate()
  tarn.max_memsize(256 * MiB)
  local start = peer.now()
  local refs = store_pieces(100, 128)
  local rate = 128 * PIECE / since(start)
  check_pieces(refs, 100)
  return rate
end

local function writing(c)
  local odirect = peer.compile("odirect")
  local function theirs() return peer.figure { odirect, FOLDER, GiB } / 1e9 end
  c:compare {
    name = "spill", unit = "GB/s", ours = function() return spill_rate() / 1e9 end,
    theirs = { { "raw O_DIRECT", theirs, aim = 0.9 } },
  }
  c:compare {
    name = "make and store, 8x the budget", unit = "GB/s", ours = function() return through_rate() / 1e9 end,
    theirs = { { "raw O_DIRECT", theirs } },
  }
end

---------------------------------------------------------------------------------------------------- reading 1 GiB

local function sum_of(a)
  local p, sum = a:ptr(), 0
  for i = 0, DOUBLES - 1 do sum = sum + p[i] end
  if math.abs(sum / (0.5 * DOUBLES * (DOUBLES - 1)) - 1) > 1e-6 then error(("the sum is %.17g"):format(sum), 0) end
end

local function limit_row(c, name, times)
  table.remove(times, 1) -- the round that does not count
  c:add({ name = name, unit = "ms", less = true, limit = 1 }, { { figures = times } })
end

local function reading(c)
  local scan = peer.compile("scan")
  local gets, again = {}, {}
  tarn.max_memsize(1.25 * GiB)
  local function cold()
    local ref = ramp.store(DOUBLES)
    tarn.movetodisk(ref)
    collectgarbage()
    local start = peer.now()
    local a = tarn.poolget(ref)
    gets[#gets + 1] = since(start) * 1e3
    start = peer.now()
    sum_of(a)
    local rate = GiB / since(start)
    start = peer.now()
    sum_of(a)
    again[#again + 1] = GiB / since(start) / 1e9
    tarn.pooldelete(ref)
    a = nil -- luacheck: ignore 311
    collectgarbage()
    return rate / 1e9
  end
  local warm = {}
  local function theirs(which) return function() return peer.figure { scan, FOLDER, DOUBLES, which } / 1e9 end end
  local function theirs_cold()
    warm[#warm + 1] = theirs("warm")()
    return theirs("cold")()
  end
  c:compare { name = "scan of 1 GiB from disk", unit = "GB/s", ours = cold, theirs = { { "raw mmap", theirs_cold, aim = 0.9 } } }
  table.remove(again, 1)
  table.remove(warm, 1)
  c:add({ name = "the same once more, cached", unit = "GB/s" }, { { figures = again }, { name = "raw mmap", figures = warm, aim = 0.9 } })
  limit_row(c, "poolget of 1 GiB from disk", gets)
end

local function mapping(c)
  local id = tarn.addprocs(1, { memory = 1.25 * GiB })[1]
  local times = {}
  for _ = 1, 6 do
    local ref = ramp.settled(id, DOUBLES)
    local start = peer.now()
    local a = tarn.poolget(ref)
    times[#times + 1] = since(start) * 1e3
    sum_of(a)
    tarn.pooldelete(ref)
    a, ref = nil, nil -- luacheck: ignore 311
    collectgarbage()
  end
  if tarn.poolstats().mapped_in_count < 6 then error("the arrays were copied, not mapped", 0) end
  tarn.rmprocs(id)
  limit_row(c, "poolget of 1 GiB from a process here", times)
end

---------------------------------------------------------------------------------------------------- who is held up

local EVICTED = 512 * MiB

-- On a worker that has an array mapped: read it, page after page, over and over; milliseconds of the longest time that a few elements took.
local function longest_pause(ref, seconds, begun)
  local now = require("bench.lib.peer").now
  local a = tarn.poolget(ref)
  local p, n, longest, at = a:ptr(), #a, 0, 0
  for i = 0, n - 1, 512 do assert(p[i] == i) end
  begun:notify()
  local start = now()
  local before = start
  repeat
    for _ = 1, 16 do
      if p[at] ~= at then error("a wrong element", 0) end
      at = (at + 512) % n
    end
    local after = now()
    longest, before = math.max(longest, after - before), after
  until before - start > seconds
  return longest * 1e3
end

-- The same while the owner evicts what is being read, only writes it, or does nothing (move: tarn.movetodisk, tarn.copytodisk, nil).
local function pause_while(move)
  local owner, reader = unpack(tarn.addprocs(2, { memory = 0.75 * GiB }))
  local ref, begun = ramp.settled(owner, EVICTED / 8), tarn.event()
  local job = tarn.remotecall(reader, longest_pause, ref, 1.5, begun)
  begun:wait()
  if move then move(ref) end
  local pause = job:fetch()
  if move and tarn.poolstats(owner).spilled_bytes < EVICTED then error("nothing was written", 0) end
  tarn.rmprocs(owner, reader)
  return pause
end

local function stalls(c)
  c:compare { name = "the longest pause of a reader of 512 MiB being evicted", unit = "ms", less = true, limit = 5,
    ours = function() return pause_while(tarn.movetodisk) end,
    theirs = { { "written, not evicted", function() return pause_while(tarn.copytodisk) end },
      { "nothing else done", function() return pause_while() end } } }
end

---------------------------------------------------------------------------------------------------- small objects

local function small_values(c)
  tarn.max_memsize(1 * GiB)
  for _, kind in ipairs(setget.kinds) do
    c:compare {
      name = "set + get of " .. kind, unit = "pairs/s", ours = setget.ours(kind, os.clock),
      theirs = { { "Tarantool, in process", setget.tarantool(kind), aim = 3 } },
    }
  end
  local kind = "a string of 100 bytes"
  c:compare {
    name = "set + get of a string, on the wall", unit = "pairs/s", ours = setget.ours(kind, peer.now),
    theirs = { { "Redis, unix socket", setget.redis((redis.start())), aim = 3 } },
  }
end

local OBJECTS, PAYLOAD = 1e6, 100

local function payload(i) return ("%09d"):format(i) .. ("x"):rep(PAYLOAD - 9) end

-- On a worker, of which nothing else is asked: bytes by which it grows for so many live objects and their refs.
local function grown_by(objects)
  local pid = uv.os_getpid()
  collectgarbage()
  local before, refs = footprint.memory(pid), {}
  for i = 1, objects do refs[i] = tarn.poolset(payload(i)) end
  collectgarbage()
  local grown = footprint.memory(pid) - before
  for i = 1, objects, 997 do assert(tarn.poolget(refs[i]) == payload(i)) end
  return grown
end

-- Bytes per object beyond its payload, refs and all, of the process that made them.
local function live_overhead()
  local id = tarn.addprocs(1, { memory = 1 * GiB })[1]
  local each = tarn.remotecall_fetch(id, grown_by, OBJECTS) / OBJECTS - PAYLOAD
  tarn.rmprocs(id)
  return each
end

-- On the owner: fill its memory with arrays that cannot be evicted, until nothing else is left that can.
local function press(...)
  local ok, array = pcall(tarn.array, "uint8_t", 8 * 2 ^ 20)
  if ok then press(array, ...) end -- which keeps them all
end

-- Of the owner, whose objects were made and are held by another process: in memory, and when all is on disk, there and on disk.
local function owner_overheads()
  local id = tarn.addprocs(1, { memory = 0.5 * GiB })[1]
  local pid = tarn.remotecall_fetch(id, uv.os_getpid)
  local before, refs, batch = footprint.memory(pid), {}, {}
  for i = 1, OBJECTS, 1000 do
    for k = 0, 999 do batch[k + 1] = payload(i + k) end
    for k, ref in ipairs(tarn.poolset_all(batch, id)) do refs[i + k - 1] = ref end
  end
  local exported = (footprint.memory(pid) - before) / OBJECTS - PAYLOAD
  tarn.remotecall_fetch(id, press)
  local spilled = (footprint.anonymous(pid) - before) / OBJECTS
  local disk = footprint.disk(pid) / OBJECTS - PAYLOAD
  local stats = tarn.poolstats(id)
  if stats.spilled_bytes < OBJECTS * PAYLOAD * 0.99 then error("not all is on disk", 0) end
  for i = 1, OBJECTS, 9973 do assert(tarn.poolget(refs[i]) == payload(i)) end
  tarn.rmprocs(id)
  return exported, spilled, disk
end

local function redis_overhead()
  local address, server = redis.start()
  if not address then return nil end
  local before = footprint.memory(server.pid)
  redis.client(address, "fill", { keys = OBJECTS, size = PAYLOAD, depth = 1000 })()
  local each = (footprint.memory(server.pid) - before) / OBJECTS - PAYLOAD
  server:destroy()
  return each
end

local function overhead(c)
  tarn.max_memsize(2 * GiB)
  local exported, spilled, disk = owner_overheads()
  local theirs = redis_overhead()
  local function row(name, mine)
    local other = theirs and { name = "Redis", figures = { theirs }, aim = 1 }
    c:add({ name = name, unit = "B", less = true }, { { figures = { mine } }, other })
  end
  row("overhead of an object of 100 B: live, with its ref", live_overhead())
  row("... on its owner, refs elsewhere", exported)
  row("... the same on disk: what stays in memory", spilled)
  c:add({ name = "... and on disk, beyond its payload", unit = "B", less = true, limit = 96 }, { { figures = { disk } } })
end

-- What to measure, by name; all without a name: `tarn bench/pool.lua writing`.
local parts = { writing = writing, reading = reading, mapping = mapping, stalls = stalls, small_values = small_values, overhead = overhead }
case.run("pool", "the pool of one process: disk, mapping, small values, bytes", function(c)
  for _, name in ipairs(arg[1] and arg or { "writing", "reading", "mapping", "stalls", "small_values", "overhead" }) do parts[name](c) end
end)
