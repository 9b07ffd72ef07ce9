-- A few tasks that do the items of a list, each taking the next one. The first error ends all, and is raised when they have ended.
local core = require "tarn.core"
local errors = require "tarn.errors"
local future = require "tarn.future"
local task = require "tarn.task"

local function work(state, fn)
  while state.next <= state.count and not state.failed do
    local i = state.next
    state.next = i + 1
    local ok, e = pcall(fn, i)
    if not ok then
      if not state.failed then state.failed, state.problem = true, e end
      for _, f in ipairs(state.futures) do f:cancel() end
      return
    end
  end
end

local function wait_for(futures)
  for _, f in ipairs(futures) do f:wait() end
end

-- (count, width, fn): fn(i) for i from 1 to count, at most width at a time.
return function(count, width, fn)
  local state = { next = 1, count = count, futures = {} }
  for _ = 1, math.min(count, width) do state.futures[#state.futures + 1] = future.run(false, work, state, fn) end
  local ok, e = pcall(wait_for, state.futures)
  if not ok then -- the task itself has been cancelled
    state.failed = true
    for _, f in ipairs(state.futures) do f:cancel() end
    if not task.stopping() then wait_for(state.futures) end
    error(e, 0)
  end
  if not state.failed then return end
  if errors.iserror(state.problem) then core.raise(state.problem) end -- with the user's line, which these tasks have not
  error(state.problem, 0)
end
