-- Compiled loops over pairs see every element. What LuaJITs before April 2022 get wrong (lua/tarn/sound_pairs.lua) they get wrong here;
-- with one of those tarn compiles nothing, which spec/peers/luajit_spec.lua runs.
local process = require "spec.helper.process"

local function sees_all(code)
  local result = process.run_tarn({ "-e", code }, { timeout_s = 60 })
  assert.equal("", result.err)
  assert.equal("all\n", result.out)
end

describe("compiled loops over pairs", function()
  it("see every element after one could not be compiled often enough, and became ordinary", function()
    sees_all [[
      local inner = { 1, 2, 3, 4, 5 }
      local outer = { a = inner, b = inner, c = inner, d = inner, e = inner }
      local function to_interpreter(...) for _ = 1, 100 do end end
      for round = 1, 100000 do
        to_interpreter()
        local n = 0
        for _, list in pairs(outer) do
          for _ in pairs(list) do end
          n = n + 1
        end
        if n ~= 5 then error(("%d of 5 in round %d"):format(n, round)) end
      end
      print "all"
    ]]
  end)

  it("see every element after one has been given an array of tarn's, which has an iterator of its own", function()
    sees_all [[
      require("jit.opt").start("hotloop=2", "hotexit=1")
      local function count(x, limit)
        local n = 0
        for _ in pairs(x) do
          for i = 1, limit do n = n + i - i end
          n = n + 1
          if n > limit then return n end
        end
        return n
      end
      local list = { a = 1, b = 2, c = 3, d = 4 }
      local function check()
        for round = 1, 1000 do
          local n = count(list, 4)
          if n ~= 4 then error(("%d of 4 in round %d"):format(n, round)) end
        end
      end
      jit.off(check)
      check()
      assert(count(tarn.array("double", 7), 7) == 7)
      check()
      print "all"
    ]]
  end)
end)
