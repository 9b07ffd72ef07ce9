-- Starts workers on this machine, as children of the driver.
--
-- A launcher is a table with start(spec) -> os_pid, which must not wait, and stop(os_pid), which ends at once what start made. spec:
-- memory (bytes), spill_dir, env, tarn (the program, nil: this one), listen (HOST:PORT), silence_s, map (false: copies between
-- processes of one machine).
local core = require "tarn.core"

local launcher = {}

local function read_number(path, pattern)
  local file = io.open(path)
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return tonumber(text:match(pattern))
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

function launcher.start(spec)
  local argv = {}
  if spec.memory then
    argv[#argv + 1] = "-m"
    argv[#argv + 1] = ("%.0f"):format(spec.memory)
  end
  if spec.spill_dir then
    argv[#argv + 1] = "-d"
    argv[#argv + 1] = spec.spill_dir
  end
  if spec.listen then
    argv[#argv + 1] = "--listen"
    argv[#argv + 1] = spec.listen
  end
  if spec.silence_s then
    argv[#argv + 1] = "--silence"
    argv[#argv + 1] = ("%.3f"):format(spec.silence_s)
  end
  if spec.map == false then argv[#argv + 1] = "--no-map" end
  return core.spawn { argv = argv, env = spec.env, exe = spec.tarn }
end

function launcher.stop(os_pid) core.kill(os_pid) end

return launcher
