-- The flights job, for bench/job.lua: rows to work on, what comes out of them, and the same job in mawk, Dask and DuckDB. Each of those
-- prints a line for each origin, "AAA flights delay distance", and one for each route, "AAA BBB flights delay", with sums of whole
-- numbers.
local dask = require "bench.lib.dask"
local peer = require "bench.lib.peer"
local process = require "spec.helper.process"

local flights = {}

local ORIGINS, SPREAD = 60, 7 -- airports; every one has flights to every SPREAD-th other

local function airport(i) return string.char(65 + i % 26, 65 + math.floor(i * 7 / 26) % 26, 65 + i * 11 % 26) end

-- Write a file of so many rows, the same each time.
function flights.generate(path, rows)
  local file = assert(io.open(path, "wb"))
  file:write("date,delay,distance,origin,destination\n")
  local seed, lines, n = 1, {}, 0
  local function random(limit)
    seed = seed * 16807 % 2147483647
    return seed % limit
  end
  for i = 0, rows - 1 do
    local minute = math.floor(i * 525600 / rows) -- of a year
    local day = math.floor(minute / 1440)
    local from = random(ORIGINS)
    local to = (from + SPREAD * (1 + random(8))) % ORIGINS
    local delay = random(10) == 0 and random(300) or random(40) - 20
    n = n + 1
    lines[n] = ("2001/%02d/%02d %02d:%02d,%d,%d,%s,%s\n"):format(math.floor(day / 31) + 1, day % 31 % 28 + 1, math.floor(minute / 60) % 24,
      minute % 60, delay, 100 + (from * 37 + to * 53) % 2600, airport(from), airport(to))
    if n == 10000 or i == rows - 1 then
      file:write(table.concat(lines, "", 1, n))
      n = 0
    end
  end
  file:close()
  return path
end

---------------------------------------------------------------------------------------------------- what comes out

local function add(sums, name, ...)
  local sum = sums[name]
  if not sum then
    sum = {}
    sums[name] = sum
  end
  for i = 1, select("#", ...) do sum[i] = (sum[i] or 0) + tonumber((select(i, ...))) end
end

