-- Functional specs with their workers on three hosts (spec/helper/hosts.lua): calls, the pool, references, files, loss.
local across = require "spec.helper.across"
local hosts_helper = require "spec.helper.hosts"
local process = require "spec.helper.process"

local reason = hosts_helper.missing()

describe("across hosts", function()
  if reason then
    pending("functional specs hold: " .. reason)
    return
  end

  local hosts
  setup(function() hosts = hosts_helper.start() end)
  teardown(function() hosts:destroy() end)

  local function holds(name, least, env)
    local args = across.args({ "--hosts", "alpha,beta,gamma" }, name)
    across.holds(hosts:start(args, { cwd = process.root, env = env }):wait(100), least)
  end

  for name, least in pairs { calls = 20, pool_calls = 10, refs = 20, files = 28, migrate = 12, replicas = 12, remake = 20 } do
    it(name .. "_spec holds", function() holds(name, least) end)
  end

  -- Its drivers are programs of their own. They know their workers' numbers, which those of several hosts get as they come.
  it("lifecycle_spec holds", function() holds("lifecycle", 13, { TARN_SPEC_HOSTS = "alpha" }) end)
end)
