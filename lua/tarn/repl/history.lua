-- What has been typed before: a file of the user's own, one entry a line, in the XDG state directory. Lines that begin with a space are not
-- kept. What is wrong with the file is said once, and the prompt goes on without it.
local core = require "tarn.core"
local uv = require "luv"

local history = {}

local KEPT, REWRITTEN_AT = 1000, 2000 -- entries
local FILE_MODE, FOLDER_MODE = tonumber("600", 8), tonumber("700", 8)

local function path()
  local state, home = os.getenv("XDG_STATE_HOME"), os.getenv("HOME")
  if not state or state:sub(1, 1) ~= "/" then state = home and home ~= "" and home .. "/.local/state" end
  return state and state .. "/tarn/history"
end
history.path = path

local function make_folders(folder)
  if uv.fs_stat(folder) then return true end
  local parent = folder:match("^(.+)/[^/]+$")
  if parent then make_folders(parent) end
  return uv.fs_mkdir(folder, FOLDER_MODE)
end

local function escape(text) return (text:gsub("[\\\n]", { ["\\"] = "\\\\", ["\n"] = "\\n" })) end
local function unescape(line) return (line:gsub("\\(.)", { ["\\"] = "\\", n = "\n" })) end

local function write_all(fd, text)
  local n, problem = uv.fs_write(fd, text, -1)
  return n == #text or nil, problem or "it was not written whole"
end

-- Only the last entries, under the same name, whole or not at all.
local function rewrite(name, lines)
  local fd, new = uv.fs_mkstemp(name .. "-XXXXXX") -- 0600
  if not fd then return nil, new end
  local ok, problem = write_all(fd, table.concat(lines, "\n", #lines - KEPT + 1) .. "\n")
  uv.fs_close(fd)
  if ok then ok, problem = uv.fs_rename(new, name) end
  if not ok then uv.fs_unlink(new) end
  return ok, problem
end

local function give_up(name, problem)
  history.fd = nil
  io.stderr:write(("tarn: no history is kept: %s: %s\n"):format(name, tostring(problem):gsub("^%u+: ", "")))
end

-- Load it, and keep what is typed from now on.
function history.open()
  local name = path()
  if not name then return end
  local ok, problem = make_folders(name:match("^(.+)/[^/]+$"))
  if not ok then return give_up(name, problem) end
  local lines, file = {}, io.open(name, "rb")
  if file then
    for line in file:lines() do lines[#lines + 1] = line end
    file:close()
    if #lines > REWRITTEN_AT then
      ok, problem = rewrite(name, lines)
      if not ok then return give_up(name, problem) end
    end
  end
  for i = math.max(#lines - KEPT + 1, 1), #lines do
    if not lines[i]:find("%z") then core.line_history(unescape(lines[i])) end
  end
  history.fd, problem = uv.fs_open(name, "a", FILE_MODE)
  if history.fd then uv.fs_chmod(name, FILE_MODE) else give_up(name, problem) end
end

-- What was typed last, as long as it is not what was typed before.
function history.add(text)
  if text == history.last or text:find("^%s") or text:find("%z") then return end
  history.last = text
  core.line_history(text)
  if not history.fd then return end
  local ok, problem = write_all(history.fd, escape(text) .. "\n")
  if not ok then give_up(path(), problem) end
end

function history.close()
  if history.fd then uv.fs_close(history.fd) end
  history.fd = nil
end

return history
