-- Tarn's own modules see the builtins as they were at the start, whatever a script or a job assigns to the globals: `type = "x"`
-- in a job must not take the dispatcher along. Required first of all, before any of them is loaded.
local core = require "tarn.core"

local environment = setmetatable({}, { __index = _G })
for name, value in pairs(_G) do environment[name] = value end

local home = debug.getinfo(1, "S").source:match("^@(.*)lua/tarn/environment%.lua$")
local path = home and ("%slua/?.lua;%slua/?/init.lua;%s?.lua"):format(home, home, home)

local function from_source(name)
  local file = path and package.searchpath(name, path)
  if not file then return nil end
  local chunk, problem = loadfile(file)
  return chunk or error(problem, 0)
end

-- Stands before the ordinary search of package.path: for the modules below tarn's own folder.
local function load_own(name)
  if not (name == "tarn" or name:find("^tarn%.") or name:find("^serializers%.")) then return nil end
  local chunk = core.compiled(name) or from_source(name)
  return chunk and setfenv(chunk, environment)
end

table.insert(package.loaders, 2, load_own)

return environment
