-- SVG plots of lines over an axis, drawn by gnuplot.
local plot = {}

local function here() return os.execute("command -v gnuplot >/dev/null 2>&1") == 0 end

local function quoted(text) return '"' .. text:gsub('[\\"]', "\\%0") .. '"' end

-- what: path; title; x, y: the axes' labels; log_x, log_y; lines: a list of {name = ..., {x, y}, {x, y}...}, in the order of the
-- legend; dashed = true on one that is a bound. False where there is no gnuplot.
function plot.write(what)
  if not here() then
    io.stderr:write("plot: no gnuplot here, ", what.path, " is left out\n")
    return false
  end
  local script = {
    'set terminal svg size 900,500 dynamic background rgb "white" font "sans,13"',
    "set output " .. quoted(what.path),
    "set title " .. quoted(what.title) .. " noenhanced",
    "set xlabel " .. quoted(what.x) .. " noenhanced",
    "set ylabel " .. quoted(what.y) .. " noenhanced",
    "set key outside bottom center horizontal noenhanced",
    "set grid",
  }
  local function add(text) script[#script + 1] = text end
  if what.log_x then add("set logscale x 2") end
  if what.log_y then add("set logscale y 10") else add("set yrange [0:*]") end
  local parts = {}
  for i, line in ipairs(what.lines) do
    parts[i] = ("'-' using 1:2 title %s with %s lw 2 %s"):format(quoted(line.name), #line > 40 and "lines" or "linespoints",
      line.dashed and "dt 2" or "dt 1")
  end
  add("plot " .. table.concat(parts, ", "))
  for _, line in ipairs(what.lines) do
    for _, point in ipairs(line) do add(("%.17g %.17g"):format(point[1], point[2])) end
    add("e")
  end
  local pipe = assert(io.popen("gnuplot -", "w"))
  pipe:write(table.concat(script, "\n"), "\n")
  pipe:close()
  return true
end

return plot
