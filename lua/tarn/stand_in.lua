-- Objects that stand for a value: who uses one as if it were the value is told how to get that.
local errors = require "tarn.errors"

local stand_in = {}

local function misuse(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end

-- What metatable's objects cannot do, and what methods lacks, become errors. what, how: "a Future", "future:fetch()". absent: names of
-- fields that may be nil, name -> true.
function stand_in.guard(metatable, methods, what, how, absent)
  local function calculate() misuse("%s is no number: %s gives its value", what, how) end
  for event in ("add sub mul div mod pow unm"):gmatch("%a+") do metatable["__" .. event] = calculate end
  function metatable.__concat() misuse("%s is no text: %s gives its value", what, how) end
  function metatable.__len() misuse("%s has no length: %s gives its value", what, how) end
  function metatable.__call() misuse("%s is no function: %s gives its value", what, how) end
  setmetatable(methods, {
    __index = function(_, key)
      if absent and absent[key] then return nil end
      local name = type(key) == "string" and "'" .. key .. "'" or "[" .. tostring(key) .. "]"
      misuse("%s has no %s: %s gives its value", what, name, how)
    end,
  })
end

return stand_in
