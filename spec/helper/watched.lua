-- A cluster to be looked at from outside: a driver of its own, with workers, and what is needed to connect to it.
local client = require "tarn.client"
local observer = require "tarn.observer"
local process = require "spec.helper.process"
local uv = require "luv"

uv.new_tcp():close() -- libuv keeps a descriptor back from the first stream on: that is no leak of a case

local M = {}

-- Start a driver: its workers by addprocs(n, opts as source), then `source`, and then it waits for the end of its input. What source prints
-- comes after the first line. Fields: driver, address, secret_file.
function M.start(n, opts, source)
  local driver = process.start_script(([[
    tarn.addprocs(%d, %s)
    print(tarn.address(), tarn.secret_file())
    io.stdout:flush()
    %s
    io.stdout:flush()
  ]]):format(n, opts or "{}", source or "") .. process.SERVE .. "()")
  local address, secret_file = driver:line():match("^(%S+)%s+(%S+)$")
  return setmetatable({ driver = driver, address = address, secret_file = secret_file }, { __index = M })
end

function M:observe() return observer.new(client.connect(self.address, client.read_secret(self.secret_file))) end

-- Its orderly end.
function M:stop()
  self.driver:close_stdin()
  local ended = self.driver:wait(20)
  assert(ended.code == 0, ended.err)
  return ended
end

return M
