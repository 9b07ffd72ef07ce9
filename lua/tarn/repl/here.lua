-- A prompt's session in this process.
local complete = require "tarn.repl.complete"
local evaluate = require "tarn.repl.evaluate"

local here = {}

here.complete = complete.candidates

---Run what was typed. In a task of its own, which future:cancel() ends.
---@param source string it compiles
---@return boolean ok
---@return string|nil text to be shown
function here.run(source) return evaluate.text((evaluate.compile(source))) end

-- Ctrl-C while it runs.
function here.cancel(running) running:cancel() end

function here.close() end

return here
