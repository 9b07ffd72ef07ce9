-- Sizes in bytes as people write them: 512MB, "1.5 GiB", 1e9. The command line's are parsed by the host, by the same rules.
local errors = require "tarn.errors"
local failure = require "tarn.failure"

local size = {}

local UNITS = { [""] = 1, B = 1, KB = 1e3, MB = 1e6, GB = 1e9, TB = 1e12, KIB = 2 ^ 10, MIB = 2 ^ 20, GIB = 2 ^ 30, TIB = 2 ^ 40 }

-- Bytes, a whole number; raises ArgumentError. what: the argument's name, for the message.
function size.parse(x, what)
  local bytes
  if type(x) == "number" then
    bytes = x
  elseif type(x) == "string" then
    local number, unit = x:match("^(%d*%.?%d*)%s*(%a*)$")
    local factor = unit and UNITS[unit:upper()]
    bytes = factor and tonumber(number) and tonumber(number) * factor
  end
  if not bytes or not (bytes >= 1 and bytes < 2 ^ 63) then
    errors.raise("ArgumentError", ("%s: a size such as 512MB or 1GiB is needed, not %s"):format(what, failure.describe(x)))
  end
  return math.floor(bytes)
end

local LEAST_BYTES = 1000 -- of memory; below that another unit was meant

-- The same, for a process's memory, of which a few bytes are none. (max_memsize and max_disksize take them: to let nothing in.)
function size.memory(x, what)
  local bytes = size.parse(x, what)
  if bytes < LEAST_BYTES and not tostring(x):find("%a$") then
    local text = "%s: %s is that many bytes: did you mean '%sGB'? (%d bytes is the least without a unit)"
    errors.raise("ArgumentError", text:format(what, failure.describe(x), tostring(x), LEAST_BYTES))
  end
  return bytes
end

return size
