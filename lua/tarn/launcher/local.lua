-- Starts workers on this machine, as children of the driver.
local read_file = require "tarn.read_file"

local launcher = {}

local function read_number(path, pattern)
  local text = read_file(path)
  return text and tonumber(text:match(pattern))
end

-- Memory that this machine, or the cgroup we are in, still has to give.
local function available_bytes()
  local kib = read_number("/proc/meminfo", "MemAvailable:%s*(%d+)")
  local available = kib and kib * 1024 or 2 ^ 30
  local limit = read_number("/sys/fs/cgroup/memory.max", "^(%d+)")
  local used = read_number("/sys/fs/cgroup/memory.current", "^(%d+)")
  if limit and used then available = math.min(available, math.max(limit - used, 0)) end
  return available
end

-- The budget of each of so many local processes, when nobody has named one.
function launcher.default_memory(processes)
  return math.floor(math.max(math.min(2 ^ 30, available_bytes() / 2 / processes), 2 ^ 24))
end

function launcher.start(job)
  local argv = job:command()
  for _ = 1, job.n do job:spawn { argv = argv } end
end

function launcher.stop(process) process:kill() end

return launcher
