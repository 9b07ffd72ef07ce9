-- Foreign clients: those of examples/clients, each run by its own program against examples/clients/serve.lua.
local lfs = require "lfs"
local process = require "spec.helper.process"
local says = require("spec.helper.cluster").says

local CLIENTS = process.root .. "/examples/clients/"

-- Command lines; ADDRESS and SECRET_FILE come behind them.
local programs = {
  Python = function() return { "/usr/bin/python3", CLIENTS .. "client.py" } end,
  Neovim = function() return { "/usr/bin/nvim", "--headless", "-u", "NONE", "-i", "NONE", "-S", CLIENTS .. "neovim.lua" } end,
  -- A module of JavaScript looks for others where it lies itself.
  ["Node.js"] = function()
    local dir = process.tmpdir()
    assert(lfs.link(process.root .. "/build/peers/node_modules", dir .. "/node_modules", true))
    return { "/usr/bin/env", "node", process.write_file(dir .. "/client.mjs", process.read_file(CLIENTS .. "client.mjs")) }
  end,
}

local function start_server()
  local server = process.start_tarn { "-p", "2", CLIENTS .. "serve.lua" }
  local address, secret_file = server:line():match("^(%S+)\t(%S+)$")
  return server, address, secret_file
end

local function stop(server)
  server:close_stdin()
  server:wait(10)
  assert.equal(0, server.code, server.err)
end

for name, argv_of in pairs(programs) do
  describe("a client in " .. name, function()
    local function run(address, secret_file)
      local argv = argv_of()
      argv[#argv + 1], argv[#argv + 2] = address, secret_file
      return process.run(argv, { timeout_s = 60, env = { HOME = process.tmpdir() } })
    end

    it("stores, reads, calls and evaluates, gets errors, and moves 64 MiB", function()
      local server, address, secret_file = start_server()
      local client = run(address, secret_file)
      assert.equal(0, client.code, client.err)
      assert.equal("", client.err)
      local lines = process.lines(client.out)
      says(lines[1], "stored ", "Ada", "1, -129, 2.5")
      says(lines[2], "a function of Lua's: ababab")
      says(lines[3], "code: 5")
      says(lines[4], "primes up to 100000, counted by the workers: 9592")
      says(lines[5], "deleted: KeyError")
      says(lines[6]:lower(), "64 mib came back unchanged: true")
      stop(server)
      assert.equal("", server.err)
    end)

    it("is told when its secret is wrong", function()
      local server, address = start_server()
      local client = run(address, process.write_file(process.tmpdir() .. "/secret", ("0"):rep(64) .. "\n"))
      assert.equal(1, client.code)
      says(client.err, "AuthError: wrong secret")
      stop(server)
    end)
  end)
end
