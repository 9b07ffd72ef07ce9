-- Tables of a million rows beside plain Lua tables, and beside DuckDB (where ./dev test peers has installed it) for orientation: it has a
-- thread for each core and plans its queries. Each has a process of its own, since a large Lua heap slows down whoever shares it; they
-- alternate. In each the best of three counts, of those the median of three rounds. Data are the same for all, from one formula.
local uv = require "luv"
local tarn = require "tarn"
local median = require "bench.lib.median"

local ROWS, SMALL, GROUPS, LOOKUPS, ROUNDS = 1000000, 100000, 1000, 100000, 3

local DUCKDB = [[
const { DuckDBInstance } = require("@duckdb/node-api");
(async () => {
  const c = await (await DuckDBInstance.create(":memory:")).connect();
  const [rows, small, groups] = [%d, %d, %d];
  await c.run(`create table t as select (i * 7919) %% ${rows} as id, 'group ' || (i * 31) %% ${groups} as g, i * 0.5 as v
    from range(${rows}) r(i)`);
  await c.run(`create table u as select i * 10 as id, i * 2.0 as w from range(${small}) r(i)`);
  const queries = {
    sort: "create or replace temp table s as select * from t order by id",
    groupreduce: "create or replace temp table s as select g, count(*), sum(v), avg(v), max(v) from t group by g",
    "join, hashed": "create or replace temp table s as select t.id, t.g, t.v, u.w from t join u on t.id = u.id",
  };
  const took = {};
  for (let round = 0; round < 3; round++)
    for (const [name, query] of Object.entries(queries)) {
      const start = process.hrtime.bigint();
      await c.run(query);
      (took[name] = took[name] || []).push(Number(process.hrtime.bigint() - start) / 1e6);
    }
  for (const [name, list] of Object.entries(took)) console.log(name + "\t" + Math.min(...list));
})();
]]


-- ---- the cases: name -> function, timed ----

local kept -- so that nothing is left out as unused

local function group_name(i) return "group " .. i * 31 % GROUPS end

local function ours()
  local id, v, g, text = tarn.array("int32_t", ROWS), tarn.array("double", ROWS), tarn.pooled.builder(), tarn.strings.builder()
  for i = 0, ROWS - 1 do
    id[i + 1], v[i + 1] = i * 7919 % ROWS, i * 0.5
    g:add(group_name(i))
    text:add(("%07d"):format(i))
  end
  local t = tarn.table { columns = { { "id", id }, { "g", g:finish() }, { "v", v } } }
  local other_id, w = tarn.array("int32_t", SMALL), tarn.array("double", SMALL)
  for i = 0, SMALL - 1 do other_id[i + 1], w[i + 1] = i * 10, i * 2 end
  local u = tarn.table { columns = { { "id", other_id }, { "w", w } }, key = "id" }
  local sorted, texts = t:sort("id"), tarn.table { columns = { { "k", text:finish() } }, key = "k" }
  return {
    sort = function() kept = t:sort("id") end,
    groupreduce = function()
      kept = t:groupreduce("g", { { "n", "count" }, { "sum", "sum", "v" }, { "mean", "mean", "v" }, { "max", "max", "v" } })
    end,
    ["join, hashed"] = function() kept = t:join(u, { on = "id" }) end,
    ["join, merged"] = function() kept = sorted:join(u, { on = "id" }) end,
    ["select by a function"] = function() kept = t:select(function(row) return row.v > 250000 end) end,
    ["sum over rows"] = function()
      local sum = 0
      for _, row in ipairs(t) do sum = sum + row.v end
      kept = sum
    end,
    ["lookups by number"] = function()
      for i = 1, LOOKUPS do kept = sorted:lookup(i * 7919 % ROWS).v end
    end,
    ["lookups by text"] = function()
      for i = 1, LOOKUPS do kept = select(2, texts:lookup(("%07d"):format(i * 6007 % ROWS))) end
    end,
  }
end

