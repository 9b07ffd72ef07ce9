-- runtime/net/tls.c: two ends of a connection, whose bytes are carried from one to the other here.
local ffi = require "ffi"
local C = require "spec.helper.c"

pcall(ffi.cdef, "typedef struct tarn_error { int code; uint64_t needed, available; char message[384]; } tarn_error_t;")
pcall(ffi.cdef, "typedef struct tarn_buf { uint8_t *data; size_t size, capacity, limit; } tarn_buf_t;")
pcall(ffi.cdef, "void tarn_buf_clear(tarn_buf_t *b);")
pcall(ffi.cdef, "uint64_t tarn_alloc_bytes(void);")
pcall(ffi.cdef, "void tarn_alloc_fail_at(uint64_t countdown);")
pcall(ffi.cdef, "uint64_t tarn_alloc_failed(void);")
ffi.cdef [[
int tarn__tls_context_create(const uint8_t *secret, uint64_t rekey_records, void **out, tarn_error_t *err);
void tarn__tls_context_destroy(void *c);
int tarn__tls_create(void *c, bool connector, void **out);
void tarn__tls_destroy(void *t);
bool tarn__tls_is_record(uint8_t first);
void tarn__tls_input(void *t, const uint8_t *bytes, size_t size);
int tarn__tls_handshake(void *t, tarn_error_t *err);
bool tarn__tls_ready(const void *t);
int tarn__tls_read(void *t, void *out, size_t size, size_t *got, tarn_error_t *err);
int tarn__tls_write(void *t, const void *bytes, size_t size);
void tarn__tls_close(void *t);
tarn_buf_t *tarn__tls_output(void *t);
int tarn__tls_binding(void *t, uint8_t *out);
]]

local ENOMEM, EIO, EPROTO, EAUTH, ELOST = -1, -3, -8, -9, -10
local SECRET, OTHER = ("0123456789abcdef"):rep(2), ("fedcba9876543210"):rep(2)
local err, got, buffer = ffi.new "tarn_error_t", ffi.new "size_t[1]", ffi.new "uint8_t[16384]"

local function context(secret, rekey)
  local out = ffi.new "void *[1]"
  local rc = C.tarn__tls_context_create(secret or SECRET, rekey or 0, out, err)
  if rc ~= 0 then return nil, rc end
  return out[0]
end

local function create(c, connector)
  local out = ffi.new "void *[1]"
  local rc = C.tarn__tls_create(c, connector, out)
  if rc ~= 0 then error(rc, 0) end
  return out[0]
end

-- What the end has to say.
local function output(t)
  local out = C.tarn__tls_output(t)
  local bytes = ffi.string(out.data, out.size)
  C.tarn_buf_clear(out)
  return bytes
end

