-- A program that listens to all packets of its network namespace but those of loopback: tarn spec/helper/sniff.lua TEXT. Root is needed.
-- Prints "ready", and when its standard input ends, how many packets have had the text in them and how many there were.
local ffi = require "ffi"
local uv = require "luv"

ffi.cdef [[
int socket(int, int, int);
struct spec_sockaddr_ll { uint16_t family, protocol; int32_t interface; uint16_t hardware; uint8_t kind, length, address[8]; };
long recvfrom(int, void *, size_t, int, struct spec_sockaddr_ll *, uint32_t *);
]]

local AF_PACKET, SOCK_RAW, ALL, DONTWAIT, LOOPBACK = 17, 3, 0x0300, 0x40, 1
local text, with, count = arg[1], 0, 0
local fd = ffi.C.socket(AF_PACKET, SOCK_RAW, ALL)
assert(fd >= 0, "no packet socket")
local buffer, from, size = ffi.new "uint8_t[65536]", ffi.new "struct spec_sockaddr_ll", ffi.new("uint32_t[1]")

local poll = uv.new_poll(fd)
poll:start("r", function()
  while true do
    size[0] = ffi.sizeof(from)
    local n = tonumber(ffi.C.recvfrom(fd, buffer, 65536, DONTWAIT, from, size))
    if n < 0 then return end
    if from.interface ~= LOOPBACK then
      count = count + 1
      if ffi.string(buffer, n):find(text, 1, true) then with = with + 1 end
    end
  end
end)
io.stdout:setvbuf "line"
print "ready"
dofile((arg[0]:gsub("sniff", "input")))()
print(with, count)
