-- What a spec must not leave behind: processes, descriptors, spill files, shared memory. snapshot() before it, check() after it.
local ffi = require "ffi"
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

local M = {}

local function entries(path)
  local set = {}
  if lfs.attributes(path, "mode") ~= "directory" then return set end
  for name in lfs.dir(path) do
    if name ~= "." and name ~= ".." then set[name] = true end
  end
  return set
end

-- A descriptor's target without the number in it: "socket", "pipe", "anon_inode:[eventfd]", a path.
local function kind_of(target)
  if target:match("^socket:") or target:match("^pipe:") then return target:match("^%a+") end
  return target
end

-- The process's own memory file and spill file are made at first need and kept: that is no leak. The spill file is open twice, to be
-- written past the page cache.
local function own_store(target) return target:match("^/memfd:") and 1 or target:match("%(deleted%)$") and 2 or 0 end

local function descriptors()
  local counts = {}
  for name in pairs(entries("/proc/self/fd")) do
    local target = posix.readlink("/proc/self/fd/" .. name)
    -- The listing's own descriptor is gone again by now.
    if target and not target:match("^/proc/%d+/fd$") then
      local kind = kind_of(target)
      counts[kind] = (counts[kind] or 0) + 1
    end
  end
  return counts
end

-- Pids of this process's children.
local function children()
  local set = {}
  for name in pairs(entries("/proc")) do
    if tonumber(name) then
      local stat = process.read_file("/proc/" .. name .. "/stat")
      local state, parent = (stat or ""):match("^%d+ %(.*%) (%a) (%d+)")
      if state and tonumber(parent) == posix.getpid() then set[tonumber(name)] = true end
    end
  end
  return set
end

function M.snapshot()
  return { descriptors = descriptors(), children = children(), shm = entries("/dev/shm"), dot_tarn = entries(".tarn") }
end

-- Names that are in after, and were not in before; with last, only those that are in that list too.
local function new_names(before, after, last)
  local wanted, list = {}, {}
  for _, name in ipairs(last or {}) do wanted[name] = true end
  for name in pairs(after) do
    if not before[name] and (not last or wanted[name]) then list[#list + 1] = tostring(name) end
  end
  table.sort(list)
  return list
end

-- Has a process this file of /dev/shm mapped? Ours have ended by then.
local function is_used_by_others(name)
  for pid in lfs.dir("/proc") do
    local maps = tonumber(pid) and tonumber(pid) ~= posix.getpid() and process.read_file("/proc/" .. pid .. "/maps")
    if maps and maps:find("/dev/shm/" .. name, 1, true) then return true end
  end
  return false
end

local function check_processes(problems)
  local ok, left = process.gone(nil, 2 * process.patience)
  if not ok then
    problems[#problems + 1] = "processes: " .. process.describe(left)
    for _, pid in ipairs(left) do posix.kill(pid) end
  end
end

local function check_descriptors(before, problems)
  local more = {}
  for kind, count in pairs(descriptors()) do
    local grown = count - (before.descriptors[kind] or 0)
    if grown > (before.descriptors[kind] and 0 or own_store(kind)) then
      more[#more + 1] = grown .. " x " .. kind
    end
  end
  if #more > 0 then
    table.sort(more)
    problems[#problems + 1] = "descriptors: " .. table.concat(more, ", ")
  end
end

local function check_directory(path, before, problems)
  for name in pairs(entries(path)) do
    if not before[name] then
      local inside = path .. "/" .. name
      -- A directory of a running process is its own; it must be empty of names, since spill files have none.
      if lfs.attributes(inside, "mode") ~= "directory" or next(entries(inside)) or not name:match("^" .. posix.getpid() .. "%-") then
        problems[#problems + 1] = "spill directory: " .. inside
      end
    end
  end
end

-- Named semaphores are other programs' (tarn has none), and mapped by another name than they have there.
local function is_semaphore(name) return name:find("^sem%.") ~= nil end

-- What is there that was not there before. Other programs have files in /dev/shm too: only those count that nobody maps, and that last has.
local function look(before, tmpdirs, last)
  local problems = {}
  local more = new_names(before.children, children())
  if #more > 0 then problems[#problems + 1] = "children: " .. process.describe(more) end
  check_descriptors(before, problems)
  check_directory(".tarn", before.dot_tarn, problems)
  for _, path in ipairs(tmpdirs) do check_directory(path .. "/.tarn", {}, problems) end
  local shm = {}
  for _, name in ipairs(new_names(before.shm, entries("/dev/shm"), last)) do
    if not is_semaphore(name) and not is_used_by_others(name) then shm[#shm + 1] = name end
  end
  if #shm > 0 then problems[#problems + 1] = "shared memory: " .. table.concat(shm, ", ") end
  return problems, shm
end

-- What is garbage goes, also what only a dead slot of the stack, or a trace, still has.
local function collect()
  select("#", unpack({}, 1, 200))
  collectgarbage()
  collectgarbage()
end

-- A list of texts, empty when nothing was left. What is on its way out (a connection whose other end has closed, what a thread has yet to
-- put back) is given time for that. Removes the spec's temporary directories.
function M.check(before)
  local of_processes, problems, shm = {}
  collect()
  check_processes(of_processes)
  local tmpdirs, deadline = process.take_tmpdirs(), posix.now() + 2 * process.patience
  while true do
    problems, shm = look(before, tmpdirs, shm)
    if #problems == 0 or posix.now() >= deadline then break end
    if rawget(_G, "tarn") then tarn.sleep(0.01) else posix.poll({}, posix.now() + 0.01) end
    jit.flush()
    collect()
  end
  for _, text in ipairs(of_processes) do table.insert(problems, 1, text) end
  for _, path in ipairs(tmpdirs) do process.remove_tree(path) end
  return problems
end

assert(ffi.os == "Linux")
return M
