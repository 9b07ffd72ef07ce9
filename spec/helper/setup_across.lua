-- In place of setup.lua where addprocs starts workers elsewhere (across.lua): once there has been one, this process listens to the network
-- too, by a socket that it keeps, and which no case has left behind.
require("busted").subscribe({ "suite", "start" }, function()
  tarn.rmprocs(unpack(tarn.addprocs(1)))
  return nil, true
end)
require "spec.helper.setup"
