-- Workers for one case: started before it, gone after it, whatever happens.
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

local M = {}

-- Run fn(ids); of these workers those that are left are removed.
function M.with_ids(ids, fn)
  local ok, e = pcall(fn, ids)
  local mine, left = {}, {}
  for _, id in ipairs(ids) do mine[id] = true end
  for _, id in ipairs(tarn.workers()) do
    if mine[id] then left[#left + 1] = id end
  end
  tarn.rmprocs(unpack(left))
  if not ok then error(e, 0) end
end

-- Run fn(ids) with n new workers; those that are left are removed.
function M.with(n, fn, opts) M.with_ids(tarn.addprocs(n, opts), fn) end

-- The system's number of process id.
M.os_pid = tarn.os_pid

M.fails = require "spec.helper.fails"

-- The text must have each of the parts.
function M.says(text, ...)
  for _, part in ipairs { ... } do
    if not tostring(text):find(part, 1, true) then error(("'%s' does not say '%s'"):format(tostring(text), part), 2) end
  end
end

-- In a worker: Lua computes, and comes to nothing else, until the driver calls go_on with that worker's id.
function M.compute()
  local before = tarn.poolstats().resident_bytes
  repeat until tarn.poolstats().resident_bytes > before + 5e5
end

-- C takes what is large into the pool while Lua computes.
function M.go_on(id) tarn.poolset(tarn.array("double", 1e5), id) end

-- Wait until condition() is true; false when it is not within the seconds, which are many: only what hangs takes them.
function M.becomes(condition, seconds)
  local deadline = posix.now() + (seconds or 20) * process.patience
  while not condition() do
    if posix.now() > deadline then return false end
    tarn.sleep(0.005)
  end
  return true
end

return M
