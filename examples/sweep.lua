-- A parameter sweep, plotted:  tarn -p 4 examples/sweep.lua [OUT.svg [SIZE [TRIALS]]]
--
-- Cells of a square are open with probability p. Can one walk from the top to the bottom? The share of squares where one can jumps from 0
-- to 1 near p = 0.593, the steeper the larger they are. Every p is a job of some squares; the answers become a tarn.table and a curve.
local tarn = require "tarn"

local out, size, trials = arg[1] or "sweep.svg", tonumber(arg[2] or 64), tonumber(arg[3] or 100)

-- Is there a way down? A flood from the top, cell by cell; stack and square are kept from one trial to the next.
local function crosses(square, stack, n)
  local top = 0
  local function visit(i)
    if square[i] == 1 then
      square[i] = 2
      top = top + 1
      stack[top] = i
    end
  end
  for i = 1, n do visit(i) end
  while top > 0 do
    local i = stack[top]
    top = top - 1
    if i > n * (n - 1) then return true end
    if i % n ~= 0 then visit(i + 1) end
    if i % n ~= 1 then visit(i - 1) end
    if i > n then visit(i - n) end
    visit(i + n)
  end
  return false
end

local function share_that_crosses(p) -- on a worker
  local square, stack, crossed = {}, {}, 0
  math.randomseed(p * 1e6) -- the same squares whichever worker it is
  for _ = 1, trials do
    for i = 1, size * size do square[i] = math.random() < p and 1 or 0 end
    if crosses(square, stack, size) then crossed = crossed + 1 end
  end
  return crossed / trials
end

local ps = {}
for i = 1, 41 do ps[i] = 0.5 + (i - 1) * 0.005 end
local shares = tarn.pmap(share_that_crosses, ps)
local result = tarn.table { columns = { { "p", ps }, { "share", shares } }, key = "p" }
print(result)

-- The curve, as SVG: 600 by 400, p to the right, the share upwards.
local points = {}
for _, row in result:rows() do points[#points + 1] = ("%.1f,%.1f"):format(50 + (row.p - 0.5) / 0.2 * 520, 360 - row.share * 320) end
local file = assert(io.open(out, "w"))
file:write([[
<svg xmlns="http://www.w3.org/2000/svg" width="600" height="400" font-family="sans-serif" font-size="12">
<rect width="600" height="400" fill="white"/>
<path d="M50 40V360H570" fill="none" stroke="black"/>
]])
for i = 0, 4 do
  file:write(('<text x="%g" y="380" text-anchor="middle">%.2f</text>\n'):format(50 + i * 130, 0.5 + i * 0.05))
  file:write(('<text x="42" y="%g" text-anchor="end">%.2f</text>\n'):format(364 - i * 80, i * 0.25))
end
file:write(('<text x="310" y="20" text-anchor="middle">squares of %d that can be crossed, by share of open cells</text>\n'):format(size))
file:write(('<polyline points="%s" fill="none" stroke="#c03" stroke-width="2"/>\n</svg>\n'):format(table.concat(points, " ")))
file:close()
print("plotted to " .. out)
