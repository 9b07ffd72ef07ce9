-- A cluster under a storm of faults (spec/helper/chaos.lua), for one seed after the other: all that was acknowledged is read back or lost
-- for a reason, every call ends, nothing is left.
--
--   ./dev soak chaos [--seeds 1000] [--first 1]
local chaos = require "spec.helper.chaos"
local leaks = require "spec.helper.leaks"
local options = require "spec.soak.lib.options"
local posix = require "spec.helper.posix"

io.stdout:setvbuf("line")
local o = options(arg, { seeds = 1000, first = 1 })
local started, failed = posix.now(), 0
for seed = o.first, o.first + o.seeds - 1 do
  local before = leaks.snapshot()
  local ok, e = pcall(chaos.run, seed)
  local left = leaks.check(before)
  if #left > 0 then
    ok, e = false, ("%sseed %d left behind %s"):format(ok and "" or e .. "\n", seed, table.concat(left, "; "))
  end
  if not ok then
    failed = failed + 1
    print(e)
  end
  if (seed - o.first + 1) % 20 == 0 then
    print(("chaos: %d of %d seeds, %d failed, %.0f s"):format(seed - o.first + 1, o.seeds, failed, posix.now() - started))
  end
  if failed >= 10 then break end
end
print(("chaos: seeds from %d, %d failed"):format(o.first, failed))
os.exit(failed == 0 and 0 or 1)
