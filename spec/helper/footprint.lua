-- What a process takes from the machine, seen from outside.
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

local footprint = {}

-- Is the descriptor open for writing? What a process borrows from others it opens for reading.
local function is_own(pid, fd)
  local flags = (process.read_file(("/proc/%d/fdinfo/%s"):format(pid, fd)) or ""):match("flags:%s*(%d+)")
  return flags ~= nil and tonumber(flags:sub(-1)) % 4 ~= 0
end

-- Bytes that those open files of a process's own have on disk or in memory of which is_meant(name) is true, each file once.
local function blocks(pid, is_meant)
  local sum, met = 0, {}
  local folder = ("/proc/%d/fd"):format(pid)
  for name in lfs.dir(folder) do
    local path = folder .. "/" .. name
    local target = posix.readlink(path)
    local file = target and is_meant(target) and is_own(pid, name) and lfs.attributes(path)
    local key = file and file.dev .. ":" .. file.ino
    if file and not met[key] then
      met[key] = true
      sum = sum + file.blocks * 512
    end
  end
  return sum
end

-- Its anonymous pages.
function footprint.anonymous(pid)
  local status = assert(process.read_file(("/proc/%d/status"):format(pid)), "no such process")
  return tonumber(status:match("RssAnon:%s*(%d+)")) * 1024
end

-- Its share of all memory that it maps: a page of n processes counts for one n-th.
function footprint.proportional(pid)
  local text = assert(process.read_file(("/proc/%d/smaps_rollup"):format(pid)), "no such process")
  return tonumber(text:match("\nPss:%s*(%d+)")) * 1024
end

-- How many descriptors it has open.
function footprint.descriptors(pid)
  local n = -2 -- . and ..
  for _ in lfs.dir(("/proc/%d/fd"):format(pid)) do n = n + 1 end
  return n
end

local function is_memfd(name) return name:match("^/memfd:") ~= nil end
local function is_spill_file(name) return name:match("%(deleted%)$") ~= nil and not is_memfd(name) end

-- Those, and the blocks of its own memfd, whoever maps them.
function footprint.memory(pid) return footprint.anonymous(pid) + blocks(pid, is_memfd) end

-- The blocks of its spill file, which has no name.
function footprint.disk(pid) return blocks(pid, is_spill_file) end

return footprint
