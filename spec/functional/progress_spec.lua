-- pmap{progress = true}: what is shown on a terminal, and elsewhere.
local process = require "spec.helper.process"
local terminal = require "spec.helper.terminal"

local SCRIPT = [[
  local items = {}
  for i = 1, 30 do items[i] = i end
  tarn.pmap(function(x)
    tarn.sleep(0.08)
    if x == 10 then print("line of a worker") end
    if x == 20 then tarn.log("warn", "word of a worker") end
    return x
  end, items, { progress = true, batch = 1 })
  print("the end")
]]

describe("progress on a terminal", function()
  it("is drawn in place: total, rate, time left, and what each worker does", function()
    local cwd = process.tmpdir()
    process.write_file(cwd .. "/sweep.lua", SCRIPT)
    local t = terminal.start_tarn({ "-p", "2", "sweep.lua" }, { cwd = cwd })
    t:await("pmap %(sweep%.lua:3%): %d+/30 %(%d+%%%)  %[=+ *%]  [%d.]+/s  [%d.]+ s left")
    t:await("%[2%] +%d+ done, busy for 0%.%d s\n +%[3%] +%d+ done, busy for 0%.%d s")
    local child = t:wait()
    assert.equal(0, child.code, t:text())
    local lines = process.lines(t:text())
    -- All that was drawn has gone; what was printed meanwhile has stayed, whole.
    assert.equal(4, #lines, t:text())
    assert.is_truthy(lines[1]:find("^%[[23]%] line of a worker *$"), t:text())
    assert.is_truthy(lines[2]:find("^[%d:.]+ tarn%[[23]%] warn: word of a worker *$"), t:text())
    assert.is_truthy(lines[3]:find("^pmap %(sweep%.lua:3%): 30 done in %d+%.%d s, [%d.]+/s *$"), t:text())
    assert.equal("the end", lines[4])
  end)
end)

describe("progress elsewhere", function()
  it("is a plain line now and then, and one at the end", function()
    local result = process.run_script(SCRIPT, { args = { "-p", "2" } })
    local lines, shown = process.lines(result.err), {}
    for _, line in ipairs(lines) do
      if line:find("^pmap") then shown[#shown + 1] = line end
    end
    assert.is_true(#shown >= 2, result.err)
    assert.is_truthy(shown[1]:find("^pmap %(driver%.lua:3%): %d+/30 %(%d+%%%), [%d.]+/s, [%d.]+ s left, 2 of 2 workers busy$"), result.err)
    assert.is_truthy(shown[#shown]:find("^pmap %(driver%.lua:3%): 30 done in "), result.err)
    assert.is_nil(result.err:find("\27", 1, true))
  end)

  it("says when it failed, and how far it was", function()
    local result = process.run_script([[
      tarn.pmap(function(x) if x == 2 then error("no") end return x end, { 1, 2, 3 }, { progress = true, batch = 1, workers = { 2 } })
    ]], { args = { "-p", "1" } })
    assert.equal(1, result.code)
    assert.is_truthy(result.err:find("pmap %(driver%.lua:1%): 1 of 3 done in [^\n]*, then it failed\n"), result.err)
  end)
end)
