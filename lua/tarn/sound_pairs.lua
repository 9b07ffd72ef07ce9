-- Whether this LuaJIT compiles loops over `pairs` rightly. Those of September 2021 to April 2022, so Debian 12's libluajit-5.1-2, do not
-- (LuaJIT issue 827): where such a loop goes on as an ordinary one, being given another iterator or could not be compiled often
-- enough, code compiled before takes a key for an index, and the loop ends early, or never: elements are lost in silence. Issue 829 is
-- as old.
--
-- Found out by doing it, since versions do not say, and distributions mend: a loop is compiled together with one inside it, given another
-- iterator, and counted once more. Takes under a millisecond, half of it what any process's first trace costs.
setfenv(1, require "tarn.environment")
local opt = require "jit.opt"

local CALLS = 8 -- 5 are enough, with the bounds below
local t = { a = 1, b = 2, c = 3, d = 4 }

local function count(next, ends)
  local n = 0
  for _ in next, t do -- LuaJIT goes by the name of the iterator
    for i = 1, ends do n = n + i - i end
    n = n + 1
    if n > ends then return n end
  end
  return n
end

local function other(list, key) return next(list, key) end

local function right(calls, iterator)
  for _ = 1, calls do
    if count(iterator, 4) ~= 4 then return false end
  end
  return true
end

jit.off(other)
jit.off(right)

return function()
  opt.start("hotloop=2", "hotexit=1")
  local sound = right(CALLS, next) and right(1, other) and right(CALLS, next)
  opt.start("hotloop=56", "hotexit=10") -- LuaJIT's own
  return sound
end
