-- A cluster whose processes reach each other through a fault proxy (spec/helper/proxy/main.lua, which says what it can do): a process of
-- its own, so that it works while everybody here is busy.
local cluster = require "spec.helper.cluster"
local process = require "spec.helper.process"

local Proxy = {}
Proxy.__index = Proxy
local M = {}

M.MARK = "Tarn's mark, which nobody is to read"

local function start()
  local program = process.start_tarn({ process.root .. "/spec/helper/proxy/main.lua", tarn.address() },
    { env = { LUA_PATH = process.root .. "/?.lua;;" } })
  return setmetatable({ program = program, address = "127.0.0.1:" .. program:line() }, Proxy)
end

local function say(self, ...)
  self.program:write(table.concat({ ... }, " ") .. "\n")
  return self.program:line()
end

-- tarn.addprocs behind the proxy.
function Proxy:addprocs(n, opts)
  local all = { tarn = process.root .. "/spec/helper/proxy/worker.sh" }
  for name, value in pairs(opts or {}) do all[name] = value end
  all.env = { TARN_SPEC_PROXY = self.address, TARN_SPEC_TARN = process.tarn_path }
  for name, value in pairs(opts and opts.env or {}) do all.env[name] = value end
  return tarn.addprocs(n, all)
end

-- From process x to process y (0: any), until it is cleared: pieces come so much later; byte by byte; not at all.
function Proxy:delay(x, y, ms) say(self, "delay", x, y, ms) end
function Proxy:split(x, y) say(self, "split", x, y) end
function Proxy:stall(x, y) say(self, "stall", x, y) end
function Proxy:refuse(x) say(self, "refuse", x) end
function Proxy:stall_bulk(x, y) say(self, "stall_bulk", x, y) end
function Proxy:clear(x, y) say(self, "clear", x, y) end
function Proxy:clear_all() say(self, "heal") end

-- Nothing passes between two processes, in neither direction.
function Proxy:part(x, y)
  self:stall(x, y)
  self:stall(y, x)
end

function Proxy:join(x, y)
  self:clear(x, y)
  self:clear(y, x)
end

-- Once, after so many more bytes from x to y: the connections are reset; y sees the end of what x says.
function Proxy:cut(x, y, after) say(self, "cut", x, y, after or 0) end
function Proxy:half(x, y, after) say(self, "half", x, y, after or 0) end
function Proxy:spoil(x, y, after) say(self, "spoil", x, y, after or 0) end -- one byte is changed

-- How often M.MARK has passed.
function Proxy:marks() return tonumber(say(self, "marks")) end

-- How many connections of that role ("control", "bulk") from x to y, in whichever direction they were opened, there are.
function Proxy:links(x, y, role)
  local n = 0
  for from, to, what in say(self, "links"):gmatch("(%d+):(%d+):(%S+)") do
    from, to = tonumber(from), tonumber(to)
    if what == role and ((from == x and to == y) or (from == y and to == x)) then n = n + 1 end
  end
  return n
end

-- Run fn(proxy, ids) with n workers behind a new proxy, of which none is left. before(proxy): before they come.
function M.with(n, fn, opts, before)
  local proxy = start()
  local ok, e = pcall(function()
    if before then before(proxy) end
    cluster.with_ids(proxy:addprocs(n, opts), function(ids) fn(proxy, ids) end)
  end)
  proxy.program:close_stdin()
  proxy.program:wait()
  if not ok then error(e, 0) end
  assert(proxy.program.err == "", proxy.program.err)
end

return M
