-- Writes the seeds of the fuzz targets, images and files as tarn writes them: tarn spec/fuzz/seeds.lua. What the fuzzer finds goes beside
-- them.
local ffi = require "ffi"

local Class, Point = {}, {}
package.loaded["fuzz.class"] = Class
tarn.serializer {
  name = "point", version = 3, type = Point,
  mmwrite = function(out, p)
    out:value(p.x)
    out:block(ffi.new("double[2]", 1, 2), 16)
    out:value(p.y)
  end,
  mmread = function() return {} end,
}

local shared, cycle = { 1 }, {}
cycle[1] = cycle
local all = { 1, 2.5, "text", { a = shared, b = shared }, 5LL, 7ULL, setmetatable({ 1 }, Class), math, string.format }
local values = {
  plain = { 1, -1, 200, -200, 70000, -70000, 2 ^ 40, 0.1, "x", ("y"):rep(40), "\xff", true, false, { k = { 1, 2, { z = 3 } } } },
  holes = { 1, nil, 3, n = 3, [2.5] = true },
  cycle = cycle,
  all = all,
  wide = { 9007199254740993LL, -9007199254740993LL, 18446744073709551615ULL, 1LL, 0ULL },
  arrays = { tarn.array("double", { 1, 2, 3 }), tarn.array("struct { int32_t a; float b[2]; }", 2),
    tarn.array("float", { shape = { 2, 3 } }) },
  slice = tarn.array("uint8_t", 100):slice(10, 90),
  strings = tarn.strings { "a", nil, "ccc", "", n = 5 },
  dense = tarn.strings { "one", "two" },
  bits = { tarn.bits { true, false, true }, tarn.bits(20) },
  nullable = tarn.nullable(tarn.array("int32_t", { 1, 2, 3 }), tarn.bits { true, false, true }),
  pooled = tarn.pooled { "x", "y", "x", nil, n = 5 },
  columns = tarn.table { columns = { { "id", tarn.array("int32_t", { 1, 2 }) }, { "name", tarn.strings { "a", "b" } } }, key = { "id" } },
  typed = { setmetatable({ x = 1, y = { 2 } }, Point), setmetatable({ x = tarn.array("int8_t", 3), y = "s" }, Point) },
}

local function write(target, name, bytes)
  local file = assert(io.open(("spec/fuzz/corpus/%s/%s"):format(target, name), "wb"))
  file:write(bytes)
  file:close()
end

os.execute("mkdir -p spec/fuzz/corpus/image spec/fuzz/corpus/decode")
for name, value in pairs(values) do
  local image = tarn.encode(value)
  write("decode", "seed-" .. name, image)
  write("image", "seed-" .. name, "\0" .. image)
  local path = os.tmpname()
  if pcall(tarn.save, path, value) then
    local file = assert(io.open(path, "rb"))
    local bytes = file:read("*a")
    file:close()
    write("image", "seed-file-" .. name, "\2" .. bytes)
  end
  os.remove(path)
end
