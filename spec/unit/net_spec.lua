-- runtime/net: the handshake's messages and proofs, and two or three nets that talk to each other in one loop.
--
-- libuv calls back into Lua here, which only interpreted code survives: every function that can run the loop or call what may call
-- back is taken from the compiler, and so are the callbacks.
local ffi = require("ffi")
local jit = require("jit")
local C = require("spec.helper.c")

pcall(ffi.cdef, "typedef struct tarn_error { int code; uint64_t needed, available; char message[384]; } tarn_error_t;")
pcall(ffi.cdef, "typedef struct tarn_buf { uint8_t *data; size_t size, capacity, limit; } tarn_buf_t;")
pcall(ffi.cdef, "void tarn_buf_init(tarn_buf_t *b, size_t limit_bytes);")
pcall(ffi.cdef, "void tarn_buf_release(tarn_buf_t *b);")
pcall(ffi.cdef, "void *tarn_malloc(size_t size_bytes);")
pcall(ffi.cdef, "uint64_t tarn_alloc_bytes(void);")
pcall(ffi.cdef, "void tarn_alloc_fail_at(uint64_t countdown);")
pcall(ffi.cdef, "uint64_t tarn_alloc_failed(void);")
ffi.cdef [[
typedef struct { char version[32], bytecode[32], host[64]; uint8_t role; uint32_t id, want_id;
  uint64_t incarnation, want_incarnation; int64_t os_pid; uint8_t nonce[32], tie[16]; bool bound; uint8_t binding[32]; } tarn__hello_t;
typedef struct { char host[64]; uint32_t id, your_id; uint64_t incarnation, your_incarnation; int64_t os_pid;
  uint8_t nonce[32], proof[32]; } tarn__welcome_t;
typedef struct { bool response; uint32_t msgid; const uint8_t *method; uint32_t method_size; const uint8_t *error;
  uint32_t error_size; const uint8_t *body, *end_; } tarn__envelope_t;
int tarn__envelope_read(const uint8_t *bytes, size_t size, tarn__envelope_t *out, tarn_error_t *err);
int tarn__hello_read(const tarn__envelope_t *e, tarn__hello_t *out, tarn_error_t *err);
int tarn__welcome_read(const tarn__envelope_t *e, tarn__welcome_t *out, tarn_error_t *err);
int tarn__prove_read(const tarn__envelope_t *e, uint8_t *proof, tarn_error_t *err);
int tarn__joined_read(const tarn__envelope_t *e, uint32_t *id, uint64_t *incarnation, tarn_error_t *err);
int tarn__hello_write(tarn_buf_t *b, uint32_t msgid, const tarn__hello_t *h);
int tarn__welcome_write(tarn_buf_t *b, uint32_t msgid, const tarn__welcome_t *w);
int tarn__prove_write(tarn_buf_t *b, uint32_t msgid, const uint8_t *proof);
int tarn__joined_write(tarn_buf_t *b, uint32_t msgid, uint32_t id, uint64_t incarnation);
void tarn__proof_make(const uint8_t *secret, int who, const tarn__hello_t *h, const tarn__welcome_t *w, uint8_t *out);
bool tarn__proof_equal(const uint8_t *a, const uint8_t *b);
bool tarn__secret_is(const uint8_t *secret, const uint8_t *hex, uint32_t size);

typedef struct { uint32_t id; uint64_t incarnation; int64_t os_pid; char host[64]; bool foreign; } tarn_net_identity_t;
typedef struct { const void *bytes; size_t size; } tarn_net_span_t;
typedef struct {
  int (*on_join)(void *, const tarn_net_identity_t *, uint32_t *, uint64_t *);
  void (*on_up)(void *, void *peer);
  void (*on_down)(void *, void *peer, const tarn_error_t *);
  void (*on_frame)(void *, void *peer, const uint8_t *, size_t);
  int (*on_bulk_begin)(void *, void *peer, const uint8_t *, size_t, const uint64_t *, uint32_t, void **, void **);
  void (*on_bulk)(void *, void *peer, const uint8_t *, size_t, void *, int);
  void (*on_drained)(void *, void *peer);
} tarn_net_callbacks_t;
typedef struct { void *loop; const uint8_t *secret; tarn_net_identity_t self; tarn_net_callbacks_t callbacks; void *user;
  uint64_t max_frame, high_mark, low_mark; uint32_t hello_timeout_ms, max_unproven; int tls; const char *bytecode; } tarn_net_config_t;
int tarn_net_create(const tarn_net_config_t *config, void **out, tarn_error_t *err);
typedef struct { uint64_t in_bytes, out_bytes, in_messages, out_messages; } tarn_net_stats_t;
void tarn_net_get_stats(const void *net, tarn_net_stats_t *out);
void tarn_net_close(void *net, void (*on_closed)(void *), void *user);
const tarn_net_identity_t *tarn_net_self(const void *net);
int tarn_net_listen(void *net, const char *where, char *address, size_t size, tarn_error_t *err);
int tarn_net_connect(void *net, const char *address, uint32_t id, uint64_t incarnation, void **out, tarn_error_t *err);
int tarn_peer_send(void *peer, uint8_t *frame, size_t size);
int tarn_peer_send_bulk(void *peer, uint8_t *frame, size_t size, const tarn_net_span_t *blocks, uint32_t count,
  void (*on_done)(void *, int), void *user);
void tarn_peer_bulk_retry(void *peer);
uint64_t tarn_peer_queued_bytes(const void *peer);
const tarn_net_identity_t *tarn_peer_identity(const void *peer);
void tarn_peer_set_address(void *peer, const char *address);
int tarn_peer_local_address(const void *peer, char *out);
int tarn_net_scope(const char *address);
int tarn_net_join_address(const char *host, const char *port, char *out);
void tarn_peer_close(void *peer, const tarn_error_t *reason);
size_t uv_loop_size(void);
int uv_loop_init(void *loop);
int uv_loop_close(void *loop);
int uv_run(void *loop, int mode);
]]

