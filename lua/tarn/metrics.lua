-- The figures of a cluster in Prometheus' text format (version 0.0.4).
local observer = require "tarn.observer"

local metrics = {}

-- name, type, help, then for each sample: extra labels (or false), and the figure's name or a function of the stats.
local NS = 1e-9
local function seconds(field) return function(p) return p[field] * NS end end

local FAMILIES = {
  { "tarn_uptime_seconds", "gauge", "Since the process has started.", { false, seconds "uptime_ns" } },
  { "tarn_busy", "gauge", "1 while Lua runs, 0 while it waits.", { false, function(p) return p.busy and 1 or 0 end } },
  { "tarn_busy_seconds_total", "counter", "For how long Lua has run.", { false, seconds "busy_ns" } },
  { "tarn_cpu_seconds_total", "counter", "Processor time of all threads.", { false, seconds "cpu_ns" } },
  { "tarn_jobs_running", "gauge", "Jobs that have begun and not ended.", { false, "jobs_running" } },
  { "tarn_jobs_total", "counter", "Jobs that have ended.", { 'result="ok"', function(p) return p.jobs_ended - p.jobs_failed end },
    { 'result="failed"', "jobs_failed" } },
  { "tarn_requests_queued", "gauge", "Requests that wait for Lua.", { false, "queued" } },
  { "tarn_memory_bytes", "gauge", "Memory of the process by what it is for; the sum is what the system counts." },
  { "tarn_memory_system_bytes", "gauge", "Memory of the process as the system counts it.", { 'kind="anonymous"', "anonymous_bytes" },
    { 'kind="shared"', "memory_file_bytes" } },
  { "tarn_budget_bytes", "gauge", "max_memsize.", { false, "max_memsize" } },
  { "tarn_budget_used_bytes", "gauge", "What counts against max_memsize.", { false, observer.used } },
  { "tarn_pool_objects", "gauge", "Objects in the pool.", { false, "objects" } },
  { "tarn_pool_bytes", "gauge", "Bytes of objects by where they are; received and lent ones are resident too.",
    { 'kind="live"', "live_bytes" },
    { 'kind="resident"', "resident_bytes" }, { 'kind="received"', "received_bytes" }, { 'kind="in_flight"', "inflight_bytes" },
    { 'kind="lent"', "lent_bytes" }, { 'kind="borrowed"', "borrowed_bytes" }, { 'kind="spilled"', "spilled_bytes" } },
  { "tarn_pool_operations_total", "counter", "Calls of the pool, and evictions.", { 'operation="set"', "sets" },
    { 'operation="get"', "gets" },
    { 'operation="delete"', "deletes" }, { 'operation="evict"', "evictions" } },
  { "tarn_disk_used_bytes", "gauge", "Of the spill file.", { false, "disk_bytes" } },
  { "tarn_disk_free_bytes", "gauge", "Where the spill file is.", { false, "disk_free_bytes" } },
  { "tarn_spill_written_bytes_total", "counter", "Written to the spill file.", { false, "spill_written_bytes" } },
  { "tarn_spill_mapped_back_bytes_total", "counter", "Read back from it, by mapping.", { false, "mapped_back_bytes" } },
  { "tarn_received_bytes_total", "counter", "From other processes, by way.", { 'way="tcp"', "tcp_in_bytes" },
    { 'way="mapped"', "mapped_in_bytes" } },
  { "tarn_sent_bytes_total", "counter", "To other processes, by way.", { 'way="tcp"', "tcp_out_bytes" },
    { 'way="mapped"', "mapped_out_bytes" } },
  { "tarn_send_queue_bytes", "gauge", "Wait to be sent.", { false, "queued_bytes" } },
  { "tarn_connections", "gauge", "Connections, by who is at the other end.", { 'peer="process"', function(p)
    local n = 0
    for _, c in ipairs(p.connections) do n = n + (c[2] and 0 or 1) end
    return n
  end }, { 'peer="client"', function(p)
    local n = 0
    for _, c in ipairs(p.connections) do n = n + (c[2] and 1 or 0) end
    return n
  end } },
}

local function escaped(text) return (text:gsub('[\\"\n]', { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" })) end

local function number(n)
  if n == math.huge then return "+Inf" end
  return ("%.17g"):format(n)
end

local function samples(family, p)
  if family[1] ~= "tarn_memory_bytes" then return { unpack(family, 4) } end
  local list, kinds = {}, observer.memory(p)
  for i, kind in ipairs(observer.MEMORY) do list[i] = { ('kind="%s"'):format(kind[1]), function() return kinds[kind[1]] end } end
  return list
end

---The exposition.
---@param processes table[] of observer:look
---@return string
function metrics.text(processes)
  local lines = { "# HELP tarn_up 1 for a process that has answered.", "# TYPE tarn_up gauge" }
  for _, p in ipairs(processes) do lines[#lines + 1] = ('tarn_up{process="%d"} %d'):format(p.id, p.failure and 0 or 1) end
  for _, family in ipairs(FAMILIES) do
    local name, kind, help = unpack(family)
    lines[#lines + 1] = ("# HELP %s %s"):format(name, help)
    lines[#lines + 1] = ("# TYPE %s %s"):format(name, kind)
    for _, p in ipairs(processes) do
      for _, sample in ipairs(p.failure and {} or samples(family, p)) do
        local value = type(sample[2]) == "string" and p[sample[2]] or sample[2](p)
        lines[#lines + 1] = ('%s{process="%d",host="%s"%s} %s'):format(name, p.id, escaped(p.host), sample[1] and "," .. sample[1] or "",
          number(value))
      end
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

return metrics
