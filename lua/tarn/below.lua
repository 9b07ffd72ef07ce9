-- What stands on the terminal below all that is printed: a display of progress, or a prompt. Before C prints a worker's line or a line of
-- the log it erases from the cursor on (base/log.h); afterwards what was erased is drawn again from here.
local core = require "tarn.core"

local below = {}

local drawers = {} -- the last one draws

-- draw(): draw it, outside of any task.
function below.add(draw)
  drawers[#drawers + 1] = draw
  core.drawn_below(true)
end

function below.remove(draw)
  for i = #drawers, 1, -1 do
    if drawers[i] == draw then table.remove(drawers, i) end
  end
  core.drawn_below(#drawers > 0)
end

-- Something has been erased.
function below.redraw()
  local draw = drawers[#drawers]
  if draw then draw() end
end

return below
