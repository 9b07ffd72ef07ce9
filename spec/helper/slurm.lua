-- A Slurm of two nodes on this machine, as an ordinary user would have it: a controller and two slurmd, without munge and without cgroups.
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

local M = {}

--- Why there can be none here; nil when there can.
function M.missing()
  for _, program in ipairs { "/usr/sbin/slurmctld", "/usr/sbin/slurmd" } do
    if not lfs.attributes(program) then return ("no %s here: the package slurm-wlm is needed"):format(program) end
  end
end

local CONFIG = [[
ClusterName=t
SlurmctldHost=HOST(127.0.0.1)
SlurmctldPort=PORT1
SlurmUser=USER
SlurmdUser=USER
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation=DIR/state
SlurmdSpoolDir=DIR/spool-%n
SlurmctldPidFile=DIR/slurmctld.pid
SlurmdPidFile=DIR/slurmd-%n.pid
SlurmctldLogFile=DIR/slurmctld.log
SlurmdLogFile=DIR/slurmd-%n.log
SlurmdParameters=config_overrides
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=3
NodeName=n1 NodeHostname=HOST NodeAddr=127.0.0.1 Port=PORT2 CPUs=4
NodeName=n2 NodeHostname=HOST NodeAddr=127.0.0.1 Port=PORT3 CPUs=4
PartitionName=main Nodes=ALL Default=YES State=UP MaxTime=INFINITE
]]

local function output(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read("*a")
  pipe:close()
  return (text:gsub("%s+$", ""))
end

local Slurm = {}
Slurm.__index = Slurm

--- Start it: returns once both nodes are idle. For more than one spec.
function M.start()
  local dir = posix.mkdtemp()
  lfs.mkdir(dir .. "/state")
  local base = 26000 + posix.getpid() % 3000 * 3
  local words = { HOST = output("hostname"), USER = output("id -un"), DIR = dir, PORT1 = base, PORT2 = base + 1, PORT3 = base + 2 }
  process.write_file(dir .. "/slurm.conf", (CONFIG:gsub("%u+%d?", words)))
  local self = setmetatable({ dir = dir, env = { SLURM_CONF = dir .. "/slurm.conf", TARN_SPEC_RUN = "slurm" },
    user_env = { SLURM_CONF = dir .. "/slurm.conf" }, daemons = {} }, Slurm)
  local slurmd = "/usr/sbin/slurmd"
  for _, argv in ipairs { { "/usr/sbin/slurmctld", "-D", "-c" }, { slurmd, "-D", "-N", "n1" }, { slurmd, "-D", "-N", "n2" } } do
    local daemon = process.start(argv, { cwd = dir, env = self.env })
    daemon:keep()
    table.insert(self.daemons, daemon)
  end
  local idle = "SLURM_CONF=" .. dir .. "/slurm.conf; export SLURM_CONF; i=0; "
    .. "until [ \"$(sinfo -h -o %t 2>/dev/null)\" = idle ] || [ $i -gt 300 ]; do sleep 0.1; i=$((i + 1)); done; sinfo -h -o %t"
  assert(output(idle) == "idle", "Slurm's nodes are not idle")
  return self
end

--- Run a program to its end, as a user of it.
function Slurm:run(argv, opts)
  opts = opts or {}
  return process.run(argv, { cwd = opts.cwd, env = self.user_env, timeout_s = opts.timeout_s or 60 })
end

--- Jobs that are queued or run, one a line.
function Slurm:jobs() return self:run({ "/usr/bin/env", "squeue", "-h", "-o", "%i %T %j" }).out end

function Slurm:destroy()
  for i = #self.daemons, 1, -1 do
    local daemon = self.daemons[i]
    daemon:kill(posix.SIGTERM)
    daemon:wait(20)
  end
  process.remove_tree(self.dir)
end

return M
