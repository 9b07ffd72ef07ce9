-- Looks at what LuaJIT has compiled before it runs, and has C make right what it is known to get wrong: runtime/host/mcode.c says what.
setfenv(1, require "tarn.environment")
local core = require "tarn.core"
local util = require "jit.util"

local mend = { count = 0 } -- calls that have been made right in this process

local attach = jit.attach
local next_address -- of LuaJIT's helper; false where it has none
local user -- the handler that a script has for the same event: -jv, -jdump and the like

local function find_next()
  for i, name in pairs(require("jit.vmdef").ircall) do
    if name == "lj_vm_next" then return util.ircalladdr(i) end
  end
  return false
end

local function on_trace(what, trace, ...)
  if what == "stop" then
    local code, address = util.tracemc(trace)
    if code and core.mend(address, #code) > 0 then
      if next_address == nil then next_address = find_next() end
      if next_address then mend.count = mend.count + core.mend(address, #code, next_address) end
    end
  end
  if user then return user(what, trace, ...) end
end

-- jit.attach as scripts see it: there is one handler for each event, and ours stays.
local function attach_for_user(fn, event)
  if event == "trace" then
    user = fn
    return
  end
  if event == nil and fn == user then user = nil end
  attach(fn, event)
end

--- From now on; where code could not be changed, nothing is compiled any more.
function mend.install()
  if core.mend then
    attach(on_trace, "trace")
    jit.attach = attach_for_user -- luacheck: ignore 122
  elseif jit.arch == "x64" then
    core.log("warn", "no memory near LuaJIT's code: nothing is compiled, which is slow")
    jit.off()
  end
end

return mend
