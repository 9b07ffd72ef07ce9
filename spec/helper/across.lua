-- Functional specs that know of no host, run by a driver whose addprocs starts workers elsewhere. What is of one host only (a file that two
-- processes open, a mapping) is tagged #onehost there, and left out.
local assert = require "luassert"

local M = {}

-- tarn's arguments: where ({ "--hosts", "alpha,beta" }, say), then the spec file of that name. It must run in the source tree's directory.
function M.args(where, name)
  return { where[1], where[2], "/usr/bin/busted", "--helper=spec/helper/setup_across.lua", "--exclude-tags=onehost,footprint",
    "-o", "plainTerminal", ("spec/functional/%s_spec.lua"):format(name) }
end

-- Of a run that has ended: it must have had as many cases as that, all of which hold.
function M.holds(run, least)
  local said = run.out .. run.err
  local successes, wrong = run.out:match "(%d+) success%a* / (%d+ failures? / %d+ errors?) /"
  assert.equal("0 failures / 0 errors", wrong, said)
  assert.is_true(tonumber(successes) >= least, said)
  assert.equal(0, run.code, said)
end

return M