-- All that the bytes hold: text, and how it ended (0: more may come).
local function read(t, bytes)
  local text, rc = {}
  C.tarn__tls_input(t, bytes, #bytes)
  repeat
    rc = C.tarn__tls_read(t, buffer, 16384, got, err)
    if rc == 1 then text[#text + 1] = ffi.string(buffer, got[0]) end
  until rc ~= 1
  C.tarn__tls_input(t, nil, 0)
  return table.concat(text), rc
end

-- One step of the handshake, with these bytes; what it says.
local function step(t, bytes)
  C.tarn__tls_input(t, bytes, #bytes)
  local rc = C.tarn__tls_handshake(t, err)
  C.tarn__tls_input(t, nil, 0)
  return rc, output(t)
end

-- The handshake of two ends: what each says of it at last, and the last words of the acceptor.
local function shake(connector, acceptor)
  local rc, hello = step(connector, "")
  if rc < 0 then return rc end
  local rc_a, answer = step(acceptor, hello)
  if rc_a < 0 then return 0, rc_a, answer end
  local rc_c, finished = step(connector, answer)
  if rc_c < 0 then return rc_c, rc_a end
  return rc_c, (step(acceptor, finished))
end

-- Run fn(connector, acceptor) with two ends of these contexts.
local function with_ends(contexts, fn)
  local ends = {}
  local ok, e = pcall(function()
    for i = 1, 2 do ends[i] = create(contexts[i] or contexts[1], i == 1) end
    fn(ends[1], ends[2])
  end)
  for _, t in ipairs(ends) do C.tarn__tls_destroy(t) end
  if not ok then error(e, 0) end
end

describe("TLS with a key of the secret", function()
  local contexts

  before_each(function() contexts = { context() } end)
  after_each(function()
    for _, c in ipairs(contexts) do C.tarn__tls_context_destroy(c) end
  end)

  it("brings two ends together, which then understand each other, and have one binding", function()
    with_ends(contexts, function(a, b)
      assert.same({ 1, 1 }, { shake(a, b) })
      assert.is_true(C.tarn__tls_ready(a) and C.tarn__tls_ready(b))
      for _, text in ipairs { "x", ("abc"):rep(5000), ("y"):rep(16384) } do
        for _, way in ipairs { { a, b }, { b, a } } do
          assert.equal(0, C.tarn__tls_write(way[1], text, #text))
          local sealed = output(way[1])
          assert.is_true(C.tarn__tls_is_record(sealed:byte()) and #sealed - #text < 30)
          assert.is_nil(sealed:find("abc", 1, true))
          assert.same({ text, 0 }, { read(way[2], sealed) })
        end
      end
      local one, other = ffi.new "uint8_t[32]", ffi.new "uint8_t[32]"
      assert.equal(0, C.tarn__tls_binding(a, one))
      assert.equal(0, C.tarn__tls_binding(b, other))
      assert.equal(ffi.string(one, 32), ffi.string(other, 32))
      with_ends(contexts, function(c, d)
        shake(c, d)
        C.tarn__tls_binding(c, other)
        assert.are_not.equal(ffi.string(one, 32), ffi.string(other, 32))
      end)
    end)
  end)

  it("does not with another secret: the acceptor says so, and the connector hears it", function()
    contexts[2] = context(OTHER)
    with_ends(contexts, function(a, b)
      local _, rc, alert = shake(a, b)
      assert.equal(EAUTH, rc)
      assert.equal("it did not prove that it knows the secret", ffi.string(err.message))
      assert.equal(EAUTH, (step(a, alert)))
      assert.equal("it has another secret", ffi.string(err.message))
    end)
  end)

  it("takes bytes in any pieces, and refuses junk, what was changed, and what was left out", function()
    with_ends(contexts, function(a, b)
      local _, hello = step(a, "")
      local rc, answer = 0, ""
      for i = 1, #hello do
        assert.equal(0, rc)
        rc, answer = step(b, hello:sub(i, i))
      end
      for i = 1, #answer do rc, hello = step(a, answer:sub(i, i)) end
      assert.equal(1, rc)
      assert.equal(1, (step(b, hello)))
      for _ = 1, 3 do C.tarn__tls_write(a, "text", 4) end
      local sealed = output(a)
      local first, rest = sealed:sub(1, #sealed / 3), sealed:sub(#sealed / 3 + 1)
      local text = ""
      for i = 1, #first do text = text .. read(b, first:sub(i, i)) end
      assert.equal("text", text)
      assert.same({ "", EPROTO }, { read(b, rest:sub(#rest / 2 + 1)) }) -- the second is missing
    end)
    with_ends(contexts, function(a, b)
      shake(a, b)
      C.tarn__tls_write(a, "text", 4)
      local sealed = output(a)
      assert.same({ "", EPROTO }, { read(b, sealed:sub(1, -2) .. string.char((sealed:byte(-1) + 1) % 256)) })
    end)
    for _, junk in ipairs { ("\22"):rep(600), "\22\3\1\0\4junk", "\23\3\3\0\4junk", "\21\3\3\0\2\2\40", ("\0"):rep(300) } do
      with_ends(contexts, function(_, b) assert.equal(EPROTO, (step(b, junk))) end)
    end
  end)

  it("tells an orderly end from one that comes of itself", function()
    with_ends(contexts, function(a, b)
      shake(a, b)
      C.tarn__tls_write(a, "last", 4)
      C.tarn__tls_close(a)
      local bytes = output(a)
      assert.same({ "last", ELOST }, { read(b, bytes) })
    end)
  end)

  it("takes new keys as it goes, with the other end none the wiser", function()
    contexts = { contexts[1], context(SECRET, 2) }
    with_ends({ contexts[2], contexts[1] }, function(a, b)
      shake(a, b)
      local sizes = {}
      for i = 1, 7 do
        C.tarn__tls_write(a, "text", 4)
        local bytes = output(a)
        sizes[i] = #bytes
        assert.same({ "text", 0 }, { read(b, bytes) })
        C.tarn__tls_write(b, "back", 4)
        assert.same({ "back", 0 }, { read(a, output(b)) })
      end
      assert.is_true(sizes[2] == sizes[1] and sizes[3] > sizes[1] and sizes[5] > sizes[1] and sizes[6] == sizes[1])
    end)
  end)

  it("makes an error of memory that is not there, whichever allocation fails, and leaves nothing", function()
    local function try()
      local mine, rc = context()
      if mine then
        local ok, e = pcall(with_ends, { mine }, function(a, b)
          local x, y = shake(a, b)
          if x ~= 1 or y ~= 1 then error(x < 0 and x or y, 0) end
          rc = C.tarn__tls_write(a, ("z"):rep(16384), 16384)
          if rc ~= 0 then error(rc, 0) end
          local text, ended = read(b, output(a))
          if ended ~= 0 then error(ended, 0) end
          if #text ~= 16384 then error "a short value" end
          rc = C.tarn__tls_binding(a, buffer)
          if rc ~= 0 then error(rc, 0) end
          C.tarn__tls_close(a)
        end)
        C.tarn__tls_context_destroy(mine)
        return ok, e
      end
      return false, rc
    end
    assert.is_true(try())
    local before, n, failures, seen = nil, 0, 0, {}
    repeat
      n = n + 3 -- there are 1800
      C.tarn_alloc_fail_at(n)
      local ok, e = try()
      local hit = C.tarn_alloc_failed() == 1
      C.tarn_alloc_fail_at(0)
      if hit then
        if not ok then
          failures = failures + 1
          assert.is_true(e == ENOMEM or e == EIO or e == EPROTO or e == EAUTH, ("allocation %d: %s"):format(n, tostring(e)))
          seen[e] = (seen[e] or 0) + 1
        end
        before = before or tonumber(C.tarn_alloc_bytes())
        assert.is_true(tonumber(C.tarn_alloc_bytes()) - before < 4096, ("allocation %d: memory is left"):format(n))
      else
        assert.is_true(ok, tostring(e))
      end
    until not hit
    assert.is_true(n > 300 and failures > n / 6, ("%d of %d"):format(failures, n))
    assert.is_true(seen[ENOMEM] > 0.4 * failures) -- OpenSSL does not always say what it lacked
  end)
end)
