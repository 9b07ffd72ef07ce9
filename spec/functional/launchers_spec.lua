-- The contract of launchers (docs/LAUNCHERS.md), without other hosts: a user's own, and commands.
local cluster = require "spec.helper.cluster"
local process = require "spec.helper.process"
local fails, says = cluster.fails, cluster.says

describe("a launcher", function()
  it("may be a table of the user's own, with options of its own", function()
    local stopped = {}
    local mine = { options = { colour = "string" } }
    function mine.start(job)
      assert.equal("green", job.options.colour)
      assert.equal(2, job.n)
      tarn.sleep(0.01) -- it may wait
      for _ = 1, job.n do job:spawn { argv = { "/usr/bin/env", "SPEC_LAUNCHED=mine", unpack(job:command()) }, label = "mine" } end
    end
    function mine.stop(started)
      stopped[#stopped + 1] = started
      started:kill()
    end
    local ids = tarn.addprocs(2, { launcher = mine, colour = "green", env = { SPEC_MORE = "more" } })
    for _, id in ipairs(ids) do
      assert.equal("mine more", tarn.remotecall_fetch(id, function() return os.getenv "SPEC_LAUNCHED" .. " " .. os.getenv "SPEC_MORE" end))
    end
    tarn.rmprocs(unpack(ids))
    assert.same({}, stopped) -- they went by themselves
    says(fails("ArgumentError", tarn.addprocs, 1, { launcher = mine, colour = 5 }), "colour must be a string, not")
    says(fails("ArgumentError", tarn.addprocs, 1, { colour = "green" }), "unknown option 'colour'")
  end)

  it("that fails, or starts what is no worker, makes addprocs fail with its words; what it had started is ended", function()
    local mine = { stop = function(started) started:kill() end }
    function mine.start(job)
      job:spawn { argv = job:command() }
      error("no more", 0)
    end
    local ok, e = pcall(tarn.addprocs, 2, { launcher = mine })
    assert.is_false(ok)
    assert.equal("no more", e)
    local failing = { "/bin/sh", "-c", "cat >/dev/null & echo out of order >&2; exit 7" }
    function mine.start(job) job:spawn { argv = failing, label = "it" } end
    local e7 = fails("WorkerLost", tarn.addprocs, 1, { launcher = mine })
    assert.equal("tarn.addprocs: it: exited with status 7: out of order", e7.message)
    function mine.start(job) job:spawn { argv = { "/bin/sh", "-c", "exec cat >&2" }, label = "echo" } end
    local late = fails("Timeout", tarn.addprocs, 1, { launcher = mine, connect_timeout_s = 0.2 })
    says(late, "1 of 1 workers not ready within 0.2 s: echo: 127.0.0.1:", (" %s "):format(("*"):rep(64))) -- its secret it keeps
    function mine.start() tarn.sleep(60) end
    says(fails("Timeout", tarn.addprocs, 1, { launcher = mine, connect_timeout_s = 0.2 }), "1 of 1 workers not ready within 0.2 s")
    function mine.start() end
    says(fails("Timeout", tarn.addprocs, 1, { launcher = mine, connect_timeout_s = 0.2 }), "1 of 1 workers not ready within 0.2 s")
    says(fails("ArgumentError", tarn.addprocs, 1, { launcher = {} }), "a launcher is a name or a table with start and stop")
    says(fails("ArgumentError", tarn.addprocs, 1, { launcher = "nosuch" }), "no launcher 'nosuch'")
    assert.equal(0, tarn.nworkers())
  end)

  it("may have some that fail, with partial: the others come, and what is missing is told", function()
    local mine = { stop = function(started) started:kill() end }
    function mine.start(job)
      job:spawn { argv = job:command(), label = "good" }
      job:spawn { argv = { "/bin/sh", "-c", "echo broken >&2; exit 1" }, label = "bad" }
      job:spawn { argv = { "/bin/sh", "-c", "cat >/dev/null" }, label = "late" }
      job:fail("worse", 1, "not even begun")
    end
    local ids, missing = tarn.addprocs(4, { launcher = mine, partial = true, connect_timeout_s = 1 })
    assert.equal(1, #ids)
    local texts = {}
    for i, m in ipairs(missing) do texts[i] = m.message end
    table.sort(texts)
    assert.same({ "1 of 4 workers not ready within 1 s", "bad: exited with status 1: broken", "worse: not even begun" }, texts)
    tarn.rmprocs(ids[1])
    function mine.start(job) job:fail("x", 1, "y") end
    says(fails("WorkerLost", tarn.addprocs, 1, { launcher = mine, partial = true }), "x: y")
  end)

  it("may be a command: once for each worker, or once for all", function()
    local command = { "/usr/bin/env", "SPEC_N={n}", "sh", "-c", "exec {command}" }
    local ids = tarn.addprocs(2, { launcher = "command", command = command })
    assert.equal("1", tarn.remotecall_fetch(ids[2], function() return os.getenv "SPEC_N" end))
    tarn.rmprocs(unpack(ids))
    -- What an engine does that starts several from one command: each gets the same standard input.
    local several = [[n=$1; shift; printf -v worker "%q " "$@"
      eval exec tee $(for ((i = 0; i < n; i++)); do echo ">($worker)"; done) ">/dev/null"]]
    command = { "bash", "-c", several, "bash", "{n}", "{worker}" }
    ids = tarn.addprocs(3, { launcher = "command", command = command, together = true })
    assert.equal(3, #ids)
    tarn.rmprocs(ids[2])
    assert.equal("there", tarn.remotecall_fetch(ids[1], function() return "there" end))
    tarn.rmprocs(ids[1], ids[3])
    says(fails("ArgumentError", tarn.addprocs, 1, { launcher = "command" }), "needs command = {")
    says(fails("ArgumentError", tarn.addprocs, 1, { launcher = "command", command = { "ssh", "{host}" } }), "there is no host here")
    says(fails("ArgumentError", tarn.addprocs, 1, { launcher = "command", command = { 5 } }), "list of strings")
  end)

  it("ends what carries its workers also when that overlooks a signal, as ssh sometimes does, and ends with its input", function()
    local carrier = require("tarn.subprocess").start { "/bin/sh", "-c", "trap '' TERM; echo ready; cat" }
    assert.equal("ready", carrier:match "ready")
    carrier:stop()
    assert.equal(0, tarn.timeout(10, function() return carrier:wait() end))
  end)

  it("is chosen by the command line for addprocs(n) and -p", function()
    local run = process.run_tarn { "--launcher", "nosuch", "-p", "1", "-e", "" }
    assert.equal(1, run.code)
    says(run.err, "no launcher 'nosuch'")
    run = process.run_tarn { "--hosts", "-x", "-p", "1", "-e", "" }
    says(run.err, "a host is HOST, USER@HOST or either with *N, not")
    run = process.run_tarn { "--hosts" }
    assert.equal(2, run.code)
    says(run.err, "--hosts needs a value")
  end)

  it("is given hosts that are hosts", function()
    for _, wrong in ipairs { "", "-oProxyCommand=x", "a b", "a*0", "a*x", "*3", "user@-x", 5 } do
      says(fails("ArgumentError", tarn.addprocs, { wrong }), "tarn.addprocs: ")
    end
    says(fails("ArgumentError", tarn.addprocs, {}), "the list of hosts is empty")
    says(fails("ArgumentError", tarn.addprocs, { "alpha" }, { launcher = "local" }), "the local launcher starts workers here")
    says(fails("ArgumentError", tarn.addprocs, 2, { launcher = "ssh" }), "the ssh launcher needs hosts")
    says(fails("ArgumentError", tarn.addprocs, { "alpha" }, { port = "x" }), "port must be a number")
  end)
end)
