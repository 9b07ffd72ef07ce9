-- groupreduce and join beside the same done naively, on generated tables.
local array = require "tarn.array"
local bits = require "tarn.bits"
local errors = require "tarn.errors"
local nullable = require "tarn.nullable"
local pooled = require "tarn.pooled"
local strings = require "tarn.strings"
local tabular = require "tarn.table"

local seed = tonumber(os.getenv("TARN_SEED")) or os.time()

local function fails(text, fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(errors.iserror(e, "ArgumentError"), tostring(e))
  assert.is_truthy(e.message:find("table_group_join_spec.lua:%d+: "), e.message)
  assert.is_truthy(e.message:find(text, 1, true), e.message)
end

local function rows_of(t)
  local list = {}
  for i, pair in ipairs(t.columns) do list[i] = pair[1] end
  local rows = {}
  for i = 1, #t do
    local parts = {}
    for k, name in ipairs(list) do parts[k] = tostring(t:column(name)[i]):gsub("U?LL$", "") end
    rows[i] = table.concat(parts, " ")
  end
  return rows
end

-- A column of n values out of few, of a kind; and what they are.
local function generate(kind, n)
  local list = { n = n }
  for i = 1, n do
    if math.random() < 0.8 then list[i] = math.random(0, 4) end
  end
  if kind == "strings" or kind == "pooled" then
    for i = 1, n do list[i] = list[i] and ("v"):rep(list[i]) end
    return kind == "strings" and strings(list) or pooled(list), list
  end
  if kind == "nullable" then return nullable("int16_t", list), list end
  if kind == "bits" then
    for i = 1, n do list[i] = (list[i] or 0) > 2 end
    return bits(list), list
  end
  for i = 1, n do list[i] = list[i] or 0 end
  return array(kind, list), list
end

local kinds = { "double", "int64_t", "uint8_t", "strings", "pooled", "nullable", "bits" }

local function pick_kind() return kinds[math.random(#kinds)] end

describe("table:groupreduce", function()
  it("gives sums, means, extremes, counts and folds of each group, passing over what is missing", function()
    local t = tabular {
      columns = { { "k", pooled { "b", "a", "b", nil, "c", n = 5 } }, { "v", nullable("double", { 1, 2, 3, 4, nil, n = 5 }) },
        { "w", array("int64_t", { 1, 2, 3, 4, 5 }) }, { "s", strings { "x", "y", "z", nil, nil, n = 5 } },
        { "b", bits { true, false, true, true, false } } },
    }
    local g = t:groupreduce("k", {
      { "n", "count" }, { "some", "count", "v" }, { "sum", "sum", "v" }, { "mean", "mean", "v" }, { "low", "min", "s" },
      { "high", "max", "v" },
      { "wide", "sum", "w" }, { "middle", "mean", "w" }, { "trues", "sum", "b" },
      { "all", function(so_far, v) return so_far .. v end, "s", init = ">" },
      { "rows", function(so_far, row) return so_far + tonumber(row.w) end, init = 0 },
    })
    assert.are.same({ "k" }, g.key)
    assert.are.equal("int64_t", g.wide.ctype)
    assert.are.same({
      "a 1 1 2 2 y 2 2 2 0 >y 2", "b 2 2 4 2 x 3 4 2 2 >xz 4", "c 1 0 nil nil nil nil 5 5 0 > 5", "nil 1 1 4 4 nil 4 4 4 1 > 4",
    }, rows_of(g))
  end)

  it("takes a function alone, and no columns to group by", function()
    local t = tabular { columns = { { "v", { 1, 2, 3 } } } }
    assert.are.same({ "6" }, rows_of(t:groupreduce({}, function(sum, row) return sum + row.v end, 0)))
    assert.are.same({ "3 3" }, rows_of(t:groupreduce({}, { { "n", "count" }, { "max", "max", "v" } })))
    local empty = t:slice(1, 0)
    assert.are.equal(0, #empty:groupreduce({}, { { "n", "count" } }))
    assert.are.equal(0, #empty:groupreduce("v", { { "n", "count" }, { "s", "sum", "v" }, { "f", function(a) return a end, init = 0 } }))
  end)

  it("says what is wrong", function()
    local t = tabular { columns = { { "s", { "x" } }, { "v", { 1 } } } }
    fails("there is no column 'x'", t.groupreduce, t, "x", { { "n", "count" } })
    fails("a list of answers", t.groupreduce, t, "s", {})
    fails("answer 1 must be", t.groupreduce, t, "s", { "count" })
    fails("there is no column 'y'", t.groupreduce, t, "s", { { "n", "sum", "y" } })
    fails("by 'median'", t.groupreduce, t, "s", { { "n", "median", "v" } })
    fails("sum of which column?", t.groupreduce, t, "s", { { "n", "sum" } })
    fails("column 's' has no numbers", t.groupreduce, t, "v", { { "n", "sum", "s" } })
    fails("two columns are called 's'", t.groupreduce, t, "s", { { "s", "count" } })
  end)

  it("agrees with the same done naively", function()
    math.randomseed(seed)
    for _ = 1, 60 do
      local n = math.random(0, 50)
      local a, a_list = generate(pick_kind(), n)
      local b, b_list = generate(pick_kind(), n)
      local v, v_list = generate("nullable", n)
      local expected, order = {}, {}
      for i = 1, n do
        local key = tostring(a_list[i]) .. " " .. tostring(b_list[i])
        local g = expected[key]
        if not g then
          g = { n = 0, key = key }
          expected[key], order[#order + 1] = g, g
        end
        g.n = g.n + 1
        local x = v_list[i]
        if x then g.sum, g.min, g.max = (g.sum or 0) + x, math.min(g.min or x, x), math.max(g.max or x, x) end
      end
      local t = tabular { columns = { { "a", a }, { "b", b }, { "v", v } } }
      local result = t:groupreduce({ "a", "b" }, { { "n", "count" }, { "sum", "sum", "v" }, { "min", "min", "v" }, { "max", "max", "v" } })
      local lines = {}
      for i, g in ipairs(order) do lines[i] = ("%s %s %s %s %s"):format(g.key, g.n, tostring(g.sum), tostring(g.min), tostring(g.max)) end
      local found = rows_of(result)
      table.sort(lines)
      table.sort(found)
      assert.are.same(lines, found, ("seed %d, by %s and %s"):format(seed, a.kind, b.kind))
    end
  end)
end)

describe("table:join", function()
  local function two()
    return tabular { columns = { { "id", { 1, 2, 2, 4 } }, { "x", { "a", "b", "c", "d" } } }, key = "id" },
      tabular {
        columns = { { "id", array("int32_t", { 2, 2, 3 }) }, { "x", { "p", "q", "r" } }, { "y", { true, false, true } } }, key = "id",
      }
  end

  it("puts rows that agree side by side, inner, left, outer or anti", function()
    local t, u = two()
    for _, left in ipairs { t, tabular { columns = t.columns } } do -- merged, and by hashes
      assert.are.same({ "2 b p true", "2 b q false", "2 c p true", "2 c q false" }, rows_of(left:join(u, { on = "id" })))
      assert.are.same({ "1 a nil nil", "2 b p true", "2 b q false", "2 c p true", "2 c q false", "4 d nil nil" },
        rows_of(left:join(u, { on = "id", how = "left" })))
      local outer = left:join(u, { on = "id", how = "outer" })
      assert.are.same({ "1 a nil nil", "2 b p true", "2 b q false", "2 c p true", "2 c q false", "3 nil r true", "4 d nil nil" },
        rows_of(outer))
      assert.are.same({ "id" }, outer.key)
      assert.are.same({ "1 a", "4 d" }, rows_of(left:join(u, { on = "id", how = "anti" })))
      assert.are.same(left.key, left:join(u, { on = "id" }).key)
    end
    assert.are.same({ "id", "x", "x_right", "y" }, (function()
      local names = {}
      for i, pair in ipairs(t:join(u, { on = "id" }).columns) do names[i] = pair[1] end
      return names
    end)())
  end)

  it("joins on columns of other names and kinds; what is missing agrees with nothing", function()
    local t = tabular { columns = { { "city", pooled { "York", nil, "Bath", n = 3 } } } }
    local u = tabular { columns = { { "town", strings { "Bath", "York", nil, n = 3 } }, { "n", { 1, 2, 3 } } } }
    assert.are.same({ "York 2", "nil nil", "Bath 1" }, rows_of(t:join(u, { on = { { "city", "town" } }, how = "left" })))
    assert.are.same({ "Bath 1 1", "York 2 2" }, rows_of(u:select(function(row) return row.town ~= nil end)
      :join(tabular { columns = { { "city", pooled { "York", "Bath" } }, { "m", { 2, 1 } } } }, { on = { { "town", "city" } } })))
    assert.are.equal(4, #t:join(u, { on = { { "city", "town" } }, how = "outer" }))
  end)

  it("says what is wrong", function()
    local t, u = two()
    fails("another table is needed", t.join, t, 5, { on = "id" })
    fails('{on = "name"} is needed', t.join, t, u)
    fails('on = {"name", ...} is needed', t.join, t, u, {})
    fails("unknown option 'by'", t.join, t, u, { on = "id", by = 1 })
    fails("how is inner, left, outer or anti, not 'right'", t.join, t, u, { on = "id", how = "right" })
    fails("there is no column 'z'", t.join, t, u, { on = "z" })
    fails("the other table has no column 'z'", t.join, t, u, { on = { { "id", "z" } } })
    fails("'id' is of numbers, 'x' of the other table of strings", t.join, t, u, { on = { { "id", "x" } } })
  end)

  -- What a join is, by definition.
  local function expected(a, b, n, m, how)
    local lines, seen = {}, {}
    local function agree(i, j)
      for k = 1, #a do
        if a[k][i] == nil or a[k][i] ~= b[k][j] then return false end
      end
      return true
    end
    local function line(i, j)
      local parts = {}
      for k = 1, #a do
        if i then parts[k] = tostring(a[k][i]) else parts[k] = tostring(b[k][j]) end
      end
      parts[#parts + 1] = tostring(i)
      if how ~= "anti" then parts[#parts + 1] = tostring(j) end
      lines[#lines + 1] = table.concat(parts, " ")
    end
    for i = 1, n do
      local some = false
      for j = 1, m do
        if agree(i, j) then
          some, seen[j] = true, true
          if how ~= "anti" then line(i, j) end
        end
      end
      if not some and how ~= "inner" then line(i, nil) end
    end
    for j = 1, how == "outer" and m or 0 do
      if not seen[j] then line(nil, j) end
    end
    return lines
  end

  local function numbered(columns, n, name)
    local list = array("double", n)
    for i = 1, n do list[i] = i end
    local t = { columns = {} }
    for k, c in ipairs(columns) do t.columns[k] = { "k" .. k, c } end
    t.columns[#t.columns + 1] = { name, list }
    return t
  end

  -- Kinds whose values may agree.
  local families = { { "double", "int64_t", "uint8_t", "nullable" }, { "strings", "pooled" }, { "bits" } }

  it("agrees with the same done naively, merged and hashed", function()
    math.randomseed(seed)
    local hows = { "inner", "left", "outer", "anti" }
    for round = 1, 120 do
      local n, m, how = math.random(0, 25), math.random(0, 25), hows[round % 4 + 1]
      local a, b, a_lists, b_lists = {}, {}, {}, {}
      local names = {}
      for k = 1, math.random(1, 2) do
        local family = families[math.random(#families)]
        a[k], a_lists[k] = generate(family[math.random(#family)], n)
        b[k], b_lists[k] = generate(family[math.random(#family)], m)
        names[k] = "k" .. k
      end
      local left, right = numbered(a, n, "i"), numbered(b, m, "j")
      local lines = expected(a_lists, b_lists, n, m, how)
      table.sort(lines)
      for _, keyed in ipairs { false, true } do
        left.key, right.key = keyed and names or nil, keyed and names or nil
        local found = rows_of(tabular(left):join(tabular(right), { on = names, how = how }))
        table.sort(found)
        assert.are.same(lines, found, ("seed %d, round %d, %s"):format(seed, round, how))
      end
    end
  end)
end)
