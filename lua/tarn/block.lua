-- Blocks of the pool, as the FFI sees them, and what views of them share.
local core = require "tarn.core"
local ffi = require "ffi"
local metatype = ffi.metatype -- busted replaces the FFI's by ones that remember their first argument only

-- The same as in runtime/pool/pool.h, base/err.h and bind/view.h. Specs may have declared some of it.
local function declare(text) pcall(ffi.cdef, text) end
declare "typedef struct tarn_block { uint8_t *data; uint64_t size; uint32_t sealed; uint32_t kind; } tarn_block_t;"
declare "typedef struct tarn_error { int code; uint64_t needed, available; char message[384]; } tarn_error_t;"
declare "int tarn_block_map(tarn_block_t *b, tarn_error_t *err);"
declare "void tarn_block_prefetch(tarn_block_t *b);"
declare "void tarn_block_seal(tarn_block_t *b);"
declare "void tarn_block_unmap_later(tarn_block_t *b);"
declare "uint64_t tarn_hash64(const void *bytes, size_t size);"
declare "void tarn_view_drop(void *view);"
declare "double tarn_view_hash(const void *bytes, uint64_t size);"
declare "bool tarn_view_is_utf8(const void *bytes, uint64_t size);"
declare "uint64_t tarn_view_mend_nans(void *first, uint64_t count, uint32_t stride_bytes, uint32_t number_bytes);"
declare "void tarn_block_unmap(tarn_block_t *b);"
declare "int memcmp(const void *a, const void *b, size_t n);"

local C = ffi.C
local block = { C = C }

-- Functions of the core that give a mapping leave it here: if there is no memory for the pointer, it is not lost with the error.
local handed = ffi.cast("tarn_block_t **", core.handed())

-- The block that was just handed over, with one mapping, the caller's: to be put into a view at once. A mapping keeps the block.
function block.take()
  local b = handed[0]
  handed[0] = nil
  return b
end

-- A new block, as take gives it.
function block.new(nbytes, zero)
  core.block_new(nbytes, zero)
  return block.take()
end

-- One more mapping, for another view of the same block.
function block.share(b)
  local err = ffi.new("tarn_error_t")
  if C.tarn_block_map(b, err) ~= 0 then
    require("tarn.errors").raise("IOError", ffi.string(err.message))
  end
  return b
end

-- The same of the first of a list, which is taken out of it.
function block.share_next(list) return block.share(table.remove(list, 1)) end

-- How far into a block a pointer points, in bytes.
function block.offset(b, pointer) return tonumber(ffi.cast("const char *", pointer) - ffi.cast("const char *", b.data)) end

-- It is mapped from a file of another format, and will be read.
function block.prefetch(b) C.tarn_block_prefetch(b) end

-- From here on nobody writes it.
function block.seal(b) C.tarn_block_seal(b) end

function block.hash64(text) return C.tarn_hash64(text, #text) end

-- The smallest view: it only holds a block.
block.hold = metatype("struct { uint32_t block_count; uint32_t flags; tarn_block_t *block; }",
  { __gc = C.tarn_view_drop })
do
  local hold = block.hold
  block.hold = function() return hold(1) end
end

-- Memory for a while, within the budget like all else: a hold of a block that nobody shares. block.drop gives it back at once.
function block.scratch(nbytes)
  local hold = block.hold()
  core.block_new(nbytes, false, true)
  hold.block = block.take()
  return hold
end

function block.drop(hold)
  C.tarn_block_unmap(hold.block)
  hold.block = nil
end

return block
