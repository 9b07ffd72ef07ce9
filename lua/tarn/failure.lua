-- What becomes of an error raised in a job: made into a tarn error with process and traceback, fit to travel; and made readable.
local core = require "tarn.core"
local errors = require "tarn.errors"
local nil_global = require "tarn.nil_global"
local suggest = require "tarn.suggest"

local failure = {}

-- tostring that cannot fail.
function failure.tostring(x)
  local ok, text = pcall(tostring, x)
  if ok and type(text) == "string" then return text end
  return ("(an error of type %s whose tostring fails%s)"):format(type(x), type(text) == "string" and ": " .. text or "")
end

-- What a handler of xpcall's was given. Where compiled code has run out of stack, LuaJIT may have too little left to run a handler in: it
-- says this instead.
function failure.raised(e) return e == "error in error handling" and "stack overflow (error in error handling)" or e end

-- A wrong argument, for a message: "nil", "the string 'x'", "1.5".
function failure.describe(x)
  if type(x) == "string" then return ("the string '%s'"):format(#x > 40 and x:sub(1, 37) .. "..." or x) end
  if type(x) == "number" or type(x) == "nil" or type(x) == "boolean" then return tostring(x) end
  return "a " .. type(x)
end

local DRIVER = 1

-- A driver's global that a job used elsewhere: LuaJIT's message names it, or what failed was looked at; ours says what to do.
local function explain_global(e, message)
  if core.myid() == DRIVER then return message end
  local before, name = message:match("^(.-)attempt to [%w ]- global '([^']*)' %(a nil value%)")
  if not name then
    name = nil_global.of(e)
    before = name and message .. "; "
  end
  if not name then return message end
  return ("%sglobal '%s' is nil on process %d: make it local, or use tarn.everywhere"):format(before, name, core.myid())
end

-- A misspelt function of tarn's.
local function explain_field(message)
  local name = message:match("attempt to call field '([^']*)' %(a nil value%)")
  local tarn = package.loaded.tarn
  if not name or type(tarn) ~= "table" or tarn[name] ~= nil then return message end
  local near = suggest.near(name, tarn)
  return near and ("%s; did you mean tarn.%s?"):format(message, near) or message
end

-- Has a value a text of its own, for people?
local function has_text(x)
  if type(x) ~= "table" then return true end
  local metatable = debug.getmetatable(x)
  return type(metatable) == "table" and rawget(metatable, "__tostring") ~= nil
end

---What was raised, as a text for people: a misspelt function with what may be meant, a table with what is in it.
---@param e any
---@return string
function failure.readable(e)
  if type(e) == "string" then return explain_field(e) end
  if not has_text(e) then return "an error that is a table: " .. require("tarn.repl.show").value(e) end
  return failure.tostring(e)
end

local own_files = (errors.home or "") .. "lua/tarn/"

-- Without the lines of tarn's own, which are around and between the user's, nor those of what they have called in C.
function failure.trim(traceback)
  if type(traceback) ~= "string" then return traceback end
  local lines = {}
  for line in traceback:gmatch("[^\n]+") do
    local own = line:find(own_files, 1, true) or line:find("in function 'xpcall'", 1, true) or line:find("in function 'raise'", 1, true)
      or line:find("[C]: at 0x", 1, true)
    if not own then
      lines[#lines + 1] = line
    elseif lines[#lines] and lines[#lines]:find("^%s*%[C%]: ") then
      lines[#lines] = nil
    end
  end
  return table.concat(lines, "\n")
end

-- A tarn error for whatever was raised here in a job.
function failure.of(e, traceback)
  traceback = failure.trim(traceback)
  if type(traceback) == "string" and not traceback:find("\n", 1, true) then traceback = nil end -- a heading alone
  if errors.iserror(e) then
    e.pid = e.pid or core.myid()
    e.traceback = e.traceback or traceback
    return e
  end
  local message = failure.readable(e)
  if type(e) == "string" then message = explain_global(e, message) end
  return errors.new("RemoteError", message, { pid = core.myid(), traceback = traceback, cause = e })
end

-- The same, and it can travel: what cannot becomes text.
function failure.outgoing(e, traceback)
  e = failure.of(e, traceback)
  if pcall(core.encode, e) then return e end
  local plain = { pid = e.pid, path = e.path, needed = e.needed, available = e.available }
  if e.traceback ~= nil then plain.traceback = failure.tostring(e.traceback) end
  if e.cause ~= nil then plain.cause = failure.tostring(e.cause) end
  return errors.new(e.kind, failure.tostring(e.message), plain)
end

-- An error that came with a response. C's own are plain tables.
function failure.received(e)
  if errors.iserror(e) then return e end
  if type(e) == "table" and type(e.kind) == "string" then
    local message = failure.tostring(e.message)
    return errors.new(e.kind, message, e)
  end
  return errors.new("RemoteError", failure.tostring(e), { cause = e })
end

-- For people: all there is to say, over several lines.
function failure.text(e, traceback)
  local text = failure.readable(e)
  if errors.iserror(e) and type(e.traceback) == "string" then
    -- tostring has the remote one, if any.
    if not text:find(e.traceback, 1, true) then text = text .. "\n" .. e.traceback end
    return text
  end
  traceback = failure.trim(traceback)
  return traceback and traceback:find("\n", 1, true) and text .. "\n" .. traceback or text
end

return failure
