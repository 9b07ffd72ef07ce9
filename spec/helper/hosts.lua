-- Three hosts on one machine: network, mount and host name namespaces of their own, joined by a bridge, each with an sshd. Root is needed, and
-- openssh-server. They are gone when their `destroy` is called, or the spec's process ends.
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
  local config = SSH:format(conf)
  for i, name in ipairs(M.NAMES) do
    config = config .. ("Host %s\n  HostName 10.77.0.1%d\nHost %s6\n  HostName fd77::1%d\n"):format(name, i, name, i)
  end
  process.write_file(conf .. "/ssh_config", config)
  process.write_file(conf .. "/sshd_config", SSHD:format(conf, conf, posix.getpid() .. "-hosts"))
  local hub = process.start({ "/usr/bin/env", "unshare", "-n", "bash", process.root .. "/spec/helper/hosts.sh", process.root, conf,
    unpack(M.NAMES) }, { cwd = conf, env = { TARN_SPEC_RUN = "hosts" } })
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

--- Start driver source there, with PRELUDE before it. opts.args: tarn's own options.
function Hosts:start_driver(source, opts)
  opts = opts or {}
  local cwd = process.tmpdir()
  local argv = { process.tarn_path, unpack(opts.args or {}) }
  argv[#argv + 1] = process.write_file(cwd .. "/driver.lua", M.prelude(self) .. source)
  return process.start(self:at(nil, argv), { cwd = cwd, env = opts.env })
end

--- What every driver of a spec begins with: `ssh`, the options of addprocs that lead to these hosts.
function M.prelude(self)
  return ("io.stdout:setvbuf('no')\nlocal function ssh(opts)\n  opts = opts or {}\n  opts.ssh_args = { '-F', '%s/ssh_config' }\n"
    .. "  return opts\nend\n"):format(self.conf)
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
