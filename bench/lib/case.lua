-- A case of the suite: rows that each compare ours with theirs, measured in turns, printed as a table and kept in build/bench.json.
--
-- One round measures ours once and every other side once, and the next round starts with another side, so that what the machine does
-- meanwhile falls on all alike. A ratio is taken within a round and says how many times better ours is, above 1 whatever the unit;
-- a row shows the median of the ratios and their range, and the medians of the figures with their spread:
-- (largest - smallest) / median.
local cjson = require "cjson"
local grid = require "bench.lib.grid"
local lfs = require "lfs"
local peer = require "bench.lib.peer"
local plot = require "bench.lib.plot"
local process = require "spec.helper.process"
local stats = require "bench.lib.stats"
local tarn = require "tarn"
local uv = require "luv"

local case = {}
case.__index = case

local ROUNDS = 5
local RESULTS = "build/bench.json"

local function read(path) return process.read_file(path) or "" end

local function read_json(path)
  local ok, value = pcall(cjson.decode, read(path))
  return ok and type(value) == "table" and value or {}
end

local function machine()
  return {
    processor = read("/proc/cpuinfo"):match("model name%s*:%s*([^\n]+)"),
    processors = #uv.cpu_info(),
    kernel = read("/proc/version"):match("Linux version (%S+)"),
    memory_kib = tonumber(read("/proc/meminfo"):match("MemTotal:%s*(%d+)")),
  }
end

-- Run a case: fn(case) measures and adds rows; then the table is printed. name: as in `./dev bench NAME`; title: what it measures,
-- in a line. Whatever happens, the peers are ended.
function case.run(name, title, fn)
  io.stderr:write(name, ": ", title, "\n")
  local self = setmetatable({ name = name, title = title, rows = {}, plots = {} }, case)
  local ok, e = xpcall(fn, function(e) return tarn.iserror(e) and e or debug.traceback(e, 2) end, self)
  peer.stop_all()
  if not ok then error(e, 0) end
  self:finish()
end

local function progress(fmt, ...) io.stderr:write("  ", fmt:format(...), "\n") end

-- What a side's run gave, as a list: row by row.
local function measure(side, rows)
  local figures = side.run()
  if type(figures) ~= "table" then figures = { figures } end
  for i, row in ipairs(rows) do
    local figure = figures[i]
    if type(figure) ~= "number" or figure ~= figure then error(("%s: %s gave no figure"):format(row.name, side.name), 0) end
  end
  return figures
end

