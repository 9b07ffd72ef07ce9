-- tarn inspect FILE...: what saved files hold, for people. Every checksum is verified, whatever the file holds and whether this process
-- knows its types; values are shown where they can be read without running code.
local core = require "tarn.core"
local block = require "tarn.block"
local failure = require "tarn.failure"
local ffi = require "ffi"
local uv = require "luv"

local C = block.C

-- The same as in runtime/image/image.h, image/mp.h and libc. Specs may have declared some of it.
local function declare(text) pcall(ffi.cdef, text) end
declare [[typedef struct tarn_image {
  const uint8_t *head; const uint8_t *skeleton; uint64_t skeleton_size; uint32_t head_size; uint32_t block_count;
  bool detached; bool backrefs; const uint8_t *block_sizes; uint64_t front_size; uint64_t total_size; } tarn_image_t;]]
declare "uint64_t tarn_image_block_size(const tarn_image_t *im, uint32_t index);"
declare [[int tarn_file_verify(const uint8_t *bytes, uint64_t file_size, uint64_t max_block_bytes, tarn_image_t *out,
  tarn_error_t *err);]]
declare "int open(const char *path, int flags, ...);"
declare "int close(int fd);"
declare "int64_t lseek(int fd, int64_t offset, int whence);"
declare "void *mmap(void *at, size_t size, int protection, int flags, int fd, int64_t offset);"
declare "int munmap(void *at, size_t size);"
declare "char *strerror(int code);"

local inspect = {}

local O_CLOEXEC, SEEK_END, PROT_READ, MAP_PRIVATE = 524288, 2, 1, 2
local BLOCKS_SHOWN, ENTRIES_SHOWN, DEPTH_SHOWN, TEXT_SHOWN = 20, 8, 3, 60

local function system_error() error(ffi.string(C.strerror(ffi.errno())), 0) end

-- fn(bytes, size) on a file that is mapped meanwhile.
local function with_file(path, fn)
  local stat = uv.fs_stat(path)
  if stat and stat.type ~= "file" then error("not a file but a " .. stat.type, 0) end
  local fd = C.open(path, O_CLOEXEC)
  if fd < 0 then system_error() end
  local size = tonumber(C.lseek(fd, 0, SEEK_END))
  local bytes = size > 0 and C.mmap(nil, size, PROT_READ, MAP_PRIVATE, fd, 0)
  local failed = size < 0 or (bytes and ffi.cast("intptr_t", bytes) == -1)
  local code = ffi.errno()
  C.close(fd)
  if failed then error(ffi.string(C.strerror(code)), 0) end
  if not bytes then error("file: 0 bytes are too few", 0) end
  local ok, result = pcall(fn, ffi.cast("const uint8_t *", bytes), size)
  C.munmap(bytes, size)
  if not ok then error(result, 0) end
  return result
end

---------------------------------------------------------------------------------------------------- the bytes

