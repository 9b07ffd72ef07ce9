-- Limits of a running process: files, and their size. Runs on workers too, where require finds it by its name.
local ffi = require "ffi"

pcall(ffi.cdef, "struct spec_rlimit { uint64_t soft, hard; };")
pcall(ffi.cdef, "int spec_prlimit(int, int, const struct spec_rlimit *, struct spec_rlimit *) asm(\"prlimit64\");")
pcall(ffi.cdef, "int spec_dup(int) asm(\"dup\");")
pcall(ffi.cdef, "int spec_close(int) asm(\"close\");")

local M = { FSIZE = 1, NOFILE = 7, UNLIMITED = 0xffffffffffffffffULL }

--- Set the soft limit of process pid (0: this one); returns what it was. Nil: there is no such process.
function M.set(pid, what, soft)
  local old, new = ffi.new "struct spec_rlimit", ffi.new "struct spec_rlimit"
  if ffi.C.spec_prlimit(pid, what, nil, old) ~= 0 then return nil end
  new.soft, new.hard = soft, old.hard
  return ffi.C.spec_prlimit(pid, what, new, nil) == 0 and old.soft or nil
end

--- Leave this process no descriptor; what is returned gives them back.
function M.take_descriptors()
  local before, taken = M.set(0, M.NOFILE, 256), {}
  while true do
    local fd = ffi.C.spec_dup(0)
    if fd < 0 then break end
    taken[#taken + 1] = fd
  end
  local function close() ffi.C.spec_close(table.remove(taken)) end
  return function()
    while #taken > 0 do close() end
    M.set(0, M.NOFILE, before)
  end
end

return M
