-- runtime/net/framer.c: where frames end, however the bytes arrive; what is refused, and when.
local ffi = require("ffi")
local C = require("spec.helper.c")

pcall(ffi.cdef, "typedef struct tarn_error { int code; uint64_t needed, available; char message[384]; } tarn_error_t;")
ffi.cdef [[
typedef struct tarn_framer tarn_framer_t;
tarn_framer_t *tarn_framer_create(uint64_t max_frame, uint32_t max_depth);
void tarn_framer_destroy(tarn_framer_t *f);
int tarn_framer_scan(tarn_framer_t *f, const uint8_t *bytes, size_t size, size_t *used, tarn_error_t *err);
]]

local EPROTO, ETOOBIG = -8, -14
local used, err = ffi.new("size_t[1]"), ffi.new("tarn_error_t")

local function framer(max_frame, max_depth)
  return ffi.gc(C.tarn_framer_create(max_frame or 2 ^ 20, max_depth or 64), C.tarn_framer_destroy)
end

local function scan(f, bytes)
  local rc = C.tarn_framer_scan(f, ffi.cast("const uint8_t *", bytes), #bytes, used, err)
  return rc, tonumber(used[0])
end

-- Feed a stream in pieces of the size that next_size() says; returns the frames found.
local function split(f, stream, next_size)
  local frames, at, begun = {}, 1, {}
  while at <= #stream do
    local piece = stream:sub(at, at + next_size() - 1)
    at = at + #piece
    while #piece > 0 do
      local rc, n = scan(f, piece)
      assert(rc >= 0, ffi.string(err.message))
      begun[#begun + 1] = piece:sub(1, n)
      piece = piece:sub(n + 1)
      if rc == 1 then
        frames[#frames + 1] = table.concat(begun)
        begun = {}
      else
        assert(#piece == 0)
      end
    end
  end
  assert.are.equal(0, #begun)
  return frames
end

local function be(n, bytes)
  local out = {}
  for i = bytes - 1, 0, -1 do out[#out + 1] = string.char(math.floor(n / 256 ^ i) % 256) end
  return table.concat(out)
end

-- A random MessagePack value, of every form that there is.
local function value(random, depth)
  local function blob(n) return ("\193"):rep(n) end -- 0xc1, so that a payload taken for tokens is noticed
  local forms = {
    function() return "\192" end,
    function() return "\194" end,
    function() return "\127" end,
    function() return "\224" end,
    function() return "\204" .. be(random(0, 255), 1) end,
    function() return "\205" .. be(random(0, 65535), 2) end,
    function() return "\206" .. be(random(0, 2 ^ 31), 4) end,
    function() return "\207" .. blob(8) end,
    function() return "\208" .. blob(1) end,
    function() return "\209" .. blob(2) end,
    function() return "\210" .. blob(4) end,
    function() return "\211" .. blob(8) end,
    function() return "\202" .. blob(4) end,
    function() return "\203" .. blob(8) end,
    function() local n = random(0, 31) return string.char(160 + n) .. blob(n) end,
    function() local n = random(0, 255) return "\217" .. be(n, 1) .. blob(n) end,
    function() local n = random(0, 700) return "\218" .. be(n, 2) .. blob(n) end,
    function() local n = random(0, 700) return "\219" .. be(n, 4) .. blob(n) end,
    function() local n = random(0, 255) return "\196" .. be(n, 1) .. blob(n) end,
    function() local n = random(0, 700) return "\197" .. be(n, 2) .. blob(n) end,
    function() local n = random(0, 700) return "\198" .. be(n, 4) .. blob(n) end,
    function() local i = random(0, 4) return string.char(212 + i) .. "\5" .. blob(2 ^ i) end,
    function() local n = random(0, 255) return "\199" .. be(n, 1) .. "\5" .. blob(n) end,
    function() local n = random(0, 700) return "\200" .. be(n, 2) .. "\251" .. blob(n) end,
    function() local n = random(0, 700) return "\201" .. be(n, 4) .. "\5" .. blob(n) end,
  }
  if depth > 0 and random() < 0.4 then
    local n, map = random(0, 4), random() < 0.5
    local head = { (map and "\128" or "\144"), (map and "\222" or "\220"), (map and "\223" or "\221") }
    local form = random(3)
    local parts = { form == 1 and string.char(head[1]:byte() + n) or head[form] .. be(n, form == 2 and 2 or 4) }
    for _ = 1, map and 2 * n or n do parts[#parts + 1] = value(random, depth - 1) end
    return table.concat(parts)
  end
  return forms[random(#forms)]()
end

local function message(random)
  local kind = random(0, 2)
  local n = kind == 2 and 3 or 4
  local parts = { string.char(144 + n), string.char(kind) }
  for _ = 2, n do parts[#parts + 1] = value(random, 5) end
  return table.concat(parts)
end

describe("the framer", function()
  it("finds the ends of messages of every form, in whatever pieces they come", function()
    math.randomseed(7)
    local f = framer()
    for round = 1, 10 do
      local sent = {}
      for i = 1, 10 do sent[i] = message(math.random) end
      local stream = table.concat(sent)
      assert.are.same(sent, split(f, stream, function() return #stream end))
      assert.are.same(sent, split(f, stream, function() return 1 end))
      assert.are.same(sent, split(f, stream, function() return math.random(round) end))
    end
  end)

  it("says how many bytes belong to a frame that ends within the piece", function()
    local f = framer()
    local rc, n = scan(f, "\148\0\1\164ping\144" .. "\147\2")
    assert.are.same({ 1, 9 }, { rc, n })
    rc, n = scan(f, "\147\2")
    assert.are.same({ 0, 2 }, { rc, n })
    rc, n = scan(f, "\161x\144rest")
    assert.are.same({ 1, 3 }, { rc, n })
  end)

  it("refuses what is no MessagePack-RPC at its first byte that shows it", function()
    for _, bytes in ipairs { "GET / HTTP/1.1", "\192", "\129\1\2", "\146\0\1", "\149\0", "\148\3", "\148\192", "\148\161x",
      "\148\224", "\220\0\2", "\193", "\148\193", "\148\0\193", "\148\207\0\0\0\1\0\0\0\0" } do
      assert.are.equal(EPROTO, (scan(framer(), bytes)))
    end
  end)

  it("refuses a length beyond the bound when it is claimed, not when it has arrived", function()
    for _, bytes in ipairs { "\148\0\1\198\255\255\255\255", "\148\0\1\219\255\255\255\255", "\148\0\1\201\255\255\255\255\1",
      "\148\0\1\221\255\255\255\255", "\148\0\1\223\255\255\255\255", "\221\0\0\0\4\0\198\0\16\0\0",
      "\148\0\1\220\255\255\220\255\255" .. ("\220\255\255"):rep(20) } do
      assert.are.equal(ETOOBIG, (scan(framer(), bytes)))
    end
  end)

  it("takes a message of exactly the bound, and not one byte more", function()
    local function sized(n) return "\147\2\161x\198" .. be(n - 9, 4) .. ("y"):rep(n - 9) end
    local f = framer(4096)
    assert.are.same({ 1, 4096 }, { scan(f, sized(4096)) })
    assert.are.same({ 1, 4096 }, { scan(f, sized(4096)) })
    assert.are.equal(ETOOBIG, (scan(f, sized(4097))))
  end)

  it("bounds the depth", function()
    local f = framer(2 ^ 20, 8)
    assert.are.equal(1, (scan(f, "\147\2\161x" .. ("\145"):rep(7) .. "\1")))
    assert.are.equal(ETOOBIG, (scan(f, "\147\2\161x" .. ("\145"):rep(8) .. "\1")))
    assert.are.equal(1, (scan(framer(2 ^ 20, 8), "\147\2\161x" .. ("\145"):rep(7) .. "\144"))) -- an empty one adds no level
  end)

  it("stays failed once it has failed", function()
    local f = framer()
    scan(f, "\193")
    assert.are.equal(EPROTO, (scan(f, "\147\2\161x\144")))
  end)

  it("never fails otherwise on random bytes, and never claims more than it was given", function()
    math.randomseed(11)
    for _ = 1, 3000 do
      local bytes = { "\148\0" }
      for i = 2, math.random(60) do bytes[i] = string.char(math.random(0, 255)) end
      bytes = table.concat(bytes)
      local rc, n = scan(framer(5000, 16), bytes)
      assert.is_true(rc == 0 and n == #bytes or rc == 1 and n <= #bytes or rc == EPROTO or rc == ETOOBIG)
    end
  end)
end)
