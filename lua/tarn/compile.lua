-- Run by the build: `tarn compile.lua OUT ROOT FILE...` compiles the modules ROOT/lua/... (FILE is relative to ROOT) into one file of
-- bytecode, which runtime/host/compiled.c reads at start: parsing them would be half of it. Format: a line with the version of LuaJIT; a
-- line for each module: name, file, its time in seconds, its size, where its bytecode begins behind the index, how long that is; an empty
-- line; the bytecode and a zero at the end. The name of the source, known only where it is loaded, has been taken out of the bytecode.
local uv = require "luv"

local out, root = arg[1], arg[2]
local index, pieces, at = { jit.version }, {}, 0

-- A dump is "\27LJ", a version, flags, the length of the name and the name, each number in 7 bits a byte; flags are less than 128.
local function without_name(bytecode)
  assert(bytecode:sub(1, 4) == "\27LJ\2" and bytecode:byte(5) < 128, "bytecode of another kind")
  local length, shift, i = 0, 1, 6
  repeat
    local byte = bytecode:byte(i)
    length, shift, i = length + byte % 128 * shift, shift * 128, i + 1
  until byte < 128
  return bytecode:sub(1, 5) .. bytecode:sub(i + length)
end

for i = 3, #arg do
  local path = root .. "/" .. arg[i]
  local stat, piece = assert(uv.fs_stat(path)), without_name(string.dump(assert(loadfile(path))))
  local name = arg[i]:gsub("^lua/", ""):gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
  index[#index + 1] = ("%s %s %d %d %d %d"):format(name, arg[i], stat.mtime.sec, stat.size, at, #piece)
  pieces[#pieces + 1] = piece
  at = at + #piece
end

local file = assert(io.open(out, "wb"))
assert(file:write(table.concat(index, "\n"), "\n\n", table.concat(pieces), "\0"))
assert(file:close())
