-- The manual page and `tarn --help` name the same options, commands and variables.
local process = require "spec.helper.process"

local function sorted(set)
  local list = {}
  for name in pairs(set) do list[#list + 1] = name end
  table.sort(list)
  return list
end

local function in_help(text)
  local found = {}
  for line in text:gmatch("[^\n]+") do
    local options = line:match("^%s+(%-.-)%s%s") or "" -- "-p, --procs N", in front of what they do
    for option in options:gmatch("%-%-?%a[%w-]*") do found[option] = true end
    local command = line:match("^%s+tarn (%l+)")
    if command then found[command] = true end
    for name in line:gmatch("TARN_[A-Z_]+") do found[name] = true end
  end
  return found
end

local function in_page(text)
  local found = {}
  for line in text:gmatch("[^\n]+") do
    local item = line:match("^%.It (.*)$")
    local options = item and not item:find("^Cm") and item or "" -- not those of a command
    for option in options:gmatch("Fl (%S+)") do found["-" .. option] = true end
    local command, variable = line:match("^%.It Cm (%S+)"), line:match("^%.It Ev (%S+)")
    if command then found[command] = true end
    if variable then found[variable] = true end
  end
  return found
end

describe("the manual page", function()
  it("has the options, commands and variables of tarn --help, and no others", function()
    local help = process.run_tarn { "--help" }
    assert.equal(0, help.code)
    local options = in_help(help.out)
    assert.is_true(options["-p"] and options["--procs"] and options["--no-map"] and options.worker and options.TARN_LOG)
    assert.same(sorted(options), sorted(in_page(process.read_file("docs/tarn.1"))))
  end)
end)
