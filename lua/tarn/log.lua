-- tarn.log: one line on standard error with time, process and level, from the level that TARN_LOG names.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"

local LEVELS = { debug = true, info = true, warn = true, error = true }

-- level: debug, info, warn or error; fmt and the rest as for string.format.
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
