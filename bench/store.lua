-- 256 MiB saved to a store and loaded from it: s3rver, from npm, on loopback; beside curl, which sends and fetches the same bytes as one
-- object, signed too.
local case = require "bench.lib.case"
local lfs = require "lfs"
local peer = require "bench.lib.peer"
local process = require "spec.helper.process"
local ramp = require "bench.lib.ramp"
local store = require "spec.helper.store"
local tarn = require "tarn"

local MiB = 2 ^ 20
local BYTES = 256 * MiB

local function start()
  local modules = lfs.currentdir() .. "/build/peers/node_modules"
  if not lfs.attributes(modules .. "/s3rver") then error("s3rver is not here: ./dev test peers installs it (npm)", 0) end
  local script = lfs.currentdir() .. "/spec/peers/store.cjs"
  local server = process.start({ "/usr/bin/setpriv", "--pdeathsig", "KILL", "/usr/bin/env", "node", script, peer.tmpdir() },
    { env = { NODE_PATH = modules } })
  return server, "http://127.0.0.1:" .. server:line()
end

local function rate(fn, ...)
  local from = peer.now()
  local result = fn(...)
  return BYTES / MiB / (peer.now() - from), result
end

local function curl(...)
  return rate(peer.run, { "curl", "-sSf", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "S3RVER:S3RVER", "-H",
    "x-amz-content-sha256: UNSIGNED-PAYLOAD", ... })
end

local function measure(c, url)
  tarn.max_memsize("1GiB")
  local a, dir = ramp.new(BYTES / 8), peer.tmpdir()
  tarn.save(dir .. "/file", a)
  peer.run { "split", "-b", "8M", "-d", "-a", "2", dir .. "/file", dir .. "/part" }
  local function send_parts()
    return (curl("--parallel", "--parallel-max", 4, "-T", dir .. "/part[00-31]", url .. "/bucket/"))
  end
  c:compare {
    name = "save", unit = "MiB/s", rounds = 3, ours = function() return (rate(tarn.save, "s3://bucket/ours", a)) end,
    theirs = {
      { "curl -T", function() return (curl("-T", dir .. "/file", url .. "/bucket/theirs")) end },
      { "curl, 32 of 8 MiB", send_parts },
    },
  }
  c:compare {
    name = "load", unit = "MiB/s", rounds = 3,
    ours = function()
      local figure, back = rate(tarn.load, "s3://bucket/ours")
      ramp.check(back)
      back = nil -- luacheck: ignore 311
      collectgarbage()
      return figure
    end,
    theirs = { { "curl -o", function() return (curl("-o", dir .. "/back", url .. "/bucket/theirs")) end } },
  }
end

case.run("store", "256 MiB to a store and back", function(c)
  local server, url = start()
  local settings = store.settings(url, { AWS_ACCESS_KEY_ID = "S3RVER", AWS_SECRET_ACCESS_KEY = "S3RVER" })
  local ok, e = pcall(store.with_env, settings, function() measure(c, url) end)
  require("tarn.fetch").close()
  server:destroy()
  if not ok then error(e, 0) end
end)
