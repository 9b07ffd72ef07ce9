-- MessagePack by hand, for what speaks to a process as another program would: every function gives bytes; pack.read takes them.
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

local function number(s, at, size)
  local n = 0ULL
  for i = at, at + size - 1 do n = n * 256 + s:byte(i) end
  return n < 2ULL ^ 53 and tonumber(n) or n
end

-- code -> kind, bytes of its length or of itself
local FORMS = { [0xc4] = { "bytes", 1 }, [0xc5] = { "bytes", 2 }, [0xc6] = { "bytes", 4 },
  [0xc7] = { "ext", 1 }, [0xc8] = { "ext", 2 }, [0xc9] = { "ext", 4 }, [0xca] = { "skip", 4 }, [0xcb] = { "skip", 8 },
  [0xcc] = { "int", 1 }, [0xcd] = { "int", 2 }, [0xce] = { "int", 4 }, [0xcf] = { "int", 8 },
  [0xd0] = { "skip", 1 }, [0xd1] = { "skip", 2 }, [0xd2] = { "skip", 4 }, [0xd3] = { "skip", 8 },
  [0xd9] = { "bytes", 1 }, [0xda] = { "bytes", 2 }, [0xdb] = { "bytes", 4 },
  [0xdc] = { "array", 2 }, [0xdd] = { "array", 4 }, [0xde] = { "map", 2 }, [0xdf] = { "map", 4 } }

local function read_many(s, at, count, map)
  local t, x = {}, nil
  for i = 1, count do
    local key = i
    if map then key, at = pack.read(s, at) end
    if at then x, at = pack.read(s, at) end
    if not at then return nil, nil end
    t[key] = x
  end
  return t, at
end

-- The value that begins at s[at], and where the next does; nil, nil: it is not whole. Extensions are {ext = kind, bytes = ...}; negative
-- and fractional numbers are nil.
function pack.read(s, at)
  local code = s:byte(at)
  if not code then return nil, nil end
  if code < 0x80 then return code, at + 1 end
  if code < 0x90 then return read_many(s, at + 1, code % 16, true) end
  if code < 0xa0 then return read_many(s, at + 1, code % 16, false) end
  local kind, size, length = "bytes", 0, code % 32
  if code >= 0xc0 then
    if code == 0xc2 or code == 0xc3 then return code == 0xc3, at + 1 end
    if code == 0xc0 or code >= 0xe0 then return nil, at + 1 end
    if code >= 0xd4 and code <= 0xd8 then
      kind, length = "ext", 2 ^ (code - 0xd4)
    else
      kind, size = unpack(FORMS[code])
      if #s < at + size then return nil, nil end
      length = number(s, at + 1, size)
    end
  end
  at = at + 1 + size
  if kind == "skip" then return nil, at end
  if kind == "int" then return length, at end
  if kind == "array" or kind == "map" then return read_many(s, at, length, kind == "map") end
  local head = kind == "ext" and 1 or 0
  if #s < at + head + length - 1 then return nil, nil end
  local bytes = s:sub(at + head, at + head + length - 1)
  return kind == "ext" and { ext = s:byte(at), bytes = bytes } or bytes, at + head + length
end

return pack
