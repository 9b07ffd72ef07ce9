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
Host * !locked
  IdentityFile %s/id
Host locked
  HostName 10.77.0.11
Host *
  IdentitiesOnly yes
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
]]

-- What drivers run: ssh with that configuration. While there is a directory `gate`, connections that are to be shared wait there, each as a
-- file.
local PROGRAM = [[
#!/bin/sh
conf=%s
if [ -d $conf/gate ]; then
  case " $* " in *" -M "*)
    : >"$conf/gate/$$"
    while [ -d $conf/gate ]; do sleep 0.01; done ;;
  esac
fi
exec /usr/bin/ssh -F $conf/ssh_config "$@"
]]

local Hosts = {}
Hosts.__index = Hosts

--- Make them: returns once every sshd listens. For more than one spec: what runs there must be gone after each, the hosts themselves not.
function M.start()
  local conf = posix.mkdtemp()
  os.execute(("ssh-keygen -q -t ed25519 -N '' -f %s/host_key && ssh-keygen -q -t ed25519 -N '' -f %s/id"):format(conf, conf))
  process.write_file(conf .. "/ssh", PROGRAM:format(conf))
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

--- From now on connections to hosts are not made: until fn() returns, which gets a function that says how many are being waited for.
function Hosts:while_closed(fn)
  local gate = self.conf .. "/gate"
  lfs.mkdir(gate)
  local ok, e = pcall(fn, function()
    local n = -2 -- "." and ".."
    for _ in lfs.dir(gate) do n = n + 1 end
    return n
  end)
  process.remove_tree(gate)
  if not ok then error(e, 0) end
end

function Hosts:link(name, state)
  for i, other in ipairs(M.NAMES) do
    if other == name then self:sh(("ip link set v%d %s"):format(i, state)) end
  end
end

---------------------------------------------------------------------------------------------------- faults of the network

--- Why this machine cannot do that to a network: "drop" (nftables), "slow" (the qdisc tbf), "delay" (the qdisc netem); nil: it can.
function M.lacks(fault)
  local try = {
    drop = "nft add table inet tarn0",
    slow = "ip link set lo up && tc qdisc add dev lo root tbf rate 1mbit burst 16kb latency 50ms",
    delay = "ip link set lo up && tc qdisc add dev lo root netem delay 1ms",
  }
  local probe = process.run { "/usr/bin/env", "unshare", "-n", "sh", "-c", try[fault] }
  if probe.code ~= 0 then return ("this machine has no way to %s packets: %s"):format(fault, (probe.err:gsub("%s+$", ""))) end
end

local DRIVER_AT = { "10.77.0.1", "fd77::1" }

-- The two addresses of a host; nil: of where the driver is.
local function addresses(name)
  for i, other in ipairs(M.NAMES) do
    if other == name then return { "10.77.0.1" .. i, "fd77::1" .. i } end
  end
  return DRIVER_AT
end

local RULE = "nft 'add table inet faults; add chain inet faults input { type filter hook input priority 0; }; %s'"

--- Packets from one host to another are lost, and not those the other way. nil: where the driver is.
function Hosts:drop(from, to)
  local v4, v6 = unpack(addresses(from))
  local rule = "add rule inet faults input %s saddr %s counter drop; "
  self:sh(RULE:format(rule:format("ip", v4) .. rule:format("ip6", v6)), to)
end

--- So many of 100 packets that come to any host are lost.
function Hosts:lose(percent)
  for i = 0, #M.NAMES do
    self:sh(RULE:format(('add rule inet faults input iifname != "lo" numgen random mod 100 < %d counter drop'):format(percent)), M.NAMES[i])
  end
end

--- How many packets have been lost by that on all hosts.
function Hosts:dropped()
  local sum = 0
  for i = 0, #M.NAMES do
    local rules = self:sh("nft list table inet faults 2>/dev/null || true", M.NAMES[i])
    for count in rules:gmatch("counter packets (%d+)") do sum = sum + tonumber(count) end
  end
  return sum
end

--- What a host sends, and what is sent to it, goes through a link of that rate ("2mbit").
function Hosts:slow(name, rate)
  local tbf = "tc qdisc replace dev %s root tbf rate " .. rate .. " burst 16kb latency 100ms"
  self:sh(tbf:format("eth0"), name)
  for i, other in ipairs(M.NAMES) do
    if other == name then self:sh(tbf:format("v" .. i)) end
  end
end

--- All of that is over, on every host whose sshd no spec has ended.
function Hosts:heal()
  self:sh "nft delete table inet faults 2>/dev/null || true"
  for i, name in ipairs(M.NAMES) do
    if posix.kill(self.pids[name], 0) then
      self:sh("nft delete table inet faults 2>/dev/null; tc qdisc del dev eth0 root 2>/dev/null || true", name)
      self:sh(("tc qdisc del dev v%d root 2>/dev/null || true"):format(i))
    end
  end
end

local ENDED = { ["06"] = true, ["0A"] = true } -- TIME_WAIT, LISTEN

--- The connections that anybody on these hosts has, as lines of /proc/net/tcp; nobody is using them any more when there is none.
function Hosts:connections()
  local list = {}
  for i = 0, #M.NAMES do
    local pid = i == 0 and self.hub.pid or self.pids[M.NAMES[i]]
    for _, table_name in ipairs { "tcp", "tcp6" } do
      for line in (process.read_file(("/proc/%d/net/%s"):format(pid, table_name)) or ""):gmatch("[^\n]+") do
        local state = line:match("^%s*%d+: %x+:%x+ %x+:%x+ (%x+)")
        if state and not ENDED[state] then list[#list + 1] = (M.NAMES[i] or "driver") .. line end
      end
    end
  end
  return list
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
