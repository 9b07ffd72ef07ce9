-- More comes than is worked off: senders slow down, memory stays bounded, nothing is dropped.
local cluster = require "spec.helper.cluster"

-- Most memory that this process has had, bytes.
local function peak()
  for line in io.lines("/proc/self/status") do
    local kib = line:match("VmHWM:%s+(%d+)")
    if kib then return kib * 1024 end
  end
end

describe("a worker that computes while messages come", function()
  it("takes no more of them than its bound, and all of them in the end", function()
    cluster.with(1, function(ids)
      local id, text = ids[1], ("x"):rep(1000000)
      local before = tarn.remotecall_fetch(id, function(f) received = 0 return f() end, peak)
      tarn.remote_do(id, function()
        local deadline = os.clock() + 1
        while os.clock() < deadline do end
      end)
      for _ = 1, 400 do tarn.remote_do(id, function(s) received = received + #s end, text) end
      assert.equal(400000000, tarn.remotecall_fetch(id, function() return received end))
      local grown = tarn.remotecall_fetch(id, peak) - before
      assert.is_true(grown < 200e6, ("it grew by %d bytes"):format(grown))
    end)
  end)
end)
