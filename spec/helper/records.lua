-- Objects of which process 1 has a record (remake, replicas), and processes that are killed: from the driver.
local ffi = require "ffi"
local cluster = require "spec.helper.cluster"
local refs = require "spec.helper.refs"
pcall(ffi.cdef, "int kill(int pid, int sig);")

local M = {}

local SIGKILL = 9

-- Records that process 1 has.
function M.count()
  local n = 0
  for _ in pairs(require "tarn.record") do n = n + 1 end
  return n
end

-- What is known of them, for messages.
function M.describe()
  local texts = {}
  for key, r in pairs(require "tarn.record") do
    texts[#texts + 1] = ("object %s of process %d, move %d, %d copies%s%s%s"):format(key, r.owner, r.moves, r.count,
      r.absent and ", absent" or "", r.lock and ", locked" or "", r.move and ", moving" or "")
  end
  return table.concat(texts, "; ")
end

-- Where process 1 knows copies of the object of ref to be: sorted ids.
function M.copies(ref)
  local r, list = require("tarn.record")[ref:key()], {}
  for id in pairs(r and r.copies or {}) do list[#list + 1] = id end
  table.sort(list)
  return list
end

-- Wait until there are n copies.
function M.has_copies(ref, n)
  return cluster.becomes(function() return #M.copies(ref) == n end)
end

-- Run fn(ids) with n new workers, after which no object, reference or record may be left. In a task of its own: what it leaves in its
-- frame would lie in those of who looks afterwards.
function M.with(n, fn, opts)
  refs.with(n, function(ids)
    tarn.async(fn, ids):fetch()
    jit.flush() -- a trace keeps the closures that it calls, and what those have as upvalues
    local gone = cluster.becomes(function()
      refs.collect()
      return M.count() == 0
    end)
    if not gone then error("records that are left: " .. M.describe(), 0) end
  end, opts)
end

-- Kill worker id with SIGKILL; does not wait until that is known.
function M.kill(id, os_pid) ffi.C.kill(os_pid or cluster.os_pid(id), SIGKILL) end

-- Wait until it is known that worker id is lost.
function M.await_loss(id)
  assert(cluster.becomes(function() return not require("tarn.core").is_member(id) end))
end

-- Kill it and wait.
function M.lose(id)
  M.kill(id)
  M.await_loss(id)
end

-- Put process id under pressure for a moment: what may be dropped is, if it takes (or says that it takes) more than 1 kB. What is not ours
-- may be in process 1 too, and not to be evicted.
function M.press(id)
  local memory, before = tarn.max_memsize(nil, id), tarn.poolstats(id).objects
  tarn.max_memsize(1000, id)
  local done = cluster.becomes(function()
    local stats = tarn.poolstats(id)
    return stats.objects < before or stats.resident_bytes + stats.live_bytes <= 1000
  end)
  tarn.max_memsize(memory, id)
  assert(done, "nothing is dropped")
end

-- Start fn(...) on each of the processes; the Futures.
function M.on_each(ids, fn, ...)
  local futures = {}
  for i, id in ipairs(ids) do futures[i] = tarn.remotecall(id, fn, ...) end
  return futures
end

return M
