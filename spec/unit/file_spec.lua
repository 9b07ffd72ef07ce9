local ffi = require("ffi")
local C = require("spec.helper.c")
local bytes = require("spec.helper.bytes")
local image = require("spec.helper.image")

pcall(ffi.cdef, [[typedef struct tarn_file_info {
  uint32_t block_count; uint64_t front_size, file_size; uint64_t image_offset; uint64_t front_hash;
  } tarn_file_info_t;]])
pcall(ffi.cdef, [[
uint64_t tarn_hash64(const void *bytes, size_t size);
int tarn_file_compose_header(const uint8_t *front, uint64_t front_size, const void *const *blocks,
                             const uint64_t *sizes, uint32_t block_count, tarn_buf_t *out);
int tarn_file_check_header(const uint8_t *bytes, uint64_t size, uint64_t file_size, tarn_file_info_t *info,
                           tarn_error_t *err);
int tarn_file_verify(const uint8_t *bytes, uint64_t file_size, uint64_t max_block_bytes, tarn_image_t *out,
                     tarn_error_t *err);]])

local all_blocks = 0xffffffffffffffffULL

local function compose_header(value, out)
  local front, blocks = image.front(value), value.blocks or {}
  local pointers, kept = image.pointers(value)
  local sizes = ffi.new("uint64_t[?]", #blocks)
  for i, block in ipairs(blocks) do sizes[i - 1] = #block end
  local rc = C.tarn_file_compose_header(front, #front, pointers, sizes, #blocks, out)
  assert(kept)
  return rc
end

local function file_of(value)
  local out = bytes.buf()
  assert(compose_header(value, out) == 0)
  return bytes.content(out) .. image.whole(value), tonumber(out.size)
end

local function check_header(s, size, file_size)
  local memory, info, err = bytes.exact(s:sub(1, size)), ffi.new("tarn_file_info_t"), ffi.new("tarn_error_t")
  local rc = C.tarn_file_check_header(memory, math.min(size, #s), file_size or #s, info, err)
  assert(rc == 0 or (err.code == rc and err.message[0] ~= 0))
  return rc, info, ffi.string(err.message)
end

-- The value in a file, or nil, code, message. All that is read must lie within s.
local function verify(s, max_block_bytes)
  local memory, im, err = bytes.exact(s), ffi.new("tarn_image_t"), ffi.new("tarn_error_t")
  local rc = C.tarn_file_verify(memory, #s, max_block_bytes or all_blocks, im, err)
  if rc ~= 0 then
    assert(err.code == rc and err.message[0] ~= 0)
    return nil, rc, ffi.string(err.message)
  end
  local image_size = tonumber(im.total_size)
  return image.read(im, memory + (#s - image_size), image_size)
end

local function u64(n) return ffi.string(ffi.new("uint64_t[1]", n), 8) end
local function hash(s) return u64(C.tarn_hash64(s, #s)) end
-- Replace bytes of the header and make its checksum right again.
local function forge(s, at, replacement)
  s = s:sub(1, at) .. replacement .. s:sub(at + #replacement + 1)
  return s:sub(1, 56) .. hash(s:sub(1, 56)) .. s:sub(65)
end

describe("the hash", function()
  it("is XXH3-64", function()
    assert.equal(0x2d06800538d394c2ULL, C.tarn_hash64("", 0))
    assert.equal(0x2d06800538d394c2ULL, C.tarn_hash64(nil, 0))
    assert.equal(0x78af5f94892f3950ULL, C.tarn_hash64("abc", 3))
  end)
end)

describe("a file", function()
  for name, value in pairs(image.samples) do
    it("gives its value back: " .. name, function()
      local file, offset = file_of(value)
      assert.same(value, verify(file))
      local rc, info = check_header(file, offset)
      assert.equal(0, rc)
      assert.equal(#(value.blocks or {}), info.block_count)
      assert.equal(#file, tonumber(info.file_size))
      assert.equal(offset, tonumber(info.image_offset))
      assert.equal(0, offset % 64)
      local front = image.whole(value):sub(1, tonumber(info.front_size))
      assert.equal(hash(front), u64(info.front_hash))
    end)

    it("is refused with any bit changed: " .. name, function()
      local file = file_of(value)
      for at = 1, #file do
        for shift = 0, 7 do
          local changed = string.char(bit.bxor(file:byte(at), 2 ^ shift))
          local read, rc = verify(file:sub(1, at - 1) .. changed .. file:sub(at + 1))
          assert(read == nil and rc == bytes.ECORRUPT, "byte " .. at - 1)
        end
      end
    end)

    it("is refused when cut or lengthened: " .. name, function()
      local file = file_of(value)
      for size = 0, #file - 1 do
        local read, rc = verify(file:sub(1, size))
        assert(read == nil and rc == bytes.ECORRUPT)
      end
      assert.is_nil(verify(file .. "\0"))
    end)

    it("says how much of its header is needed: " .. name, function()
      local file, offset = file_of(value)
      for size = 0, offset - 1 do
        local rc, info = check_header(file, size)
        assert.equal(bytes.EAGAIN, rc)
        assert.equal(size < 64 and 64 or offset, tonumber(info.image_offset))
      end
    end)
  end

  it("has the layout of the manual", function()
    local value = { skeleton = "\192", blocks = { "abc" } }
    local file = file_of(value)
    local whole = image.whole(value)
    local sums = hash("abc")
    local header = "\137TARN\r\n\26" .. "\1\0\0\0" .. "\1\0\0\0" .. u64(41) .. u64(128 + 67) .. hash(whole:sub(1, 41))
      .. hash(sums) .. u64(0)
    assert.equal(header .. hash(header) .. sums .. ("\0"):rep(56) .. whole, file)
  end)

  it("is verified without its large blocks when asked", function()
    local value = { skeleton = "\192", blocks = { ("s"):rep(10), ("L"):rep(200) } }
    local file = file_of(value)
    local bad_large = file:sub(1, -2) .. "M"
    assert.is_nil(verify(bad_large))
    assert.is_nil(verify(bad_large, 200))
    assert.is_truthy(verify(bad_large, 199))
    local at = file:find(("s"):rep(10), 1, true)
    local bad_small = file:sub(1, at - 1) .. "t" .. file:sub(at + 1)
    local read, _, message = verify(bad_small, 199)
    assert.is_nil(read)
    assert.equal("file: wrong checksum of block 0", message)
    assert.is_truthy(verify(bad_small, 0))
  end)

  it("with a forged header, its checksum right, is refused or consistent", function()
    for _, value in pairs(image.samples) do
      local file = file_of(value)
      local huge = { u64(0), u64(1), u64(63), u64(all_blocks), u64(0x8000000000000000ULL), u64(0x7fffffffffffffffULL),
        u64(0xffffffffffffffc0ULL), u64(#file), u64(#file + 1) }
      for _, at in ipairs({ 8, 12, 16, 24, 32, 40, 48 }) do
        for _, replacement in ipairs(huge) do
          local width = (at == 8 or at == 12) and 4 or 8
          local forged = forge(file, at, replacement:sub(1, width))
          local read, rc = verify(forged)
          assert.is_true(forged == file or (read == nil and rc == bytes.ECORRUPT))
        end
      end
    end
  end)

  it("whose image is not the one of its header is refused", function()
    local plain = file_of(image.samples.plain)
    local front = image.front(image.samples.block)
    -- A detached front where a contiguous image should be; every checksum right.
    local forged = plain:sub(1, 64) .. front
    forged = forge(forged, 16, u64(#front))
    forged = forge(forged, 24, u64(#forged))
    forged = forge(forged, 32, hash(front))
    local read, _, message = verify(forged)
    assert.is_nil(read)
    assert.equal("file: the image is not the one the header describes", message)
    -- A headed image said to be shorter than it is.
    local whole = image.whole(image.samples.block)
    forged = plain:sub(1, 64) .. whole
    forged = forge(forged, 16, u64(#whole))
    forged = forge(forged, 24, u64(#forged))
    forged = forge(forged, 32, hash(whole))
    assert.is_nil(verify(forged))
  end)

  it("says which version it is when that is unknown", function()
    local _, _, message = verify(forge(file_of(image.samples.plain), 8, "\2\0\0\0"))
    assert.equal("file: format version 2, this reads 1", message)
    _, _, message = verify(("x"):rep(100))
    assert.equal("file: not a tarn file (first bytes)", message)
  end)
end)

describe("composing a header", function()
  it("refuses sizes that are not the front's", function()
    local front, out = image.front(image.samples.block), bytes.buf()
    local pointers, kept = image.pointers(image.samples.block)
    local function compose(bytes_of_front, sizes)
      local as_c = ffi.new("uint64_t[?]", #sizes, sizes)
      return C.tarn_file_compose_header(bytes_of_front, #bytes_of_front, pointers, as_c, #sizes, out)
    end
    assert.equal(bytes.EINVAL, compose(front, { 9 }))
    assert.equal(bytes.EINVAL, compose(front, {}))
    assert.equal(bytes.EINVAL, compose(front, { 10, 10 }))
    assert.equal(bytes.ECORRUPT, compose(front:sub(1, -2), { 10 }))
    assert.equal(bytes.EINVAL, compose(image.whole(image.samples.block), { 10 }))
    assert.equal(0, tonumber(out.size))
    assert.is_truthy(kept)
  end)

  it("keeps to the buffer's limit and survives a failing allocation", function()
    for _, value in pairs(image.samples) do
      local _, offset = file_of(value)
      local short, out = bytes.buf(offset - 1), bytes.buf()
      assert.equal(bytes.ETOOBIG, compose_header(value, short))
      assert.equal(0, tonumber(short.size))
      local pointers, kept = image.pointers(value)
      local front, blocks = image.front(value), value.blocks or {}
      local sizes = ffi.new("uint64_t[?]", #blocks)
      for i, block in ipairs(blocks) do sizes[i - 1] = #block end
      assert.equal(1, bytes.sweep(function()
        return C.tarn_file_compose_header(front, #front, pointers, sizes, #blocks, out)
      end))
      assert.is_truthy(kept)
    end
  end)
end)
