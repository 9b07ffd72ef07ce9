-- Which global that is nil has made an operation fail, where LuaJIT's message does not name it: comparisons, arguments of functions written
-- in C, the limits of a `for`. The bytecode of the line is looked at: what of such an operation's operands was last read from a global.
local util = require "jit.util"
local find = string.find

local nil_global = {}

local function opcode(fn, pc)
  local code = util.funcbc(fn, pc)
  return code and code % 256
end

-- Opcodes as this LuaJIT has them.
local GGET = opcode(loadstring("return x"), 1)
local COMPARE_LAST = 3 -- ISLT, ISGE, ISLE, ISGT are the first four
local CALL = opcode(loadstring("x()\nreturn 1"), 2)
local FORI = opcode(loadstring("for i = 1, 2 do end"), 4)

local DST, BASE = 1, 2 -- what the lower three bits of an instruction's mode say of its operand A

-- The operands of an instruction.
local function parts(code) return math.floor(code / 256) % 256, math.floor(code / 65536) % 65536 end

-- The name of the global that the register holds before pc; nil if it holds something else.
local function global_in(fn, pc, register)
  for at = pc - 1, 1, -1 do
    local code, mode = util.funcbc(fn, at)
    local a, d = parts(code)
    local kind = mode % 8
    if kind == DST and a == register then
      return code % 256 == GGET and util.funck(fn, -d - 1) or nil
    elseif kind == BASE and a <= register then
      return nil
    end
  end
end

-- The registers that an operation of the kind that failed has read, if the instruction is one.
local function operands(code, kind, argument)
  local a, d = parts(code)
  local op = code % 256
  if kind == "compare" and op <= COMPARE_LAST then return { a, d } end
  if kind == "for" and op == FORI then return { a, a + 1, a + 2 } end
  if kind == "argument" and op == CALL then return { a + 1 + argument } end
  return {}
end

local function kind_of(message)
  local argument = message:match("bad argument #(%d+) to .* got n[io]")
  if argument then return "argument", tonumber(argument) end
  if message:find("attempt to compare ", 1, true) then return message:find("nil", 1, true) and "compare" end
  return message:find("'for' %a+ must be a number") and "for"
end

-- The user's function that failed at the level above, where the message says it was.
local function failed_function(message, level)
  for at = level + 2, level + 4 do
    local info = debug.getinfo(at, "Slf")
    if not info then return end
    if info.what ~= "C" and info.currentline > 0 then
      local place = ("%s:%d: "):format(info.short_src, info.currentline)
      return message:sub(1, #place) == place and info or nil
    end
  end
end

local function name_at(info, kind, argument)
  local environment = debug.getfenv(info.func)
  for pc = 1, math.huge do
    local code = util.funcbc(info.func, pc)
    if not code then return end
    if util.funcinfo(info.func, pc).currentline == info.currentline then
      for _, register in ipairs(operands(code, kind, argument)) do
        local name = global_in(info.func, pc, register)
        if name and environment[name] == nil then return name end
      end
    end
  end
end

local noted, name_noted

---To be called in an error handler: look at what has failed. level: of the function that has, as the handler sees it (2).
function nil_global.note(e, level)
  if type(e) ~= "string" or find(e, "stack overflow", -14, true) then return end -- there is no room for more
  local kind, argument = kind_of(e)
  if not kind then return end
  local info = failed_function(e, level)
  local ok, name = pcall(name_at, info or {}, kind, argument)
  noted, name_noted = e, info and ok and name or nil
end

---The global that was nil when that was raised, if one was: its message says where, so another error of the same text is the same.
function nil_global.of(e) return e == noted and name_noted or nil end

return nil_global
