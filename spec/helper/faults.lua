-- The seams of runtime/base: system calls and allocations that fail when a spec says so.
local ffi = require("ffi")
local C = require("spec.helper.c")

pcall(ffi.cdef, "void tarn_fault_at(uint32_t kinds, uint64_t countdown, uint64_t times, int sys_errno);")
pcall(ffi.cdef, "uint64_t tarn_fault_count(void);")
pcall(ffi.cdef, "void tarn_alloc_fail_at(uint64_t countdown);")
pcall(ffi.cdef, "void tarn_alloc_fail_lua_at(uint64_t countdown);")
pcall(ffi.cdef, "uint64_t tarn_alloc_failed(void);")

local M = {
  -- runtime/base/sys.h
  MMAP = 1, WRITE = 2, READ = 4, ALLOCATE = 8, PUNCH = 16, OPEN = 32, MUNMAP = 64, TRUNCATE = 128, SYNC = 256, NAME = 512, STAT = 1024,
  THREAD = 2048, ALL = 4095,
  EPERM = 1, ENOENT = 2, EIO = 5, EINTR = 4, EAGAIN = 11, ENOMEM = 12, EACCES = 13, EMFILE = 24, ENOSPC = 28, EOPNOTSUPP = 95, EDQUOT = 122,
  PART = 0, -- reads and writes do a part of what was asked
}

--- The n-th call of those kinds, and the times - 1 after it (default: it alone), fail with that errno, or are cut short.
function M.at(kinds, n, errno, times) C.tarn_fault_at(kinds, n, times or 1, errno) end

--- No more; how many have been made to fail.
function M.stop()
  local n = tonumber(C.tarn_fault_count())
  C.tarn_fault_at(0, 0, 0, 0)
  return n
end

--- The n-th allocation of C fails; or of Lua.
function M.alloc_at(n) C.tarn_alloc_fail_at(n) end
function M.lua_alloc_at(n) C.tarn_alloc_fail_lua_at(n) end

--- No more; whether one has.
function M.alloc_stop()
  local failed = tonumber(C.tarn_alloc_failed())
  C.tarn_alloc_fail_at(0)
  C.tarn_alloc_fail_lua_at(0)
  return failed
end

--- run(n) for n = 1, 2, ... until it says that nothing failed (0 or false). How many did.
function M.sweep(run, most)
  for n = 1, most or 100000 do
    local failed = run(n)
    if not failed or failed == 0 then return n - 1 end
  end
  error("the workload has no end of calls that can fail", 2)
end

return M
