-- Generated values, everything nested in everything, on every way that a value can take: a file, the disk of the pool, another process and
-- back, another process's pool. Shared parts stay shared, cycles cycles, variables of functions the same ones.
local cluster = require "spec.helper.cluster"
local process = require "spec.helper.process"
local values = require "spec.helper.values"

describe("a generated value", function()
  local make, seed, path

  setup(function() package.loaded[values.CLASS] = values.Class end)
  teardown(function() package.loaded[values.CLASS] = nil end)
  before_each(function()
    seed = values.seed()
    math.randomseed(seed)
    make = values.generator(math.random, { functions = true })
    path = process.tmpdir() .. "/value.tarn"
  end)

  -- way(x) must give the same value again, rounds times.
  local function check(rounds, way)
    for round = 1, rounds do
      local x = { make(), make() }
      local y = way(x)
      if not values.same(x, y) then error(("TARN_SEED=%d, round %d: another value"):format(seed, round), 0) end
    end
  end

  it("comes back from a file", function()
    check(150, function(x)
      tarn.save(path, x)
      return tarn.load(path, { code = true })
    end)
  end)

  it("comes back from the disk of the pool", function()
    check(150, function(x)
      local image = tarn.encode(x)
      local ref = tarn.poolset(tarn.decode(image))
      tarn.movetodisk(ref)
      collectgarbage() -- the Lua object that was stored is gone, so the bytes are read
      local y = ref:get()
      ref:delete()
      return y
    end)
  end)

  it("comes back from another process, as an argument and as a result", function()
    cluster.with(1, function(ids)
      tarn.everywhere(function(name, Class) package.loaded[name] = package.loaded[name] or Class end, values.CLASS, {})
      check(150, function(x) return tarn.remotecall_fetch(ids[1], function(y) return y end, x) end)
    end)
  end)

  it("comes back from another process's pool, from memory and from its disk", function()
    cluster.with(1, function(ids)
      tarn.everywhere(function(name, Class) package.loaded[name] = package.loaded[name] or Class end, values.CLASS, {})
      check(100, function(x)
        local ref = tarn.poolset(x, ids[1])
        if not values.same(x, ref:get()) then return nil end
        tarn.movetodisk(ref)
        local y = ref:get()
        ref:delete()
        return y
      end)
    end)
  end)
end)
