-- Three hosts on one machine: network, mount and host name namespaces of their own, joined by a bridge, each with an sshd. Root is
-- needed, and openssh-server. They are gone when their `destroy` is called, or the spec's process ends.
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

local M = {}

M.NAMES = { "alpha", "beta", "gamma" }

local function exists(path) return lfs.attributes(path, "mode") ~= nil end

--- Why there can be none here; nil when there can.
function M.missing()
  if not exists("/usr/sbin/sshd") then return "no sshd here: the package openssh-server is needed" end
  for _, program in ipairs { "ip", "unshare", "nsenter", "ssh-keygen" } do
    if os.execute(("command -v %s >/dev/null 2>&1"):format(program)) ~= 0 then return ("no program '%s' here"):format(program) end
  end
  local probe = process.run { "/usr/bin/env", "unshare", "-mun", "sh", "-c", "ip link add tarn0 type bridge && mount -t tmpfs none /mnt" }
  if probe.code ~= 0 then return "no namespaces here: " .. probe.err:gsub("%s+$", "") end
end

local SSHD = [[
Port 22
HostKey %s/host_key
AuthorizedKeysFile %s/id.pub
PidFile none
UsePAM no
PasswordAuthentication no
StrictModes no
MaxStartups 100
SetEnv TARN_SPEC_RUN=%s
]]

local SSH = [[
Host *
  IdentityFile %s/id
  IdentitiesOnly yes
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
]]

local Hosts = {}
Hosts.__index = Hosts

--- Make them: returns once every sshd listens. For more than one spec: what runs there must be gone after each, the hosts themselves not.
function M.start()
  local conf = posix.mkdtemp()
  os.execute(("ssh-keygen -q -t ed25519 -N '' -f %s/host_key && ssh-keygen -q -t ed25519 -N '' -f %s/id"):format(conf, conf))
  process.write_file(conf .. "/ssh", ("#!/bin/sh\nexec /usr/bin/ssh -F %s/ssh_config \"$@\"\n"):format(conf))
  os.execute("chmod +x " .. conf .. "/ssh")
  local config = SSH:format(conf)
  for i, name in ipairs(M.NAMES) do
    config = config .. ("Host %s\n  HostName 10.77.0.1%d\nHost %s6\n  HostName fd77::1%d\n"):format(name, i, name, i)
  end
  process.write_file(conf .. "/ssh_config", config)
  process.write_file(conf .. "/sshd_config", SSHD:format(conf, conf, posix.getpid() .. "-hosts"))
  local hub = process.start({ "/usr/bin/env", "unshare", "-n", "bash", process.root .. "/spec/helper/hosts.sh", process.root, conf,
    unpack(M.NAMES) }, { cwd = conf, env = { TARN_SPEC_RUN = "hosts" } })
  hub:keep()
  local self = setmetatable({ hub = hub, conf = conf, pids = {} }, Hosts)
  assert(hub:line(20) == "ready", hub.err)
  for _ = 1, #M.NAMES do
    local pid, name = hub:line():match("^(%d+) (%a+)$")
    self.pids[name] = tonumber(pid)
  end
  return self
end

-- The argv that runs another where the driver lives, or on the host of that name.
function Hosts:at(name, argv)
  local all = name and { "/usr/bin/env", "nsenter", "-t", tostring(self.pids[name]), "-n", "-m", "-u", unpack(argv) }
    or { "/usr/bin/env", "nsenter", "-t", tostring(self.hub.pid), "-n", unpack(argv) }
  return all
end

--- Start tarn where the driver lives, with `ssh` leading to these hosts. opts: env, cwd.
function Hosts:start(args, opts)
  opts = opts or {}
  local env = { PATH = self.conf .. ":" .. os.getenv("PATH") }
  for name, value in pairs(opts.env or {}) do env[name] = value end
  return process.start(self:at(nil, { process.tarn_path, unpack(args) }), { cwd = opts.cwd, env = env })
end

--- The same for driver source. opts.args: tarn's options; opts.arguments: the script's.
function Hosts:start_driver(source, opts)
  opts = opts or {}
  local cwd = process.tmpdir()
  local script = process.write_file(cwd .. "/driver.lua", "io.stdout:setvbuf('no') " .. source)
  local args = { unpack(opts.args or {}) }
  for _, word in ipairs { script, unpack(opts.arguments or {}) } do args[#args + 1] = word end
  return self:start(args, { cwd = cwd, env = opts.env })
end

--- A program like this one, but of another version.
function Hosts:other_version()
  local version = process.run_tarn({ "-v" }).out:match("^tarn (%S+)")
  local other = "9" .. version:sub(2)
  local bytes, count = process.read_file(process.tarn_path):gsub("%f[%w.]" .. version:gsub("%.", "%%.") .. "%z", other .. "\0")
  assert(count > 0)
  local path = process.write_file(self.conf .. "/tarn-other", bytes)
  os.execute("chmod +x " .. path)
  return path
end

--- Run one command where the driver lives; it must succeed.
function Hosts:sh(command, name)
  local run = process.run(self:at(name, { "sh", "-c", command }))
  if run.code ~= 0 then error(command .. ": " .. run.err, 2) end
  return run.out
end

function Hosts:link(name, state)
  for i, other in ipairs(M.NAMES) do
    if other == name then self:sh(("ip link set v%d %s"):format(i, state)) end
  end
end

function Hosts:destroy()
  self.hub:close_stdin()
  self.hub:wait(10)
  for name, pid in pairs(self.pids) do
    assert(not posix.kill(pid, 0), "the host " .. name .. " is still there")
  end
  process.remove_tree(self.conf)
end

return M
