-- What a disk gives without tarn in between: a writer with O_DIRECT, and a scan of a mapped file. For benchmarks that compare.
local ffi = require "ffi"
local uv = require "luv"

for _, declaration in ipairs {
  "int open(const char *path, int flags, unsigned mode);",
  "int close(int fd);",
  "int64_t pwrite(int fd, const void *bytes, size_t size, int64_t offset);",
  "void *mmap(void *at, size_t size, int prot, int flags, int fd, int64_t offset);",
  "int munmap(void *at, size_t size);",
  "int posix_fadvise(int fd, int64_t offset, int64_t size, int advice);",
  "int fdatasync(int fd);",
} do pcall(ffi.cdef, declaration) end

local C = ffi.C
local O_RDWR, O_DIRECT, O_TMPFILE = 2, 0x4000, 0x410000
local PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE_ANON, DONTNEED = 1, 2, 1, 0x22, 4

local disk = {}

local function check(ok, what)
  if not ok then error(("%s: error %d"):format(what, ffi.errno()), 3) end
end

-- An anonymous file in a directory; direct: with O_DIRECT.
function disk.file(dir, direct)
  local fd = C.open(dir, O_RDWR + O_TMPFILE + (direct and O_DIRECT or 0), 0x180)
  check(fd >= 0, "a file in " .. dir)
  return fd
end

-- size bytes of memory that has been touched.
function disk.memory(size)
  local at = C.mmap(nil, size, PROT_READ + PROT_WRITE, MAP_PRIVATE_ANON, -1, 0)
  check(ffi.cast("intptr_t", at) ~= -1, "memory")
  local words = ffi.cast("uint64_t *", at)
  for i = 0, size / 8 - 1 do words[i] = i end
  return at
end

function disk.unmap(at, size) C.munmap(at, size) end

-- Writes size bytes in pieces of chunk, one after the other, from offset 0 on -> seconds.
function disk.write(fd, memory, size, chunk)
  local from = uv.hrtime()
  for at = 0, size - 1, chunk do
    local part = math.min(chunk, size - at)
    check(C.pwrite(fd, ffi.cast("char *", memory) + at, part, at) == part, "writing")
  end
  return (uv.hrtime() - from) / 1e9
end

-- The first size bytes of a file, mapped for reading.
function disk.map(fd, size)
  local at = C.mmap(nil, size, PROT_READ, MAP_SHARED, fd, 0)
  check(ffi.cast("intptr_t", at) ~= -1, "mapping")
  return at
end

-- Out of the page cache. What is mapped stays in it.
function disk.forget(fd)
  C.fdatasync(fd)
  C.posix_fadvise(fd, 0, 0, DONTNEED)
end

disk.close = C.close
return disk
