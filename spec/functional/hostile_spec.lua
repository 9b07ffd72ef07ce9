-- What connects to a process's port and is no friend: it is shut out, with one logged line, and the cluster goes on.
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

local HELLO_TIMEOUT_S = 5
local UNPROVEN_MAX = 64 + 1 -- one for the worker, which might connect too

-- A driver with a worker that gives its address, and proves on demand that its cluster works.
local function start_cluster()
  local driver = process.start_script [[
    local id = tarn.addprocs(1)[1]
    print(tarn.address())
    print(tarn.remotecall_fetch(id, tarn.address))
    io.stdout:flush()
    for line in io.lines() do
      print(line, tarn.remotecall_fetch(id, function(x) return x + 1 end, 41))
      io.stdout:flush()
    end
  ]]
  return driver, driver:line(), driver:line()
end

local function assert_works(driver)
  driver:write("still here\n")
  assert.equal("still here\t42", driver:line())
end

-- Read until the other end closes (true) or the time is over (false).
local function closed(fd, seconds)
  local deadline = posix.now() + seconds * process.patience
  while posix.poll({ fd }, deadline)[fd] do
    local bytes = posix.read(fd)
    if not bytes or bytes == "" then return true end
  end
  return false
end

-- How many sockets a process has open.
local function sockets(pid)
  local count = 0
  for name in lfs.dir(("/proc/%d/fd"):format(pid)) do
    if (posix.readlink(("/proc/%d/fd/%s"):format(pid, name)) or ""):find "^socket:" then count = count + 1 end
  end
  return count
end

-- The lines that the driver has logged, once it has ended.
local function finish(driver)
  driver:close_stdin()
  driver:wait(10)
  assert.equal(0, driver.code, driver.err)
  return process.lines(driver.err)
end

-- A client that sends these bytes is cut off within a second, with one logged line.
local function assert_cut_off(bytes)
  local driver, address = start_cluster()
  local fd = posix.connect(address)
  posix.write(fd, bytes)
  assert.is_true(closed(fd, 2), "the connection is still open")
  posix.close(fd)
  assert_works(driver)
  local lines = finish(driver)
  assert.equal(1, #lines, table.concat(lines, "\n"))
end

describe("a client", function()
  it("that connects and says nothing is shut out after a few seconds", function()
    local driver, address, worker_address = start_cluster()
    local start = posix.now()
    local to_driver, to_worker = posix.connect(address), posix.connect(worker_address)
    assert.is_true(closed(to_driver, HELLO_TIMEOUT_S + 3))
    assert.is_true(posix.now() - start > HELLO_TIMEOUT_S - 1)
    assert.is_true(closed(to_worker, 3))
    posix.close(to_driver)
    posix.close(to_worker)
    assert_works(driver)
    assert.equal(2, #finish(driver)) -- one of each process
  end)

  it("that sends half a greeting and stops is shut out too", function()
    local driver, address = start_cluster()
    local fd = posix.connect(address)
    posix.write(fd, "\148\0\1\165hel")
    assert.is_true(closed(fd, HELLO_TIMEOUT_S + 3))
    posix.close(fd)
    assert_works(driver)
    assert.equal(1, #finish(driver))
  end)

  it("that sends junk is shut out at once", function() assert_cut_off("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") end)

  it("that claims 4 GiB is shut out at once", function()
    assert_cut_off("\148\0\1\198\255\255\255\255")             -- [0, 1, bin of 2^32 - 1 bytes
    assert_cut_off("\148\0\1\219\255\255\255\255xxxx")         -- a string as long
    assert_cut_off("\148\0\1\165hello\221\255\255\255\255")    -- an array of as many
  end)

  it("that sends endless depth is shut out at once", function() assert_cut_off("\148\0\1\165hello" .. ("\145"):rep(600)) end)

  it("that sends well-formed frames without a greeting is shut out at once", function()
    assert_cut_off("\148\0\1\164ping\144")                     -- [0, 1, "ping", []]
    assert_cut_off("\147\2\168shutdown\144")                   -- [2, "shutdown", []]
  end)

  it("that gives a wrong secret is shut out", function()
    assert_cut_off("\148\0\1\171auth.secret\145\217\064" .. ("0"):rep(64))
  end)

  it("that opens many connections does not keep a worker from joining", function()
    local driver, address = start_cluster()
    local fds, before = {}, sockets(driver.pid)
    for i = 1, 200 do fds[i] = posix.connect(address) end
    assert_works(driver)
    local most, reached = before + UNPROVEN_MAX + 1, false -- and one that libuv has accepted, and we have not
    local deadline = posix.now() + 10 * process.patience
    while not reached and posix.now() < deadline do
      local count = sockets(driver.pid)
      assert.is_true(count <= most)
      reached = count == most
    end
    assert.is_true(reached, "there is less room than that")
    for _, fd in ipairs(fds) do posix.close(fd) end
    driver:close_stdin()
    assert.equal(0, driver:wait(10).code)
  end)
end)

describe("a worker", function()
  it("with a wrong secret does not join, and says so", function()
    local driver, address = start_cluster()
    local worker = process.start_tarn { "worker" }
    worker:write(address .. " " .. ("0"):rep(64) .. "\n")
    worker:wait(15) -- its standard input stays open: not the driver's end, but the refusal ends it
    assert.is_true(worker.code ~= 0) -- or killed, with the group that it leads
    assert.equal(1, #process.lines(worker.err), worker.err)
    assert_works(driver)
    assert.equal(1, #finish(driver))
  end)

  it("whose first line is none exits with one line", function()
    for _, line in ipairs { "", "\n", "nonsense\n", "127.0.0.1:99999 00\n", ("x"):rep(100000) } do
      local worker = process.run_tarn({ "worker" }, { stdin = line, timeout_s = 15 })
      assert.is_true(worker.code ~= 0 and worker.code ~= nil, "for " .. line:sub(1, 40))
      assert.equal(1, #process.lines(worker.err), worker.err)
    end
  end)
end)
