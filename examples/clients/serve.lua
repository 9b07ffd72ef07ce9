-- A cluster for clients in other languages:
--
--   tarn -p 2 examples/clients/serve.lua
--
-- prints where it listens and the file with its secret, which are the arguments of client.py, client.mjs and neovim.lua beside it; then it
-- serves them until its standard input ends (Ctrl-D). Whatever is global here they can call by name.
local tarn = require "tarn"
local uv = require "luv"

-- Called as "demo.NAME". What a client asks for runs in a task of its own, here on process 1: it may use the workers as any driver does.
local demo = {}
_G.demo = demo

local function is_prime(n)
  for d = 2, math.sqrt(n) do
    if n % d == 0 then return false end
  end
  return n > 1
end

local function primes_between(range)
  local count = 0
  for n = range[1], range[2] do
    if is_prime(n) then count = count + 1 end
  end
  return count
end

-- How many primes are there up to limit? The workers share the work.
function demo.primes(limit)
  local ranges, step = {}, math.ceil(limit / 16)
  for from = 1, limit, step do ranges[#ranges + 1] = { from, math.min(limit, from + step - 1) } end
  local sum = 0
  for _, count in ipairs(tarn.pmap(primes_between, ranges)) do sum = sum + count end
  return sum
end

print(tarn.address(), tarn.secret_file())
io.stdout:flush()

local ended = tarn.event()
local input = uv.new_pipe(false)
input:open(0)
input:read_start(function(_, bytes)
  if not bytes then ended:notify() end
end)
ended:wait()
