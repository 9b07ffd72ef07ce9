local errors = require "tarn.errors"

-- fn(...) must raise an error of tarn's of that kind; returns it.
return function(kind, fn, ...)
  local ok, e = pcall(fn, ...)
  if ok then error(("a %s was expected, but the call returned"):format(kind), 2) end
  if not errors.iserror(e, kind) then error(("a %s was expected, not: %s"):format(kind, tostring(e)), 2) end
  return e
end