local EPROTO, EAUTH, ELOST, ETIMEDOUT, ECANCELED, EAGAIN, EPOOLFULL = -8, -9, -10, -11, -12, -13, -5
local err = ffi.new("tarn_error_t")

local function bytes_of(s)
  local b = ffi.new("uint8_t[?]", math.max(#s, 1))
  ffi.copy(b, s, #s)
  return b
end

local SECRET = ("0123456789abcdef"):rep(2)

describe("the handshake's messages", function()
  local function written(write, ...)
    local b = ffi.new("tarn_buf_t")
    C.tarn_buf_init(b, 512)
    assert.are.equal(0, write(b, ...))
    local s = ffi.string(b.data, b.size)
    C.tarn_buf_release(b)
    return s
  end

  local function envelope(s)
    local e = ffi.new("tarn__envelope_t")
    local rc = C.tarn__envelope_read(s, #s, e, err)
    return rc, e
  end

  local function hello(fields)
    local h = ffi.new("tarn__hello_t", { version = "0.1.0", bytecode = "gc64", host = "boot/ns", id = 3, incarnation = -1ULL,
      os_pid = 4321, want_id = 1, want_incarnation = 2 ^ 63, nonce = ("n"):rep(32) })
    for k, v in pairs(fields or {}) do h[k] = v end
    return h
  end

  local function welcome(fields)
    local w = ffi.new("tarn__welcome_t", { host = "boot/ns", id = 1, incarnation = 77, os_pid = -5, your_id = 3,
      your_incarnation = -1ULL, nonce = ("m"):rep(32), proof = ("p"):rep(32) })
    for k, v in pairs(fields or {}) do w[k] = v end
    return w
  end

  local function same(a, b) return ffi.string(a, ffi.sizeof(a)) == ffi.string(b, ffi.sizeof(b)) end

  it("come back as they were written, and leave room within the bound", function()
    for role = 0, 1 do
      local h = hello { role = role, host = ("h"):rep(63), bytecode = ("b"):rep(31), version = ("1"):rep(31), id = 2 ^ 32 - 1,
        want_id = 2 ^ 32 - 1, os_pid = 2 ^ 62, tie = role == 1 and ("t"):rep(16) or nil }
      local s = written(C.tarn__hello_write, 1, h)
      local prove = written(C.tarn__prove_write, 2, ("q"):rep(32))
      assert.is_true(#s + #prove <= 512)
      local rc, e = envelope(s)
      local back = ffi.new("tarn__hello_t")
      assert.are.equal(0, rc)
      assert.are.equal(0, C.tarn__hello_read(e, back, err))
      assert.are.equal(ffi.string(h.version), ffi.string(back.version))
      assert.are.equal(ffi.string(h.host), ffi.string(back.host))
      assert.is_true(back.role == role and back.id == h.id and back.incarnation == h.incarnation and back.os_pid == h.os_pid)
      assert.is_true(back.want_id == h.want_id and back.want_incarnation == h.want_incarnation)
      assert.is_true(same(h.nonce, back.nonce) and same(h.tie, back.tie))
    end
    local w, back = welcome(), ffi.new("tarn__welcome_t")
    local rc, e = envelope(written(C.tarn__welcome_write, 1, w))
    assert.are.equal(0, rc)
    assert.are.equal(0, C.tarn__welcome_read(e, back, err))
    assert.is_true(back.os_pid == -5 and back.your_incarnation == -1ULL and same(w.proof, back.proof))
    local id, incarnation = ffi.new("uint32_t[1]"), ffi.new("uint64_t[1]")
    for given = 0, 9, 9 do
      rc, e = envelope(written(C.tarn__joined_write, 2, given, 55))
      assert.are.equal(0, rc)
      assert.are.equal(0, C.tarn__joined_read(e, id, incarnation, err))
      assert.are.equal(given, id[0])
    end
  end)

  it("are refused when cut short or damaged, never read beyond their end", function()
    math.randomseed(3)
    local whole = written(C.tarn__hello_write, 1, hello { role = 1 })
    local back = ffi.new("tarn__hello_t")
    for n = 0, #whole - 1 do
      local exact = bytes_of(whole:sub(1, n)) -- its own allocation: a sanitizer sees one byte too far
      local e = ffi.new("tarn__envelope_t")
      local rc = C.tarn__envelope_read(exact, n, e, err)
      assert.is_true(rc == EPROTO or C.tarn__hello_read(e, back, err) == EPROTO)
    end
    for _ = 1, 5000 do
      local b = bytes_of(whole)
      for _ = 1, math.random(4) do b[math.random(0, #whole - 1)] = math.random(0, 255) end
      local e = ffi.new("tarn__envelope_t")
      local rc = C.tarn__envelope_read(b, #whole, e, err)
      if rc == 0 then rc = C.tarn__hello_read(e, back, err) end
      assert.is_true(rc == 0 or rc == EPROTO)
    end
  end)

  it("skip keys that are not known and insist on those that are needed", function()
    local whole = written(C.tarn__hello_write, 1, hello())
    local at = whole:find("\137\167version", 1, true)
    local more = whole:sub(1, at - 1) .. "\138\163new\130\1\2\3\147\1\2\3" .. whole:sub(at + 1)
    local back = ffi.new("tarn__hello_t")
    local _, e = envelope(more)
    assert.are.equal(0, C.tarn__hello_read(e, back, err))
    local without = whole:gsub("nonce", "nonsE")
    _, e = envelope(without)
    assert.are.equal(EPROTO, C.tarn__hello_read(e, back, err))
  end)

  it("are proved by every field, by the direction, and by the secret", function()
    local proof, other = ffi.new("uint8_t[32]"), ffi.new("uint8_t[32]")
    C.tarn__proof_make(SECRET, 0, hello(), welcome(), proof)
    C.tarn__proof_make(SECRET, 0, hello(), welcome { proof = ("x"):rep(32) }, other)
    assert.is_true(C.tarn__proof_equal(proof, other)) -- the welcome's own proof is not part of it
    local function differs(...)
      C.tarn__proof_make(...)
      assert.is_false(C.tarn__proof_equal(proof, other))
    end
    differs(SECRET, 1, hello(), welcome(), other)
    differs(SECRET, 2, hello(), welcome(), other)
    differs(("x"):rep(32), 0, hello(), welcome(), other)
    for k, v in pairs { version = "0.1.1", bytecode = "x", host = "y", role = 1, id = 4, incarnation = 1, os_pid = 1, want_id = 2,
      want_incarnation = 5, nonce = ("o"):rep(32), tie = ("t"):rep(16), bound = true } do
      differs(SECRET, 0, hello { [k] = v }, welcome(), other)
    end
    for k, v in pairs { host = "y", id = 4, incarnation = 1, os_pid = 1, your_id = 2, your_incarnation = 5,
      nonce = ("o"):rep(32) } do
      differs(SECRET, 0, hello(), welcome { [k] = v }, other)
    end
    C.tarn__proof_make(SECRET, 0, hello { bound = true }, welcome(), proof)
    differs(SECRET, 0, hello { bound = true, binding = ("b"):rep(32) }, welcome(), other)
  end)

  it("know the secret in hexadecimal, and nothing else", function()
    local hex = SECRET:gsub(".", function(c) return ("%02x"):format(c:byte()) end)
    assert.is_true(C.tarn__secret_is(SECRET, hex, 64))
    assert.is_true(C.tarn__secret_is(SECRET, hex:upper(), 64))
    assert.is_false(C.tarn__secret_is(SECRET, hex, 62))
    assert.is_false(C.tarn__secret_is(SECRET, "g" .. hex:sub(2), 64))
    assert.is_false(C.tarn__secret_is(SECRET, (hex:gsub("^.", "f")), 64))
    assert.is_false(C.tarn__secret_is(SECRET, hex .. "00", 66))
    assert.is_false(C.tarn__secret_is(SECRET, "", 0))
  end)
end)

describe("addresses", function()
  it("are everybody's, loopback, outward, or names", function()
    for address, scope in pairs { ["0.0.0.0:1"] = 1, ["[::]:0"] = 1, ["127.0.0.1:5"] = 2, ["127.9.9.9:5"] = 2, ["[::1]:5"] = 2,
      ["10.0.0.1:5"] = 3, ["[fd77::1]:5"] = 3, ["localhost:5"] = 0, ["10.0.0.1"] = 0, [""] = 0, ["10.0.0.1:x"] = 0 } do
      assert.are.equal(scope, C.tarn_net_scope(address), address)
    end
  end)

  it("are joined of a host and a port, in place too", function()
    local out = ffi.new("char[64]", "[fd77::1]:17")
    assert.are.equal(0, C.tarn_net_join_address(out, nil, out))
    assert.are.equal("[fd77::1]:0", ffi.string(out))
    assert.are.equal(0, C.tarn_net_join_address("10.0.0.1:5", "0.0.0.0:77", out))
    assert.are.equal("10.0.0.1:77", ffi.string(out))
    for _, wrong in ipairs { "", "10.0.0.1", ("x"):rep(64) .. ":1" } do
      assert.is_true(C.tarn_net_join_address(wrong, nil, out) < 0)
    end
    assert.are.equal("10.0.0.1:77", ffi.string(out))
  end)
end)

local BEYOND, ALWAYS, NEVER = 0, 1, 2 -- tarn_net_tls_t

local function nets_with(tls)
  local loop, nodes, anchors, before

  do -- libuv's first loop opens descriptors that stay
    local first = ffi.new("uint8_t[?]", tonumber(C.uv_loop_size()))
    C.uv_loop_init(first)
    C.uv_loop_close(first)
  end

  local function callback(ctype, fn)
    jit.off(fn, true)
    local cb = ffi.cast(ctype, fn)
    anchors[#anchors + 1] = cb
    return cb
  end

  local function turn() C.uv_run(loop, 2) end -- UV_RUN_NOWAIT
  jit.off(turn, true)

  -- Run the loop until check() holds.
  local function run_until(check)
    local deadline = os.time() + 10
    while not check() do
      turn()
      assert(os.time() < deadline, "nothing came within 10 s")
    end
  end
  jit.off(run_until, true)

  -- A net that records what it is told.
  local function node(id, options)
    options = options or {}
    local n = { id = id, ups = {}, downs = {}, frames = {}, bulks = {}, joins = 0, begins = 0, answer = {} }
    local config = ffi.new("tarn_net_config_t", { loop = loop, secret = options.secret or SECRET,
      self = { id = id, incarnation = 1000 + id, os_pid = 1, host = "here" }, hello_timeout_ms = options.timeout_ms or 2000,
      bytecode = options.bytecode, tls = options.tls or tls })
    local cb = config.callbacks
    cb.on_join = callback("int (*)(void *, const tarn_net_identity_t *, uint32_t *, uint64_t *)", function(_, _, new, incarnation)
      n.joins = n.joins + 1
      new[0], incarnation[0] = 41 + n.joins, 99
      return 0
    end)
    cb.on_up = callback("void (*)(void *, void *)", function(_, peer) n.ups[#n.ups + 1] = peer end)
    cb.on_down = callback("void (*)(void *, void *, const tarn_error_t *)", function(_, _, reason)
      n.downs[#n.downs + 1] = { code = reason.code, message = ffi.string(reason.message) }
    end)
    cb.on_frame = callback("void (*)(void *, void *, const uint8_t *, size_t)", function(_, _, frame, size)
      n.frames[#n.frames + 1] = ffi.string(frame, size)
    end)
    cb.on_bulk_begin = callback(
      "int (*)(void *, void *, const uint8_t *, size_t, const uint64_t *, uint32_t, void **, void **)",
      function(_, _, _, _, sizes, count, dest)
        n.begins = n.begins + 1
        local answer = table.remove(n.answer, 1) or 0
        n.dest = {}
        for i = 0, count - 1 do
          n.dest[i + 1] = ffi.new("uint8_t[?]", tonumber(sizes[i]) + 1)
          dest[i] = n.dest[i + 1]
        end
        n.sizes = {}
        for i = 0, count - 1 do n.sizes[i + 1] = tonumber(sizes[i]) end
        return answer
      end)
    cb.on_bulk = callback("void (*)(void *, void *, const uint8_t *, size_t, void *, int)", function(_, _, frame, size, _, status)
      local blocks = {}
      for i, d in ipairs(n.dest) do blocks[i] = ffi.string(d, n.sizes[i]) end
      n.bulks[#n.bulks + 1] = { frame = ffi.string(frame, size), status = status, blocks = blocks }
    end)
    local out = ffi.new("void *[1]")
    assert.are.equal(0, C.tarn_net_create(config, out, err), ffi.string(err.message))
    n.net = out[0]
    local address = ffi.new("char[64]")
    assert.are.equal(0, C.tarn_net_listen(n.net, "127.0.0.1:0", address, 64, err), ffi.string(err.message))
    n.address = ffi.string(address)
    nodes[#nodes + 1] = n
    return n
  end
  jit.off(node, true)

  local function connect(from, to, want)
    local out = ffi.new("void *[1]")
    assert.are.equal(0, C.tarn_net_connect(from.net, to.address, want or 0, 0, out, err), ffi.string(err.message))
    return out[0]
  end
  jit.off(connect, true)

  local function owned(s)
    local p = ffi.cast("uint8_t *", C.tarn_malloc(#s))
    ffi.copy(p, s, #s)
    return p, #s
  end

  local function send(peer, frame) return C.tarn_peer_send(peer, owned(frame)) end
  jit.off(send, true)

  local function send_bulk(peer, frame, blocks, done)
    local spans = ffi.new("tarn_net_span_t[?]", #blocks)
    for i, b in ipairs(blocks) do
      spans[i - 1].bytes = ffi.cast("const void *", b) -- the caller keeps the strings
      spans[i - 1].size = #b
    end
    local p, size = owned(frame)
    local on_done = callback("void (*)(void *, int)", function(_, status) done[#done + 1] = status end)
    return C.tarn_peer_send_bulk(peer, p, size, spans, #blocks, on_done, nil)
  end
  jit.off(send_bulk, true)

  before_each(function()
    before = C.tarn_alloc_bytes()
    anchors, nodes = {}, {}
    loop = ffi.new("uint8_t[?]", tonumber(C.uv_loop_size()))
    assert.are.equal(0, C.uv_loop_init(loop))
  end)

  local function close_all()
    local closed = 0
    local on_closed = callback("void (*)(void *)", function() closed = closed + 1 end)
    for _, n in ipairs(nodes) do C.tarn_net_close(n.net, on_closed, nil) end
    run_until(function() return closed == #nodes end)
    assert.are.equal(0, C.uv_run(loop, 0))
    assert.are.equal(0, C.uv_loop_close(loop)) -- no handle is left
    for _, n in ipairs(nodes) do assert.is_true(#n.downs >= #n.ups) end
    for _, cb in ipairs(anchors) do cb:free() end
  end
  jit.off(close_all, true)
  after_each(close_all)

  it("prove themselves to each other and exchange frames, those queued before the proof included", function()
    local a, b = node(1), node(2)
    local peer = connect(b, a, 1)
    assert.are.equal(0, send(peer, "\147\2\161x\144"))
    run_until(function() return #a.frames == 1 end)
    assert.are.equal(2, C.tarn_peer_identity(a.ups[1]).id)
    assert.are.equal(1, C.tarn_peer_identity(peer).id)
    assert.are.equal("here", ffi.string(C.tarn_peer_identity(peer).host))
    local ours = ffi.new("char[64]")
    assert.are.equal(0, C.tarn_peer_local_address(a.ups[1], ours))
    assert.are.equal(a.address, ffi.string(ours))
    local long = "\147\2\161x\145\198\0\16\0\0" .. ("z"):rep(2 ^ 20)
    local sent = { "\147\2\161x\144" }
    for i = 1, 50 do
      sent[#sent + 1] = i % 10 == 0 and long or "\147\2\161x\145" .. string.char(i)
      assert.are.equal(0, send(peer, sent[#sent]))
      assert.are.equal(0, send(a.ups[1], sent[#sent]))
    end
    run_until(function() return #a.frames == 51 and #b.frames == 50 end)
    assert.is_true(table.concat(sent) == table.concat(a.frames))
    assert.are.equal(0, tonumber(C.tarn_peer_queued_bytes(peer)))
  end)

  it("give a newcomer its id, which it knows when it is up", function()
    local a, b = node(1), node(0)
    connect(b, a, 1)
    run_until(function() return #b.ups == 1 and #a.ups == 1 end)
    assert.are.equal(42, C.tarn_net_self(b.net).id)
    assert.are.equal(42, C.tarn_peer_identity(a.ups[1]).id)
    assert.are.equal(1, a.joins)
  end)

  it("refuse another secret, another bytecode, and not being who was wanted", function()
    local a = node(1)
    local cases = { { node(5, { secret = ("x"):rep(32) }), 0, EAUTH }, { node(6, { bytecode = "fr1" }), 0, EPROTO },
      { node(7), 9, ELOST } }
    for _, case in ipairs(cases) do
      local n = case[1]
      connect(n, a, case[2])
      run_until(function() return #n.downs == 1 end)
      assert.are.equal(case[3], n.downs[1].code)
      assert.are.equal(0, #n.ups)
    end
    assert.is_not_nil(cases[2][1].downs[1].message:find("'fr1'", 1, true))
    assert.are.equal(0, #a.ups)
    assert.are.equal(0, a.joins)
  end)

  it("say that a peer is down once, when it is closed on either side or cannot be reached", function()
    local a, b = node(1), node(2)
    local peer = connect(b, a)
    run_until(function() return #a.ups == 1 end)
    C.tarn_peer_close(a.ups[1], nil)
    C.tarn_peer_close(a.ups[1], nil)
    assert.are.equal(ELOST, send(a.ups[1], "\147\2\161x\144"))
    assert.are.equal(0, #a.downs) -- never from inside the call
    run_until(function() return #a.downs == 1 and #b.downs == 1 end)
    assert.are.equal(ECANCELED, a.downs[1].code)
    assert.are.equal(ELOST, b.downs[1].code)
    assert.is_not_nil(peer)
    connect(b, { address = "127.0.0.1:1" })
    run_until(function() return #b.downs == 2 end)
    assert.are.equal(ELOST, b.downs[2].code)
  end)

  it("carry blocks on the bulk lane, whoever has the address, in order", function()
    local a, b = node(1), node(2)
    local peer = connect(b, a)
    run_until(function() return #a.ups == 1 and #b.ups == 1 end)
    local big = ("0123456789abcdef"):rep(2 ^ 17)
    local blocks, done = { big, "", "small", big:sub(1, 70001) }, {}
    assert.are.equal(0, send_bulk(a.ups[1], "\147\2\161x\1", blocks, done)) -- a has no address: b is asked to connect
    assert.are.equal(0, send_bulk(a.ups[1], "\147\2\161x\2", {}, done))
    assert.are.equal(0, send_bulk(peer, "\147\2\161x\3", blocks, done))
    run_until(function() return #a.bulks == 1 and #b.bulks == 2 and #done == 3 end)
    assert.are.same({ 0, 0, 0 }, done)
    assert.are.equal("\147\2\161x\1", b.bulks[1].frame)
    assert.are.equal("\147\2\161x\2", b.bulks[2].frame)
    assert.is_true(table.concat(blocks) == table.concat(b.bulks[1].blocks))
    assert.is_true(table.concat(blocks) == table.concat(a.bulks[1].blocks))
    assert.are.equal(0, #a.frames + #b.frames) -- what the lanes say to each other is not for us
  end)

  it("move at most a MiB each way in one turn of the loop, so that others have theirs", function()
    local a, b = node(1), node(2)
    local peer, done, block = connect(b, a), {}, ("0123456789abcdef"):rep(2 ^ 20)
    run_until(function() return #a.ups == 1 and #b.ups == 1 end)
    assert.are.equal(0, send_bulk(peer, "\147\2\161x\1", { block }, done))
    local read, sent, most_read, most_sent = 0, 0, 0, 0
    local stats = ffi.new("tarn_net_stats_t")
    run_until(function()
      C.tarn_net_get_stats(a.net, stats)
      most_read, read = math.max(most_read, tonumber(stats.in_bytes) - read), tonumber(stats.in_bytes)
      C.tarn_net_get_stats(b.net, stats)
      most_sent, sent = math.max(most_sent, tonumber(stats.out_bytes) - sent), tonumber(stats.out_bytes)
      return #a.bulks == 1 and #done == 1
    end)
    assert.is_true(a.bulks[1].blocks[1] == block)
    assert.is_true(most_read <= 2 ^ 20, most_read .. " bytes were read in one turn")
    assert.is_true(most_sent <= 2 ^ 20, most_sent .. " bytes were sent in one turn")
  end)

  it("wait while there is no room for blocks, and drop those that are refused", function()
    local a, b = node(1), node(2)
    local peer, done, block = connect(b, a), {}, ("y"):rep(300000)
    a.answer = { EAGAIN, EAGAIN, 0, EPOOLFULL, 0 }
    for i = 1, 3 do assert.are.equal(0, send_bulk(peer, "\147\2\161x" .. string.char(i), { block, block }, done)) end
    run_until(function() return a.begins == 1 end)
    for _ = 1, 20 do turn() end
    assert.are.equal(1, a.begins)
    C.tarn_peer_bulk_retry(a.ups[1])
    run_until(function() return a.begins == 2 end)
    C.tarn_peer_bulk_retry(a.ups[1])
    run_until(function() return #a.bulks == 3 and #done == 3 end)
    assert.are.same({ 0, EPOOLFULL, 0 }, { a.bulks[1].status, a.bulks[2].status, a.bulks[3].status })
    assert.is_true(a.bulks[1].blocks[2] == block and a.bulks[3].blocks[1] == block)
  end)

  it("tell every bulk message's fate when the peer goes in the middle of it", function()
    local a, b = node(1), node(2)
    local peer, done, block = connect(b, a), {}, ("y"):rep(2 ^ 24)
    for i = 1, 4 do assert.are.equal(0, send_bulk(peer, "\147\2\161x" .. string.char(i), { block }, done)) end
    run_until(function() return a.begins == 1 end)
    C.tarn_peer_close(a.ups[1], nil)
    run_until(function() return #a.downs == 1 and #b.downs == 1 end)
    assert.are.equal(4, #done)
    assert.is_true(done[4] < 0)
    assert.are.equal(a.begins, #a.bulks)
    assert.are.equal(ECANCELED, a.bulks[#a.bulks].status)
  end)

  it("can be closed at any point of a handshake, and leave no memory behind", function()
    for turns = 0, 12 do
      local a, b = node(1), node(2)
      local done = {}
      send_bulk(connect(b, a), "\147\2\161x\1", { "block" }, done)
      connect(a, b)
      for _ = 1, turns do turn() end
      local closed = 0
      local on_closed = callback("void (*)(void *)", function() closed = closed + 1 end)
      C.tarn_net_close(turns % 2 == 0 and a.net or b.net, on_closed, nil)
      C.tarn_net_close(turns % 2 == 0 and b.net or a.net, on_closed, nil)
      run_until(function() return closed == 2 end)
      assert.are.equal(1, #done)
      nodes = {}
    end
    assert.are.equal(tonumber(before), tonumber(C.tarn_alloc_bytes()))
  end)

  it("lose a connection for which there is no memory, whichever allocation fails, and make the next one", function()
    local lost, n = 0, 1
    while true do
      local a, b = node(1), node(2)
      C.tarn_alloc_fail_at(n)
      local rc = C.tarn_net_connect(b.net, a.address, 1, 0, ffi.new("void *[1]"), err)
      if rc == 0 then run_until(function() return #a.ups == 1 and #b.ups == 1 or #b.downs == 1 end) end
      local hit = C.tarn_alloc_failed() == 1
      C.tarn_alloc_fail_at(0)
      if rc ~= 0 or #b.downs == 1 then
        assert.is_true(hit)
        lost = lost + 1
        local ups = #b.ups
        connect(b, a, 1)
        run_until(function() return #b.ups > ups end)
      end
      close_all()
      anchors, nodes = {}, {}
      loop = ffi.new("uint8_t[?]", tonumber(C.uv_loop_size()))
      assert.are.equal(0, C.uv_loop_init(loop))
      if not hit then break end
      n = n + (tls == ALWAYS and 29 or 1)
    end
    assert.is_true(lost >= 5, lost .. " were lost")
  end)

  it("give up on who does not answer", function()
    local main, idle = loop, ffi.new("uint8_t[?]", tonumber(C.uv_loop_size()))
    assert.are.equal(0, C.uv_loop_init(idle))
    loop = idle -- the kernel takes connections for this one, and nobody runs its loop
    local silent = node(3)
    loop = main
    local b = node(2, { timeout_ms = 100 })
    connect(b, silent)
    run_until(function() return #b.downs == 1 end)
    assert.are.equal(ETIMEDOUT, b.downs[1].code)
    table.remove(nodes, 1)
    C.tarn_net_close(silent.net, nil, nil)
    assert.are.equal(0, C.uv_run(idle, 0))
    assert.are.equal(0, C.uv_loop_close(idle))
  end)

  it("refuse each other when one of them wants TLS and the other does not, at once, and say so", function()
    for _, other in ipairs { BEYOND, ALWAYS, NEVER } do
      local same = (other == ALWAYS) == (tls == ALWAYS)
      local a, b = node(1), node(2, { tls = other })
      for _, pair in ipairs { { a, b }, { b, a } } do
        local from, to = unpack(pair)
        local ups, downs = #from.ups, #from.downs
        connect(from, to)
        run_until(function() return #from.ups > ups or #from.downs > downs end)
        assert.are.equal(same, #from.ups > ups)
        if not same then
          assert.are.equal(EPROTO, from.downs[#from.downs].code)
          assert.is_not_nil(from.downs[#from.downs].message:find("tls must be the same on both sides", 1, true))
        end
      end
    end
  end)
end

describe("nets in one loop", function() nets_with(BEYOND) end)
describe("nets in one loop, with TLS", function() nets_with(ALWAYS) end)
