-- Makes docs/API.md and lua/tarn/meta/tarn.lua from the annotations in the sources, or with --check says what of them is missing, wrong or
-- stale, and fails. It is run by tarn, since what is public is what the running program shows: ./dev docs, and ./dev lint.
local annotations = require "docs.tools.annotations"
local check = require "docs.tools.check"
local public = require "docs.tools.public"
local read = require "tarn.read_file"
local render = require "docs.tools.render"

local STUBS = "lua/tarn/meta/core.lua"

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end

local list, classes, types = public.list()
local problems = check(list, classes, types)
local stubs = annotations.stubs(STUBS)
for name in pairs(annotations.classes { STUBS }) do classes[name].by_hand = true end

if #problems == 0 then
  local made = {
    ["docs/API.md"] = render.reference(list, classes, annotations.aliases(STUBS)),
    ["lua/tarn/meta/tarn.lua"] = render.meta(list, classes, stubs),
  }
  for path, text in pairs(made) do
    if arg[1] ~= "--check" then
      write(path, text)
    elseif read(path) ~= text then
      problems[#problems + 1] = path .. " is stale: ./dev docs makes it anew"
    end
  end
end
for _, problem in ipairs(problems) do io.stderr:write("docs: ", problem, "\n") end
os.exit(#problems == 0)
