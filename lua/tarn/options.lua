-- Tables of options that users write: a name that nobody knows is an error, which says what may be meant.
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local suggest = require "tarn.suggest"

local options = {}

---Check the names in a table of options; nil is an empty one. Raises ArgumentError.
---@param opts any
---@param known table name -> anything
---@param what string the function, for the message
---@return table opts
function options.check(opts, known, what)
  if opts == nil then return {} end
  if type(opts) ~= "table" then
    errors.raise("ArgumentError", ("%s: options are a table, not %s"):format(what, failure.describe(opts)))
  end
  for name in pairs(opts) do
    if known[name] == nil then
      errors.raise("ArgumentError", ("%s: unknown option '%s'%s"):format(what, tostring(name), suggest.instead(name, known)))
    end
  end
  return opts
end

return options
