-- The demo's numbers, against the same computed here by plain Lua, line by line.
local process = require "spec.helper.process"

local DEMO = process.root .. "/examples/flights.lua"
local DATA = process.root .. "/examples/data/flights-20k.csv"

-- What the demo should print for a file: origins = {[name] = "flights delay distance"}, routes = the ten worst as "A to B flights delay".
local function expected(path, min_flights)
  local origins, routes = {}, {}
  local header = true
  for line in io.lines(path) do
    local delay, distance, origin, destination = line:match("^[^,]+,([^,]+),([^,]+),(%a+),(%a+)\r?$")
    if not header then
      local o = origins[origin] or { flights = 0, delay = 0, distance = 0 }
      origins[origin] = o
      o.flights, o.delay, o.distance = o.flights + 1, o.delay + tonumber(delay), o.distance + tonumber(distance)
      local name = origin .. " to " .. destination
      local r = routes[name] or { name = name, flights = 0, delay = 0 }
      routes[name] = r
      r.flights, r.delay = r.flights + 1, r.delay + tonumber(delay)
    end
    header = false
  end
  local by_origin, worst, ten = {}, {}, {}
  for name, o in pairs(origins) do
    by_origin[name] = ("%d %.2f %.2f"):format(o.flights, o.delay / o.flights, o.distance / o.flights)
  end
  for _, r in pairs(routes) do
    if r.flights >= min_flights then worst[#worst + 1] = r end
  end
  table.sort(worst, function(a, b)
    local mean_a, mean_b = a.delay / a.flights, b.delay / b.flights
    if mean_a ~= mean_b then return mean_a > mean_b end
    return a.name < b.name
  end)
  for i = 1, math.min(10, #worst) do
    ten[i] = ("%s %d %.2f"):format(worst[i].name, worst[i].flights, worst[i].delay / worst[i].flights)
  end
  return by_origin, ten
end

-- The same from the demo's output.
local function printed(out)
  local origins, routes = {}, {}
  for line in out:gmatch("[^\n]+") do
    local name, flights, delay, distance = line:match("^(%u%u%u)  +(%d+)  +(%-?%d+%.%d%d)  +(%d+%.%d%d)$")
    if name then origins[name] = ("%s %s %s"):format(flights, delay, distance) end
    local route, count, mean = line:match("^(%u%u%u to %u%u%u)  +(%d+)  +(%-?%d+%.%d%d)$")
    if route then routes[#routes + 1] = ("%s %s %s"):format(route, count, mean) end
  end
  return origins, routes
end

local function pool_total(out, column)
  local cells = {}
  for text in out:match("\nall  +([^\n]+)"):gmatch("([%d.]+)") do cells[#cells + 1] = tonumber(text) end
  return cells[({ objects = 1, set = 2, spilled = 3, mapped_back = 4, mapped_in = 5, tcp = 6 })[column]]
end

describe("the demo", function()
  it("gives the numbers of an independent computation, with data that did not fit in memory", function()
    local result = process.run_tarn({ DEMO }, { timeout_s = 120 })
    assert.equal(0, result.code, result.err)
    assert.equal("", result.err)
    local origins, routes = printed(result.out)
    local right_origins, right_routes = expected(DATA, 10)
    assert.same(right_origins, origins)
    assert.same(right_routes, routes)
    assert.is_true(pool_total(result.out, "set") >= 64 * 2 ^ 20 / 1e6)
    assert.is_true(pool_total(result.out, "spilled") > 20)
    assert.is_true(pool_total(result.out, "mapped_back") > 20)
    assert.is_true(pool_total(result.out, "objects") >= 4 * 5)
  end)

  it("takes both forms of dates, columns in any order, and any number of workers and copies", function()
    local cwd = process.tmpdir()
    local lines, same, n = { "origin,date,spare,delay,distance,destination" }, {}, 0
    for line in io.lines(DATA) do
      local date, delay, distance, origin, destination = line:match("^([^,]+),([^,]+),([^,]+),([^,]+),([^,]+)$")
      n = n + 1
      if n <= 3001 then same[n] = line .. "\n" end
      if n > 1 and n <= 3001 then
        if n % 2 == 0 then date = date:gsub("/", "-") .. ":00" end
        lines[#lines + 1] = table.concat({ origin, date, "", delay, distance, destination }, ",") .. "\r"
      end
    end
    local path = process.write_file(cwd .. "/other.csv", table.concat(lines, "\n") .. "\n\n")
    local plain = process.write_file(cwd .. "/plain.csv", table.concat(same))
    local right_origins, right_routes = expected(plain, 3)
    for _, options in ipairs { { "1", "1" }, { "3", "7" } } do
      local result = process.run_tarn({ DEMO, path, "--workers", options[1], "--repeat", options[2], "--memory", "8MB",
        "--min-flights", "3" }, { cwd = cwd, timeout_s = 60 })
      assert.equal(0, result.code, result.err)
      local origins, routes = printed(result.out)
      assert.same(right_origins, origins)
      assert.same(right_routes, routes)
    end
  end)
end)
