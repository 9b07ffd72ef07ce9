-- DRefs, as the rest of lua/tarn sees them.
local refs = {}

local metatable -- of the userdata; C registers it

-- Is x a DRef?
function refs.is(x)
  if type(x) ~= "userdata" then return false end
  metatable = metatable or debug.getregistry()["tarn.DRef"]
  return metatable ~= nil and debug.getmetatable(x) == metatable
end

return refs
