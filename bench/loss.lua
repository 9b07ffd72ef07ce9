-- How long it takes until a call that waits for a process fails because that is lost: it crashes, it is stopped, its connection to process
-- 1 or to the caller brings nothing any more (by the specs' fault proxy, as with a cut cable). silence_s by default, and less.
local case = require "bench.lib.case"
local cluster = require "spec.helper.cluster"
local posix = require "spec.helper.posix"
local proxy = require "spec.helper.proxy"

-- Seconds until a call of process `from` (1, or a worker) to the last of n workers fails, after fault(proxy, ids).
local function measure(n, silence_s, from, fault)
  local took
  proxy.with(n, function(p, ids)
    local last = ids[n]
    local function wait(id) return tarn.remotecall_fetch(id, function() tarn.sleep(3600) end) end
    local caller = from == 1 and tarn.async(wait, last) or tarn.remotecall(ids[from - 1], wait, last)
    tarn.sleep(0.2 + math.random() * silence_s / 5) -- beats come when they come
    local started = posix.now()
    fault(p, ids)
    caller:wait()
    took = posix.now() - started
    local ok, e = pcall(caller.fetch, caller)
    assert(not ok and tarn.iserror(e, "WorkerLost"), e)
  end, { silence_s = silence_s })
  return took
end

local function crash(_, ids) posix.kill(cluster.os_pid(ids[1]), posix.SIGKILL) end
local function stop(_, ids) posix.kill(cluster.os_pid(ids[1]), posix.SIGSTOP) end
local function cut(p, ids) p:part(ids[1], 1) end
local function one_way(p, ids) p:stall(1, ids[1]) end
local function apart(p, ids) p:part(ids[1], ids[2]) end

case.run("loss", "from a fault to the WorkerLost of who waits", function(c)
  local function row(name, rounds, ...)
    local args = { ... }
    c:compare { name = name, unit = "s", less = true, rounds = rounds, warmup = 0, ours = function() return measure(unpack(args)) end }
  end
  row("crash", 9, 1, 5, 1, crash)
  for _, silence_s in ipairs { 5, 0.5 } do
    local rounds = silence_s > 1 and 3 or 7
    local function name(what) return ("%s, silence_s = %g"):format(what, silence_s) end
    row(name "stopped", rounds, 1, silence_s, 1, stop)
    row(name "cut off from process 1", rounds, 1, silence_s, 1, cut)
    row(name "cut off one way", rounds, 1, silence_s, 1, one_way)
    row(name "two workers cut off from each other", rounds, 2, silence_s, 2, apart)
  end
end)
