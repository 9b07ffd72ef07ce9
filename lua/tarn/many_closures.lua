-- For a function that makes closures for users to call. LuaJIT compiles a call of one of the first two closures of the same code for that
-- closure alone, and what is compiled keeps it and its upvalues (docs/REFERENCES.md). When three have been made it no longer does.
local ENOUGH = 3

-- Call make(...) so often.
return function(make, ...)
  for _ = 1, ENOUGH do make(...) end
end
