-- Images for the specs of image/ and file/: declarations, composing from Lua tables, reading back into them.
local ffi = require("ffi")
local C = require("spec.helper.c")
local bytes = require("spec.helper.bytes")

for _, declaration in ipairs({
  [[typedef struct tarn_image_serializer { const char *name; uint32_t name_length; uint32_t version; uint64_t hash; }
    tarn_image_serializer_t;]],
  "typedef struct tarn_image_ref { uint32_t owner; uint64_t id; } tarn_image_ref_t;",
  [[typedef struct tarn_image {
    const uint8_t *head; const uint8_t *skeleton; uint64_t skeleton_size; uint32_t head_size; uint32_t block_count;
    bool detached; bool backrefs; const uint8_t *block_sizes; uint64_t front_size; uint64_t total_size;
    } tarn_image_t;]],
  [[typedef struct tarn_image_parts {
    const uint8_t *skeleton; size_t skeleton_size;
    const tarn_image_serializer_t *serializers; uint32_t serializer_count;
    const tarn_image_ref_t *refs; uint32_t ref_count;
    bool backrefs; const uint64_t *block_sizes; uint32_t block_count; } tarn_image_parts_t;]],
  [[int tarn_image_open(const uint8_t *bytes, uint64_t size, tarn_image_t *out, tarn_error_t *err);
    uint64_t tarn_image_block_size(const tarn_image_t *im, uint32_t index);
    uint64_t tarn_image_block_offset(const tarn_image_t *im, uint32_t index);
    int tarn_image_each_serializer(const tarn_image_t *im,
      int (*fn)(void *ud, uint32_t index, const tarn_image_serializer_t *s), void *ud);
    int tarn_image_each_ref(const tarn_image_t *im, int (*fn)(void *ud, const tarn_image_ref_t *ref), void *ud);
    int tarn_image_compose(const tarn_image_parts_t *parts, tarn_buf_t *out);
    void tarn_image_set_detached(uint8_t *front, uint64_t front_size, bool detached);
    int tarn_image_join(const uint8_t *front, uint64_t front_size, const void *const *blocks, tarn_buf_t *out);]],
}) do
  pcall(ffi.cdef, declaration)
end

local M = {}

--- value: {skeleton = string, serializers = {{name, version, hash}...}, refs = {{owner, id}...}, backrefs = bool,
-- blocks = {string...}}. sizes, when given, stand in the front instead of the blocks' own. Returns the code.
function M.compose_into(out, value, sizes)
  local serializers, refs, blocks = value.serializers or {}, value.refs or {}, sizes or value.blocks or {}
  local parts = ffi.new("tarn_image_parts_t")
  local s = ffi.new("tarn_image_serializer_t[?]", #serializers)
  for i, each in ipairs(serializers) do s[i - 1] = { each[1], #each[1], each[2], each[3] } end
  local r = ffi.new("tarn_image_ref_t[?]", #refs)
  for i, each in ipairs(refs) do r[i - 1] = { each[1], each[2] } end
  local b = ffi.new("uint64_t[?]", #blocks)
  for i, each in ipairs(blocks) do b[i - 1] = sizes and each or #each end
  parts.skeleton, parts.skeleton_size = ffi.cast("const uint8_t *", value.skeleton), #value.skeleton
  parts.serializers, parts.serializer_count = s, #serializers
  parts.refs, parts.ref_count = r, #refs
  parts.backrefs = value.backrefs or false
  parts.block_sizes, parts.block_count = b, #blocks
  return C.tarn_image_compose(parts, out)
end

function M.front(value)
  local out = bytes.buf()
  assert(M.compose_into(out, value) == 0)
  return bytes.content(out)
end

--- The blocks of a value as a C array of pointers, with what must stay reachable.
function M.pointers(value)
  local blocks = value.blocks or {}
  local pointers, kept = ffi.new("const void *[?]", #blocks + 1), {}
  for i, each in ipairs(blocks) do
    kept[i] = bytes.exact(each)
    pointers[i - 1] = kept[i]
  end
  return pointers, kept
end

function M.whole(value)
  local front, out, pointers, kept = M.front(value), bytes.buf(), M.pointers(value)
  assert(C.tarn_image_join(front, #front, pointers, out) == 0 and kept)
  return bytes.content(out)
end

--- Open bytes that must stay reachable while the image is used.
function M.open(memory, size)
  local im, err = ffi.new("tarn_image_t"), ffi.new("tarn_error_t")
  local rc = C.tarn_image_open(memory, size, im, err)
  if rc ~= 0 then
    assert(err.code == rc and err.message[0] ~= 0, "an error without a story")
    return nil, rc, ffi.string(err.message)
  end
  return im
end

-- Callbacks that LuaJIT makes are few: one of each kind serves all.
local seen
local on_serializer = ffi.cast("int (*)(void *, uint32_t, const tarn_image_serializer_t *)", function(_, index, s)
  assert(index == #seen)
  seen[#seen + 1] = { ffi.string(s.name, s.name_length), s.version, s.hash }
  return 0
end)
local on_ref = ffi.cast("int (*)(void *, const tarn_image_ref_t *)", function(_, ref)
  seen[#seen + 1] = { ref.owner, ref.id }
  return 0
end)
M.stop_at_ref = ffi.cast("int (*)(void *, const tarn_image_ref_t *)", function() return -10 end)

--- An opened image as a table like the one it was composed from; checks on the way that all lies within its bytes.
function M.read(im, memory, size)
  local first = ffi.cast("const uint8_t *", memory)
  local function text(at, length)
    assert(at >= first and length <= size and at - first <= size - length, "outside the image")
    return ffi.string(at, length)
  end
  local value = { skeleton = text(im.skeleton, im.skeleton_size), backrefs = im.backrefs or nil }
  if im.head ~= nil then text(im.head, im.head_size) end
  seen = {}
  assert(C.tarn_image_each_serializer(im, on_serializer, nil) == 0)
  value.serializers = #seen > 0 and seen or nil
  seen = {}
  assert(C.tarn_image_each_ref(im, on_ref, nil) == 0)
  value.refs = #seen > 0 and seen or nil
  if im.block_count > 0 then
    value.blocks = {}
    for i = 0, im.block_count - 1 do
      local offset, length = C.tarn_image_block_offset(im, i), C.tarn_image_block_size(im, i)
      assert(offset % 64 == 0)
      value.blocks[i + 1] = im.detached and length or text(first + offset, length)
    end
  end
  return value
end

--- Values of every form, small.
M.samples = {
  plain = { skeleton = "\147\1\2\3" },
  one_byte = { skeleton = "\192" },
  backrefs = { skeleton = "\145\212\17\0", backrefs = true },
  refs = { skeleton = "\147\1\2\3", refs = { { 2, 1ULL }, { 70000, 0xffffffffffffffffULL } } },
  serializers = { skeleton = "\1", serializers = { { "point", 1, 0x123456789abcdefULL }, { "p2", 4294967295, 0ULL } } },
  block = { skeleton = "\212\26\0", blocks = { "0123456789" } },
  all = {
    skeleton = "\146\212\26\0\212\26\1",
    serializers = { { "array", 1, 7ULL } },
    refs = { { 1, 9ULL } },
    backrefs = true,
    blocks = { ("b"):rep(64), "", "x", ("y"):rep(100) },
  },
  empty_last = { skeleton = "\192", blocks = { "a", "" } },
}

return M
