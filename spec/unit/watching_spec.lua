-- The texts of those who look at a cluster: tarn top, the metrics, what the page is told.
local json = require "tarn.json"
local metrics = require "tarn.metrics"
local observer = require "tarn.observer"
local top = require "tarn.top"
local watch = require "tarn.watch"

-- What observe.stats answers, with every figure another.
local function stats(more)
  local p = { id = 2, os_pid = 4711, host = "alpha", address = "127.0.0.1:1", version = "0", busy = true,
    max_memsize = 64e6, max_disksize = math.huge,
    connections = { { 1, false, 10, 0 }, { 3, false, 10, 0 }, { 3, false, 10, 0 }, { 0, true, 10, 0 } } }
  local names = "now_ns uptime_ns busy_ns cpu_ns jobs_running jobs_begun jobs_ended jobs_failed queued lua_memory_bytes segment_bytes"
    .. " heap_bytes cached_bytes record_bytes received_bytes buffer_bytes program_bytes queued_bytes mapped_out_bytes anonymous_bytes"
    .. " memory_file_bytes disk_free_bytes objects live_bytes resident_bytes inflight_bytes lent_bytes borrowed_bytes spilled_bytes"
    .. " disk_bytes lua_bytes sets gets deletes evictions spill_written_bytes"
    .. " mapped_back_bytes mapped_in_bytes mapped_in_count tcp_in_bytes tcp_out_bytes"
  local i = 0
  for name in names:gmatch "%S+" do
    i = i + 1
    p[name] = 1000 * i
  end
  for k, v in pairs(more or {}) do p[k] = v end
  return p
end

describe("amounts", function()
  it("take five characters at most, and say when there is none", function()
    local expected = { [0] = "0", [999] = "999", [999.6] = "1.0K", [1500] = "1.5K", [9960] = "10K",
      [20e6] = "20M", [999.7e6] = "1.0G", [3e12] = "3.0T" }
    for n, text in pairs(expected) do assert.equal(text, top.amount(n)) end
    assert.equal("-", top.amount(nil))
    assert.equal("-", top.amount(0 / 0))
    assert.equal("none", top.amount(math.huge))
  end)
end)

describe("rates", function()
  it("are what has changed a second", function()
    local before = stats { now_ns = 1e9, sets = 10, busy_ns = 0, cpu_ns = 0 }
    local after = stats { now_ns = 3e9, sets = 50, busy_ns = 1e9, cpu_ns = 3e9 }
    observer.add_rates(after, before)
    assert.equal(20, after.sets_s)
    assert.equal(0, after.gets_s)
    assert.equal(0.5, after.busy_share)
    assert.equal(1.5, after.cpu_share)
  end)

  it("are not there at the first look, nor for another process of the same number", function()
    assert.is_nil(observer.add_rates(stats(), nil).sets_s)
    assert.is_nil(observer.add_rates(stats { os_pid = 1, now_ns = 1e12 }, stats()).sets_s)
  end)
end)

describe("the table of tarn top", function()
  it("has a line for each process, its columns below their headings", function()
    local lines = top.table { stats(), stats { id = 13, busy = false, jobs_running = 12 } }
    assert.equal(3, #lines)
    local jobs = select(2, lines[1]:find("JOBS", 1, true))
    assert.equal("12", lines[3]:sub(jobs - 1, jobs))
    local state = lines[1]:find("STATE", 1, true)
    assert.equal("busy", lines[2]:sub(state, state + 3))
    assert.equal("idle", lines[3]:sub(state, state + 3))
    assert.truthy(lines[2]:find("1,3,1 client", 1, true), lines[2])
    assert.truthy(lines[2]:find("102K/64M", 1, true), lines[2]) -- live, resident, records, cached, in flight
  end)

  it("says which process has not answered", function()
    local lines = top.table { stats(), { id = 5, failure = "process 5 is lost" } }
    assert.truthy(lines[3]:match "^%s*5%s+no answer$", lines[3])
    assert.truthy(top.summary({ stats(), { id = 5, failure = "lost" } }, "x:1"):find("1 without an answer", 1, true))
  end)
end)

describe("metrics", function()
  it("are in Prometheus' text format", function()
    local text = metrics.text { stats { host = 'a"b\\c' }, { id = 5, failure = "lost" } }
    assert.truthy(text:find('\ntarn_up{process="2"} 1\ntarn_up{process="5"} 0\n', 1, true))
    local cpu = '# TYPE tarn_cpu_seconds_total counter\ntarn_cpu_seconds_total{process="2",host="a\\"b\\\\c"} 4'
    assert.truthy(text:find(cpu, 1, true), text)
    assert.truthy(text:find('tarn_connections{process="2",host="a\\"b\\\\c",peer="process"} 3\n', 1, true))
    assert.truthy(text:find('tarn_budget_bytes{process="2",host="a\\"b\\\\c"} 64000000\n', 1, true))
    assert.truthy(metrics.text { stats { disk_free_bytes = math.huge } }:find("tarn_disk_free_bytes{.-} %+Inf\n"))
    assert.equal("\n", text:sub(-1))
    assert.is_nil(text:find('process="5",', 1, true))
  end)
end)

describe("JSON", function()
  it("has arrays, objects, escaped strings, and null for what it lacks", function()
    assert.equal('[1,"a",true,[],null]', json.encode { 1, "a", true, {}, 0 / 0 })
    assert.equal('{"a":1.5,"b":{"c":[1]}}', json.encode { b = { c = { 1 } }, a = 1.5 })
    assert.equal('"\\u003c\\u002fscript>\\"\\\\\\n\\u0001é"', json.encode '</script>"\\\n\1é')
    assert.equal("46452845869635", json.encode(46452845869635))
    assert.has_error(function() json.encode(print) end)
  end)
end)

describe("options of commands that look", function()
  local known = { ["--connect"] = "value", ["--once"] = "flag", ["--interval"] = "seconds", ["--port"] = "port" }
  local function fails(text, ...)
    local ok, e = pcall(watch.options, "top", known, ...)
    assert.is_false(ok)
    assert.truthy(e.usage:find(text, 1, true), e.usage)
  end

  it("may stand in any order, and the address without its name", function()
    assert.same({ connect = "a:1", once = true, interval = 2.5 }, watch.options("top", known, "--interval=2.5", "a:1", "--once"))
    assert.same({ connect = "a:1", port = 80 }, watch.options("top", known, "--connect", "a:1", "--port", "80"))
  end)

  it("that are wrong are named", function()
    fails("unknown option '--twice'", "--twice")
    fails("unknown option 'b'", "a:1", "b")
    fails("--connect needs a value", "--connect")
    fails("'soon' is not a time", "--interval", "soon")
    fails("'0' is not a time", "--interval=0")
    fails("'70000' is not a port", "--port", "70000")
  end)
end)
