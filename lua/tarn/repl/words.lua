-- Words that are no Lua, typed at the prompt: help, exit, quit; with () too. A global of that name is what it is.
local words = {}

words.HELP = [[
What is typed is Lua: an expression shows its value, a Future is fetched, >> asks for more lines.
  tarn.addprocs(2)                             two workers: processes 2 and 3
  tarn.remotecall_fetch(2, fn, ...)            run a function there; tarn.spawn(fn, ...) where its data are
  tarn.pmap(fn, { ... })                       over a list, on all workers
  ref = tarn.poolset(x, 2)   tarn.poolget(ref)   store a value there, and get it
  tarn.procs()   tarn.poolstats(2)             who is there, what it holds
Tab completes, Ctrl-C ends what runs; exit, quit or Ctrl-D end the prompt.
More: man tarn, docs/TUTORIAL.md, docs/REPL.md; docs/API.md has every function.]]

local KNOWN = { help = true, exit = true, quit = true }

---The word that a line consists of; nil if it is Lua's to run.
---@param text string
---@return "help"|"exit"|"quit"|nil
function words.of(text)
  local word = text:match("^%s*(%a+)%s*;?%s*$") or text:match("^%s*(%a+)%s*%(%s*%)%s*;?%s*$")
  if word and KNOWN[word] and rawget(_G, word) == nil then return word end
end

return words
