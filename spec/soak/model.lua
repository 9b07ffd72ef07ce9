-- ./dev soak model [SEEDS [FIRST]]: the pool beside a model of it (spec/helper/model.lua), one run for each seed. What fails is
-- printed, with its seed: `./dev soak model 1 SEED` does it again.
local model = require "spec.helper.model"
local posix = require "spec.helper.posix"

io.stdout:setvbuf("line")
local seeds, first = tonumber(arg[1] or 1000), tonumber(arg[2] or os.time())
if not seeds or not first then
  io.stderr:write("usage: ./dev soak model [SEEDS [FIRST]]\n")
  os.exit(2)
end

local started, failed = posix.now(), 0
for seed = first, first + seeds - 1 do
  local ok, e = pcall(model.run, seed)
  if not ok then
    failed = failed + 1
    print(e)
  end
  if (seed - first + 1) % 100 == 0 then
    print(("model: %d of %d seeds, %d failed, %.0f s"):format(seed - first + 1, seeds, failed, posix.now() - started))
  end
  if failed >= 10 then break end
end
print(("model: seeds %d to %d, %d failed"):format(first, first + seeds - 1, failed))
os.exit(failed == 0 and 0 or 1)
