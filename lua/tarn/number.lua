-- Numbers of any type beside each other, and hashes of them: equal numbers are equal whatever their types (1, 1LL, 1ULL), NaN is one and
-- behind all others.
local column = require "tarn.column"
local ffi = require "ffi"
local kernel = require "tarn.kernel"
local typeof = ffi.typeof -- busted replaces the FFI's by ones that remember their first argument only

local number = {}

-- Element types of arrays as Python's struct has them: see runtime/bind/column.h.
number.letters = {
  int8_t = "b", uint8_t = "B", int16_t = "h", uint16_t = "H", int32_t = "i", uint32_t = "I", int64_t = "q", uint64_t = "Q", float = "f",
  double = "d", bool = "?",
}

local int64_t, uint64_t = typeof "int64_t", typeof "uint64_t"
local is_int64 = column.is_int64

local function order_doubles(a, b)
  if a < b then return -1 end
  if a > b then return 1 end
  if a == b then return 0 end
  if a == a then return -1 end
  return b == b and 1 or 0
end

-- Two 64-bit integers, signed or not.
local function order_integers(a, b)
  local a_signed, b_signed = ffi.istype(int64_t, a), ffi.istype(int64_t, b)
  if a_signed and not b_signed and a < 0 then return -1 end
  if b_signed and not a_signed and b < 0 then return 1 end
  return a < b and -1 or a > b and 1 or 0
end

-- A 64-bit integer beside a double. A double with a fraction is below 2^53: there the integer's nearest double shows the order.
local function order_mixed(a, b)
  if b < -2 ^ 63 then return 1 end
  if b >= 2 ^ 64 or b ~= b then return -1 end
  if b % 1 ~= 0 then return order_doubles(tonumber(a), b) end
  return order_integers(a, b < 2 ^ 63 and int64_t(b) or uint64_t(b))
end

---Do numbers have it: a number, an int64_t or a uint64_t?
function number.is(x) return type(x) == "number" or type(x) == "cdata" and is_int64(x) end

---a beside b: -1, 0, 1.
function number.order(a, b)
  if type(a) == "number" then
    if type(b) == "number" then return order_doubles(a, b) end
    return -order_mixed(b, a)
  end
  if type(b) == "number" then return order_mixed(a, b) end
  return order_integers(a, b)
end

local as_double, as_integer = ffi.new("double[1]"), ffi.new("int64_t[1]")

---53 bits.
function number.hash(v)
  if type(v) ~= "number" then
    local d = tonumber(v)
    if math.abs(d) > 2 ^ 53 then
      as_integer[0] = v
      return kernel.tarn_view_hash(as_integer, 8)
    end
    v = d
  end
  if math.abs(v) > 2 ^ 53 and v % 1 == 0 and math.abs(v) < 2 ^ 63 then
    as_integer[0] = v
    return kernel.tarn_view_hash(as_integer, 8)
  end
  as_double[0] = v ~= v and 0 / 0 or v + 0 -- one NaN; and -0 + 0 is 0
  return kernel.tarn_view_hash(as_double, 8)
end

return number
