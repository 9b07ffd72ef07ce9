-- Writes the seeds of the targets framer and greet: tarn spec/fuzz/seeds_net.lua. See the heads of these files for what an input is.
package.path = "./?.lua;" .. package.path
local pack = require "spec.fuzz.lib.pack"
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

for name, bytes in pairs { requests = hello("control", 1) .. ping .. notice("member.lost", int(3), str "gone"),
  answers = welcome(2) .. response(9, str "no", pack.null), values = request(4294967295, "pool.set", int(-5), bin(("x"):rep(300)),
  pack.ext(33, pack.array(int(1), int(2 ^ 40))), "\203\64\9\33\251\84\68\45\24", pack.map { "k", pack.map {} }) } do
  write("framer", name, "\0\0" .. bytes)
  write("framer", name .. "-pieces", "\7\200" .. bytes)
end
