-- Tables between processes, in files, in the spill file, and out of Arrow files everywhere.
local cluster = require "spec.helper.cluster"
local process = require "spec.helper.process"
local with = cluster.with

local function people(n)
  local id, city, height, name = tarn.array("int32_t", n), { n = n }, tarn.nullable("double", n), tarn.strings.builder()
  for i = 1, n do
    id[i], city[i] = n - i + 1, i % 5 > 0 and ({ "York", "Bath", "Ely" })[i % 3 + 1] or nil
    if i % 4 > 0 then height[i] = i / 2 end
    name:add(i % 6 > 0 and "name " .. i or nil)
  end
  local columns = { { "id", id }, { "city", tarn.pooled(city) }, { "height", height }, { "name", name:finish() } }
  return tarn.table { columns = columns, key = "id" }
end

local N = 50000
local SUMMARY = { { "n", "count" }, { "sum", "sum", "height" }, { "low", "min", "name" } }

local function check(t)
  assert.equal(N, #t)
  assert.same({ "id" }, t.key)
  local row, i = t:lookup(N - 99)
  assert.equal(N - 99, i)
  assert.same({ id = N - 99, city = nil, height = nil, name = "name 100" }, row())
  assert.equal(11, #t:range(10, 20))
  local groups = t:groupreduce("city", SUMMARY)
  assert.equal(4, #groups)
  assert.equal(N / 5, groups[4].n)
  assert.is_nil(groups[4].city)
end

describe("a table", function()
  it("is saved and loaded, mapped", function()
    local path = process.tmpdir() .. "/t"
    tarn.save(path, people(N))
    check(tarn.load(path))
  end)

  it("comes back from the spill file", function()
    local ref = tarn.poolset(people(N))
    tarn.movetodisk(ref)
    check(tarn.poolget(ref))
    local file = tarn.copytodisk(ref, process.tmpdir() .. "/t")
    check(tarn.poolget(file))
    tarn.pooldelete(ref)
  end)

  it("goes to another process and back, and its columns are sealed", function()
    with(2, function(ids)
      local ref = tarn.poolset(people(N), ids[1])
      check(tarn.poolget(ref))
      local groups, part, title, ok, why = tarn.remotecall_fetch(ids[2], function(r)
        local t = tarn.poolget(r)
        local by_city = t:groupreduce("city", { { "n", "count" }, { "sum", "sum", "height" } })
        return by_city, t:range(100, 120), tostring(t):match "^[^\n]+", pcall(function() t.id[1] = 5 end)
      end, ref)
      assert.equal(4, #groups)
      assert.equal(100, part[1].id)
      assert.equal(21, #part)
      assert.equal("table of 50000 rows, 4 columns, key id", title)
      assert.is_false(ok)
      assert.truthy(tostring(why):find("sealed", 1, true))
    end)
  end)

  it("out of an Arrow file can be stored, spilled and read elsewhere", function()
    with(1, function(ids)
      local path = process.tmpdir() .. "/t.arrow"
      tarn.arrow.save(path, people(N))
      local ref = tarn.remotecall_fetch(ids[1], function(p) return tarn.poolset(tarn.arrow.load(p)) end, path)
      check(tarn.poolget(ref))
      local here = tarn.poolset(tarn.arrow.load(path))
      tarn.movetodisk(here)
      check(tarn.poolget(here))
      check(tarn.remotecall_fetch(ids[1], function(r) return tarn.poolget(r) end, here))
    end)
  end)

  it("is joined with one from another process", function()
    with(1, function(ids)
      local theirs = tarn.remotecall_fetch(ids[1], function()
        return tarn.table { columns = { { "city", { "Bath", "York" } }, { "county", { "Somerset", "Yorkshire" } } } }
      end)
      local joined = people(10):join(theirs, { on = "city", how = "left" })
      assert.equal(10, #joined)
      for _, row in ipairs(joined) do
        assert.equal(({ Bath = "Somerset", York = "Yorkshire" })[row.city or ""], row.county)
      end
    end)
  end)
end)

describe("examples/table.lua", function()
  it("runs, and leaves an Arrow file", function()
    local path = process.tmpdir() .. "/x.arrow"
    local run = process.run_tarn { process.root .. "/examples/table.lua", path }
    assert.equal(0, run.code, run.err)
    assert.truthy(run.out:find("Cairo     16284", 1, true), run.out)
    assert.equal("Norway", tarn.arrow.load(path):lookup("Oslo").country)
  end)
end)
