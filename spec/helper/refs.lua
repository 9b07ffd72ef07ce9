-- What processes know of references, and their garbage: from the driver.
local core = require "tarn.core"
local cluster = require "spec.helper.cluster"

local M = {}

-- On process pid: fn(...); on the driver itself too.
local function at(pid, fn, ...)
  if pid == tarn.myid() then return fn(...) end
  return tarn.remotecall_fetch(pid, fn, ...)
end
M.at = at

local function full_collection()
  collectgarbage()
  collectgarbage()
end

-- Compiled code keeps the closures that it calls, and what those have as upvalues, for as long as it is there.
local function forget_traces() jit.flush() end

M.collect_here = full_collection

-- Collect the garbage of those processes (default: all).
function M.collect(pids)
  for _, pid in ipairs(pids or tarn.procs()) do at(pid, full_collection) end
end

-- Objects in the pool of pid.
function M.objects(pid) return tarn.poolstats(pid).objects end

-- Entries of its table of references; transfers that are not answered; whether a loss is being looked into.
function M.figures(pid)
  if pid == tarn.myid() then return core.ref_figures() end
  return tarn.remotecall_fetch(pid, function() return require("tarn.core").ref_figures() end)
end

-- Wait until there are so many objects on pid, collecting garbage everywhere. Returns true, or false and how many there are.
function M.becomes(pid, objects, seconds)
  local ok = cluster.becomes(function()
    M.collect()
    return M.objects(pid) == objects
  end, seconds)
  return ok or M.objects(pid)
end

-- Wait until the processes have no object and know of no reference: true, or false and a text of what there is.
function M.empty(pids, seconds)
  local text
  local ok = cluster.becomes(function()
    if text then
      for _, pid in ipairs(pids) do at(pid, forget_traces) end
    end
    M.collect(pids)
    local left = {}
    for _, pid in ipairs(pids) do
      local entries, transfers, fencing = M.figures(pid)
      local objects = M.objects(pid)
      if objects + entries + transfers > 0 or fencing then
        left[#left + 1] = ("process %d: %d objects, %d entries, %d transfers%s"):format(pid, objects, entries, transfers,
          fencing and ", a fence" or "")
      end
    end
    text = table.concat(left, "; ")
    return #left == 0
  end, seconds)
  if ok then return true end
  return false, text
end

-- Other specs run in this process too, and may have left objects in its pool (a file's value, for one).
function M.clear()
  full_collection()
  tarn.cleanup()
end

-- Run fn(ids) with n new workers, after which nothing may be left.
function M.with(n, fn, opts)
  M.clear()
  cluster.with(n, function(ids)
    fn(ids)
    local live = {}
    for _, pid in ipairs(tarn.procs()) do live[#live + 1] = pid end
    assert(M.empty(live))
  end, opts)
end

return M
