-- The examples that have no spec of their own (demo_spec, serializer_spec, table_spec): what they give, beside the same computed otherwise.
local process = require "spec.helper.process"

local function example(name) return process.root .. "/examples/" .. name end

-- Its output, with so many workers; run in a new directory, which is returned too.
local function run(name, workers, ...)
  local cwd = process.tmpdir()
  local args = { example(name), ... }
  if workers > 0 then
    table.insert(args, 1, tostring(workers))
    table.insert(args, 1, "-p")
  end
  local result = process.run_tarn(args, { cwd = cwd, timeout_s = 60 })
  assert.equal("", result.err)
  assert.equal(0, result.code)
  return result.out, cwd
end

describe("examples/wordcount.lua", function()
  -- Words of many lengths, so that one lies across each border between pieces; the last without an end of line.
  local function text_of(bytes)
    local list, size, n = {}, 0, 0
    while size < bytes do
      n = (n * 16807 + 11) % 2147483647
      local word = ("w\195\164%x"):format(n % 500):rep(n % 4 + 1)
      list[#list + 1] = n % 3 == 0 and word:upper() or word
      size = size + #word + 1
    end
    return table.concat(list, " ")
  end

  it("counts what a plain loop counts, across pieces and files", function()
    local folder = process.tmpdir()
    local big = process.write_file(folder .. "/big.txt", text_of(8.1e6))
    local long = process.write_file(folder .. "/long.txt", ("x"):rep(4.1e6))
    local small = process.write_file(folder .. "/small.txt", "One fish, two fish.\nRed fish\n")
    local counts, all = {}, 0
    for _, path in ipairs { big, long, small } do
      for word in process.read_file(path):gmatch("[%w\128-\255]+") do
        counts[word:lower()], all = (counts[word:lower()] or 0) + 1, all + 1
      end
    end
    local out = run("wordcount.lua", 2, "-n", "100000", big, long, small)
    local found = 0
    for n, word in out:gmatch(" *(%d+)  ([^\n]+)\n") do
      assert.equal(counts[word], tonumber(n))
      found = found + 1
    end
    local different = 0
    for _ in pairs(counts) do different = different + 1 end
    assert.equal(different, found)
    assert.truthy(out:find(("%d words, %d of them different, in 6 pieces"):format(all, different), 1, true), out:sub(-80))
  end)
end)

describe("examples/sweep.lua", function()
  it("finds the jump, and plots it; the same with any number of workers", function()
    local out, cwd = run("sweep.lua", 2, "a.svg", "24", "20")
    assert.truthy(out:find("plotted to a.svg", 1, true))
    local svg = process.read_file(cwd .. "/a.svg")
    local shares = {}
    for y in svg:match('points="(.-)"'):gmatch(",([%d.]+)") do shares[#shares + 1] = (360 - y) / 320 end
    assert.equal(41, #shares)
    assert.is_true(shares[1] <= 0.2 and shares[41] >= 0.95)
    for _, share in ipairs(shares) do assert.is_true(share >= 0 and share <= 1) end
    local _, other = run("sweep.lua", 0, "a.svg", "24", "20")
    assert.equal(svg, process.read_file(other .. "/a.svg"))
  end)
end)

describe("examples/mandelbrot.lua", function()
  it("draws the set, from bands that lie on all workers", function()
    local out, cwd = run("mandelbrot.lua", 2, "m.ppm", "120")
    assert.truthy(out:find("120 x 80 pixels in m.ppm", 1, true))
    local bands = 0
    for n in out:gmatch("computed (%d+) bands") do bands = bands + n end
    assert.equal(3, bands)
    local picture = process.read_file(cwd .. "/m.ppm")
    local header = "P6\n120 80\n255\n"
    assert.equal(header, picture:sub(1, #header))
    assert.equal(#header + 120 * 80 * 3, #picture)
    local function pixel(x, y) -- of the point there
      local at = #header + 3 * (math.floor((y + 1) / 2 * 80) * 120 + math.floor((x + 2.25) / 3 * 120))
      return { picture:byte(at + 1, at + 3) }
    end
    assert.same({ 0, 0, 0 }, pixel(0, 0))
    assert.same({ 0, 0, 0 }, pixel(-1, 0.01))
    assert.not_same({ 0, 0, 0 }, pixel(0.6, 0.6))
    assert.same(pixel(-0.5, 0.75), pixel(-0.5, -0.75)) -- it is symmetric
    local _, alone = run("mandelbrot.lua", 0, "m.ppm", "120")
    assert.equal(picture, process.read_file(alone .. "/m.ppm"))
  end)
end)
