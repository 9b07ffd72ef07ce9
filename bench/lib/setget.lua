-- Small values stored and got in process, in pairs: tarn.poolset and tarn.poolget; Tarantool's space:replace and space:get in Tarantool
-- itself; and Redis over a unix socket. KEYS values are kept all the time, each pair replaces the oldest, and what is got is looked at.
-- In process it is processor time that counts (of all threads), so that what else the machine does matters less; beside Redis, where
-- two processes wait for each other, it is the clock on the wall.
local peer = require "bench.lib.peer"
local process = require "spec.helper.process"
local redis = require "bench.lib.redis"
local tarn = require "tarn"

local setget = {}

local KEYS, SECONDS = 100000, 1
setget.STRING_BYTES = 100

-- How each kind is made and checked. The same source runs in tarn and in Tarantool, where a tuple is {key, ...}.
local KINDS = {
  ["a table of 2 fields"] = {
    make = "return { id = k, name = names[k % 100] }", check = "return v.id == k and v.name == names[k % 100]",
    tuple = "return { k, k, names[k % 100] }", check_tuple = "return t[2] == k and t[3] == names[k % 100]",
  },
  ["a string of 100 bytes"] = {
    make = "return strings[k % 1000]", check = "return v == strings[k % 1000]",
    tuple = "return { k, strings[k % 1000] }", check_tuple = "return t[2] == strings[k % 1000]",
  },
  ["a number"] = {
    make = "return k + 0.5", check = "return v == k + 0.5",
    tuple = "return { k, k + 0.5 }", check_tuple = "return t[2] == k + 0.5",
  },
}
setget.kinds = { "a table of 2 fields", "a string of 100 bytes", "a number" }

local COMMON = ([[
  local KEYS, SECONDS = %d, %g
  local names, strings = {}, {}
  for i = 0, 99 do names[i] = "name " .. i end
  for i = 0, 999 do strings[i] = ("%%08d"):format(i) .. ("x"):rep(%d - 8) end
]]):format(KEYS, SECONDS, setget.STRING_BYTES)

-- Pairs per second of set(k) and get(k), which are the body's; now() gives seconds.
local LOOP = [[
  for k = 1, KEYS do set(k) end
  collectgarbage()
  local pairs_done, start, took = 0, now(), 0
  repeat
    for i = pairs_done, pairs_done + 9999 do
      local k = i % KEYS + 1
      set(k)
      if not get(k) then error("what was got is not what was set") end
    end
    pairs_done = pairs_done + 10000
    took = now() - start
  until took >= SECONDS
  return pairs_done / took
]]

-- A function that measures tarn with values of a kind. now: os.clock, or peer.now for the clock on the wall.
function setget.ours(kind, now)
  local what = KINDS[kind]
  local source = COMMON .. ([[
    local tarn, now = ...
    local function make(k) %s end
    local function check(v, k) %s end
    local refs = {}
    local function set(k) refs[k] = tarn.poolset(make(k)) end
    local function get(k) return check(tarn.poolget(refs[k]), k) end
  ]]):format(what.make, what.check) .. LOOP
  local run = assert(loadstring(source, "=setget"))
  return function()
    local figure = run(tarn, now)
    tarn.cleanup()
    collectgarbage()
    return figure
  end
end

-- The same for Tarantool, a new one for every measurement; nil where there is none. Memory only, no log on disk, a hash index.
function setget.tarantool(kind)
  if not peer.here("tarantool") then return nil end
  local what = KINDS[kind]
  local source = [[
    box.cfg { memtx_memory = 512 * 2 ^ 20, wal_mode = "none", log_level = 2 }
    local now = os.clock
    local space = box.schema.space.create("bench")
    space:create_index("primary", { type = "hash", parts = { 1, "unsigned" } })
  ]] .. COMMON .. ([[
    local function make(k) %s end
    local function check(t, k) %s end
    local function set(k) space:replace(make(k)) end
    local function get(k) return check(space:get(k), k) end
    local function run()
  ]]):format(what.tuple, what.check_tuple) .. LOOP .. [[
    end
    print(run())
    os.exit(0)
  ]]
  local folder = peer.tmpdir()
  local script = process.write_file(folder .. "/bench.lua", source)
  return function() return peer.figure({ "tarantool", script }, { cwd = peer.tmpdir() }) end
end

-- The same pairs from a client in C.
function setget.redis(address)
  return redis.client(address, "setget", { seconds = SECONDS, size = setget.STRING_BYTES, keys = KEYS })
end

-- The same pairs in LMDB, a transaction each, which nobody waits to see on the disk.
function setget.lmdb()
  local program = peer.compile("lmdb", "lmdb")
  return function() return peer.figure({ program, peer.tmpdir(), KEYS, setget.STRING_BYTES, SECONDS }) end
end

return setget
