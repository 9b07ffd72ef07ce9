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
function M.os_pid(id)
  return tarn.remotecall_fetch(id, function() return require("tarn.core").os_pid() end)
end

-- fn(...) must raise an error of tarn's of that kind; returns it.
function M.fails(kind, fn, ...)
  local ok, e = pcall(fn, ...)
  if ok then error(("a %s was expected, but the call returned"):format(kind), 2) end
  if not tarn.iserror(e, kind) then error(("a %s was expected, not: %s"):format(kind, tostring(e)), 2) end
  return e
end

-- The text must have each of the parts.
function M.says(text, ...)
  for _, part in ipairs { ... } do
    if not tostring(text):find(part, 1, true) then error(("'%s' does not say '%s'"):format(tostring(text), part), 2) end
  end
end

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
