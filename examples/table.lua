-- Readings are summed up on two workers, joined with what is known of the places, and left as an Arrow file that pandas, polars or
-- DuckDB (with its arrow extension) can open:  tarn examples/table.lua [FILE]
local tarn = require "tarn"

local N = 100000
local place, day, celsius = tarn.pooled.builder(), tarn.array("int32_t", N), tarn.nullable("double", N)
for i = 1, N do
  place:add(({ "Oslo", "Rome", "Cairo" })[i % 3 + 1])
  day[i] = i % 365 + 1
  if i % 50 > 0 then celsius[i] = 10 * (i % 3) + 10 * math.sin(i % 365 / 58) end -- some readings are missing
end
local readings = tarn.table {
  columns = { { "place", place:finish() }, { "day", day }, { "celsius", celsius } },
  key = { "place", "day" },
}
print(readings)

local workers = tarn.addprocs(2)
local ref = tarn.poolset(readings) -- the workers map it, nothing is sent
local halves = tarn.pmap(function(days)
  local part = tarn.poolget(ref):select(function(row) return row.day >= days[1] and row.day <= days[2] end)
  return part:groupreduce("place", { { "readings", "count", "celsius" }, { "mean", "mean", "celsius" }, { "warmest", "max", "celsius" } })
end, { { 1, 182 }, { 183, 365 } }, { workers = workers })
print("first half of the year\n" .. tostring(halves[1]))

local places = tarn.table { columns = { { "place", { "Cairo", "Oslo" } }, { "country", { "Egypt", "Norway" } } }, key = "place" }
local both = halves[1]:join(halves[2], { on = "place" }):join(places, { on = "place", how = "left" })
print(both:lookup("Oslo"))

local path = arg[1] or os.tmpname()
tarn.arrow.save(path, both)
print(tarn.arrow.load(path):select("place", "mean", "mean_right", "country"))
if not arg[1] then os.remove(path) end
