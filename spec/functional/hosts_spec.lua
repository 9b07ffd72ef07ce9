-- Workers on other hosts by ssh: three hosts made of namespaces.
local hosts_helper = require "spec.helper.hosts"
local process = require "spec.helper.process"

local reason = hosts_helper.missing()

describe("workers on other hosts", function()
  if reason then
    pending("are started by ssh: " .. reason)
    return
  end

  local hosts
  setup(function() hosts = hosts_helper.start() end)
  teardown(function() hosts:destroy() end)

  local function run(source, opts)
    local driver = hosts:start_driver(source, opts)
    driver:wait(60)
    assert.equal(0, driver.code, driver.out .. driver.err)
    return process.lines(driver.out), driver.err
  end

  it("answer calls, and find each other", function()
    local lines = run [[
      local ids = tarn.addprocs({ "alpha*2", "beta", "gamma6" }, ssh())
      local uv = require "luv"
      for _, id in ipairs(ids) do print(id, tarn.remotecall_fetch(id, uv.os_gethostname), tarn.remotecall_fetch(id, tarn.address)) end
    ]]
    print(table.concat(lines, "\n"))
  end)
end)
