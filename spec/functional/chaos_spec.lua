-- A cluster under a storm of faults, by some seeds; thousands of them: ./dev soak chaos. See spec/helper/chaos.lua.
local chaos = require "spec.helper.chaos"

local SEEDS = 30

describe("a cluster under a storm", function()
  for seed = 1, SEEDS do
    it(("keeps what it has acknowledged, and ends empty, seed %d"):format(seed), function() chaos.run(seed) end)
  end
end)
