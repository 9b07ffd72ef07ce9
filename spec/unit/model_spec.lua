-- The pool beside a model of it, under random operations; see spec/helper/model.lua. `./dev soak model` runs thousands of seeds.
local model = require("spec.helper.model")

local STEPS = 250

describe("two pools that lend to each other, under random operations", function()
  -- Even seeds make calls fail on the way.
  for first = 1, 24, 2 do
    it(("hold what a table would (seeds %d and %d)"):format(first, first + 1), function()
      model.run(first, STEPS)
      model.run(first + 1, STEPS)
    end)
  end

  it("hold what a table would when what is on disk is deleted while it waits to be written", function() model.run(3000967, 400) end)

  it("hold what a table would (a new seed)", function()
    local seed = tonumber(os.getenv("TARN_SPEC_SEED")) or os.time()
    print("model: seed " .. seed)
    model.run(seed, STEPS)
    model.run(seed + 1, STEPS)
  end)
end)
