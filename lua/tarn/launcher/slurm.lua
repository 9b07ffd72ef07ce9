-- Starts workers by Slurm's srun: within the allocation that this process is in, as steps that overlap with others, or outside of one as
-- a job of their own, which may have to wait. Options:
--
--   partition, time, account    as srun's
--   srun_args                   further arguments of srun, a list
--
-- One srun carries all workers of an addprocs. It must not decide about life and death: a task that ends leaves the others running, and so
-- does a node that fails.
local errors = require "tarn.errors"
local subprocess = require "tarn.subprocess"

local launcher = {
  options = { partition = "string", time = "string", account = "string", srun_args = "table" },
  timeout_s = 600, -- a job may have to wait for its nodes
}

local function in_allocation() return os.getenv("SLURM_JOB_ID") ~= nil and os.getenv("SLURM_JOB_NODELIST") ~= nil end

-- The addresses of the nodes on which workers may come to be, as Slurm has them.
local function node_addresses(job)
  local argv
  if in_allocation() then
    argv = { "scontrol", "--oneliner", "show", "node", os.getenv("SLURM_JOB_NODELIST") }
  else
    argv = { "sinfo", "--noheader", "--Node", "--format=NodeAddr=%o" }
    if job.options.partition then argv[#argv + 1] = "--partition=" .. job.options.partition end
  end
  local code, out, err = subprocess.run(argv)
  if code ~= 0 then errors.raise("IOError", ("%s: %s"):format(argv[1], (err:gsub("%s+$", "")))) end
  local list = {}
  for address in out:gmatch("NodeAddr=(%S+)") do list[#list + 1] = address end
  if #list == 0 then
    errors.raise("IOError", ("tarn.addprocs: Slurm has no node%s"):format(
      job.options.partition and (" in partition '%s'"):format(job.options.partition) or ""))
  end
  return list
end

-- How all of them find this process: its address on the way to a node; this machine's loopback only when no node is elsewhere.
local function find_address(job)
  local inward, problem
  for _, node in ipairs(node_addresses(job)) do
    local ok, address, loopback = pcall(job.route, job, node)
    if ok and not loopback then return address end
    if ok then inward = address else problem = address end
  end
  return inward or error(problem, 0)
end

local function srun(job)
  local argv = { "srun", "--input=all", "--kill-on-bad-exit=0", "--no-kill", "--wait=0", ("--ntasks=%d"):format(job.n), "--job-name=tarn" }
  local function add(...)
    for _, text in ipairs { ... } do argv[#argv + 1] = text end
  end
  if in_allocation() then add("--overlap") end
  for _, name in ipairs { "partition", "time", "account" } do
    if job.options[name] then add(("--%s=%s"):format(name, job.options[name])) end
  end
  add(unpack(job.options.srun_args or {}))
  local nodes = tonumber(os.getenv("SLURM_JOB_NUM_NODES")) or 1
  add(unpack(job:command(math.ceil(job.n / nodes))))
  return argv
end

function launcher.start(job)
  if job.hosts then
    errors.raise("ArgumentError", "tarn.addprocs: Slurm chooses the hosts: say how many workers, and perhaps srun_args = {\"-w\", ...}")
  end
  local address = find_address(job)
  job:spawn { argv = srun(job), label = "srun", address = address, workers = job.n }
end

function launcher.stop(process) process:kill() end

return launcher
