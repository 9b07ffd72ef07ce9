-- What is going on in a cluster, seen from outside through one of its processes: figures, and rates between two looks. For tarn top and the
-- dashboard.
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local future = require "tarn.future"

local observer = {}

local Observer = {}
Observer.__index = Observer

-- Counters of observe.stats, and what they are called as a rate a second.
local RATES = {
  sets = "sets_s", gets = "gets_s", jobs_ended = "jobs_s", tcp_in_bytes = "tcp_in_s", tcp_out_bytes = "tcp_out_s",
  mapped_in_bytes = "mapped_in_s", mapped_out_bytes = "mapped_out_s", spill_written_bytes = "spill_written_s",
  mapped_back_bytes = "mapped_back_s",
}

-- Kinds of memory, and what they are called. Together they are what the process has in memory (RssAnon, and the blocks of its memory
-- file). The live objects are a part of the Lua heap; received and shared ones are parts of the resident.
observer.MEMORY = {
  { "lua", "Lua heap" }, { "lua_free", "Lua heap, free" }, { "resident", "resident" }, { "cached", "kept for the next" },
  { "records", "records" }, { "buffers", "buffers" }, { "program", "program" },
}

---The bytes of each kind of memory, by name, and of all together.
---@param stats table of observe.stats
---@return table<string, number> kinds
---@return number sum
function observer.memory(stats)
  -- A block counts against the budget from when it is made, and has memory from when it is written to.
  local cached = math.min(stats.cached_bytes, stats.memory_file_bytes)
  local kinds = {
    lua = stats.lua_bytes, lua_free = math.max(stats.lua_memory_bytes - stats.lua_bytes, 0),
    resident = stats.memory_file_bytes - cached + stats.heap_bytes, cached = cached, records = stats.record_bytes,
    buffers = stats.buffer_bytes, program = stats.program_bytes,
  }
  local sum = 0
  for _, bytes in pairs(kinds) do sum = sum + bytes end
  return kinds, sum
end

---What counts against max_memsize, bytes.
function observer.used(stats)
  return stats.live_bytes + stats.resident_bytes + stats.record_bytes + stats.cached_bytes + stats.inflight_bytes
end

---Add to stats what has changed since an earlier look (nil: none): busy_share and cpu_share (1: all the time), and a rate for each counter.
function observer.add_rates(stats, before)
  local ns = before and before.os_pid == stats.os_pid and stats.now_ns - before.now_ns or 0
  if ns <= 0 then return stats end
  for counter, rate in pairs(RATES) do stats[rate] = (stats[counter] - before[counter]) * 1e9 / ns end
  stats.busy_share = math.min((stats.busy_ns - before.busy_ns) / ns, 1)
  stats.cpu_share = (stats.cpu_ns - before.cpu_ns) / ns
  return stats
end

---Ask method of every process, all at once: {[id] = answer}, {[id] = error}. argument(id) gives the second parameter.
---@param method string
---@param argument? fun(id: integer): integer
function Observer:ask_all(method, argument)
  local asked, answers, failures = {}, {}, {}
  for _, id in ipairs(self.ids) do
    asked[id] = future.run(false, self.client.ask, self.client, method, id, argument and argument(id) or 0)
  end
  for id, f in pairs(asked) do
    local ok, x = pcall(f.fetch, f)
    if ok then
      answers[id] = x
    elseif errors.iserror(x, "Cancelled") or self.client.gone then
      error(x, 0)
    else
      failures[id] = failure.tostring(type(x) == "table" and x.message or x)
    end
  end
  return answers, failures
end

---Look at all processes. Suspends; raises when the process that is asked is gone.
---@return table[] processes in order of their ids: figures and rates; or {id, failure}
function Observer:look()
  self.ids = {}
  for i, member in ipairs(self.client:ask("observe.members")) do self.ids[i] = member[1] end
  table.sort(self.ids)
  local answers, failures = self:ask_all("observe.stats")
  local processes = {}
  for i, id in ipairs(self.ids) do
    processes[i] = answers[id] and observer.add_rates(answers[id], self.before[id]) or { id = id, failure = failures[id] }
  end
  self.before = answers
  return processes
end

---The jobs that run and those that have ended since the last call, of each process: see tarn__jobs_write.
---@return table<integer, table>
function Observer:jobs()
  local answers = self:ask_all("observe.jobs", function(id) return self.next_job[id] or 0 end)
  for id, answer in pairs(answers) do self.next_job[id] = answer.next end
  return answers
end

---The largest objects of all processes, largest first.
---@param count integer
---@return table[]
function Observer:objects(count)
  local all = {}
  for id, list in pairs((self:ask_all("observe.objects", function() return count end))) do
    for _, object in ipairs(list) do
      object.owner = id
      all[#all + 1] = object
    end
  end
  table.sort(all, function(a, b)
    if a.size ~= b.size then return a.size > b.size end
    return a.key < b.key
  end)
  for i = #all, count + 1, -1 do all[i] = nil end
  return all
end

---@param client table of tarn.client
function observer.new(client) return setmetatable({ client = client, ids = {}, before = {}, next_job = {} }, Observer) end

return observer
