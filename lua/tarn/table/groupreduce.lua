-- t:groupreduce: one row for each group of rows that agree in some columns, with what the others come to.
local array = require "tarn.array"
local errors = require "tarn.errors"
local bits = require "tarn.bits"
local nullable = require "tarn.nullable"
local own_code = require "tarn.own_code"
local pick = require "tarn.table.pick"
local tabular = require "tarn.table"

local function argument_error(fmt, ...) errors.raise("ArgumentError", "table:groupreduce: " .. fmt:format(...)) end

-- {count, first: an array of each group's first row, codes: one of each row's group, p: its pointer}
local function groups_of(s, by)
  local codes, first
  for _, name in ipairs(by) do codes, first = s.by[name]:group(codes) end
  if not codes then -- all rows are one group
    codes, first = array("uint32_t", s.n), array("uint32_t", math.min(s.n, 1))
    for i = 1, s.n do codes[i] = 1 end
    if s.n > 0 then first[1] = 1 end
  end
  return { count = #first, first = first, codes = codes, p = codes:ptr() }
end

-- ---- loops, one a sort of answer: each is compiled for the columns that it meets ----

local function add_up(c, codes, sums, counts)
  for i = 1, #c do
    local v = c[i]
    if v ~= nil then
      local k = codes[i - 1] - 1
      sums[k] = sums[k] + v
      counts[k] = counts[k] + 1
    end
  end
end

-- 64-bit integers as doubles.
local function add_up_doubles(c, codes, sums, counts)
  for i = 1, #c do
    local v = c[i]
    if v ~= nil then
      local k = codes[i - 1] - 1
      sums[k] = sums[k] + tonumber(v)
      counts[k] = counts[k] + 1
    end
  end
end

local function add_truths(c, codes, sums, counts)
  for i = 1, #c do
    local v = c[i]
    if v ~= nil then
      local k = codes[i - 1] - 1
      if v then sums[k] = sums[k] + 1 end
      counts[k] = counts[k] + 1
    end
  end
end

local function count_rows(codes, n, counts)
  for i = 0, n - 1 do
    local k = codes[i] - 1
    counts[k] = counts[k] + 1
  end
end

local function count_values(c, codes, counts)
  for i = 1, #c do
    if c:valid(i) then
      local k = codes[i - 1] - 1
      counts[k] = counts[k] + 1
    end
  end
end

-- The row of each group's first (sign -1) or last (1) value in order; 0: none.
local function find_extremes(c, codes, best, sign)
  for i = 1, #c do
    if c:valid(i) then
      local k = codes[i - 1] - 1
      local row = best[k]
      if row == 0 or c:compare(i, row) == sign then best[k] = i end
    end
  end
end

local fold_values = own_code(function(c, codes, fn, folded)
  for i = 1, #c do
    local v = c[i]
    if v ~= nil then
      local k = codes[i - 1]
      folded[k] = fn(folded[k], v)
    end
  end
end)

local fold_rows = own_code(function(s, codes, fn, folded, row_at)
  for i = 1, s.n do
    local k = codes[i - 1]
    folded[k] = fn(folded[k], row_at(s, i))
  end
end)

-- ---- answers: function(s, column, groups, name) -> a column ----

-- The C type of the numbers in a column ("bool" for bits); nil: it has none.
local function number_type(c)
  if c.kind == "pooled" then return number_type(c.values) end
  if c.kind == "bits" then return "bool" end
  local ctype = (c.kind == "array" or c.kind == "nullable") and c.ctype or nil
  if ctype == "bits" then return "bool" end
  return ctype and not ctype:match "^struct" and ctype or nil
end

-- Where a count is 0 nothing is known.
local function where_counted(values, counts)
  local there = bits(#values)
  for k = 1, #values do
    if counts[k] > 0 then there[k] = true end
  end
  return there:all() and values or nullable(values, there)
end

local function sums_of(c, groups, name, as_doubles)
  local ctype = number_type(c) or argument_error("column '%s' has no numbers to add", name)
  local is_wide = ctype == "int64_t" or ctype == "uint64_t"
  local sums, counts = array(is_wide and not as_doubles and ctype or "double", groups.count), array("double", groups.count)
  local add = ctype == "bool" and add_truths or is_wide and as_doubles and add_up_doubles or add_up
  add(c, groups.p, sums:ptr(), counts:ptr())
  return sums, counts
end

local answers = {}

function answers.count(s, c, groups)
  local counts = array("double", groups.count)
  if c then count_values(c, groups.p, counts:ptr()) else count_rows(groups.p, s.n, counts:ptr()) end
  return counts
end

function answers.sum(_, c, groups, name) return where_counted(sums_of(c, groups, name)) end

function answers.mean(_, c, groups, name)
  local sums, counts = sums_of(c, groups, name, true)
  for k = 1, groups.count do sums[k] = sums[k] / counts[k] end
  return where_counted(sums, counts)
end

local function extremes(c, groups, sign)
  local best = array("uint32_t", groups.count)
  find_extremes(c, groups.p, best:ptr(), sign)
  return pick(c, best)
end

function answers.min(_, c, groups) return extremes(c, groups, -1) end
function answers.max(_, c, groups) return extremes(c, groups, 1) end

local function fold(s, c, groups, fn, init)
  local folded = { n = groups.count }
  for k = 1, groups.count do folded[k] = init end
  if c then fold_values(c, groups.p, fn, folded) else fold_rows(s, groups.p, fn, folded, tabular._row_at) end
  return groups.count > 0 and folded or array("double", 0)
end

-- ---- what is asked for ----

local function check_term(s, term, i)
  if type(term) ~= "table" or type(term[1]) ~= "string" then
    argument_error('answer %d must be {name, "sum", column} or {name, function, column, init = ...}', i)
  end
  local name, op, of = term[1], term[2], term[3]
  if of ~= nil and not s.by[of] then tabular._no_column("table:groupreduce: there is", of, s.names) end
  if type(op) ~= "function" and not answers[op] then
    argument_error("answer '%s' is by '%s': sum, count, min, max, mean or a function are known", name, tostring(op))
  end
  if of == nil and type(op) ~= "function" and op ~= "count" then argument_error("answer '%s': %s of which column?", name, op) end
end

---One row for each group of rows that agree in the columns `by`, which become the key. Missing values are passed over, and what no
---value led to is missing.
---@param by string|string[] names; an empty list: all rows are one group
---@param what table|function a list of {name, "count"|"sum"|"mean"|"min"|"max", column} (count without a column counts rows), and of
--- {name, function(so_far, value), column, init = the first so_far}, without a column function(so_far, row). A function alone: the answer
--- is called "value"
---@param init? any for a function alone
---@return tarn.Table table
function tabular.methods:groupreduce(by, what, init)
  local s = tabular._inside(self, "groupreduce")
  by = tabular._name_list(by, s, "table:groupreduce")
  if type(what) == "function" then what = { { "value", what, init = init } } end
  if type(what) ~= "table" or #what == 0 then argument_error('a list of answers, such as {{"n", "count"}}, or a function is needed') end
  for i, term in ipairs(what) do check_term(s, term, i) end
  local groups, columns = groups_of(s, by), {}
  for i, name in ipairs(by) do columns[i] = { name, s.by[name]:take(groups.first) } end
  for _, term in ipairs(what) do
    local name, op, of = term[1], term[2], term[3]
    local c = of and s.by[of]
    local answer = type(op) == "function" and fold(s, c, groups, op, term.init) or answers[op](s, c, groups, of)
    columns[#columns + 1] = { name, answer }
  end
  return tabular.new { columns = columns, key = by }
end
