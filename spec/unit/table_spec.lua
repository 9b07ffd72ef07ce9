local array = require "tarn.array"
local bits = require "tarn.bits"
local core = require "tarn.core"
local errors = require "tarn.errors"
local nullable = require "tarn.nullable"
local pooled = require "tarn.pooled"
local strings = require "tarn.strings"
local tabular = require "tarn.table"

local seed = tonumber(os.getenv("TARN_SEED")) or os.time()

local function back(x) return core.decode(core.encode(x)) end

local function fails(text, fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(errors.iserror(e, "ArgumentError"), tostring(e))
  assert.is_truthy(e.message:find("table_spec.lua:%d+: "), e.message)
  assert.is_truthy(e.message:find(text, 1, true), e.message)
end

local function people()
  return tabular {
    columns = {
      { "id", array("int32_t", { 3, 1, 2, 2 }) },
      { "name", strings { "carol", "ann", nil, "bob", n = 4 } },
      { "city", pooled { "York", "Bath", "York", nil, n = 4 } },
      { "old", bits { true, false, true, false } },
      { "height", nullable("double", { 1.5, nil, 1.75, 2, n = 4 }) },
    },
    key = { "id" },
  }
end

-- Rows as one text.
local function text(t, ...)
  local names, parts = { ... }, {}
  for i, row in ipairs(t) do
    local values = {}
    for k, name in ipairs(names) do values[k] = tostring(row[name]) end
    parts[i] = table.concat(values, ",")
  end
  return table.concat(parts, " ")
end

describe("a table", function()
  it("keeps its rows in the order of its key, equal ones as they were", function()
    local t = people()
    assert.are.equal(4, #t)
    assert.are.equal("1,ann 2,nil 2,bob 3,carol", text(t, "id", "name"))
    assert.are.same({ "id" }, t.key)
    assert.are.same({ "id", "name", "city", "old", "height" }, (function()
      local names = {}
      for i, pair in ipairs(t.columns) do names[i] = pair[1] end
      return names
    end)())
  end)

  it("shares columns that are in order, and copies none", function()
    local id, v = array("double", { 1, 2, 3 }), array("double", 3)
    local t = tabular { columns = { { "id", id }, { "v", v } }, key = "id" }
    assert.is_true(rawequal(t.id, id) and rawequal(t.v, v))
    v[2] = 7
    assert.are.equal(7, t[2].v)
    local without_key = tabular { columns = { { "id", array("double", { 3, 1 }) } } }
    assert.are.equal("3 1", text(without_key, "id"))
  end)

  it("sorts by several columns, missing values last", function()
    local t = tabular {
      columns = { { "a", { "y", "x", "y", nil, "x", n = 5 } }, { "b", array("uint8_t", { 2, 9, 1, 0, 3 }) } },
      key = { "a", "b" },
    }
    assert.are.equal("x,3 x,9 y,1 y,2 nil,0", text(t, "a", "b"))
  end)

  it("makes columns of plain lists", function()
    local t = tabular { columns = { { "n", { 1, nil, 3, n = 3 } }, { "s", { "a", "b", "c" } }, { "b", { true, false, true } },
      { "c", { nil, true, nil, n = 3 } }, { "d", { 1, 2, 3 } } } }
    assert.are.same({ "nullable", "strings", "bits", "nullable", "array" },
      { t.n.kind, t.s.kind, t.b.kind, t.c.kind, t.d.kind })
    assert.are.equal("1,a,true,nil,1 nil,b,false,true,2 3,c,true,nil,3", text(t, "n", "s", "b", "c", "d"))
  end)

  it("gives rows by number, and in loops, which may be kept", function()
    local t = people()
    assert.are.equal("bob", t[3].name)
    assert.is_nil(t[0])
    assert.is_nil(t[5])
    assert.is_nil(t[1.5])
    local kept = {}
    for i, row in pairs(t) do kept[i] = row end
    for i, row in t:rows() do assert.is_true(kept[i] == row) end
    assert.are.equal("carol", kept[4].name)
    assert.are.same({ id = 1, name = "ann", city = "Bath", old = false }, kept[1]())
    assert.are.same(kept[4](), t:totable()[4])
    assert.are.equal('{id = 1, name = "ann", city = "Bath", old = false, height = nil}', tostring(kept[1]))
    fails("the row has no column 'nam'", function() return kept[1].nam end)
    fails("cannot be changed", function() kept[1].name = "x" end)
    fails("cannot be changed", function() t.x = 1 end)
    fails("the table has no method and no column 'nothing'; there are id, name, city, old, height", function() return t.nothing end)
  end)

  it("gives a column whose name is taken by the method", function()
    local t = tabular { columns = { { "select", { 1, 2 } }, { "key", { 3, 4 } } }, key = "select" }
    assert.are.equal(2, t:column("select")[2])
    assert.are.equal(3, t:column("key")[1])
    assert.are.same({ "select" }, t.key)
    fails("there is no column 'x'", t.column, t, "x")
  end)

  it("says what is wrong with what it is to be made of", function()
    fails("{columns = ..., key = ...} is needed", tabular, 5)
    fails("unknown option 'keys'", tabular, { columns = { { "a", { 1 } } }, keys = "a" })
    fails("columns = {", tabular, {})
    fails("column 1 is 'a'", tabular, { columns = { "a" } })
    fails("the name of column 1", tabular, { columns = { { 5, { 1 } } } })
    fails("two columns are called 'a'", tabular, { columns = { { "a", { 1 } }, { "a", { 1 } } } })
    fails("column 'a' is 5", tabular, { columns = { { "a", 5 } } })
    fails("column 'b' has 2 elements, 'a' has 1", tabular, { columns = { { "a", { 1 } }, { "b", { 1, 2 } } } })
    fails("a list of nothing", tabular, { columns = { { "a", {} } } })
    fails("a list of tables", tabular, { columns = { { "a", { {} } } } })
    fails("there is no column 'b'", tabular, { columns = { { "a", { 1 } } }, key = "b" })
    fails("'a' stands twice", tabular, { columns = { { "a", { 1 } } }, key = { "a", "a" } })
    fails("'a' cannot be of the key", tabular, { columns = { { "a", array("struct { int x; }", 2) } }, key = "a" })
    fails("call it with a colon", function() people().lookup(5) end)
  end)

  it("prints its first and last rows, aligned", function()
    local t = people()
    assert.are.equal([[
table of 4 rows, 5 columns, key id
id  name   city  old    height
 1  ann    Bath  false       -
 2  -      York  true     1.75
 2  bob    -     false       2
 3  carol  York  true      1.5]], tostring(t))
    local numbers, texts, lines = {}, {}, {}
    for i = 1, 1000 do numbers[i], texts[i] = i, ("z\n"):rep(100) end
    local long = tostring(tabular { columns = { { "n", numbers }, { "s", texts } } })
    for line in long:gmatch("[^\n]+") do lines[#lines + 1] = line end
    assert.are.equal(13, #lines)
    assert.are.equal("1000", lines[13]:match("^%d+"))
    for _, line in ipairs(lines) do assert.is_true(#line < 60) end
  end)
end)

describe("table:lookup and table:range", function()
  it("find the first row of a key, or of the beginning of one", function()
    local t = people()
    local row, i = t:lookup(2)
    assert.are.equal(2, i)
    assert.are.equal(1.75, row.height)
    assert.is_nil(t:lookup(4))
    assert.is_nil(t:lookup(0))
    local u = tabular { columns = { { "a", { "x", "x", "y" } }, { "b", { 1, 2, 1 } } }, key = { "a", "b" } }
    assert.are.equal(2, select(2, u:lookup("x", 2)))
    assert.are.equal(1, select(2, u:lookup("x")))
    assert.are.equal(3, select(2, u:lookup("y")))
    assert.is_nil(u:lookup("x", 3))
    assert.is_nil(u:lookup("w", 1))
    fails("3 values, but the key has 2: {a, b}", u.lookup, u, "x", 1, 2)
    fails("a key is needed", u.range, u, {})
    fails("cannot be compared", u.lookup, u, 5)
    fails("the key has 0", function() tabular({ columns = { { "a", { 1 } } } }):lookup(1) end)
  end)

  it("give rows between bounds, on the same bytes, with the key", function()
    local v = array("double", { 10, 20, 30, 40, 50 })
    local t = tabular { columns = { { "k", array("int64_t", { 1, 3, 3, 5, 7 }) }, { "v", v } }, key = "k" }
    assert.are.equal("20 30 40", text(t:range(2, 5), "v"))
    assert.are.equal("10 20 30", text(t:range(nil, 3), "v"))
    assert.are.equal("40 50", text(t:range(4), "v"))
    assert.are.equal(0, #t:range(8, 9))
    assert.are.equal(0, #t:range(5, 2))
    assert.are.equal(5, #t:range())
    v[2] = 21
    assert.are.equal("21 30", text(t:range(3, 3), "v"))
    assert.are.equal(2, select(2, t:range(3, 5):lookup(3)) + 1)
    assert.are.equal("21 30", text(t:slice(2, 3), "v"))
    fails("3 to 9 is not within 1..5", t.slice, t, 3, 9)
    fails("has no key", function() tabular({ columns = { { "a", { 1 } } } }):range(1, 2) end)
    local u = tabular { columns = { { "a", { "x", "x", "x", "y" } }, { "b", { 1, 2, 3, 1 } } }, key = { "a", "b" } }
    assert.are.equal("x,2 x,3", text(u:range({ "x", 2 }, { "x" }), "a", "b"))
    assert.are.equal("x,3 y,1", text(u:range({ "x", 2.5 }, "y"), "a", "b"))
  end)

  it("agree with a search through all rows", function()
    math.randomseed(seed)
    for _ = 1, 30 do
      local n = math.random(0, 60)
      local a, b = array("int8_t", n), { n = n }
      for i = 1, n do
        a[i] = math.random(-3, 3)
        b[i] = math.random() < 0.9 and ("abc"):rep(math.random(0, 3)):sub(1, math.random(0, 5)) or nil
      end
      local t = tabular { columns = { { "a", a }, { "b", strings(b) } }, key = { "a", "b" } }
      local function first(x, y)
        for i, row in ipairs(t) do
          if row.a == x and (y == nil or row.b == y) then return i end
        end
      end
      for x = -4, 4 do
        assert.are.equal(first(x), (select(2, t:lookup(x))), "seed " .. seed)
        for _, y in ipairs { "", "a", "abc", "abcab", "zz" } do
          assert.are.equal(first(x, y), (select(2, t:lookup(x, y))), "seed " .. seed)
          local count = 0
          for _, row in ipairs(t) do
            if (row.a > x or row.a == x and (row.b == nil or row.b >= y)) and row.a <= 1 then count = count + 1 end
          end
          assert.are.equal(count, #t:range({ x, y }, 1), "seed " .. seed)
        end
      end
    end
  end)
end)

describe("table:select and table:sort", function()
  it("choose columns, which are shared, and what is left of the key", function()
    local t = tabular { columns = { { "a", { 1, 2 } }, { "b", { 3, 4 } }, { "c", { "x", "y" } } }, key = { "a", "b" } }
    local u = t:select("c", "a")
    assert.is_true(rawequal(u.c, t.c) and rawequal(u.a, t.a))
    assert.are.same({ "a" }, u.key)
    assert.are.same({}, t:select({ "b", "c" }).key)
    fails("there is no column 'd'", t.select, t, "a", "d")
    fails("no columns", t.select, t, {})
    fails("names, a function or bits", t.select, t, 5)
  end)

  it("choose rows by a function, or bits", function()
    local t = people()
    local u = t:select(function(row) return row.old end)
    assert.are.equal("2,nil,1.75 3,carol,1.5", text(u, "id", "name", "height"))
    assert.are.same({ "id" }, u.key)
    assert.are.equal("1 3", text(t:select(bits { true, false, false, true }), "id"))
    assert.are.equal(0, #t:select(function() return false end))
    assert.are.equal(4, #t:select(function() return true end))
    fails("2 bits for 4 rows", t.select, t, bits { true, true })
  end)

  it("put rows in another order, down or up, which becomes the key", function()
    local t = people()
    assert.are.equal("ann bob carol nil", text(t:sort("name"), "name"))
    assert.are.same({ "name" }, t:sort("name").key)
    local down = t:sort { { "old", down = true }, "name" }
    assert.are.equal("true,carol true,nil false,ann false,bob", text(down, "old", "name"))
    assert.are.same({}, down.key)
    assert.are.equal("carol bob ann nil", text(t:sort { { "name", down = true } }, "name"))
    fails("there is no column 'x'", t.sort, t, "x")
    fails("a name or a list", t.sort, t, 5)
  end)
end)

describe("tables travel", function()
  it("with all kinds of columns, shared ones once", function()
    local t = people()
    local copy = back(t)
    assert.are.same(t:totable(), copy:totable())
    assert.are.same({ "id" }, copy.key)
    assert.are.equal(3, select(2, copy:range(2):lookup(3)))
    local v = array("double", 10000)
    local u = tabular { columns = { { "a", v }, { "b", v } }, key = "a" }
    assert.is_true(#core.encode(u) < 81000)
    local again = back { u, u, v }
    assert.is_true(rawequal(again[1], again[2]))
    assert.is_true(rawequal(again[1].a, again[1].b) and rawequal(again[1].a, again[3]))
    assert.are.equal(80000, (core.approx_size(u)))
    assert.are.equal(0, #back(t:slice(2, 1)))
  end)

  it("a slice takes along its own rows only", function()
    local t = tabular { columns = { { "a", array("double", 100000) } } }
    assert.is_true(#core.encode(t:slice(10, 20)) < 1000)
  end)

  it("are Corrupt, or as they were, when their bytes are not", function()
    math.randomseed(seed)
    local good, refused = core.encode(people()), 0
    for _ = 1, 3000 do
      local at = math.random(#good)
      local ok, t = pcall(core.decode, good:sub(1, at - 1) .. string.char(math.random(0, 255)) .. good:sub(at + 1), { code = false })
      if ok and tabular.is(t) then
        local fine, e = pcall(function()
          t:totable()
          t:lookup(2)
          t:range(1, 2)
          return tostring(t)
        end)
        assert.is_true(fine or errors.iserror(e), ("seed %d: %s"):format(seed, tostring(e)))
      elseif not ok then
        refused = refused + 1
        assert.is_true(errors.iserror(t), ("seed %d: %s"):format(seed, tostring(t)))
      end
    end
    assert.is_true(refused > 0)
  end)
end)
