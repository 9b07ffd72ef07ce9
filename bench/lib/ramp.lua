-- Arrays of 0, 1, 2...: what the cases about large values send around.
local tarn = require "tarn"

local ramp = {}

function ramp.new(n)
  local array = tarn.array("double", n)
  local p = array:ptr()
  for i = 0, n - 1 do p[i] = i end
  return array
end

-- The DRef of a new one, stored by whoever runs this.
function ramp.store(n) return tarn.poolset(ramp.new(n)) end

-- The same, and nothing left to do for its owner: it has answered small gets a moment ago. (Here a process that has just filled a gigabyte
-- takes up to 10 ms for the first of them: the hypervisor's page tables are made anew.)
function ramp.settled(id, n)
  local ref = tarn.remotecall_fetch(id, ramp.store, n)
  for _ = 1, 3 do
    local small = tarn.poolset("small", id)
    if tarn.poolget(small) ~= "small" then error("what was got is not what was set", 0) end
  end
  return ref
end

-- Every element is what it was made.
function ramp.check(array)
  local p, wrong = array:ptr(), 0
  for i = 0, #array - 1 do
    if p[i] ~= i then wrong = wrong + 1 end
  end
  if wrong > 0 then error(wrong .. " elements are wrong", 0) end
end

return ramp