local function hex(bytes)
  local digits = {}
  for i = 7, 0, -1 do digits[#digits + 1] = ("%02x"):format(bytes[i]) end
  return table.concat(digits)
end

local function read_head(im)
  if im.head == nil then return {} end
  local head = core.decode(ffi.string(im.head, im.head_size), { code = false })
  local list = {}
  for i, s in ipairs(head[1]) do
    list[i] = { name = s[1], version = s[2], content = hex(ffi.cast("const uint8_t *", s[3])) }
  end
  return list
end

-- All that the bytes say by themselves; raises a text when they are damaged.
local function look_at_bytes(bytes, size)
  local im, err = ffi.new("tarn_image_t"), ffi.new("tarn_error_t")
  if C.tarn_file_verify(bytes, size, 0xffffffffffffffffULL, im, err) ~= 0 then error(ffi.string(err.message), 0) end
  local found = { size = size, skeleton_size = tonumber(im.skeleton_size), serializers = read_head(im), blocks = {},
    backrefs = im.backrefs, block_count = im.block_count }
  for i = 0, math.min(im.block_count, BLOCKS_SHOWN) - 1 do
    found.blocks[i + 1] = { size = tonumber(C.tarn_image_block_size(im, i)), checksum = hex(bytes + 64 + 8 * i) }
  end
  return found
end

---------------------------------------------------------------------------------------------------- the value

local show

local function show_key(key)
  if type(key) == "string" and key:match("^[%a_][%w_]*$") then return key end
  return "[" .. show(key, DEPTH_SHOWN) .. "]"
end

local function show_table(t, depth, seen)
  if seen[t] then return "(the same table as above)" end
  seen[t] = true
  if next(t) == nil then return "{}" end
  if depth >= DEPTH_SHOWN then return "{...}" end
  local parts, n, more = {}, #t, false
  for i = 1, math.min(n, ENTRIES_SHOWN) do parts[i] = show(t[i], depth + 1, seen) end
  local in_list = #parts
  for key, value in next, t do
    local listed = type(key) == "number" and key >= 1 and key <= n and key % 1 == 0
    if not listed then
      if #parts - in_list == ENTRIES_SHOWN then
        more = true
        break
      end
      parts[#parts + 1] = show_key(key) .. " = " .. show(value, depth + 1, seen)
    end
  end
  if more or n > ENTRIES_SHOWN then parts[#parts + 1] = "..." end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

function show(x, depth, seen)
  local kind = type(x)
  if kind == "string" then
    local text = #x > TEXT_SHOWN and x:sub(1, TEXT_SHOWN) or x
    return ("%q"):format(text):gsub("\\\n", "\\n"):gsub("[%z\1-\31\127-\255]", function(c) return ("\\%d"):format(c:byte()) end)
      .. (text ~= x and ("... (%d bytes)"):format(#x) or "")
  end
  if kind == "table" and not (getmetatable(x) and getmetatable(x).__tostring) then return show_table(x, depth, seen or {}) end
  return failure.tostring(x)
end

local function count_entries(t)
  local n, keys = #t, 0
  for key in next, t do
    if not (type(key) == "number" and key >= 1 and key <= n and key % 1 == 0) then keys = keys + 1 end
  end
  return n, keys
end

local function shape(x)
  if type(x) == "table" then
    local n, keys = count_entries(x)
    return ("table, %d elements, %d other keys"):format(n, keys)
  elseif type(x) == "cdata" then
    return (tostring(x):match("^(.-): ") or tostring(ffi.typeof(x)))
  elseif type(x) == "string" then
    return ("string, %d bytes"):format(#x)
  end
  return type(x)
end

---------------------------------------------------------------------------------------------------- printing

local function line(name, fmt, ...) print(("  %-11s %s"):format(name, fmt:format(...))) end

local function print_bytes(found)
  line("size", "%.14g bytes: skeleton %.14g, %d block%s; all checksums are right", found.size, found.skeleton_size, found.block_count,
    found.block_count == 1 and "" or "s")
  for _, s in ipairs(found.serializers) do line("serializer", "%s, version %d, content %s", s.name, s.version, s.content) end
  for i, b in ipairs(found.blocks) do line("block " .. i, "%.14g bytes, checksum %s", b.size, b.checksum) end
  if found.block_count > #found.blocks then line("...", "%d more blocks", found.block_count - #found.blocks) end
end

-- Without what every error begins with here: the path, and the command line as the caller.
local function reason(e, path)
  local text = failure.tostring(type(e) == "table" and e.message or e)
  local prefix = path .. ": "
  if text:sub(1, #prefix) == prefix then text = text:sub(#prefix + 1) end
  return (text:gsub("^%(command line%):1: ", ""))
end

local function print_value(path)
  local ok, value = pcall(core.load, path)
  if ok then
    line("type", "%s", shape(value))
    line("value", "%s", show(value, 0))
  else
    line("value", "not shown: %s", reason(value, path))
  end
end

local function inspect_one(path)
  local ok, found = pcall(with_file, path, look_at_bytes)
  if not ok then
    io.stdout:flush()
    io.stderr:write(("tarn inspect: %s: %s\n"):format(path, failure.tostring(found)))
    return false
  end
  print(path)
  print_bytes(found)
  print_value(path)
  return true
end

---Print what files hold. One that is damaged, or cannot be read, is one line on standard error.
---@param ... string paths
---@return integer status 0, or 1 when there was such a one
function inspect.run(...)
  local status = 0
  for _, path in ipairs { ... } do
    if not inspect_one(path) then status = 1 end
  end
  return status
end

return inspect
