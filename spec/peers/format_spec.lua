-- docs/FORMAT.md is enough to read tarn's bytes: reader.cjs was written from it, shares no code with tarn, and gets the same values.
local node = require "spec.helper.node"
local process = require "spec.helper.process"
local values = require "spec.helper.values"

local SCALAR_KEYS = { keys = "scalars" }

local function u32(n) return string.char(n % 256, math.floor(n / 256) % 256, math.floor(n / 65536) % 256, math.floor(n / 16777216)) end

-- Both texts around the place where they begin to differ.
local function difference(a, b)
  local at = 1
  while a:byte(at) == b:byte(at) do at = at + 1 end
  local from, to = math.max(at - 300, 1), at + 300
  return ("from %d on:\nhere  %s\nthere %s"):format(from, a:sub(from, to), b:sub(from, to))
end

local function compare(expected, out, seed)
  local count = 0
  for line in out:gmatch("([^\n]*)\n") do
    count = count + 1
    if line ~= expected[count] then
      error(("seed %d, value %d, %s"):format(seed, count, difference(tostring(expected[count]), line)), 0)
    end
  end
  assert.equal(#expected, count)
end

local function reader(...)
  local source = process.read_file(process.root .. "/spec/peers/reader.cjs")
  return node.run(source, { args = { ... }, timeout_s = 120 })
end

describe("a reader written from docs/FORMAT.md", function()
  setup(function() package.loaded[values.CLASS] = values.Class end)
  teardown(function() package.loaded[values.CLASS] = nil end)

  it("reads the images of generated values", function()
    local seed = values.seed()
    math.randomseed(seed)
    local make = values.generator(math.random, SCALAR_KEYS)
    local images, expected = {}, {}
    for i = 1, 3000 do
      local x = make()
      local image = tarn.encode(x)
      images[i], expected[i] = u32(#image) .. image, values.text(x)
    end
    local path = process.tmpdir() .. "/images"
    process.write_file(path, table.concat(images))
    compare(expected, reader("images", path), seed)
  end)

  it("reads saved files", function()
    local seed = values.seed()
    math.randomseed(seed)
    local make = values.generator(math.random, SCALAR_KEYS)
    local directory, paths, expected = process.tmpdir(), {}, {}
    for i = 1, 100 do
      local x = make()
      paths[i], expected[i] = directory .. "/" .. i, values.text(x)
      tarn.save(paths[i], x)
    end
    compare(expected, reader("files", unpack(paths)), seed)
  end)
end)
