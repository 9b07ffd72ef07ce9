-- For a loop of ours that calls a function of the user's, and is to be compiled. What LuaJIT compiles of a loop keeps the functions that it
-- calls, with their upvalues (docs/REFERENCES.md), and after a hundred of them it compiles the loop for no other. So each call gets a copy
-- of the loop, which goes with what was compiled of it. That costs about a microsecond, and compiling each.

-- A function that does what fn does, by a copy of its code each time. fn has no upvalues.
return function(fn)
  assert(debug.getinfo(fn, "u").nups == 0, "own_code: a function with upvalues")
  local code = string.dump(fn)
  return function(...) return loadstring(code)(...) end
end
