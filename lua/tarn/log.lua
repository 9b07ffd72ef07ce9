-- tarn.log: one line on standard error with time, process and level, from the level that TARN_LOG names.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"

local LEVELS = { debug = true, info = true, warn = true, error = true }

---One line on standard error: time, process, level, text. Shown from the level on that TARN_LOG names (warn).
---@param level "debug"|"info"|"warn"|"error"
---@param fmt any a format as for string.format, or any value
---@param ... any
local function log(level, fmt, ...)
  if not LEVELS[level] then
    errors.raise("ArgumentError", "tarn.log: a level is debug, info, warn or error, not " .. failure.describe(level))
  end
  local text = fmt
  if type(fmt) ~= "string" then
    text = failure.tostring(fmt)
  elseif select("#", ...) > 0 then
    local ok, result = pcall(string.format, fmt, ...)
    if not ok then errors.raise("ArgumentError", "tarn.log: " .. result) end
    text = result
  end
  core.log(level, text)
end

return { log = log }
