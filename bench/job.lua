-- The flights job, examples/flights.lua, from start to end: all rows into the pools of 2 workers, then two questions that each worker
-- answers for the rows of the other. With all the memory it wants, and with a quarter of what the rows take. Beside the same by others.
--
--   tarn bench/job.lua [ROWS | FILE]      generated rows (300,000), or a file of one's own
local case = require "bench.lib.case"
local flights = require "bench.lib.flights"
local peer = require "bench.lib.peer"
local uv = require "luv"

local WORKERS = 2
local ROW_BYTES = 26 -- in columns

case.run("job", "the flights job, on 2 workers", function(c)
  local rows, path = tonumber(arg[1] or 300000), arg[1]
  if rows then path = flights.generate(peer.tmpdir() .. "/flights.csv", rows) end
  local expected
  expected, rows = flights.expected(path)
  local capped = ("%d"):format(rows * ROW_BYTES / 4 / WORKERS)

  local function ours(memory)
    local start = peer.now()
    local text = peer.run({ uv.exepath(), "examples/flights.lua", path, "--workers", WORKERS, "--memory", memory, "--repeat", 1 })
    local ms = (peer.now() - start) * 1e3
    if flights.printed(text) ~= expected then error("what came out is not what should", 0) end
    return ms
  end
  local function uncapped() return ours("1GiB") end

  c:compare {
    name = ("%d rows"):format(rows), unit = "ms", less = true, ours = uncapped,
    theirs = {
      { "Dask dataframe", flights.dask("dataframe", path, WORKERS, expected), aim = 5 },
      { "Dask bag", flights.dask("bag", path, WORKERS, expected), aim = 5 },
      { "DuckDB", flights.duckdb(path, WORKERS, expected), aim = 0.5 },
      { "mawk", flights.mawk(path, expected) },
    },
  }
  c:compare {
    name = "the same, in a quarter of their memory", unit = "ms", less = true, ours = function() return ours(capped) end,
    theirs = { { "uncapped", uncapped, aim = 1 / 1.5 } },
  }
end)