-- What examples/flights.lua prints of these sums, line by line: each origin's, most flights first; the ten worst routes of those with at
-- least 10 flights.
local function report(origins, routes)
  local lines, names = {}, {}
  for name in pairs(origins) do names[#names + 1] = name end
  table.sort(names, function(a, b)
    if origins[a][1] ~= origins[b][1] then return origins[a][1] > origins[b][1] end
    return a < b
  end)
  for _, name in ipairs(names) do
    local n, delay, distance = unpack(origins[name])
    lines[#lines + 1] = ("%s %d %.2f %.2f"):format(name, n, delay / n, distance / n)
  end
  local worst = {}
  for name, sum in pairs(routes) do
    if sum[1] >= 10 then worst[#worst + 1] = { name = name, flights = sum[1], delay = sum[2] / sum[1] } end
  end
  table.sort(worst, function(a, b)
    if a.delay ~= b.delay then return a.delay > b.delay end
    return a.name < b.name
  end)
  for i = 1, math.min(10, #worst) do lines[#lines + 1] = ("%s %d %.2f"):format(worst[i].name, worst[i].flights, worst[i].delay) end
  return table.concat(lines, "\n")
end

-- The report of a file, and its number of rows, by going through it line by line.
function flights.expected(path)
  local place, i = {}, 0
  for name in assert(io.open(path)):read("*l"):gsub("\r", ""):gmatch("[^,]+") do
    i = i + 1
    place[name] = i
  end
  local origins, routes, rows, fields = {}, {}, 0, {}
  for line in io.lines(path) do
    if rows > 0 then
      local n = 0
      for field in line:gmatch("[^,\r]+") do
        n = n + 1
        fields[n] = field
      end
      local origin, destination = fields[place.origin], fields[place.destination]
      add(origins, origin, 1, fields[place.delay], fields[place.distance])
      add(routes, origin .. " to " .. destination, 1, fields[place.delay])
    end
    rows = rows + 1
  end
  return report(origins, routes), rows - 1
end

-- The report that examples/flights.lua has printed.
function flights.printed(text)
  local lines = {}
  for line in text:gmatch("[^\n]+") do
    local words = {}
    for word in line:gmatch("%S+") do words[#words + 1] = word end
    local origin = #words == 4 and words[1]:match("^%u%u%u$") and tonumber(words[2])
    local route = #words == 5 and words[2] == "to" and tonumber(words[4])
    if origin or route then lines[#lines + 1] = table.concat(words, " ") end
  end
  return table.concat(lines, "\n")
end

-- The report of what the others print.
local function of_sums(text)
  local origins, routes = {}, {}
  for line in text:gmatch("[^\n]+") do
    local a, b, c, d = line:match("^(%S+) (%S+) (%S+) (%S+)$")
    if b:match("^%u") then add(routes, a .. " to " .. b, c, d) else add(origins, a, b, c, d) end
  end
  return report(origins, routes)
end

---------------------------------------------------------------------------------------------------- the others

local MAWK = [[
NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; a = at["origin"]; b = at["destination"]; c = at["delay"]; d = at["distance"]; next }
{ n[$a]++; delay[$a] += $c; distance[$a] += $d; r = $a " " $b; rn[r]++; rdelay[r] += $c }
END {
  for (o in n) printf "%s %d %d %d\n", o, n[o], delay[o], distance[o]
  for (r in rn) printf "%s %d %d\n", r, rn[r], rdelay[r]
}
]]

-- Like examples/flights.lua: first all rows into the workers' memory, then the two questions.
local FRAME = [[
import dask.dataframe
from dask.distributed import wait

def main(client, path):
    start = time.perf_counter()
    columns = {"delay": "int32", "distance": "int32", "origin": "category", "destination": "category"}
    size = max(2**20, os.path.getsize(path) // 8)
    frame = dask.dataframe.read_csv(path, blocksize=size, usecols=list(columns), dtype=columns).persist()
    wait(frame)
    kind = dict(observed=True, sort=False)
    origins = frame.groupby("origin", **kind).agg({"delay": ["count", "sum"], "distance": ["sum"]}).compute()
    routes = frame.groupby(["origin", "destination"], **kind).agg({"delay": ["count", "sum"]}).compute()
    took = time.perf_counter() - start
    for name, row in zip(origins.index, origins.values): print(name, *map(int, row))
    for name, row in zip(routes.index, routes.values): print(*name, *map(int, row))
    print(took)
]]

-- The same in one pass over the lines, in Python alone.
local BAG = [[
import csv, dask.bag

def count(lines, columns):
    a, b, c, d = (columns.index(name) for name in ("origin", "destination", "delay", "distance"))
    origins, routes = {}, {}
    for row in csv.reader(lines):
        if row == columns: continue
        delay = int(row[c])
        sums = origins.setdefault(row[a], [0, 0, 0])
        sums[0] += 1; sums[1] += delay; sums[2] += int(row[d])
        sums = routes.setdefault((row[a], row[b]), [0, 0])
        sums[0] += 1; sums[1] += delay
    return [(origins, routes)]

def main(client, path):
    start = time.perf_counter()
    columns = open(path).readline().strip().split(",")
    size = max(2**20, os.path.getsize(path) // 8)
    totals = ({}, {})
    for part in dask.bag.read_text(path, blocksize=size).map_partitions(count, columns).compute():
        for total, sums in zip(totals, part):
            for name, values in sums.items(): total[name] = [x + y for x, y in zip(total.get(name, [0, 0, 0]), values)]
    took = time.perf_counter() - start
    for name, values in totals[0].items(): print(name, *values)
    for name, values in totals[1].items(): print(*name, *values)
    print(took)
]]

local DUCKDB = [[
const { DuckDBInstance } = require("@duckdb/node-api");
(async () => {
  const db = await (await DuckDBInstance.create(":memory:", { threads: process.argv[3] })).connect();
  await db.run(`create table flights as select * from read_csv('${process.argv[2]}', header = true)`);
  const all = async (query) => (await db.runAndReadAll(query)).getRows().map((row) => row.join(" ") + "\n").join("");
  process.stdout.write(await all("select origin, count(*), sum(delay), sum(distance) from flights group by origin") +
    await all("select origin, destination, count(*), sum(delay) from flights group by origin, destination"));
})();
]]

-- A side of a comparison, whose run gives milliseconds. run: prints the sums, and after them, where it measures by itself, the seconds.
local function side(expected, run)
  return function()
    local start = peer.now()
    local text = run()
    local seconds = peer.now() - start
    local itself = text:match("\n([%d.]+)\n$")
    if itself then text = text:sub(1, -#itself - 2) end
    if of_sums(text) ~= expected then error("what came out is not what should", 0) end
    return (itself or seconds) * 1e3
  end
end

function flights.mawk(path, expected)
  return peer.here("mawk") and side(expected, function() return peer.run { "mawk", "-F,", MAWK, path } end)
end

-- kind: "dataframe" or "bag". The cluster's start is not counted.
function flights.dask(kind, path, workers, expected)
  local script = dask.script(kind == "bag" and BAG or FRAME, workers, "dask." .. kind)
  return script and side(expected, function() return script(path) end)
end

-- DuckDB in Node.js, from build/peers, where `./dev bench job` puts it.
function flights.duckdb(path, threads, expected)
  local modules = process.root .. "/build/peers/node_modules"
  if not (peer.here("node") and process.read_file(modules .. "/@duckdb/node-api/package.json")) then return nil end
  local script = process.write_file(peer.tmpdir() .. "/flights.cjs", DUCKDB)
  return side(expected, function() return peer.run({ "node", script, path, threads }, { env = { NODE_PATH = modules } }) end)
end

return flights
