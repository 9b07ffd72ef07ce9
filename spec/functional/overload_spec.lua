-- More comes than is worked off: senders slow down, memory stays bounded, nothing is dropped.
local cluster = require "spec.helper.cluster"

-- What the worker remembers between jobs: bytes received, and the most memory that the C side held when a message was taken.
local function begin()
  local ffi = require "ffi"
  pcall(ffi.cdef, "uint64_t tarn_alloc_bytes(void);")
  package.loaded["spec.overload"] = { received = 0, most = 0, before = tonumber(ffi.C.tarn_alloc_bytes()) }
end

local function take(text)
  local state = package.loaded["spec.overload"]
  state.received = state.received + #text
  state.most = math.max(state.most, tonumber(require("ffi").C.tarn_alloc_bytes()))
end

describe("a worker that computes while messages come", function()
  it("takes no more of them than its bound, and all of them in the end", function()
    cluster.with(1, function(ids)
      local id, text = ids[1], ("x"):rep(1000000)
      tarn.remotecall_fetch(id, begin)
      tarn.remote_do(id, function()
        local deadline = os.clock() + 1
        while os.clock() < deadline do end
      end)
      for _ = 1, 400 do tarn.remote_do(id, take, text) end
      local state = tarn.remotecall_fetch(id, function() return package.loaded["spec.overload"] and { -- by value
        received = package.loaded["spec.overload"].received,
        grown = package.loaded["spec.overload"].most - package.loaded["spec.overload"].before,
      } end)
      assert.equal(400000000, state.received)
      assert.is_true(state.grown < 150e6, ("it grew by %d bytes"):format(state.grown))
      assert.is_true(state.grown > 20e6, "the worker was never behind: this case proves nothing")
    end)
  end)
end)
