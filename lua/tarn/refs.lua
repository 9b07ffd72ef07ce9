-- DRefs and FileRefs, as the rest of lua/tarn sees them.
local refs = {}

local metatable, file_metatable -- of the userdata; C registers them

-- Is x a DRef?
function refs.is(x)
  if type(x) ~= "userdata" then return false end
  metatable = metatable or debug.getregistry()["tarn.DRef"]
  return metatable ~= nil and debug.getmetatable(x) == metatable
end

-- Is x a FileRef?
function refs.is_file(x)
  if type(x) ~= "userdata" then return false end
  file_metatable = file_metatable or debug.getregistry()["tarn.FileRef"]
  return file_metatable ~= nil and debug.getmetatable(x) == file_metatable
end

return refs
