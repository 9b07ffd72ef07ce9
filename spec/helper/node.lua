-- Runs JavaScript by Node.js, with the packages that `./dev test all` has put into build/peers.
local process = require "spec.helper.process"

local M = {}

--- Run source as a CommonJS script to its end and return what it printed; an uncaught error fails the spec. A main function that is async
--- goes into `await`-free source as `(async () => { ... })()`. opts: args (process.argv from 2 on), stdin, timeout_s.
function M.run(source, opts)
  opts = opts or {}
  local cwd = process.tmpdir()
  local argv = { "/usr/bin/env", "node", process.write_file(cwd .. "/script.cjs", source), unpack(opts.args or {}) }
  local run = process.run(argv, { cwd = cwd, stdin = opts.stdin, timeout_s = opts.timeout_s or 60,
    env = { NODE_PATH = process.root .. "/build/peers/node_modules" } })
  if run.code ~= 0 then error("node failed:\n" .. run.err, 2) end
  return run.out
end

return M