-- Compare. row: name; unit; less (true: the smaller figure is the better one); ours (a function that measures once, checks what it
-- got and returns the figure); theirs: a list of {name, function or nil (it is not here), aim = the ratio to reach}; limit: what ours
-- is to reach by itself; rounds; warmup (a number of rounds that do not count, default 1). Returns the median of ours.
function case:compare(row)
  self:compare_several({ row }, row)
  return self.rows[#self.rows].ours
end

-- The same for several rows, each with name, unit, less, limit and aim (of every ratio), that are measured together: the functions, in
-- `how` with rounds and warmup, return a list of figures, one a row.
function case:compare_several(rows, how)
  local sides = { { name = "tarn", run = how.ours, rounds = {} } }
  for _, other in ipairs(how.theirs or {}) do
    if other[2] then sides[#sides + 1] = { name = other[1], run = other[2], aim = other.aim, rounds = {} } end
    if not other[2] then progress("%s: %s is not here and left out", rows[1].name, other[1]) end
  end
  local warmup, rounds = how.warmup or 1, how.rounds or ROUNDS
  for round = 1 - warmup, rounds do
    for k = 1, #sides do
      local side = sides[(round + k) % #sides + 1]
      local figures = measure(side, rows)
      if round > 0 then side.rounds[round] = figures end
    end
  end
  for i, row in ipairs(rows) do
    local kept = {}
    for k, side in ipairs(sides) do
      local list = {}
      for round, figures in ipairs(side.rounds) do list[round] = figures[i] end
      kept[k] = { name = side.name, aim = row.aim or side.aim, figures = list }
    end
    self:add(row, kept)
  end
end

local function ratios(mine, other, less)
  local list = {}
  for i = 1, #mine do list[i] = less and other[i] / mine[i] or mine[i] / other[i] end
  return list
end

-- Keep figures that were measured already: sides as in compare, each with name, figures and aim.
function case:add(row, sides)
  local mine = sides[1].figures
  local kept = { name = row.name, unit = row.unit, less = row.less or false, limit = row.limit, against = {},
    ours = stats.median(mine), spread = stats.spread(mine), figures = mine }
  for i = 2, #sides do
    local side = sides[i]
    local list = ratios(mine, side.figures, row.less)
    kept.against[i - 1] = { name = side.name, aim = side.aim, figures = side.figures,
      theirs = stats.median(side.figures), spread = stats.spread(side.figures),
      ratio = stats.median(list), lowest = stats.quantile(list, 0), highest = stats.quantile(list, 1) }
  end
  self.rows[#self.rows + 1] = kept
  progress("%s: %.4g %s", row.name, kept.ours, row.unit)
end

-- A plot of this case, written beside the results: see bench.lib.plot. name: a part of the file's name.
function case:plot(name, what)
  what.path = ("build/bench-%s-%s.svg"):format(self.name, name)
  if plot.write(what) then self.plots[#self.plots + 1] = what.path end
end

---------------------------------------------------------------------------------------------------- the table

local number = grid.number

local function percent(v) return ("%.0f%%"):format(v * 100) end

local function verdict(reached) return reached and "reached" or "NOT REACHED" end

local function lines_of(row)
  local lines = {}
  local head = { row.name, number(row.ours) .. " " .. row.unit, percent(row.spread) }
  if row.limit then
    local reached = row.less and row.ours <= row.limit or not row.less and row.ours >= row.limit
    lines[1] = { head[1], head[2], head[3], "", "", "", "", "", (row.less and "<= " or ">= ") .. number(row.limit), verdict(reached) }
  end
  for _, other in ipairs(row.against) do
    local first = #lines == 0
    lines[#lines + 1] = { first and head[1] or "", first and head[2] or "", first and head[3] or "", other.name, number(other.theirs),
      percent(other.spread), ("%.2fx"):format(other.ratio), ("%.2f-%.2f"):format(other.lowest, other.highest),
      other.aim and (">= %.2gx"):format(other.aim) or "", other.aim and verdict(other.ratio >= other.aim) or "" }
  end
  if #lines == 0 then lines[1] = { head[1], head[2], head[3], "", "", "", "", "", "", "" } end
  return lines
end

local HEADS = { "", "tarn", "spread", "against", "theirs", "spread", "ratio", "range", "aim", "" }
local TO_THE_RIGHT = { [2] = true, [3] = true, [5] = true, [6] = true, [7] = true }

-- Put what a case has found in the place of its last run in build/bench.json.
function case.keep(name, found)
  if lfs.attributes("build", "mode") ~= "directory" then lfs.mkdir("build") end
  local all = read_json(RESULTS)
  all.machine = machine()
  all.cases = all.cases or {}
  all.cases[name] = found
  found.at = os.date("!%Y-%m-%dT%H:%M:%SZ")
  process.write_file(RESULTS, cjson.encode(all) .. "\n")
end

-- Print the table, and keep it.
function case:finish()
  local lines = { HEADS }
  for _, row in ipairs(self.rows) do
    for _, line in ipairs(lines_of(row)) do lines[#lines + 1] = line end
  end
  print(("\n%s: %s"):format(self.name, self.title))
  grid.print(lines, function(column) return TO_THE_RIGHT[column] end)
  for _, path in ipairs(self.plots) do print("plot: " .. path) end
  case.keep(self.name, { title = self.title, rows = self.rows, plots = self.plots })
end

return case
