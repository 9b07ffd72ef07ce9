local ffi = require("ffi")
local C = require("spec.helper.c")
local bytes = require("spec.helper.bytes")
local image = require("spec.helper.image")

local function open_string(s)
  local memory = bytes.exact(s)
  local im, rc, message = image.open(memory, #s)
  return im, rc or memory, message
end

-- Opening s gives an error, or an image all of which lies within s.
local function assert_safe(s)
  local memory = bytes.exact(s)
  local im, rc = image.open(memory, #s)
  if im then
    local value = image.read(im, memory, #s)
    return value
  end
  assert(rc == bytes.ECORRUPT)
end

local function u32(n) return ffi.string(ffi.new("uint32_t[1]", n), 4) end
local function u64(n) return ffi.string(ffi.new("uint64_t[1]", n), 8) end

-- A front with blocks, by hand.
local function raw_front(fields, sizes, rest)
  local all = {}
  for i, size in ipairs(sizes) do all[i] = u64(size) end
  return "\193TRN" .. string.char(fields.version or 1, fields.flags or 1) .. (fields.zero or "\0\0")
    .. u32(fields.head_size or 0) .. u32(fields.count or #sizes) .. u64(fields.skeleton_size or #rest)
    .. u64(fields.reserved or 0) .. table.concat(all) .. rest
end

describe("an image", function()
  for name, value in pairs(image.samples) do
    it("comes back as it was composed: " .. name, function()
      local front, whole = image.front(value), image.whole(value)
      if not value.blocks then assert.equal(front, whole) end
      local im, memory = open_string(whole)
      assert.is_false(im.detached)
      assert.equal(#whole, tonumber(im.total_size))
      assert.same(value, image.read(im, memory, #whole))

      im, memory = open_string(front)
      assert.equal(value.blocks ~= nil, im.detached)
      assert.equal(#front, tonumber(im.front_size))
      assert.equal(#whole, tonumber(im.total_size))
      local read = image.read(im, memory, #front)
      for i, block in ipairs(value.blocks or {}) do
        assert.equal(#block, tonumber(read.blocks[i]))
        read.blocks[i] = block
      end
      assert.same(value, read)
    end)
  end

  it("of a plain value is its skeleton alone, any first byte but 0xc1", function()
    for first = 0, 255 do
      local s = string.char(first) .. ("\0"):rep(40)
      local im = open_string(s)
      if first == 0xc1 then
        assert.is_nil(im)
      elseif im then
        assert.is_true(im.head == nil)
        assert.equal(41, tonumber(im.skeleton_size))
      end
    end
  end)

  it("with blocks has the layout of the manual", function()
    local whole = image.whole({ skeleton = "\192", blocks = { "abc", "de" } })
    assert.equal("\193TRN\1\0\0\0" .. u32(0) .. u32(2) .. u64(1) .. u64(0) .. u64(3) .. u64(2) .. "\192"
      .. ("\0"):rep(15) .. "abc" .. ("\0"):rep(61) .. "de", whole)
  end)

  it("with a head and no blocks is one extension of type 16", function()
    assert.equal("c713" .. "10" .. "93" .. "9193a17001c4080807060504030201" .. "90" .. "00" .. "c0",
      bytes.hex(image.front({ skeleton = "\192", serializers = { { "p", 1, 0x0102030405060708ULL } } })))
    assert.equal("d7" .. "10" .. "93" .. "90" .. "91920209" .. "00" .. "c0",
      bytes.hex(image.front({ skeleton = "\192", refs = { { 2, 9ULL } } })))
    assert.equal("c705" .. "10" .. "93" .. "90" .. "90" .. "01" .. "c0",
      bytes.hex(image.front({ skeleton = "\192", backrefs = true })))
  end)

  it("stops a walk when a callback says so", function()
    local im, memory = open_string(image.front(image.samples.refs))
    assert.equal(-10, C.tarn_image_each_ref(im, image.stop_at_ref, nil))
    assert.equal(0, C.tarn_image_each_ref(im, nil, nil))
    assert.equal(0, C.tarn_image_each_serializer(im, nil, nil))
    assert.is_truthy(memory)
  end)

  it("is appended behind what the buffer holds", function()
    local out, value = bytes.buf(), image.samples.all
    C.tarn_buf_append(out, "before", 6)
    assert.equal(0, image.compose_into(out, value))
    assert.equal("before" .. image.front(value), bytes.content(out))
    local front, pointers, kept = image.front(value), image.pointers(value)
    C.tarn_buf_clear(out)
    C.tarn_buf_append(out, "before", 6)
    assert.equal(0, C.tarn_image_join(front, #front, pointers, out))
    assert.equal("before" .. image.whole(value), bytes.content(out))
    assert.is_truthy(kept)
  end)
end)

describe("a look at an image's first bytes", function()
  pcall(ffi.cdef, "bool tarn_image_has_head(const uint8_t *bytes, uint64_t size);")
  local function headed(s) return C.tarn_image_has_head(bytes.exact(s), #s) end
  local encode = require("tarn.core").encode

  it("tells whether it has a head, of every size", function()
    local text = ("x"):rep(70000)
    for _, plain in ipairs { 1, true, text, { 1, 2, 3 }, { text } } do assert.is_false(headed(encode(plain))) end
    local ref = tarn.poolset("an object")
    for _, more in ipairs { 1, ("x"):rep(200), text } do assert.is_true(headed(encode { ref, more })) end
    assert.is_true(headed(encode { ref, tarn.array("double", 3) }))
    tarn.pooldelete(ref)
  end)

  it("goes no further than they do", function()
    assert.is_false(C.tarn_image_has_head(nil, 0))
    local whole = encode(tarn.array("double", 3))
    for size = 0, 11 do assert.is_false(headed(whole:sub(1, size))) end
  end)
end)

describe("damaged images", function()
  for name, value in pairs(image.samples) do
    it("are refused or consistent, every byte changed to every value: " .. name, function()
      for _, s in ipairs({ image.whole(value), image.front(value) }) do
        for at = 1, #s do
          local original = s:byte(at)
          for _, change in ipairs({ 1, 2, 4, 8, 16, 32, 64, 128, 255 }) do
            assert_safe(s:sub(1, at - 1) .. string.char(bit.bxor(original, change)) .. s:sub(at + 1))
          end
        end
      end
    end)

    it("are refused or consistent when cut or lengthened: " .. name, function()
      for _, s in ipairs({ image.whole(value), image.front(value) }) do
        for size = 0, #s - 1 do
          local read = assert_safe(s:sub(1, size))
          -- Only a plain skeleton does not know its length.
          assert.is_true(read == nil or (value == image.samples.plain and size > 0), "cut at " .. size)
        end
        local longer = assert_safe(s .. "\0")
        assert.is_true(longer == nil or not (value.blocks or value.refs or value.serializers or value.backrefs))
      end
    end)
  end

  it("of random bytes behind a valid beginning are refused or consistent", function()
    math.randomseed(17)
    for _ = 1, 20000 do
      local tail = ("x"):rep(math.random(0, 90)):gsub(".", function() return string.char(math.random(0, 255)) end)
      assert_safe("\193TRN\1" .. string.char(math.random(0, 1)) .. "\0\0" .. u32(math.random(0, 20))
        .. u32(math.random(1, 3)) .. u64(math.random(1, 20)) .. u64(0) .. tail)
      assert_safe("\199" .. string.char(#tail % 256) .. "\16" .. tail)
    end
  end)

  it("with sizes near 2^64 do not overflow", function()
    local huge = { 0xffffffffffffffffULL, 0xfffffffffffffff8ULL, 0xffffffffffffffc0ULL, 0x8000000000000000ULL,
      0x7fffffffffffffffULL, 0x7fffffffffffffc0ULL }
    for _, a in ipairs(huge) do
      assert.is_nil(assert_safe(raw_front({}, { a }, "\192")))
      assert.is_nil(assert_safe(raw_front({ flags = 0 }, { a }, "\192")))
      assert.is_nil(assert_safe(raw_front({ skeleton_size = a }, { 1 }, "\192")))
      for _, b in ipairs(huge) do
        assert.is_nil(assert_safe(raw_front({}, { a, b }, "\192")))
        assert.is_nil(assert_safe(raw_front({ flags = 0 }, { 1, a, b, 64 - a }, "\192")))
      end
    end
    assert.is_truthy(assert_safe(raw_front({}, { 0x4000000000000000ULL }, "\192")))
    assert.is_nil(assert_safe(raw_front({}, { 0x4000000000000000ULL, 0x4000000000000000ULL }, "\192")))
    assert.is_nil(assert_safe(raw_front({ head_size = 0xffffffff }, { 1 }, "\192")))
    assert.is_nil(assert_safe(raw_front({ count = 0xffffffff }, { 1 }, "\192")))
    assert.is_nil(assert_safe(raw_front({ count = 2 ^ 20 + 1 }, { 1 }, ("\0"):rep(2 ^ 23 + 64))))
  end)

  it("with unknown versions, flags or reserved bytes are refused", function()
    assert.is_truthy(assert_safe(raw_front({}, { 1 }, "\192")))
    for _, fields in ipairs({ { version = 0 }, { version = 2 }, { flags = 2 }, { flags = 129 }, { zero = "\1\0" },
      { zero = "\0\1" }, { reserved = 1 }, { count = 0 }, { skeleton_size = 0 } }) do
      assert.is_nil(assert_safe(raw_front(fields, { 1 }, "\192")))
    end
    assert.is_nil(assert_safe(raw_front({ count = 0 }, {}, "\192")))
  end)

  it("say what is wrong", function()
    local _, _, message = open_string(raw_front({ version = 2 }, { 1 }, "\192"))
    assert.equal("image: version 2, this reads 1", message)
    _, _, message = open_string("")
    assert.equal("image: empty", message)
  end)
end)

describe("a damaged head", function()
  local cases = {
    ["not an array"] = "c0", ["two parts"] = "929090", ["four parts"] = "9490900000", ["flags unknown"] = "93909002",
    ["flags negative"] = "939090ff", ["flags missing"] = "939090", ["serializers not an array"] = "93809000",
    ["refs not an array"] = "93908000", ["serializer not an array"] = "9391019000",
    ["serializer of two"] = "939192a170019000",
    ["name empty"] = "939193a001c40800000000000000009000", ["name a number"] = "9391930101c40800000000000000009000",
    ["version too large"] = "939193a170cf0000000100000000c40800000000000000009000",
    ["version negative"] = "939193a170ffc40800000000000000009000",
    ["hash of seven"] = "939193a17001c407000000000000009000",
    ["hash of nine"] = "939193a17001c4090000000000000000009000", ["hash a number"] = "939193a17001009000",
    ["ref not an array"] = "9390910100", ["ref of one"] = "939091910100", ["ref of three"] = "93909193010100" .. "00",
    ["owner too large"] = "93909192cf00000001000000000100", ["owner negative"] = "93909192ff0100",
    ["id negative"] = "9390919201ff00", ["id a string"] = "9390919201a000", ["bytes behind it"] = "9390900000",
    ["claims a million refs"] = "9390dd000f424000", ["claims 2^32-1 serializers"] = "93ddffffffff9000",
    ["0xc1 in it"] = "93c19000", empty = "",
  }
  for name, head in pairs(cases) do
    it("is refused: " .. name, function()
      local h = bytes.unhex(head)
      if #h > 0 then
        assert.is_nil(assert_safe(raw_front({ head_size = #h, skeleton_size = 1 }, { 1 }, h .. "\192")))
      end
      if name ~= "bytes behind it" then
        local body = h .. (#h > 0 and "\192" or "")
        assert.is_nil(assert_safe("\199" .. string.char(#body) .. "\16" .. body))
      end
    end)
  end

  it("is refused without a skeleton behind it", function()
    assert.is_nil(assert_safe(bytes.unhex("d610" .. "93909000")))
    assert.is_truthy(assert_safe(bytes.unhex("c70510" .. "93909000c0")))
  end)

  it("is refused with bytes behind the extension", function()
    assert.is_nil(assert_safe(bytes.unhex("c70510" .. "93909000c0" .. "c0")))
  end)
end)

describe("composing", function()
  it("refuses what cannot be, leaving the buffer as it was", function()
    local out = bytes.buf()
    C.tarn_buf_append(out, "kept", 4)
    assert.equal(bytes.EINVAL, image.compose_into(out, { skeleton = "" }))
    for _, sizes in ipairs({ { 0xffffffffffffffffULL }, { 0x7fffffffffffffffULL }, { 2ULL ^ 62, 2ULL ^ 62 } }) do
      assert.equal(bytes.ETOOBIG, image.compose_into(out, { skeleton = "\192" }, sizes))
    end
    local many = {}
    for i = 1, 2 ^ 20 do many[i] = 0 end
    assert.equal(0, image.compose_into(bytes.buf(), { skeleton = "\192" }, many))
    many[#many + 1] = 0
    assert.equal(bytes.ETOOBIG, image.compose_into(out, { skeleton = "\192" }, many))
    assert.equal("kept", bytes.content(out))
  end)

  it("keeps to the buffer's limit", function()
    for name, value in pairs(image.samples) do
      local front = image.front(value)
      local exact, short = bytes.buf(#front), bytes.buf(#front - 1)
      assert.equal(0, image.compose_into(exact, value), name)
      assert.equal(bytes.ETOOBIG, image.compose_into(short, value), name)
      assert.equal(0, tonumber(short.size))
    end
  end)

  it("survives every failing allocation", function()
    for _, value in pairs(image.samples) do
      local out, front = bytes.buf(), image.front(value)
      C.tarn_buf_append(out, "kept", 4)
      bytes.sweep(function()
        local rc = image.compose_into(out, value)
        if rc ~= 0 then assert.equal("kept", bytes.content(out)) end
        return rc
      end)
      assert.equal("kept" .. front, bytes.content(out))
    end
  end)

  it("leaks nothing", function()
    bytes.hold_garbage(finally)
    local before = C.tarn_alloc_bytes()
    for _, value in pairs(image.samples) do
      local out = ffi.new("tarn_buf_t")
      C.tarn_buf_init(out, 2 ^ 30)
      image.compose_into(out, value)
      C.tarn_buf_release(out)
    end
    assert.equal(before, C.tarn_alloc_bytes())
  end)
end)

describe("joining", function()
  it("refuses a front that is damaged, or whole already", function()
    local out, value = bytes.buf(), image.samples.block
    local pointers, kept = image.pointers(value)
    local front, whole = image.front(value), image.whole(value)
    assert.equal(bytes.ECORRUPT, C.tarn_image_join(front, #front - 1, pointers, out))
    assert.equal(bytes.EINVAL, C.tarn_image_join(whole, #whole, pointers, out))
    assert.equal(0, tonumber(out.size))
    assert.is_truthy(kept)
  end)

  it("keeps to the limit and survives a failing allocation", function()
    local value = image.samples.all
    local front, whole, pointers, kept = image.front(value), image.whole(value), image.pointers(value)
    local short, out = bytes.buf(#whole - 1), bytes.buf()
    assert.equal(bytes.ETOOBIG, C.tarn_image_join(front, #front, pointers, short))
    assert.equal(0, tonumber(short.size))
    assert.equal(1, bytes.sweep(function() return C.tarn_image_join(front, #front, pointers, out) end))
    assert.equal(whole, bytes.content(out))
    assert.is_truthy(kept)
  end)

  it("marks fronts as detached and back", function()
    for _, value in pairs(image.samples) do
      local front = image.front(value)
      local copy = bytes.exact(front)
      C.tarn_image_set_detached(copy, #front, false)
      assert.equal(image.whole(value):sub(1, #front), ffi.string(copy, #front))
      C.tarn_image_set_detached(copy, #front, true)
      assert.equal(front, ffi.string(copy, #front))
    end
  end)
end)
