-- Loops over columns stay compiled: what the compiler cannot do ("NYI") in the columns' own code would make them a hundred times slower.
local process = require "spec.helper.process"

local SCRIPT = [[
  local N = 3000
  local list, texts, booleans = { n = N }, { n = N }, {}
  for i = 1, N do
    booleans[i] = i % 3 == 0
    if i % 7 ~= 0 then list[i], texts[i] = i % 50, "text " .. i % 50 end
  end
  local whole = {}
  for i = 1, N do whole[i] = i % 50 end
  local columns = {
    tarn.array("double", whole), tarn.array("float", whole), tarn.array("uint8_t", whole), tarn.array("int64_t", whole),
    tarn.array("bool", booleans), tarn.bits(booleans), tarn.nullable("double", list), tarn.nullable("int16_t", list),
    tarn.nullable("bits", booleans), tarn.strings(texts), tarn.pooled(texts), tarn.pooled(list),
  }
  local grid = tarn.array("float", { shape = { 50, 60 } })
  local structs = tarn.array("struct { double x; int32_t k; }", N)

  local util, vmdef = require "jit.util", require "jit.vmdef"
  local blamed, aside = {}, {}
  -- A trace that begins in an unlucky place (a function that is about to return) is begun anew elsewhere; what counts is what can never be
  -- compiled, and a trace that ends at a call of a C function. One that begins in a function of the columns, and not in a loop here, is
  -- of what is called once a column; and so are its side traces, as are those of traces from before.
  local function look(what, trace, func, pc, code)
    local info = what ~= "flush" and util.funcinfo(func, pc) or {}
    if what == "start" then
      local root = code == nil
      if root then
        aside[trace] = not tostring(info.loc):find("^driver%.lua")
      else
        aside[trace] = aside[code] ~= false
      end
    elseif aside[trace] then
      return
    elseif what == "stop" and util.traceinfo(trace).linktype == "stitch" then
      blamed["a call of a C function that is not compiled"] = true
    elseif what == "abort" then
      local problem = vmdef.traceerr[code]
      if problem:find("NYI", 1, true) and not problem:find("lower frame", 1, true) then
        blamed[problem .. " at " .. tostring(info.loc)] = true
      end
    end
  end
  jit.attach(look, "trace")

  local function read(c)
    local count = 0
    for i = 1, #c do
      if c[i] ~= nil then count = count + 1 end
      if c:valid(i) then count = count + 1 end
    end
    return count
  end
  local function compare(c)
    local value, count = c[2], 0
    for i = 1, #c do
      if c:eq(i, value) then count = count + 1 end
      count = count + c:order(i, value) + c:compare(i, 2) + (c:hash(i) or 0)
    end
    return count
  end
  local function write(c)
    local value = c[2]
    for i = 1, #c do c[i] = value end
  end
  for _, c in ipairs(columns) do
    for _ = 1, 5 do
      read(c)
      compare(c)
      if c.kind ~= "strings" and c.kind ~= "pooled" then write(c) end
    end
  end
  local sum = 0
  for _ = 1, 5 do
    for i = 1, 50 do
      for j = 1, 60 do sum = sum + grid:at(i, j) end
    end
  end
  for i = 1, N do structs[i].x = i end
  for i = 1, N do sum = sum + structs[i].x + structs[i].k end
  jit.attach(look)
  for text in pairs(blamed) do print(text) end
]]

describe("loops over columns", function()
  it("are compiled", function()
    local result = process.run_script(SCRIPT)
    assert.equal(0, result.code, result.err)
    assert.equal("", result.out)
  end)
end)
