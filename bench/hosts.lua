-- Three hosts made of namespaces (spec/helper/hosts.lua; root is needed): how long workers there take to come by ssh, how fast an array
-- comes from one of them, in plain and with TLS, beside iperf3, and how long until one that is cut off is lost. All share this machine.
local case = require "bench.lib.case"
local cjson = require "cjson"
local hosts_helper = require "spec.helper.hosts"
local peer = require "bench.lib.peer"
local process = require "spec.helper.process"

local BYTES, SILENCE_S = 128 * 2 ^ 20, 1

local PRELUDE = [[
  package.path = arg[1] .. "/?.lua;" .. package.path
  local core, ramp = require "tarn.core", require "bench.lib.ramp"
  local function seconds(fn, ...)
    local start = core.clock()
    local result = fn(...)
    return core.clock() - start, result
  end
]]

-- Seconds: one worker on one host, one on each of three, four on one.
local START = PRELUDE .. [[
  for _, where in ipairs { { "alpha" }, { "alpha", "beta", "gamma" }, { "alpha*4" } } do
    local took, ids = seconds(tarn.addprocs, where)
    print(took)
    tarn.rmprocs(unpack(ids))
  end
]]

-- GB/s of one get of a new array, the second: connections are there.
local GET = PRELUDE .. [[
  local bytes = tonumber(arg[2])
  tarn.max_memsize("1GiB")
  local id = tarn.addprocs({ "alpha" }, { memory = "1GiB", tls = arg[3] == "tls" })[1]
  for turn = 1, 2 do
    local ref = tarn.remotecall_fetch(id, ramp.store, bytes / 8)
    local took, array = seconds(tarn.poolget, ref)
    ramp.check(array)
    if turn == 2 then print(bytes / took / 1e9) end
    tarn.pooldelete(ref)
    array, ref = nil, nil
    collectgarbage()
  end
]]

-- A line when the worker is there, and the seconds from the next line of standard input until it is lost.
local LOSS = PRELUDE .. [[
  io.stdout:setvbuf "no"
  local lost = tarn.promise(1)
  tarn.addprocs({ "beta" }, { silence_s = tonumber(arg[2]) })
  tarn.on("lost", function(_, why) lost:put(why) end)
  print "ready"
  io.read()
  print((seconds(lost.fetch, lost)))
]]

case.run("hosts", "workers on other hosts: three namespaces, by ssh", function(c)
  local reason = hosts_helper.missing()
  if reason then error(reason, 0) end
  local hosts = hosts_helper.start()

  local function figures(source, ...)
    local driver = hosts:start_driver(source, { arguments = { process.root, ... } })
    driver:wait(120)
    if driver.code ~= 0 then error(driver.err, 0) end
    local list = {}
    for _, line in ipairs(process.lines(driver.out)) do list[#list + 1] = tonumber(line) end
    return unpack(list)
  end

  local function iperf()
    local text = hosts:sh "iperf3 --client 10.77.0.11 --time 1 --json"
    return cjson.decode(text)["end"].sum_received.bits_per_second / 8e9
  end

  local function loss()
    local driver = hosts:start_driver(LOSS, { arguments = { process.root, tostring(SILENCE_S) } })
    assert(driver:line(20) == "ready", driver.err)
    hosts:link("beta", "down")
    driver:write "\n"
    local took = tonumber(driver:line(20))
    hosts:link("beta", "up")
    driver:wait(20)
    return took
  end

  local ok, e = pcall(function()
    c:compare_several({
      { name = "a worker on one host", unit = "s", less = true },
      { name = "a worker on each of three", unit = "s", less = true },
      { name = "four workers on one", unit = "s", less = true },
    }, { ours = function() return { figures(START) } end })
    local stream
    if peer.here "iperf3" then
      local argv = hosts:at("alpha", { "iperf3", "--server" })
      peer.start(argv, function() return (pcall(iperf)) end)
      stream = iperf
    end
    for _, how in ipairs { "plain", "tls" } do
      c:compare { name = ("an array of %d MiB, %s"):format(BYTES / 2 ^ 20, how), unit = "GB/s",
        ours = function() return (figures(GET, tostring(BYTES), how)) end, theirs = { { "iperf3", stream } } }
    end
    c:compare { name = ("until one that is cut off is lost, silence_s = %g"):format(SILENCE_S), unit = "s", less = true, ours = loss }
  end)
  hosts:destroy()
  if not ok then error(e, 0) end
end)
