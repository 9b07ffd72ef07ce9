-- Tables of a million rows beside plain Lua tables, each in a process of its own, and beside DuckDB (where ./dev test peers has
-- installed it). Processor time counts, of all threads: DuckDB's are done sooner by the clock on the wall where cores are idle.
local case = require "bench.lib.case"
local peer = require "bench.lib.peer"
local table_cases = require "bench.lib.table_cases"
local tarn = require "tarn"
local uv = require "luv"

local MODULES = uv.cwd() .. "/build/peers/node_modules"

local DUCKDB = [=[
const { DuckDBInstance } = require("@duckdb/node-api");
(async () => {
  const c = await (await DuckDBInstance.create(":memory:")).connect();
  const [rows, small, groups] = [%d, %d, %d];
  await c.run(`create table t as select (i * 7919) %% ${rows} as id, 'group ' || (i * 31) %% ${groups} as g, i * 0.5 as v
    from range(${rows}) r(i)`);
  await c.run(`create table u as select i * 10 as id, i * 2.0 as w from range(${small}) r(i)`);
  const query = {
    sort: "create or replace temp table s as select * from t order by id",
    groupreduce: "create or replace temp table s as select g, count(*), sum(v), avg(v), max(v) from t group by g",
    "join, hashed": "create or replace temp table s as select t.id, t.g, t.v, u.w from t join u on t.id = u.id",
  }[process.argv[2]];
  let best = Infinity;
  for (let i = 0; i < 3; i++) {
    const start = process.cpuUsage();
    await c.run(query);
    const took = process.cpuUsage(start);
    best = Math.min(best, (took.user + took.system) / 1e3);
  }
  console.log(best);
})();
]=]

-- The best of three, in a process of its own. nil: it is not here.
local function duckdb(name)
  if not uv.fs_stat(MODULES .. "/@duckdb/node-api") then return nil end
  local path = os.tmpname()
  return function()
    local file = assert(io.open(path, "w"))
    file:write(DUCKDB:format(table_cases.ROWS, table_cases.SMALL, table_cases.GROUPS))
    file:close()
    local ms = peer.figure { "env", "NODE_PATH=" .. MODULES, "node", path, name }
    os.remove(path)
    return ms
  end
end

case.run("tables", "1e6 rows: sorted, grouped, joined, looked up", function(c)
  local mine, theirs = tarn.addprocs(1)[1], tarn.addprocs(1)[1]
  local function side(pid, which, name, scale)
    return function()
      return tarn.remotecall_fetch(pid, function(...) return require("bench.lib.table_cases").ms(...) end, which, name) * (scale or 1)
    end
  end
  local function compare(name, others)
    others.name, others.unit, others.less = name, others.unit or "ms", true
    others.ours = side(mine, "ours", name, others.scale)
    others.theirs = {}
    if others.plain then others.theirs[1] = { "plain Lua", side(theirs, "plain", name, others.scale) } end
    if others.duckdb then table.insert(others.theirs, { "DuckDB", duckdb(name) }) end
    c:compare(others)
  end
  local us_a_lookup = 1000 / table_cases.LOOKUPS
  compare("sort", { plain = true, duckdb = true, rounds = 3, warmup = 0 })
  compare("groupreduce", { plain = true, duckdb = true })
  compare("join, hashed", { plain = true, duckdb = true })
  compare("join, merged", {})
  compare("select by a function", { plain = true })
  compare("sum over rows", { plain = true })
  compare("lookups by number", { plain = true, unit = "us", scale = us_a_lookup })
  compare("lookups by text", { plain = true, unit = "us", scale = us_a_lookup })
  tarn.rmprocs(mine, theirs)
end)
