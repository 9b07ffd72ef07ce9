-- A type of one's own, plugged into workers that run already: the serializer is 12 lines, and no worker is restarted.
local tarn = require "tarn"
local ffi = require "ffi"

local workers = tarn.addprocs(2)

-- A polygon: a name, and its corners in C memory.
local Polygon = {}
Polygon.__index = Polygon
local function polygon(name, n, xy) return setmetatable({ name = name, n = n, xy = xy }, Polygon) end

function Polygon:area()
  local twice = 0
  for i = 0, self.n - 1 do
    local j = (i + 1) % self.n
    twice = twice + self.xy[2 * i] * self.xy[2 * j + 1] - self.xy[2 * j] * self.xy[2 * i + 1]
  end
  return math.abs(twice) / 2
end

tarn.serializer {
  name = "polygon", version = 1, type = Polygon,
  approx_size = function(p) return 16 * p.n end,
  mmwrite = function(out, p)
    out:value(p.name)
    out:block(p.xy, 16 * p.n) -- raw bytes: another process maps them
  end,
  mmread = function(inp)
    local name, xy, count = inp:value(), inp:block("double")
    return polygon(name, count / 2, xy)
  end,
}

-- Stored on one worker, worked on by the other, which is sent the bytes and loads the serializer from this script.
local square = polygon("square", 4, ffi.new("double[8]", 0, 0, 3, 0, 3, 3, 0, 3))
local ref = tarn.poolset({ square, "and what else there is" }, workers[1])
local label, area = tarn.remotecall_fetch(workers[2], function(r)
  local p = r:get()[1]
  return p.name, p:area()
end, ref)
print(("the %s of process %d has an area of %g, says process %d"):format(label, ref.owner, area, workers[2]))

-- Replaced by a version 2 that knows a colour: processes use it from the next bytes on, and read version 1's through it.
tarn.serializer {
  name = "polygon", version = 2, type = Polygon,
  mmwrite = function(out, p)
    out:value(p.name)
    out:value(p.colour)
    out:block(p.xy, 16 * p.n)
  end,
  mmread = function(inp)
    local name, colour = inp:value(), inp.version >= 2 and inp:value() or "grey"
    local xy, count = inp:block("double")
    local p = polygon(name, count / 2, xy)
    p.colour = colour
    return p
  end,
}
square.colour = "red"
local function colour_of(p) return p.colour end
print("a new one is " .. tarn.remotecall_fetch(workers[2], colour_of, square))
print("the old one is " .. tarn.remotecall_fetch(workers[2], function(r) return colour_of(r:get()[1]) end, ref))
