-- What the fuzz target `decode` runs on each input: bytes are refused by an error of tarn's, or give a value that can be looked at, written
-- again, and read back from that.
package.path = "lua/?.lua;lua/?/init.lua;?.lua;" .. package.path
local core = require "tarn.core"
local errors = require "tarn.errors"
for _, name in ipairs { "array", "strings", "bits", "nullable", "pooled", "table" } do
  local ok, e = pcall(require, "tarn." .. name)
  if not ok and not tostring(e):find("not found", 1, true) then error(e, 0) end
  pcall(dofile, "serializers/" .. name .. ".lua")
end

-- A type of a user's own, which believes what it reads.
local Point = {}
Point.__index = Point
require "tarn.serializer" {
  name = "point", version = 3, type = Point,
  mmwrite = function(out, p)
    out:value(p.x)
    out:block("12345678", 8)
    out:value(p.y)
  end,
  mmread = function(inp)
    local x, p, n = inp:value(), inp:block("double")
    local sum = 0
    for i = 0, n - 1 do sum = sum + p[i] end
    return setmetatable({ x = x, sum = sum, y = inp:more() and inp:value() or nil }, Point)
  end,
}
package.loaded["fuzz.class"] = {} -- a metatable found as a module

local function check(ok, e)
  if not ok and not errors.iserror(e) then error("no error of tarn's: " .. tostring(e), 0) end
  return ok
end

local function look(x, depth)
  local kind = type(x)
  if kind == "cdata" then
    check(pcall(tostring, x))
    local ok, n = pcall(function() return #x end)
    if ok then
      for i = 1, math.min(n, 20) do check(pcall(function() return x[i] end)) end
      if n > 20 then check(pcall(function() return x[n] end)) end
    end
  elseif kind == "table" and depth < 3 then
    local count = 0
    for k, v in next, x do
      look(k, depth + 1)
      look(v, depth + 1)
      count = count + 1
      if count == 20 then break end
    end
  else
    check(pcall(tostring, x))
  end
end

return function(s)
  local ok, x = pcall(core.decode, s, { code = false })
  if not check(ok, x) then return end
  look(x, 0)
  if not check(pcall(core.approx_size, x)) then return end
  local written, again = pcall(core.encode, x)
  if not check(written, again) then return end
  ok, x = pcall(core.decode, again, { code = false })
  if not ok then error("what was written is not read: " .. tostring(x), 0) end
end
