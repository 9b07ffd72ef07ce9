-- What somebody may have meant.
local suggest = require "tarn.suggest"

local NAMES = { batch = true, workers = true, poolget = true, poolget_all = true, on_error = true, retries = true }

describe("a misspelt name", function()
  it("is near another when few letters differ, or one begins the other", function()
    for wrong, right in pairs { batc = "batch", batchsize = "batch", worker = "workers", wrokers = "workers", pool_get = "poolget",
      poolgett = "poolget", onerror = "on_error", retires = "retries", PoolGetAll = "poolget_all" } do
      assert.equal(right, suggest.near(wrong, NAMES))
    end
  end)

  it("is near nothing when nothing is", function()
    for _, wrong in ipairs { "colour", "x", "", "b" } do assert.is_nil(suggest.near(wrong, NAMES)) end
  end)

  it("is told with what may be meant, or with all that there is", function()
    assert.equal("; did you mean 'batch'?", suggest.instead("batches", NAMES))
    assert.equal("; there are a, b", suggest.instead("colour", { b = true, a = true }))
    assert.equal("; there are a, b", suggest.instead(5, { b = true, a = true }))
  end)
end)
