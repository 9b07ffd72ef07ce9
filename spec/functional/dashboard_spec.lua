-- The dashboard as programs see it: real HTTP by curl, metrics by a real parser. spec/peers/dashboard_spec.lua looks at it with a browser.
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local watched = require "spec.helper.watched"

local LIBRARY = "/usr/lib/x86_64-linux-gnu/libmicrohttpd.so.12"

-- curl: status and body. What it is told besides comes before the url.
local function get(url, ...)
  local argv = { "/usr/bin/curl", "-sS", "-m", "20", "-w", "\n%{http_code}", ... }
  argv[#argv + 1] = url
  local run = process.run(argv)
  assert.equal(0, run.code, run.err)
  local body, status = run.out:match "^(.*)\n(%d+)$"
  return tonumber(status), body
end

-- A cluster with a dashboard: w.url, w.base (without the token), w.token.
local function start(n, source)
  local w = watched.start(n, "{ memory = '64MB' }", "print(tarn.dashboard { port = 0 })\n" .. (source or ""))
  w.url = w.driver:line()
  w.base, w.token = w.url:match "^(http://127%.0%.0%.1:%d+)/(%x+)/$"
  assert.equal(32, #w.token)
  return w
end

-- The os pid of the process that serves.
local function server_of(w)
  for _, pid in ipairs(process.marked(w.driver.mark)) do
    if process.read_file("/proc/" .. pid .. "/cmdline"):find("\0dashboard\0", 1, true) then return pid end
  end
end

describe("the dashboard", function()
  it("gives its page, and what belongs to it, to who knows the token", function()
    local w = start(1)
    local status, page = get(w.url, "-i")
    assert.equal(200, status)
    assert.truthy(page:find("<title>tarn</title>", 1, true))
    assert.truthy(page:find("Content-Security-Policy: default-src 'none'; script-src 'self'", 1, true), page)
    assert.truthy(page:find("Referrer-Policy: no-referrer", 1, true))
    assert.equal(200, (get(w.url .. "page.js")))
    assert.equal(200, (get(w.url .. "page.css")))
    assert.equal(404, (get(w.url .. "../page.js", "--path-as-is")))
    assert.equal(404, (get(w.url .. "%2e%2e/dashboard.lua")))
    for host in page:gmatch "https?://[%w.]+" do error("the page names another host: " .. host) end
    w:stop()
  end)

  it("refuses who does not: wrong, missing or shortened tokens", function()
    local w = start(1)
    local wrong = (w.token:sub(1, 1) == "0" and "1" or "0") .. w.token:sub(2)
    for _, path in ipairs { "/", "", "/" .. wrong .. "/", "/" .. w.token:sub(2) .. "/", "/" .. w.token, "/metrics",
      "/metrics?token=" .. wrong,
      "/" .. wrong .. "/events", "/page.js", "/" .. w.token .. "0/page.js" } do
      local status, text = get(w.base .. path)
      assert.equal(403, status, path)
      assert.truthy(text:find("token", 1, true))
      assert.is_nil(text:find(w.token, 1, true))
    end
    w:stop()
  end)

  it("refuses hosts that are not this machine, whose pages might ask through a browser", function()
    local w = start(1)
    for _, host in ipairs { "evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "localhost.", "" } do
      assert.equal(403, (get(w.url, "-H", "Host: " .. host)), host)
    end
    for _, host in ipairs { "localhost:9999", "LOCALHOST", "127.0.0.1", "[::1]:80" } do
      assert.equal(200, (get(w.url, "-H", "Host: " .. host)), host)
    end
    w:stop()
  end)

  it("can only be looked at", function()
    local w = start(1)
    for _, method in ipairs { "POST", "PUT", "DELETE", "PATCH" } do
      assert.equal(405, (get(w.url, "-X", method, "-d", ("x"):rep(100000))))
    end
    w:stop()
  end)

  it("tells what happens as server-sent events, while the driver and all workers compute", function()
    local enough = process.tmpdir() .. "/enough"
    local w = start(2, ([[
      local function fails() error "planned" end
      tarn.remotecall_fetch(2, function() kept = tarn.poolset(tarn.array("double", 100000)) end)
      pcall(tarn.remotecall_fetch, 3, fails)
      tarn.remote_do(2, function() while true do end end)
      tarn.remote_do(3, function() while true do end end)
      print "ready"
      io.stdout:flush()
      while not io.open(%q) do end
    ]]):format(enough))
    assert.equal("ready", w.driver:line())
    local curl = process.start { "/usr/bin/curl", "-sSN", "-m", "30", w.url .. "events" }
    local events, text = {}, {}
    while not (events.processes and events.processes >= 2 and events.jobs and events.objects) do
      local event = curl:line(30):match "^event: (%w+)$"
      if event then
        events[event] = (events[event] or 0) + 1
        text[event] = curl:line(30):match "^data: (.*)$"
      end
    end
    process.write_file(enough, "")
    assert.truthy(text.processes:find('"id":2,', 1, true))
    assert.truthy(text.processes:find('"busy":true', 1, true))
    assert.truthy(text.processes:find('"memory":{"buffers":', 1, true))
    assert.truthy(text.jobs:find('"running":[[', 1, true), text.jobs)
    assert.truthy(text.objects:find('"contents":"array"', 1, true), text.objects)
    posix.kill(curl.pid, 15)
    curl:wait()
    w:stop()
  end)

  it("has metrics that Prometheus' own parser reads", function()
    local w = start(2, "tarn.remotecall_fetch(2, function() kept = tarn.poolset(tarn.array('double', 100000)) end)")
    local path = process.tmpdir() .. "/metrics"
    local status, text = get(w.base .. "/metrics?token=" .. w.token)
    assert.equal(200, status)
    process.write_file(path, text)
    local run = process.run { "/usr/bin/python3", "-c", [[
import sys
from prometheus_client.parser import text_string_to_metric_families as parse
families = {f.name: f for f in parse(open(sys.argv[1]).read())}
for f in families.values():
    assert f.documentation and f.type in ("gauge", "counter"), f
    assert f.samples, f
    assert len({tuple(sorted(s.labels.items())) + (s.name,) for s in f.samples}) == len(f.samples), f
up = {s.labels["process"]: s.value for s in families["tarn_up"].samples}
assert up == {"1": 1, "2": 1, "3": 1}, up
budget = {s.labels["process"]: s.value for s in families["tarn_budget_bytes"].samples}
assert budget["2"] == 64e6, budget
resident = [s.value for s in families["tarn_pool_bytes"].samples if s.labels["process"] == "2" and s.labels["kind"] == "resident"]
assert resident[0] >= 800000, resident
kinds = sum(s.value for s in families["tarn_memory_bytes"].samples if s.labels["process"] == "2")
system = sum(s.value for s in families["tarn_memory_system_bytes"].samples if s.labels["process"] == "2")
assert abs(kinds - system) < 0.5 * system, (kinds, system)
print(len(families))
]], path }
    assert.equal(0, run.code, run.err)
    assert.is_true(tonumber(run.out) > 20)
    assert.equal(200, (get(w.url .. "metrics")))
    w:stop()
  end)

  it("ends with its cluster, in order or not, and starts once", function()
    local w = start(1, "print(tarn.dashboard() == tarn.dashboard { port = 0 })")
    assert.equal("true", w.driver:line())
    assert.truthy(server_of(w))
    w:stop()
    assert.is_true(process.gone(w.driver.mark, 5))
    w = start(1)
    posix.kill(w.driver.pid, 9)
    w.driver:wait()
    assert.is_true(process.gone(w.driver.mark, 5))
  end)

  it("says what is wrong: options, a port that is taken", function()
    local w = start(1)
    local port = w.base:match "%d+$"
    local other = process.run_script(([[
      for _, opts in ipairs { { prot = 1 }, { port = "x" }, { port = 70000 }, { port = %s } } do
        local ok, e = pcall(tarn.dashboard, opts)
        print(ok, e.kind, e.message)
      end
    ]]):format(port))
    local lines = {}
    for line in other.out:gmatch "[^\n]+" do lines[#lines + 1] = line end
    assert.truthy(lines[1]:find("tarn.dashboard: unknown option 'prot'", 1, true), other.out)
    assert.truthy(lines[2]:find("a port is a whole number", 1, true), other.out)
    assert.truthy(lines[3]:find("a port is a whole number", 1, true), other.out)
    local taken = ("IOError.*tarn.dashboard: cannot listen on 127%%.0%%.0%%.1:%s: Address already in use"):format(port)
    assert.truthy(lines[4]:find(taken), other.out)
    w:stop()
  end)

  -- Run a driver from whose sight something is hidden.
  local HIDING = { "/usr/bin/unshare", "-Urm", "sh", "-c" }

  local function run_without(hide, source)
    local script = process.write_file(process.tmpdir() .. "/script.lua", source)
    local command = { unpack(HIDING) }
    for _, arg in ipairs { hide .. ' && exec "$@"', "sh", process.tarn_path, script } do command[#command + 1] = arg end
    local run = process.run(command)
    assert.equal(0, run.code, run.err)
    return run
  end

  it("without libmicrohttpd says which package it needs; without Chart.js it serves all else", function()
    local probe = { unpack(HIDING) }
    probe[#probe + 1] = "mount -t tmpfs none /mnt"
    if process.run(probe).code ~= 0 then return pending "needs to mount in a mount namespace of its own (unshare -Urm)" end
    local run = run_without("mount -t tmpfs none /usr/share/javascript", [[
      local url, subprocess = tarn.dashboard(), require "tarn.subprocess"
      for _, name in ipairs { "chart.js", "page.js" } do
        print((select(2, subprocess.run { "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url .. name })))
      end
    ]])
    assert.equal("404\n200\n", run.out)
    run = run_without("mount --bind /dev/null " .. LIBRARY, "print(select(2, pcall(tarn.dashboard)).message)")
    assert.truthy(run.out:find("libmicrohttpd's, which is not installed (libmicrohttpd.so.12; Debian: libmicrohttpd12)", 1, true), run.out)
  end)
end)
