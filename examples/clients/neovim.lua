-- A client of tarn in Neovim, which speaks MessagePack-RPC itself. Written from docs/PROTOCOL.md.
--
--   nvim --headless -u NONE -i NONE -S neovim.lua ADDRESS SECRET_FILE       both as serve.lua prints them
local vim = vim -- luacheck: ignore

-- A channel to a process: vim.rpcrequest(channel, method, ...) asks it, and raises what it answers instead of a result.
local function connect(address, secret_file)
  local channel = vim.fn.sockconnect("tcp", address, { rpc = true })
  vim.rpcrequest(channel, "auth.secret", vim.fn.readfile(secret_file)[1])
  vim.rpcrequest(channel, "client.errors", "text") -- Neovim shows no others
  return channel
end

local function say(...)
  for _, x in ipairs { ... } do io.stdout:write(type(x) == "string" and x or vim.inspect(x), " ") end
  io.stdout:write("\n")
end

local function main()
  local channel = connect(vim.fn.argv(0), vim.fn.argv(1))
  local function request(...) return vim.rpcrequest(channel, ...) end
  local key = request("pool.set", { name = "Ada", list = { 1, -129, 2.5, vim.NIL }, bytes = "\255\0" })
  say("stored", (vim.inspect(request("pool.get", key)):gsub("%s+", " ")))
  say("a function of Lua's:", request("call", "string.rep", { "ab", 3 }))
  say("code:", request("eval", "local a, b = ... return a + b", { 2, 3 }))
  say("primes up to 100000, counted by the workers:", request("call", "demo.primes", { 100000 }))
  request("pool.delete", key)
  local _, problem = pcall(request, "pool.get", key)
  say("deleted:", problem)
  local large = ("\0\1\2\3\252\253\254\255"):rep(2 ^ 23) -- 64 MiB
  key = request("pool.set", large)
  say("64 MiB came back unchanged:", request("pool.get", key) == large)
end

local ok, problem = pcall(main)
if not ok then io.stderr:write(tostring(problem), "\n") end
vim.cmd(ok and "qall!" or "cquit")
