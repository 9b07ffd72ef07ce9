-- Every kind of column against plain lists, by everything that lua/tarn/column.lua promises.
local columns = require "spec.helper.columns"
local core = require "tarn.core"
local errors = require "tarn.errors"

local function back(x, opts) return core.decode(core.encode(x), opts) end

local function refused(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(errors.iserror(e, "ArgumentError"), tostring(e))
  assert.is_truthy(e.message:find("column_spec.lua:%d+: "), e.message)
end

-- Much cheaper than luassert's assert, of which there would be millions.
local function check(ok)
  if not ok then error("wrong", 2) end
end

-- fn(column, list, kind) for columns of every kind and of several lengths: made, sliced from a larger one (so that bits begin anywhere),
-- and read back. (All kinds in one case: what is checked around each case takes longer than the case.)
local function each(fn)
  math.randomseed(columns.seed)
  for _, kind in ipairs(columns.kinds) do
    for _, n in ipairs { 0, 1, 9, 64, 130 } do
      local list = columns.list(kind, n)
      local ok, e = pcall(function()
        local column = kind.make(list)
        fn(column, list, kind)
        fn(back(column), list, kind)
        local i = math.random(1, n + 1)
        local j = math.random(i - 1, n)
        local part = columns.slice(list, i, j)
        fn(column:slice(i, j), part, kind)
        fn(back(column:slice(i, j)), part, kind)
      end)
      if not ok then error(("TARN_SEED=%d, %s, %d elements: %s"):format(columns.seed, kind.name, n, tostring(e)), 0) end
    end
  end
end

-- The indices of a list in the order of its elements.
local function rows_in_order(list, down)
  local rows = { n = list.n }
  for i = 1, list.n do rows[i] = i end
  table.sort(rows, function(a, b)
    local c = columns.order(list[a], list[b])
    if down and list[a] ~= nil and list[b] ~= nil then c = -c end
    return c < 0 or c == 0 and a < b
  end)
  return rows
end

describe("every column", function()
  it("has its elements", function()
    each(function(column, list)
      columns.check(column, list)
      local seen = 0
      for i, v in ipairs(column) do
        seen = seen + 1
        check(i == seen and columns.same(v, list[i]))
      end
      for i, v in pairs(column) do check(i <= list.n and columns.same(v, list[i])) end
      check(seen == list.n)
      local valid, all = 0, column:totable()
      for i = 1, list.n do
        valid = valid + (list[i] ~= nil and 1 or 0)
        check(columns.same(all[i], list[i]))
      end
      check(column:valid_count() == valid)
      local validity = column:validity()
      for i = 1, validity and list.n or 0 do check(validity[i] == (list[i] ~= nil)) end
      check(#tostring(column) < 300)
    end)
  end)

  it("is copied, sliced and gathered", function()
    each(function(column, list)
      columns.check(column:copy(), list)
      if list.n == 0 then return end
      local rows, taken = {}, { n = 30 }
      for k = 1, 30 do
        rows[k] = math.random(list.n)
        taken[k] = list[rows[k]]
      end
      columns.check(column:take(rows), taken)
      columns.check(column:take(tarn.array("uint32_t", rows)), taken)
      columns.check(column:take(tarn.array("double", rows)), taken)
      columns.check(column:take({}), { n = 0 })
      local i = math.random(list.n)
      columns.check(column:slice(i), columns.slice(list, i, list.n))
    end)
  end)

  it("compares, hashes and finds", function()
    each(function(column, list, kind)
      for _ = 1, math.min(list.n, 30) do
        local i, j = math.random(list.n), math.random(list.n)
        local order = columns.order(list[i], list[j])
        check(column:compare(i, j) == order and column:order(i, list[j]) == order)
        check(column:eq(i, list[j]) == (order == 0))
        if order == 0 then check(column:hash(i) == column:hash(j)) end
        check((column:hash(i) == nil) == (list[i] == nil))
        local first = 1
        while columns.order(list[first], list[i]) ~= 0 do first = first + 1 end
        check(column:find(list[i]) == first or kind.name == "bits")
        local again = first + 1
        while again <= list.n and columns.order(list[again], list[i]) ~= 0 do again = again + 1 end
        if list[i] ~= nil then check(column:find(list[i], first + 1) == (again <= list.n and again or nil)) end
      end
    end)
  end)

  it("is sorted, and searched where it is", function()
    each(function(column, list)
      local rows = rows_in_order(list)
      columns.check(column:argsort(), rows)
      columns.check(column:argsort(nil, true), rows_in_order(list, true))
      local sorted = column:take(column:argsort())
      for _ = 1, math.min(list.n, 20) do
        local value = list[math.random(list.n)]
        local below, up_to = 0, 0
        for i = 1, list.n do
          below = below + (columns.order(list[i], value) < 0 and 1 or 0)
          up_to = up_to + (columns.order(list[i], value) <= 0 and 1 or 0)
        end
        check(sorted:lower(value) == below + 1 and sorted:upper(value) == up_to + 1)
      end
    end)
  end)

  it("is sorted by one column after another", function()
    each(function(column, list)
      local second = {}
      for i = 1, list.n do second[i] = math.random(3) end
      local rows = column:argsort(tarn.array("int8_t", second):argsort())
      for k = 2, list.n do
        local a, b = rows[k - 1], rows[k]
        local order = columns.order(list[a], list[b])
        check(order < 0 or order == 0 and (second[a] < second[b] or second[a] == second[b] and a < b))
      end
    end)
  end)

  it("is grouped, within groups too", function()
    each(function(column, list)
      local codes, first = column:group()
      local count = 0
      for i = 1, list.n do
        local k = 1
        while columns.order(list[k], list[i]) ~= 0 do k = k + 1 end
        if k == i then
          count = count + 1
          check(codes[i] == count and first[count] == i)
        end
        check(codes[i] == codes[k])
      end
      check(#first == count and #codes == list.n)
      local outer = {}
      for i = 1, list.n do outer[i] = math.random(2) end
      codes = column:group(tarn.array("uint32_t", outer))
      for i = 1, list.n do
        local j = math.random(list.n)
        check((codes[i] == codes[j]) == (outer[i] == outer[j] and columns.order(list[i], list[j]) == 0))
      end
    end)
  end)

  it("travels in files, and is counted as what it holds", function()
    local all, lists, path = {}, {}, os.tmpname()
    os.remove(path)
    each(function(column, list)
      check(core.approx_size(column) == column:nbytes())
      all[#all + 1], lists[#lists + 1] = column, list
    end)
    tarn.save(path, { all, all[1] })
    local loaded = tarn.load(path)
    os.remove(path)
    for i, list in ipairs(lists) do columns.check(loaded[1][i], list) end
    assert.is_true(rawequal(loaded[1][1], loaded[2]))
  end)

  it("refuses what is not its own at the caller's line", function()
    math.randomseed(columns.seed)
    for _, kind in ipairs(columns.kinds) do
      local column = kind.make(columns.list(kind, 20))
      for _, i in ipairs { 0, 21, 1.5, -1, 0 / 0 } do refused(function() column[i] = kind.value() end) end
      refused(function() column.x = kind.value() end)
      refused(function() column[1] = print end)
      for _, range in ipairs { { 0, 3 }, { 3, 21 }, { 5, 3 }, { "x" } } do refused(column.slice, column, range[1], range[2]) end
      for _, rows in ipairs { { 21 }, { 0 }, { 1.5 }, { "x" }, "x", tarn.array("uint32_t", { 3, 99 }), tarn.array("int8_t", { -1 }) } do
        refused(column.take, column, rows)
      end
      refused(column.argsort, column, { 99 })
      refused(column.group, column, { 1 })
      refused(column.group, column, tarn.array("uint32_t", 3))
      refused(column.order, kind.make({ kind.value(), n = 1 }), 1, print)
      refused(column.copy)
      refused(column.argsort, "x")
      assert.is_nil(column.nothing)
      assert.is_nil(column[print])
    end
  end)
end)

describe("columns", function()
  it("of different types have equal hashes for equal elements", function()
    local i8, f64 = tarn.array("int8_t", { 5 }), tarn.array("double", { 5 })
    local i64, u64 = tarn.array("int64_t", { 5 }), tarn.array("uint64_t", { 5 })
    assert.are.equal(i8:hash(1), f64:hash(1))
    assert.are.equal(i8:hash(1), i64:hash(1))
    assert.are.equal(i8:hash(1), u64:hash(1))
    local big = 2 ^ 60
    assert.are.equal(tarn.array("double", { big }):hash(1), tarn.array("int64_t", { 2LL ^ 60 }):hash(1))
    assert.are.equal(tarn.array("double", { 0 }):hash(1), tarn.array("double", { -0.0 }):hash(1))
    assert.are.equal(tarn.strings({ "x" }):hash(1), tarn.pooled({ "x" }):hash(1))
  end)

  it("order 64-bit integers beside other numbers rightly", function()
    local a, u = tarn.array("int64_t", { 0x7fffffffffffffffLL, -5LL }), tarn.array("uint64_t", { 0xffffffffffffffffULL, 5ULL })
    assert.are.equal(-1, a:order(1, 2 ^ 63))
    assert.are.equal(1, a:order(1, 0x7ffffffffffffffeLL))
    assert.are.equal(-1, a:order(2, -4.5))
    assert.are.equal(1, a:order(2, -5.5))
    assert.are.equal(0, a:order(2, -5))
    assert.are.equal(-1, a:order(2, 0xffffffffffffffffULL))
    assert.are.equal(1, u:order(1, -1LL))
    assert.are.equal(-1, u:order(1, 2 ^ 64))
    assert.are.equal(1, u:order(1, 2 ^ 63))
    assert.are.equal(-1, u:order(2, 0 / 0))
    assert.are.equal(-1, a:compare(1, 1, u))
    assert.are.equal(1, u:compare(1, 1, a))
    assert.are.equal(1, tarn.array("double", { 5.5 }):compare(1, 2, u))
    assert.are.same({ 2, 1 }, a:argsort():totable())
    assert.are.same({ 2, 1 }, u:argsort():totable())
  end)

  it("sort many, with few and many equal ones", function()
    math.randomseed(columns.seed)
    for _, range in ipairs { 3, 1000, 2 ^ 31 - 1 } do
      local a = tarn.array("double", 20000)
      for i = 1, #a do a[i] = math.random(-range, range) / 7 end
      local texts = {}
      for i = 1, 5000 do texts[i] = ("key %06d"):format(math.random(range) % 1e6) end
      local s = tarn.strings(texts)
      for _, column in ipairs { a, s } do
        local rows = column:argsort()
        for k = 2, #rows do
          local order = column:compare(rows[k - 1], rows[k])
          check(order < 0 or order == 0 and rows[k - 1] < rows[k])
        end
        local _, first = column:group()
        local distinct = 1
        for k = 2, #rows do distinct = distinct + (column:compare(rows[k - 1], rows[k]) ~= 0 and 1 or 0) end
        assert.are.equal(distinct, #first)
      end
    end
  end)
end)
