-- Writes the seeds of the targets framer, greet and request: tarn spec/fuzz/seeds_net.lua. The heads of these files say what an input
-- is.
package.path = "./?.lua;" .. package.path
local ffi = require "ffi"
local pack = require "spec.helper.pack"
local int, str, bin, request, response, notice = pack.int, pack.str, pack.bin, pack.request, pack.response, pack.notice

local PROOF, TIE, SECRET = bin(("P"):rep(32)), bin(("T"):rep(16)), str(("S"):rep(64))

local function write(target, name, bytes)
  os.execute("mkdir -p spec/fuzz/corpus/" .. target)
  local file = assert(io.open(("spec/fuzz/corpus/%s/seed-%s"):format(target, name), "wb"))
  file:write(bytes)
  file:close()
end

local function hello(role, id, more)
  local fields = { "version", str "0.1.0", "role", str(role), "id", int(id), "incarnation", int(9), "os_pid", int(4),
    "want", pack.array(int(1), int(0)), "nonce", bin(("n"):rep(32)), "bytecode", str "gc64", "host", str "there" }
  for _, x in ipairs(more or {}) do fields[#fields + 1] = x end
  return request(1, "hello", pack.map(fields))
end
local function welcome(id)
  return response(1, pack.null, pack.map { "id", int(id), "incarnation", int(9), "os_pid", int(4), "your_id", int(0),
    "your_incarnation", int(77), "nonce", bin(("m"):rep(32)), "proof", PROOF, "host", str "there" })
end
local prove, bulk = request(2, "prove", PROOF), hello("bulk", 3, { "tie", TIE })
local ping = request(7, "ping")
local function blocks(frame, ...)
  local sizes, bytes = "", ""
  for _, n in ipairs { ... } do
    sizes = sizes .. string.char(n % 256, math.floor(n / 256), 0, 0, 0, 0, 0, 0)
    bytes = bytes .. ("b"):rep(n)
  end
  local count = select("#", ...)
  return bin("TBLK" .. string.char(#frame, 0, 0, 0, count, 0, 0, 0, 0, 0, 0, 0) .. sizes .. frame .. bytes)
end

local accept, connect, join = "\0\0", "\1\0", "\3\5"
write("greet", "control", accept .. hello("control", 3) .. prove .. ping)
write("greet", "pieces", "\0\3" .. hello("control", 3) .. prove .. ping .. notice("net.bulk"))
write("greet", "join", accept .. hello("control", 0) .. prove .. ping)
write("greet", "foreign", accept .. request(1, "auth.secret", SECRET) .. ping)
write("greet", "wrong", accept .. request(1, "auth.secret", str(("0"):rep(64))))
write("greet", "unproven", accept .. ping)
write("greet", "bulk", accept .. hello("control", 3) .. prove .. pack.null .. bulk .. prove .. blocks(ping, 5, 100, 0)
  .. blocks(ping, 300) .. blocks(ping))
write("greet", "welcomed", connect .. welcome(1) .. response(2, pack.null, pack.yes) .. ping)
write("greet", "joined", join .. welcome(1) .. response(2, pack.null, pack.map { "your_id", int(2), "your_incarnation", int(8) }) .. ping)
write("greet", "refused", connect .. response(1, str "AuthError: no", pack.null))
write("greet", "many", accept .. pack.null .. pack.null .. hello("control", 3) .. prove)

-- A stranger that speaks TLS, without the key: what a connector says first, and an acceptor's answer to it that never was.
ffi.cdef [[
typedef struct tarn_buf { uint8_t *data; size_t size, capacity, limit; } tarn_buf_t;
int tarn__tls_context_create(const uint8_t *secret, uint64_t rekey_records, void **out, void *err);
int tarn__tls_create(void *c, bool connector, void **out);
int tarn__tls_handshake(void *t, void *err);
tarn_buf_t *tarn__tls_output(void *t);
]]
local function client_hello()
  local context, tls = ffi.new "void *[1]", ffi.new "void *[1]"
  assert(ffi.C.tarn__tls_context_create(("x"):rep(32), 0, context, nil) == 0 and ffi.C.tarn__tls_create(context[0], true, tls) == 0)
  ffi.C.tarn__tls_handshake(tls[0], nil)
  local out = ffi.C.tarn__tls_output(tls[0])
  return ffi.string(out.data, out.size)
end
local SERVER_HELLO = "\22\3\3\0\88\2\0\0\84\3\3" .. ("r"):rep(32)
  .. "\0\19\1\0\0\44\0\43\0\2\3\4\0\41\0\2\0\0\0\51\0\36\0\29\0\32" .. ("k"):rep(32)
write("greet", "tls", "\4\0" .. bin(client_hello()) .. bin("\20\3\3\0\1\1\23\3\3\0\32" .. ("x"):rep(32)))
write("greet", "tls-pieces", "\4\7" .. bin(client_hello()))
write("greet", "tls-answered", "\5\0" .. bin(SERVER_HELLO))
write("greet", "tls-plain", "\4\0" .. hello("control", 3) .. prove)
write("greet", "tls-unwanted", accept .. bin(client_hello()))
write("greet", "tls-refused", "\5\0" .. response(1, str "ProtocolError: no", pack.null))

for name, bytes in pairs { requests = hello("control", 1) .. ping .. notice("member.lost", int(3), str "gone"),
  answers = welcome(2) .. response(9, str "no", pack.null), values = request(4294967295, "pool.set", int(-5), bin(("x"):rep(300)),
  pack.ext(33, pack.array(int(1), int(2 ^ 40))), "\203\64\9\33\251\84\68\45\24", pack.map { "k", pack.map {} }) } do
  write("framer", name, "\0\0" .. bytes)
  write("framer", name .. "-pieces", "\7\200" .. bytes)
end

local TO_DRIVER, TO_WORKER, FOREIGN = "\0", "\1", "\2"
local ref = tarn.poolset { 1 }
local plain, with_ref = bin(tarn.encode { 1, "x" }), bin(tarn.encode { ref, ref })
local small, large = tarn.encode(tarn.array("double", 3)), tarn.encode(tarn.array("double", 9000))
local function u32(bytes, at)
  local a, b, c, d = bytes:byte(at, at + 3)
  return a + 256 * (b + 256 * (c + 256 * d))
end
local function front(image) -- of an image whose blocks stand elsewhere: docs/FORMAT.md
  local size = 32 + u32(image, 9) + 8 * u32(image, 13) + u32(image, 17)
  return bin(image:sub(1, 5) .. string.char(image:byte(6) + 1) .. image:sub(7, size))
end
local function sizes(...) return pack.ext(0x7f, pack.array(...)) end
local function transfer(...) return pack.ext(0x21, pack.array(...)) end
local function mark(byte) return "\207" .. string.char(byte):rep(8) end
local function loan_of(number, spill_dev, ...)
  return pack.ext(0x20, pack.array(int(number), int(200), mark(0xd1), mark(0xd2), int(0), bin(("t"):rep(16)), int(202), spill_dev,
    mark(0xd4), front(large), pack.array(...)))
end
local function loan(number, ...) return loan_of(number, mark(0xd3), ...) end
local N = pack.null
local address = str "127.0.0.1:9"
local joined = notice("member.joined", address, int(5000), int(0))

local requests = {
  ping = ping, stop = request(3, "stop"), stats = request(3, "pool.stats"), limits = request(3, "pool.limits", int(2 ^ 23), N),
  ["get-all"] = request(3, "pool.get_all", int(1), int(1), int(1), int(2), int(9), int(3)) .. request(4, "pool.get_all", int(1)),
  ["set-all"] = request(3, "pool.set_all", bin(pack.array(int(1), str "two", pack.null))) .. request(4, "pool.set_all", bin(small)),
  ["delete-all"] = request(3, "pool.delete_all", int(1), int(1), int(1), int(2), int(9), int(3)) .. request(4, "pool.delete_all", int(1)),
  get = request(3, "pool.get", int(1)) .. request(4, "pool.get", int(2), int(1)) .. request(5, "pool.get", str "1:3"),
  ["get-ref"] = request(3, "pool.get", int(4)) .. notice("refs.got", int(1)) .. notice("refs.drop", int(1), int(1), int(1)),
  ["get-loan"] = request(3, "pool.get", int(2)) .. notice("lend.ok", int(1), int(0)) .. request(5, "lend.fetch", int(1), pack.no)
    .. notice("lend.end", int(1)),
  set = request(3, "pool.set", int(0), plain) .. request(4, "pool.set", int(3), bin(small)) .. request(5, "pool.get", int(5)),
  ["set-ref"] = request(3, "pool.set", int(0), with_ref, transfer(int(5))) .. request(4, "pool.delete", int(5)),
  ["set-bulk"] = sizes(int(72000)) .. request(3, "pool.set", int(0), front(large)) .. request(4, "pool.get", int(5)),
  delete = request(3, "pool.delete", int(1)) .. request(3, "pool.delete", int(3), int(1)) .. notice("pool.delete", int(2)),
  call = request(3, "call", plain) .. notice("call", with_ref, transfer(int(7), int(1), int(1), int(2), int(1))),
  ["call-loan"] = request(3, "call", loan(1, int(4096 * 2)))
    .. notice("lend.moved", int(202), mark(0xd3), mark(0xd4), int(1), int(0), int(0)) .. notice("lend.check", int(1), int(2)),
  ["call-loan-file"] = request(3, "call", loan(2, int(4096 * 2 + 1))),
  ["call-loan-malformed"] = request(3, "call", loan(2, int(4095))),
  ["call-loan-copy"] = request(3, "call", loan_of(2, int(1), int(4096 * 2 + 1)), transfer(int(3)))
    .. request(4, "call", loan_of(2, int(1), int(4096 * 2))) .. sizes(int(72000)) .. response(100, N, front(large))
    .. response(101, bin(tarn.encode { kind = "KeyError" }), N),
  ["call-bulk"] = sizes(int(24)) .. request(3, "call", front(small)),
  eval = request(3, "eval", plain) .. request(4, "serializer.get", str "point") .. request(5, "nothing"),
  answers = response(1, N, plain) .. response(2, bin(tarn.encode { kind = "KeyError" }), N) .. response(3, transfer(int(9)), with_ref)
    .. sizes(int(24)) .. response(4, N, front(small)),
  holds = notice("refs.hold", int(1), int(1), int(1), int(4)) .. notice("refs.drop", int(1), int(2), int(2))
    .. notice("refs.sync", int(2), int(1), int(1), int(1)) .. notice("refs.held", int(1)),
  ["holds-many"] = notice("refs.hold", int(1), int(1), int(0), int(4294967295)),
  fence = notice("refs.fence", int(1), int(7), int(8)) .. notice("refs.fenced", int(1)) .. notice("refs.ask", int(1), int(2))
    .. notice("refs.collect") .. notice("refs.done", int(1)),
  moved = request(3, "call", with_ref, transfer(int(7))) .. notice("refs.moved", int(0), int(2), int(1), int(1), int(1))
    .. notice("refs.told", int(0), int(1), int(1), int(1)),
  members = notice("member.welcome", int(3), int(5), int(77), address, int(4), int(6), int(78), str "")
    .. notice("member.up", int(5), int(5), int(5), str "[::1]:80") .. notice("member.listen", str "127.0.0.1:0")
    .. notice("member.alive", int(100), pack.yes, int(5000), int(70), int(7), pack.no) .. notice("member.parted", int(3), pack.yes)
    .. notice("member.parted", int(3), pack.no) .. notice("member.moved", str "[::1]:81")
    .. notice("member.lost", int(3), str "gone") .. notice("member.gone", int(9)),
}
for name, bytes in pairs(requests) do
  write("request", name, TO_DRIVER .. joined .. bytes)
  write("request", name .. "-worker", TO_WORKER .. bytes)
end
write("request", "foreign", FOREIGN .. request(1, "pool.set", pack.map { "a", int(1) }) .. request(2, "pool.get", str "1:5")
  .. request(3, "pool.delete", str "1:5") .. request(4, "call", str "string.rep", pack.array(str "x", int(3))))
write("request", "foreign-refs", FOREIGN .. request(1, "pool.get", str "1:4") .. request(2, "pool.get", str "1:2")
  .. request(2, "eval", str "return 1") .. request(2, "pool.stats") .. request(9, "stop") .. notice("pool.delete", str "1:1"))
