-- Published names: those that process 1 keeps for all (lua/tarn/event.lua).
local published = {} -- name -> DRef

local directory = {}

function directory.publish(name, ref) published[name] = ref end
function directory.lookup(name) return published[name] end

-- All names, sorted.
function directory.names()
  local list = {}
  for name in pairs(published) do list[#list + 1] = name end
  table.sort(list)
  return list
end

return directory
