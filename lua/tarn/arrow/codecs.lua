-- Compressed buffers of Arrow files: LZ4 frames and Zstandard, by the system's libraries where they are installed.
local block = require "tarn.block"
local ffi = require "ffi"

pcall(ffi.cdef, [[
  typedef struct LZ4F_dctx_s LZ4F_dctx;
  size_t LZ4F_createDecompressionContext(LZ4F_dctx **dctx, unsigned version);
  size_t LZ4F_freeDecompressionContext(LZ4F_dctx *dctx);
  size_t LZ4F_decompress(LZ4F_dctx *dctx, void *to, size_t *to_size, const void *from, size_t *from_size, const void *options);
  unsigned LZ4F_isError(size_t code);
  size_t ZSTD_decompress(void *to, size_t to_size, const void *from, size_t from_size);
  unsigned ZSTD_isError(size_t code);
]])

local codecs = {}

local LZ4F_VERSION = 100

-- Library, the most that a byte can become (by the formats: a match of LZ4 grows by 255 a byte; a block of Zstandard is 128 KiB from 4
-- bytes), and a function(lib, to, to_size, from, from_size) -> how many bytes it made, or nil.
local known = {
  lz4 = {
    "liblz4.so.1", 256, function(lib, to, to_size, from, from_size)
      local ctx = ffi.new("LZ4F_dctx *[1]")
      if lib.LZ4F_isError(lib.LZ4F_createDecompressionContext(ctx, LZ4F_VERSION)) ~= 0 then return nil end
      local room, given = ffi.new("size_t[1]"), ffi.new("size_t[1]")
      local made, used, good = 0, 0, true
      while good and used < from_size do
        room[0], given[0] = to_size - made, from_size - used
        good = lib.LZ4F_isError(lib.LZ4F_decompress(ctx[0], to + made, room, from + used, given, nil)) == 0
        good = good and (room[0] > 0 or given[0] > 0) -- else it would go on for ever
        made, used = made + tonumber(room[0]), used + tonumber(given[0])
      end
      lib.LZ4F_freeDecompressionContext(ctx[0])
      return good and made or nil
    end,
  },
  zstd = {
    "libzstd.so.1", 32768, function(lib, to, to_size, from, from_size)
      local made = lib.ZSTD_decompress(to, to_size, from, from_size)
      if lib.ZSTD_isError(made) == 0 then return tonumber(made) end
    end,
  },
}

local function library(r, codec)
  local entry = known[codec] or r:refuse("it is compressed by a codec that is unknown")
  if not entry.lib then
    local ok, lib = pcall(ffi.load, entry[1])
    if not ok then r:refuse("it is compressed by %s, for which %s is needed", codec, entry[1]) end
    entry.lib = lib
  end
  return entry
end

-- The bytes of a compressed source {p, size}: another, in a block of its own. r: the reader, which raises. At least `need` bytes are
-- wanted.
function codecs.decompress(r, codec, s, need, name)
  local entry = library(r, codec)
  if s.size < 8 then r:corrupt("column '%s': a compressed buffer of %.14g bytes", name, s.size) end
  local length = tonumber(ffi.cast("const int64_t *", s.p)[0])
  local from, from_size = s.p + 8, s.size - 8
  if length == -1 then return { p = from, size = from_size, at = s.at + 8 } end -- left as it was
  if length < need or length > from_size * entry[2] then
    r:corrupt("column '%s': %.14g bytes compressed to %.14g", name, length, from_size)
  end
  local hold = block.hold()
  hold.block = block.new(length, false)
  if entry[3](entry.lib, hold.block.data, length, from, from_size) ~= length then
    r:corrupt("column '%s': its compressed bytes are damaged", name)
  end
  block.seal(hold.block)
  return { p = hold.block.data, size = length, hold = hold }
end

return codecs
