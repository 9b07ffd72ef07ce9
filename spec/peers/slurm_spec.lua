-- Workers by Slurm: a controller and two nodes on this machine.
local across = require "spec.helper.across"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local says = require("spec.helper.cluster").says
local slurm_helper = require "spec.helper.slurm"

local reason = slurm_helper.missing()

describe("workers by Slurm", function()
  if reason then
    pending("are started by srun: " .. reason)
    return
  end

  local slurm
  setup(function() slurm = slurm_helper.start() end)
  teardown(function() slurm:destroy() end)
  after_each(function()
    local jobs = slurm:jobs()
    for _ = 1, 100 do
      if jobs == "" then break end
      tarn.sleep(0.1)
      jobs = slurm:jobs()
    end
    assert.equal("", jobs)
  end)

  local function script(source)
    local cwd = process.tmpdir()
    return process.write_file(cwd .. "/driver.lua", source), cwd
  end

  local CALLS = [[
    local ids = tarn.addprocs(4, { launcher = "slurm", silence_s = 20 })
    local nodes = {}
    for _, id in ipairs(ids) do
      local node = tarn.remotecall_fetch(id, function() return os.getenv "SLURMD_NODENAME" end)
      nodes[node] = (nodes[node] or 0) + 1
    end
    print(#ids, (nodes.n1 or 0) + (nodes.n2 or 0))
    local ref = tarn.poolset(tarn.array("double", 50000), ids[1])
    print(tarn.remotecall_fetch(ids[4], function(r) return #tarn.poolget(r) end, ref))
    print(#tarn.addprocs(1, { launcher = "slurm" }), tarn.nworkers())
  ]]

  it("come outside an allocation by a job of their own, and inside one by steps that overlap", function()
    local path, cwd = script(CALLS)
    for _, argv in ipairs { { process.tarn_path, path }, { "/usr/bin/env", "salloc", "-Q", "-N2", "-n4", process.tarn_path, path } } do
      local run = slurm:run(argv, { cwd = cwd })
      assert.equal(0, run.code, run.err .. run.out)
      assert.same({ "4\t4", "50000", "1\t5" }, process.lines(run.out))
    end
  end)

  it("are lost one by one, and all with srun; what fails to start says why", function()
    local path, cwd = script [[
      local ids = tarn.addprocs(3, { launcher = "slurm", respawn = false })
      local lost = {}
      local first, all = tarn.promise(1), tarn.promise(1)
      tarn.on("lost", function(id)
        lost[#lost + 1] = id
        if #lost == 1 then first:put(id) end
        if #lost == 3 then all:put(true) end
      end)
      local uv = require "luv"
      uv.kill(tarn.remotecall_fetch(ids[2], uv.os_getpid), "sigkill")
      local function there() return "there" end
      print(first:fetch(20) == ids[2], tarn.remotecall_fetch(ids[1], there), tarn.remotecall_fetch(ids[3], tarn.nworkers))
      local srun = io.popen("pgrep -P " .. tarn.os_pid() .. " -x srun"):read "*l"
      uv.kill(tonumber(srun), "sigterm")
      print(all:fetch(20), tarn.nworkers())
      print(pcall(tarn.addprocs, 1, { launcher = "slurm", partition = "nowhere" }))
      print(pcall(tarn.addprocs, 2, { launcher = "slurm", tarn = "/nowhere/tarn" }))
    ]]
    local run = slurm:run({ process.tarn_path, path }, { cwd = cwd })
    assert.equal(0, run.code, run.err)
    local lines = process.lines(run.out)
    assert.equal("true\tthere\t2", lines[1])
    assert.equal("true\t0", lines[2])
    says(run.out, "Slurm has no node in partition 'nowhere'", "tarn.addprocs: srun: exited with status", "/nowhere/tarn")
  end)

  it("are lost when their job is cancelled, or what carries them is killed; none lives on, and the others do", function()
    local path, cwd = script [[
      io.stdout:setvbuf("no")
      local uv = require "luv"
      local fault = arg[1]
      local kept = tarn.addprocs(1)[1] -- here
      local ids = tarn.addprocs(2, { launcher = "slurm", respawn = false, silence_s = 20 })
      local pids, left, lost = {}, {}, {}
      for i, id in ipairs(ids) do pids[i] = tarn.remotecall_fetch(id, uv.os_getpid) end
      local waiting = tarn.remotecall(ids[1], tarn.sleep, 3600)
      local both = tarn.promise(1)
      tarn.on("lost", function(id, why)
        lost[#lost + 1] = why
        if #lost == 2 then both:put(true) end
      end)
      if fault == "scancel" then
        os.execute("scancel -u $(id -un)")
      else
        uv.kill(tarn.remotecall_fetch(ids[1], uv.os_getppid), "sigkill")
      end
      both:fetch(30)
      local ok, e = pcall(waiting.fetch, waiting, 10)
      print(ok, e.kind, tarn.nworkers(), tarn.remotecall_fetch(kept, function() return "there" end))
      local deadline = os.time() + 20
      for _, pid in ipairs(pids) do
        while uv.kill(pid, 0) == 0 and os.time() < deadline do tarn.sleep(0.05) end
        left[#left + 1] = uv.kill(pid, 0) == 0 and pid or nil
      end
      print(#left)
      print(#tarn.addprocs(1, { launcher = "slurm", connect_timeout_s = 40 }), tarn.nworkers())
    ]]
    for _, fault in ipairs { "scancel", "slurmstepd" } do
      local argv = { "/usr/bin/env", "salloc", "-Q", "-N1", "-n2", process.tarn_path, path, fault }
      if fault == "scancel" then argv = { process.tarn_path, path, fault } end
      local run = slurm:run(argv, { cwd = cwd })
      assert.same({ "false\tWorkerLost\t1\tthere", "0", "1\t2" }, process.lines(run.out), fault .. ": " .. run.err)
      assert.equal(0, run.code, run.err)
      assert.is_true(process.gone(run.mark, 10 * process.patience), fault .. ": something of it lives on")
    end
  end)

  it("are replaced by a step that overlaps, and go with a driver that is killed", function()
    local path, cwd = script [[
      io.stdout:setvbuf("no")
      local ids = tarn.addprocs(2, { launcher = "slurm", respawn = true })
      local new = tarn.promise(1)
      tarn.on("joined", function(id) new:put(id) end)
      local uv = require "luv"
      uv.kill(tarn.remotecall_fetch(ids[1], uv.os_getpid), "sigkill")
      print(new:fetch(20) > ids[2], tarn.nworkers(), tarn.remotecall_fetch(new:fetch(), function() return "there" end))
      io.read()
    ]]
    local argv = { "/usr/bin/env", "salloc", "-Q", "-N1", "-n2", process.tarn_path, path }
    local driver = process.start(argv, { cwd = cwd, env = slurm.user_env })
    assert.equal("true\t2\tthere", driver:line(60))
    for _, pid in ipairs(process.marked(driver.mark)) do
      local words = (process.read_file("/proc/" .. pid .. "/cmdline") or ""):gsub("%z", " ")
      if words:find("driver.lua", 1, true) and not words:find("salloc", 1, true) then posix.kill(pid) end
    end
    driver:wait(30)
    assert.is_true(process.gone(driver.mark, 10 * process.patience), "something of it lives on")
  end)

  it("are removed one by one", function()
    local path, cwd = script [[
      local ids = tarn.addprocs(3, { launcher = "slurm" })
      tarn.rmprocs(ids[1])
      print(tarn.nworkers(), tarn.remotecall_fetch(ids[2], function() return "there" end))
      tarn.rmprocs(ids[2], ids[3])
      print(tarn.nworkers())
    ]]
    local run = slurm:run({ process.tarn_path, path }, { cwd = cwd })
    assert.equal(0, run.code, run.err)
    assert.same({ "2\tthere", "0" }, process.lines(run.out))
  end)

  for name, least in pairs { calls = 20, pool_calls = 10, refs = 20 } do
    it(("do what functional specs want: %s_spec"):format(name), function()
      local argv = { process.tarn_path, unpack(across.args({ "--launcher", "slurm" }, name)) }
      across.holds(slurm:run(argv, { cwd = process.root, timeout_s = 100 }), least)
    end)
  end

  it("work for a driver that is a batch job: the demo's numbers are those of one machine", function()
    local cwd = process.tmpdir()
    local demo = { process.root .. "/examples/flights.lua", "--workers", "4", "--repeat", "2" }
    local one = process.run_tarn(demo, { timeout_s = 60 })
    assert.equal(0, one.code, one.err)
    local submitted = slurm:run({ process.tarn_path, "slurm", "-N", "2", "-n4", "-o", "out", "-e", "err", unpack(demo) }, { cwd = cwd })
    assert.equal(0, submitted.code, submitted.err)
    says(submitted.out, "Submitted batch job")
    local function answers(text) return text:match("^(.*)\npool ") end
    local deadline = os.time() + 60 * process.patience
    repeat tarn.sleep(0.05) until slurm:jobs() == "" or os.time() > deadline
    local out = process.read_file(cwd .. "/out") or ""
    assert.truthy(answers(out), out .. (process.read_file(cwd .. "/err") or ""))
    assert.equal(answers(one.out), answers(out))
    local wrong = process.run_tarn { "slurm", "-n4", "nothing.lua" }
    assert.equal(2, wrong.code)
    says(wrong.err, "tarn slurm: no script")
  end)
end)
