-- Ctrl-C: once ends a driver in order, twice at once; nothing is left either way.
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local terminal = require "spec.helper.terminal"

local function names_in(path)
  local list = {}
  for name in lfs.dir(path) do
    if name ~= "." and name ~= ".." then list[#list + 1] = name end
  end
  return list
end

-- A driver that has made all that may be left behind: workers, a spill file, a secret file; then runs the code. Its process, and where
-- its secret file is.
local function start(code, env)
  local tmp = process.tmpdir()
  local environment = { TMPDIR = tmp }
  for name, value in pairs(env or {}) do environment[name] = value end
  local driver = process.start_script([[
    tarn.addprocs(2, { memory = "20MB" })
    tarn.secret_file()
    local function fill()
      local refs = {}
      for i = 1, 8 do refs[i] = tarn.poolset(tarn.array("double", 5e5)) end
      kept = refs
    end
    tarn.everywhere(fill)
    local function ready() print("ready") io.stdout:flush() end
    local function ready_soon() tarn.async(function() tarn.sleep(0.02) ready() end) end -- when the main task waits
  ]] .. code, { args = { "-m", "20MB" }, env = environment })
  assert.equal("ready", driver:line(20))
  assert.equal(1, #names_in(tmp))
  return driver, tmp
end

local function check_nothing_left(driver, tmp)
  assert.is_true(process.gone(driver.mark, 2 * process.patience))
  assert.same({}, names_in(tmp))
  assert.same({ "driver.lua" }, names_in(driver.cwd))
end

describe("Ctrl-C once", function()
  it("cancels what runs and ends in order, with a summary and status 130", function()
    local driver, tmp = start [[
      local items = {}
      for i = 1, 1000 do items[i] = i end
      local function work(x)
        local ok, e = pcall(tarn.sleep, x > 2 and 100 or 0)
        if not ok then print("job: " .. e.kind) error(e, 0) end
        return x
      end
      tarn.pmap(work, items, { batch = 1, progress = function(done)
        if done == 2 then ready_soon() end
      end })
    ]]
    driver:kill(posix.SIGINT)
    driver:wait(10)
    assert.equal(130, driver.code, driver.err)
    local summary = "tarn: interrupted after %d+%.%d s: %d+ calls cancelled, 2 workers told to stop %(Ctrl%-C again: at once%)\n"
    assert.is_truthy(driver.err:find(summary), driver.err)
    assert.is_truthy(driver.err:find("tarn: pmap (driver.lua:18): 2 of 1000 done\n", 1, true), driver.err)
    assert.is_nil(driver.err:find("traceback", 1, true))
    assert.is_truthy(driver.out:find("job: Cancelled", 1, true), driver.out)
    check_nothing_left(driver, tmp)
  end)

  it("lets what waits clean up, and does not care whether it is caught", function()
    local driver, tmp = start [[
      ready_soon()
      local ok, e = pcall(tarn.sleep, 100)
      print(e.kind)
      tarn.sleep(100)
      print("never")
    ]]
    driver:kill(posix.SIGINT)
    driver:wait(10)
    assert.equal(130, driver.code)
    assert.equal("ready\nCancelled\n", driver.out)
    check_nothing_left(driver, tmp)
  end)

  it("reaches a driver that computes, even one that catches every error", function()
    local driver, tmp = start [[
      local function work() local t = {} for i = 1, 50 do t[i] = tostring(i) end end
      ready()
      while true do pcall(work) end
    ]]
    driver:kill(posix.SIGINT)
    driver:wait(10)
    assert.equal(130, driver.code, driver.err)
    check_nothing_left(driver, tmp)
  end)

  -- #signals: the thread sanitizer keeps a signal back until the thread that got it calls something, which a compiled loop never does.
  it("ends a driver that looks at nothing, in a compiled loop or in C, after two seconds #signals", function()
    for _, code in ipairs { "local x = 0 for i = 1, 1e15 do x = x + i if i == 1e6 then ready() end end", "ready() io.read()" } do
      local driver, tmp
      for _ = 1, 5 do -- it may come before the loop, or the call, has begun again
        driver, tmp = start(code)
        driver:kill(posix.SIGINT)
        driver:wait(10)
        assert.equal(130, driver.code, driver.err)
        if driver.err:find("at once\n", 1, true) then break end
      end
      assert.is_truthy(driver.err:find("tarn: stopped at once\n", 1, true), driver.err)
      check_nothing_left(driver, tmp)
    end
  end)

  it("is left to a script that handles it", function()
    local driver = process.start_script [[
      local uv = require "luv"
      local signal = uv.new_signal()
      local f = tarn.promise()
      signal:start("sigint", function() f:put("mine") end)
      print("ready") io.stdout:flush()
      print(f:fetch())
    ]]
    assert.equal("ready", driver:line())
    driver:kill(posix.SIGINT)
    assert.equal("mine", driver:line())
    assert.equal(0, driver:wait(10).code)
  end)

  it("typed at a terminal reaches the driver, not the workers; so does SIGTERM end it in order", function()
    local t = terminal.start_tarn { "-p", "1", "-e", "print('read' .. 'y') tarn.remotecall_fetch(2, tarn.sleep, 100)" }
    t:await("ready")
    t:type(terminal.CTRL_C)
    t:await("interrupted after .* 1 call cancelled, 1 worker told to stop")
    assert.equal(130, t:wait().code)
    local driver, tmp = start "ready() tarn.sleep(100)"
    driver:kill(posix.SIGTERM)
    driver:wait(10)
    assert.equal(143, driver.code)
    assert.is_truthy(driver.err:find("tarn: told to end after", 1, true), driver.err)
    check_nothing_left(driver, tmp)
  end)
end)

describe("Ctrl-C twice", function()
  it("stops at once, whatever computes #signals", function()
    local driver, tmp = start [[
      for _, id in ipairs(tarn.workers()) do tarn.remote_do(id, function() while true do end end) end
      ready()
      while true do end
    ]]
    driver:kill(posix.SIGINT)
    driver:kill(posix.SIGINT)
    -- Two that arrive together are one for the system.
    local deadline = posix.now() + 10 * process.patience
    while driver.pidfd and not driver.err:find("at once\n", 1, true) and posix.now() < deadline do
      driver:kill(posix.SIGINT)
      driver:_pump(posix.now() + 0.05)
    end
    driver:wait(5)
    assert.equal(130, driver.code, driver.err)
    assert.is_truthy(driver.err:find("tarn: stopped at once\n", 1, true), driver.err)
    check_nothing_left(driver, tmp)
  end)

  it("ends the orderly stop that the first has begun #signals", function()
    local driver, tmp = start [[
      ready_soon()
      local ok = pcall(tarn.sleep, 100)
      print("cleaning") io.stdout:flush()
      while true do end
    ]]
    driver:kill(posix.SIGINT)
    assert.equal("cleaning", driver:line())
    driver:kill(posix.SIGINT)
    driver:wait(5)
    assert.equal(130, driver.code)
    check_nothing_left(driver, tmp)
  end)
end)
