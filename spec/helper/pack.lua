-- MessagePack by hand, for what speaks to a process as another program would: every function gives bytes.
local pack = {}

local function be(n, bytes)
  local s = ""
  for _ = 1, bytes do
    s = string.char(n % 256) .. s
    n = math.floor(n / 256)
  end
  return s
end

local function sized(n, short, medium, long)
  if short and n < 256 then return string.char(short) .. be(n, 1) end
  if n < 65536 then return string.char(medium) .. be(n, 2) end
  return string.char(long) .. be(n, 4)
end

function pack.int(n)
  if n < 0 then return "\211\255\255\255\255" .. be(n + 4294967296, 4) end
  if n < 128 then return string.char(n) end
  if n < 65536 then return "\205" .. be(n, 2) end
  return n < 4294967296 and "\206" .. be(n, 4) or "\207" .. be(n, 8)
end

function pack.str(s) return #s < 32 and string.char(160 + #s) .. s or sized(#s, 217, 218, 219) .. s end
function pack.bin(s) return sized(#s, 196, 197, 198) .. s end
function pack.ext(kind, s) return sized(#s, 199, 200, 201) .. string.char(kind) .. s end
function pack.array(...) return sized(select("#", ...), nil, 220, 221) .. table.concat { ... } end
pack.null, pack.no, pack.yes = "\192", "\194", "\195"

-- {key, bytes, key, bytes, ...}
function pack.map(list)
  local parts = {}
  for i, x in ipairs(list) do parts[i] = i % 2 == 1 and pack.str(x) or x end
  return sized(#list / 2, nil, 222, 223) .. table.concat(parts)
end

function pack.request(msgid, method, ...) return pack.array(pack.int(0), pack.int(msgid), pack.str(method), pack.array(...)) end
function pack.response(msgid, err, result) return pack.array(pack.int(1), pack.int(msgid), err, result) end
function pack.notice(method, ...) return pack.array(pack.int(2), pack.str(method), pack.array(...)) end

return pack
