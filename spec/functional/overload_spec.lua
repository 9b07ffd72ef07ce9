-- More comes than is worked off: senders slow down, memory stays bounded, nothing is dropped.
local cluster = require "spec.helper.cluster"

-- What the worker remembers between jobs: bytes received, and the most memory that the C side has held meanwhile.
local function begin()
  local ffi = require "ffi"
  pcall(ffi.cdef, "uint64_t tarn_alloc_bytes(void);")
  package.loaded["spec.overload"] = { received = 0, most = 0, before = tonumber(ffi.C.tarn_alloc_bytes()) }
end

-- Compute until messages are waiting and, for a second or more, no more of them have been taken. Nothing is worked off meanwhile.
local function compute()
  local C, state = require("ffi").C, package.loaded["spec.overload"]
  local quiet_since, give_up = os.time(), os.time() + 60
  repeat
    local held = tonumber(C.tarn_alloc_bytes())
    if held > state.most then state.most, quiet_since = held, os.time() end
  until state.most > state.before + 20e6 and os.time() >= quiet_since + 2 or os.time() > give_up
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
      tarn.remote_do(id, compute)
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
