-- Arrays: the element type's declaration, the number of elements, where they begin in their block, the shape, then the block.
local array = require "tarn.array"
local column = require "tarn.column"
local ctype = require "tarn.ctype"
local tarn_serializer = require "tarn.serializer"

-- A slice of less than a quarter of its block takes its own bytes along, not all of them.
local function shares(nbytes, whole) return nbytes * 4 >= whole end

local function mmwrite(out, a)
  local t, shape, offset = array._parts(a)
  local nbytes = a:nbytes()
  local share = shares(nbytes, tonumber(a.block.size))
  out:value(t.text)
  out:value(a.n)
  out:value(share and offset or 0)
  out:value(shape or false)
  if share then
    out:share(a.block)
  else
    out:block(a.c, nbytes)
  end
end

local function corrupt(what) column.corrupt("array", what) end

local function check_shape(shape, n)
  local product = 1
  if type(shape) ~= "table" or #shape == 0 or #shape > 32 then corrupt("a shape that is none") end
  for i = 1, #shape do
    if not column.is_whole(shape[i]) then corrupt("a shape that is none") end
    product = product * shape[i]
  end
  if product ~= n then corrupt("a shape that does not fit the number of elements") end
end

local function mmread(inp)
  local text, n, offset, shape = inp:value(), inp:value(), inp:value(), inp:value()
  if type(text) ~= "string" then corrupt("malformed") end
  local ok, t = pcall(array._element_type, text)
  if not ok then corrupt("element type " .. tostring(t)) end
  if shape then check_shape(shape, n) end
  local fits, a = pcall(array._view, t, n, shape or nil, offset, inp.take_block, inp)
  if not fits then corrupt(a) end
  if not inp:trusted() and a.block.sealed == 0 then ctype.mend(t, a.p, n) end
  return a
end

return tarn_serializer {
  name = "array",
  version = 1,
  matches = array.is,
  approx_size = function(a) return a:nbytes() end,
  mmwrite = mmwrite,
  mmread = mmread,
}
