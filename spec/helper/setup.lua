-- Loaded by busted before any spec (.busted names it): makes sure that tarn runs the specs, and that none leaves anything behind.
assert(jit, "the specs are run by tarn's LuaJIT: ./dev test")
assert(rawget(_G, "tarn") or os.getenv("TARN_TEST_LIB"), "the specs are run by tarn, not by another Lua: ./dev test")

local busted = require "busted"
local leaks = require "spec.helper.leaks"
local process = require "spec.helper.process"

local has_uv, uv = pcall(require, "luv")
if has_uv then uv.new_pipe(false):close() end -- a loop of libuv's opens /dev/null with its first stream, and keeps it

local before, name
busted.subscribe({ "test", "start" }, function(element, parent)
  name = ("%s %s"):format(parent and parent.name or "", element.name)
  return nil, true
end)
busted.subscribe({ "test", "end" }, function(_, _, status)
  if status ~= "success" then process.abandon() end
  return nil, true
end)
busted.before_each(function() before = leaks.snapshot() end)
busted.after_each(function()
  local problems = leaks.check(before)
  if #problems > 0 then error(("'%s' left behind %s"):format(name, table.concat(problems, "; ")), 0) end
end)
