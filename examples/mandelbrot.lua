-- The Mandelbrot set as a picture:  tarn -p 4 examples/mandelbrot.lua [OUT.ppm [WIDTH]]
--
-- Workers compute bands of rows, keep each in their pool, and return references to them. The driver writes the bands one after another: it
-- maps what the workers have computed, and nothing is copied through messages.
local tarn = require "tarn"
local ffi = require "ffi"

local out, width = arg[1] or "mandelbrot.ppm", tonumber(arg[2] or 900)
local height = math.floor(width * 2 / 3)
local BAND, MOST = 32, 500

-- How many steps until the point has left, smoothed; nil when it stays.
local function steps(cx, cy)
  local x, y = 0, 0
  for i = 1, MOST do
    local xx, yy = x * x, y * y
    if xx + yy > 256 then return i - math.log(math.log(xx + yy) / 2, 2) end
    x, y = xx - yy + cx, 2 * x * y + cy
  end
end

local function paint(pixels, at, n)
  if not n then return end -- black: arrays begin as zeros
  local t = math.sqrt(math.max(n, 0) / MOST) * 8
  for k = 0, 2 do pixels[at + k] = math.floor(127.5 * (1 - math.cos(t + k))) end
end

local function band(first) -- on a worker: rows from `first` on, three bytes a pixel
  local rows = math.min(BAND, height - first)
  local pixels = tarn.array("uint8_t", rows * width * 3)
  for row = 0, rows - 1 do
    for column = 0, width - 1 do
      paint(pixels, (row * width + column) * 3 + 1, steps(column / width * 3 - 2.25, (first + row) / height * 2 - 1))
    end
  end
  return tarn.poolset(pixels)
end

local firsts = {}
for first = 0, height - 1, BAND do firsts[#firsts + 1] = first end
local bands = tarn.pmap(band, firsts)

local file = assert(io.open(out, "wb"))
file:write(("P6\n%d %d\n255\n"):format(width, height))
local owners = {}
for _, ref in ipairs(bands) do
  local pixels = ref:get()
  file:write(ffi.string(pixels:ptr(), #pixels))
  owners[ref.owner] = (owners[ref.owner] or 0) + 1
end
file:close()
for _, id in ipairs(tarn.procs()) do
  if owners[id] then print(("process %d computed %d bands"):format(id, owners[id])) end
end
print(("%d x %d pixels in %s"):format(width, height, out))
