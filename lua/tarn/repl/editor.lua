-- Lines typed at a terminal, edited by readline (runtime/bind/line.c) while the loop goes on.
local below = require "tarn.below"
local core = require "tarn.core"
local task = require "tarn.task"
local uv = require "luv"

local editor = {}

local COLUMNS, SHOWN_MAX = 80, 200
local reading -- {task, complete, fed}: who waits for a line
local poll, resized

---------------------------------------------------------------------------------------------------- completion

local function common_prefix(list)
  local prefix = list[1]
  for _, text in ipairs(list) do
    while text:sub(1, #prefix) ~= prefix do prefix = prefix:sub(1, -2) end
  end
  return prefix
end

local function in_columns(list)
  local width, lines = 0, {}
  for _, text in ipairs(list) do width = math.max(width, #text + 2) end
  local across = math.max(math.floor(COLUMNS / width), 1)
  for i = 1, math.min(#list, SHOWN_MAX), across do
    local parts = {}
    for k = i, math.min(i + across - 1, #list) do parts[#parts + 1] = list[k] .. (" "):rep(width - #list[k]) end
    lines[#lines + 1] = (table.concat(parts):gsub("%s+$", ""))
  end
  if #list > SHOWN_MAX then lines[#lines + 1] = ("... (%d in all)"):format(#list) end
  return table.concat(lines, "\n")
end

-- A task: what is offered for what stands before the cursor, unless more has been typed meanwhile.
local function offer(self, before)
  local fed = self.fed
  local list, prefix = self.complete(before)
  if self ~= reading or self.fed ~= fed then return end
  if #list == 0 then
    if before:find("^%s*$") then core.line_insert("  ") end
    return
  end
  local more = common_prefix(list):sub(#prefix + 1)
  if more ~= "" or #list == 1 then return core.line_insert(more) end
  core.line_hide()
  io.stdout:write(in_columns(list), "\n")
  io.stdout:flush()
  core.line_redraw()
end

---------------------------------------------------------------------------------------------------- reading

local function redraw() core.line_redraw() end

local function stop()
  poll:stop()
  below.remove(redraw)
  reading = nil
end

local function answer(result)
  local self = reading
  stop()
  task.wake(self.task, true, result)
end

local function on_readable(problem)
  local self = reading
  if not self then return end
  self.fed = self.fed + 1
  if problem then return answer { ended = true } end
  local what, text = core.line_feed()
  if what == "line" then return answer { text = text } end
  if what == "end" then return answer { ended = true } end
  if what == "tab" then task.spawn({ done = function() end }, offer, self, text) end
end

-- Ready for editor.read; false: there is no readline here, or no terminal.
function editor.open()
  local fd = core.line_open()
  if not fd then return false end
  poll, resized = uv.new_poll(fd), uv.new_signal()
  resized:start("sigwinch", core.line_resize)
  return true
end

local function cut_short()
  core.line_discard()
  stop()
end

---The next line; nil at the end of the input, false when it was discarded. Suspends.
---@param prompt string
---@param complete fun(before: string): string[], string see complete.candidates; may suspend
function editor.read(prompt, complete)
  local self = { task = task.check("tarn's prompt"), complete = complete, fed = 0 }
  reading = self
  core.line_prompt(prompt)
  below.add(redraw)
  poll:start("r", on_readable)
  local ok, result = task.wait(cut_short)
  if not ok then error(result, 0) end
  if result.discarded then return false end
  return result.text
end

-- Forget what has been typed (Ctrl-C): editor.read gives false.
function editor.discard()
  if not reading then return end
  io.stdout:write("^C")
  io.stdout:flush()
  core.line_discard()
  io.stdout:write("\n")
  io.stdout:flush()
  answer { discarded = true }
end

function editor.close()
  if not poll then return end
  resized:close()
  poll:close()
  core.line_close()
  poll = nil
end

return editor
