-- Small values stored and got in the process that owns them, beside Tarantool in itself and LMDB from C.
local case = require "bench.lib.case"
local setget = require "bench.lib.setget"
local tarn = require "tarn"

case.run("set-get", "values stored and got in one process", function(c)
  tarn.max_memsize("1GiB")
  for _, kind in ipairs(setget.kinds) do
    c:compare {
      name = kind, unit = "pairs/s", ours = setget.ours(kind, os.clock),
      theirs = {
        { "Tarantool, in process", setget.tarantool(kind), aim = 3 },
        { "LMDB from C", kind:match("string") and setget.lmdb() },
      },
    }
  end
end)
