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

-- Every element is what it was made.
function ramp.check(array)
  local p, wrong = array:ptr(), 0
  for i = 0, #array - 1 do
    if p[i] ~= i then wrong = wrong + 1 end
  end
  if wrong > 0 then error(wrong .. " elements are wrong", 0) end
end

return ramp