local function plain()
  local records, others, by_id, by_text = {}, {}, {}, {}
  for i = 0, ROWS - 1 do
    records[i + 1] = { id = i * 7919 % ROWS, g = group_name(i), v = i * 0.5 }
    by_id[i * 7919 % ROWS] = records[i + 1]
    by_text[("%07d"):format(i)] = i + 1
  end
  for i = 0, SMALL - 1 do others[i + 1] = { id = i * 10, w = i * 2 } end
  return {
    sort = function()
      local list = {}
      for i, record in ipairs(records) do list[i] = record end
      table.sort(list, function(a, b) return a.id < b.id end)
      kept = list
    end,
    groupreduce = function()
      local groups = {}
      for _, record in ipairs(records) do
        local group = groups[record.g]
        if not group then
          group = { n = 0, sum = 0, max = record.v }
          groups[record.g] = group
        end
        group.n, group.sum = group.n + 1, group.sum + record.v
        if record.v > group.max then group.max = record.v end
      end
      for _, group in pairs(groups) do group.mean = group.sum / group.n end
      kept = groups
    end,
    ["join, hashed"] = function()
      local index, list = {}, {}
      for _, other in ipairs(others) do index[other.id] = other end
      for _, record in ipairs(records) do
        local other = index[record.id]
        if other then list[#list + 1] = { id = record.id, g = record.g, v = record.v, w = other.w } end
      end
      kept = list
    end,
    ["select by a function"] = function()
      local list = {}
      for _, record in ipairs(records) do
        if record.v > 250000 then list[#list + 1] = record end
      end
      kept = list
    end,
    ["sum over rows"] = function()
      local sum = 0
      for _, record in ipairs(records) do sum = sum + record.v end
      kept = sum
    end,
    ["lookups by number"] = function()
      for i = 1, LOOKUPS do kept = by_id[i * 7919 % ROWS].v end
    end,
    ["lookups by text"] = function()
      for i = 1, LOOKUPS do kept = by_text[("%07d"):format(i * 6007 % ROWS)] end
    end,
  }
end

local function best_ms(fn)
  local best = math.huge
  for _ = 1, 3 do
    kept = nil
    collectgarbage()
    local start = uv.hrtime()
    fn()
    best = math.min(best, (uv.hrtime() - start) / 1e6)
  end
  return best
end

local case = ({ ours = ours, plain = plain })[arg[1]]
if case then
  for name, fn in pairs(case()) do print(("%s\t%.17g"):format(name, best_ms(fn))) end
  return kept
end

-- ---- the driver ----

local script = os.tmpname()
do
  local file = assert(io.open(script, "w"))
  file:write(DUCKDB:format(ROWS, SMALL, GROUPS))
  file:close()
end
local commands = {
  ours = ("'%s' bench/tables.lua ours"):format(uv.exepath()),
  plain = ("'%s' bench/tables.lua plain"):format(uv.exepath()),
  duckdb = uv.fs_stat("build/peers/node_modules/@duckdb/node-api") and "NODE_PATH=$PWD/build/peers/node_modules node " .. script or nil,
}
local times = { ours = {}, plain = {}, duckdb = {} } -- name -> list of ms
for _ = 1, ROUNDS do
  for who, command in pairs(commands) do
    local pipe = io.popen(command)
    for line in pipe:lines() do
      local name, ms = line:match("^(.-)\t(.*)$")
      times[who][name] = times[who][name] or {}
      table.insert(times[who][name], tonumber(ms))
    end
    pipe:close()
  end
end
os.remove(script)

print(("%d rows: ms, or us a lookup; %s"):format(ROWS, commands.duckdb and "all by the clock on the wall" or "no DuckDB here"))
print(("%-22s %10s %10s %10s"):format("", "tarn", "plain Lua", "DuckDB"))
for _, name in ipairs { "sort", "groupreduce", "join, hashed", "join, merged", "select by a function", "sum over rows", "lookups by number",
  "lookups by text" } do
  local cells = {}
  for i, who in ipairs { "ours", "plain", "duckdb" } do
    local list = times[who][name]
    cells[i] = list and ("%.2f"):format(median(list) * (name:find "^lookups" and 1000 / LOOKUPS or 1)) or "-"
  end
  print(("%-22s %10s %10s %10s"):format(name, unpack(cells)))
end
