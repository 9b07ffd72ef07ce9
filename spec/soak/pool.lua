-- One process works through many times its budget: objects from a small table to an array larger than the budget, made, got at
-- random, checked to the last byte, deleted at random; one in a hundred stays to the end. The driver watches it from outside.
--
--   ./dev soak pool [--gigabytes 20] [--keep 2] [--memory 256MB] [--seed N]     keep: GB that live at a time
local options = require "spec.soak.lib.options"
local size = require "tarn.size"
local tarn = require "tarn"
local watch = require "spec.soak.lib.watch"

local GB = 1e9

local function work(total, keep, first_seed)
  local values = require "spec.soak.lib.values"
  local list, live, made, checked, seed = {}, 0, 0, 0, first_seed
  local long_lived = {}
  local turn = 0
  local function random()
    turn = turn + 1
    return values.random(first_seed + turn, 3)
  end
  local function check(entry)
    values.check(tarn.poolget(entry.ref), entry.seed)
    checked = checked + 1
  end
  local function delete(at)
    local entry = list[at]
    list[at] = list[#list]
    list[#list] = nil
    check(entry)
    live = live - entry.size
    if random() < 0.5 then tarn.pooldelete(entry.ref) end -- else the collector does
  end
  while made < total do
    seed = seed + 1
    local ref = tarn.poolset(values.make(seed))
    local entry = { ref = ref, seed = seed, size = ref.size }
    made = made + entry.size
    if values.random(seed, 6) < 0.01 and entry.size < GB / 20 then
      long_lived[#long_lived + 1] = entry
    else
      list[#list + 1] = entry
      live = live + entry.size
    end
    if random() < 0.1 then check(list[math.floor(random() * #list) + 1] or entry) end
    while live > keep and #list > 1 do delete(math.floor(random() * #list) + 1) end
    if seed % 64 == 0 then tarn.sleep(0) end
  end
  while #list > 0 do delete(#list) end
  for _, entry in ipairs(long_lived) do check(entry) end
  return { made = made, objects = seed - first_seed, checked = checked, long_lived = #long_lived }
end

local o = options(arg, { gigabytes = 20, keep = 2, memory = "256MB", seed = os.time() % 1000000 })
print(("soak pool: %g GB through a budget of %s, seed %d"):format(o.gigabytes, o.memory, o.seed))
local id = tarn.addprocs(1, { memory = o.memory })[1]
local watched = watch.new("pool", { id }, size.parse(o.memory, "--memory"))
local result = watched:until_done({ tarn.remotecall(id, work, o.gigabytes * GB, o.keep * GB, o.seed) }, 0.05)[1]
local stats = tarn.poolstats(id)
print(("%d objects, %.1f GB, %d checks by content, %d lived to the end; %.0f s, %.2f GB/s; written to disk %.1f GB, %d evictions"):format(
  result.objects, result.made / GB, result.checked, result.long_lived, watched:seconds(), result.made / GB / watched:seconds(),
  stats.spill_written_bytes / GB, stats.evictions))
watched:finish()
