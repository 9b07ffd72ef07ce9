-- Starts workers on other hosts by ssh. Options, beside those of every launcher:
--
--   port, identity (a file)           as ssh's -p and -i; the rest belongs in ~/.ssh/config
--   dir                               where workers start there; default: this process's directory if there is one of that name
--   tunnel                            workers reach this process through the ssh connection, not by an address of its own
--   multiplex                         true: one connection for each eight workers of a host (ControlMaster); false: one for each worker
--   max_parallel                      so many connections are being made at a time (16)
--
-- The first connection to a host also tells how the two machines see each other. The connection that workers share is a program of its
-- own, a remote `cat` that ends with its standard input, so that it never outlives this process.
local core = require "tarn.core"
local errors = require "tarn.errors"
local future = require "tarn.future"
local subprocess = require "tarn.subprocess"
local uv = require "luv"

local quote = require("tarn.launcher.command").quote

local launcher = {
  options = { port = "number", identity = "string", dir = "string", tunnel = "boolean", multiplex = "boolean", max_parallel = "number" },
}

local MAX_PARALLEL = 16
local SESSIONS = 8 -- workers that share a connection; sshd's default is at most 10 sessions

-- The ssh command up to the host; more: further options. ssh gives up before addprocs does, and says why.
local function ssh(job, more)
  local seconds = math.max(math.ceil(job.timeout_s * 2 / 3), 1)
  local argv = { "ssh", "-T", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", ("ConnectTimeout=%d"):format(seconds),
    "-o", "ServerAliveInterval=15" }
  local function add(...)
    for _, text in ipairs { ... } do argv[#argv + 1] = text end
  end
  if job.options.port then add("-p", ("%d"):format(job.options.port)) end
  if job.options.identity then add("-i", job.options.identity) end
  add(unpack(more))
  return argv
end

---------------------------------------------------------------------------------------------------- connections

local HELLO = "echo tarn-sees $SSH_CONNECTION"

-- What HELLO has printed: this machine's address as that host sees it.
local function seen_as(process)
  local words = process:match("tarn%-sees ?([^\r\n]*)\r?\n")
  if not words then errors.raise("IOError", subprocess.complaint(process)) end
  return words:match("^([%x.:]+) %d+ [%x.:]+ %d+$")
end

-- How workers on that host find this process.
local function find_address(job, connection, host)
  if not job.options.tunnel then
    if not connection.seen_as then
      errors.raise("IOError", "its sshd does not say by which address it sees this machine: use tunnel = true")
    end
    local ok, address = pcall(job.reach, job, connection.seen_as)
    if ok then return address end
    errors.raise("IOError", ("it sees this machine as %s, where this process cannot listen (%s): use tunnel = true"):format(
      connection.seen_as, address.message))
  end
  local forward = ssh(job, { "-S", connection.path, "-O", "forward", "-R", "127.0.0.1:0:" .. core.address(), host })
  local code, out, err = subprocess.run(forward)
  local port = out:match("(%d+)%s*$")
  if code ~= 0 or not port then errors.raise("IOError", "tunnel: " .. err:gsub("%s+$", "")) end
  return "127.0.0.1:" .. port
end

local function connect_shared(job, host)
  local path = ("/tmp/tarn-ssh-%s"):format((uv.random(12):gsub(".", function(c) return ("%02x"):format(c:byte()) end)))
  local argv = ssh(job, { "-M", "-S", path, "-o", "ControlPersist=no", host, HELLO .. "; exec cat >/dev/null" })
  local master = subprocess.start(argv)
  local ok, seen = pcall(seen_as, master)
  if not ok then
    master:stop()
    error(seen, 0)
  end
  return { path = path, seen_as = seen, master = master, more = { "-S", path, "-o", "ControlMaster=no" } }
end

local function connect_alone(job, host)
  if job.options.tunnel then errors.raise("ArgumentError", "tunnel needs the connection that is shared: multiplex must not be false") end
  local process = subprocess.start(ssh(job, { "-o", "ControlMaster=no", "-o", "ControlPath=none", host, HELLO }))
  local ok, seen = pcall(seen_as, process)
  process:kill()
  if not ok then error(seen, 0) end
  return { seen_as = seen, more = { "-o", "ControlMaster=no", "-o", "ControlPath=none" } }
end

---------------------------------------------------------------------------------------------------- workers

-- The command line for the shell there. Names and values of env can be seen by other users of that host.
local function remote_command(job, share)
  local dir, env = job.options.dir, {}
  for name, value in pairs(job.env or {}) do env[#env + 1] = name .. "=" .. value end
  local log = os.getenv("TARN_LOG")
  if log and not (job.env and job.env.TARN_LOG) then env[#env + 1] = "TARN_LOG=" .. log end
  local go = dir and ("cd %s &&"):format(quote { dir }) or ("cd %s 2>/dev/null;"):format(quote { uv.cwd() })
  local set = #env > 0 and "env " .. quote(env) .. " " or ""
  return ("%s exec %s%s"):format(go, set, quote(job:command(share)))
end

-- Start `workers` of the `share` that the host is to have. The connection that they share is there for as long as one of them is.
local function start_on(job, host, workers, share)
  local connection = (job.options.multiplex == false and connect_alone or connect_shared)(job, host)
  local left = 0
  local function close()
    if left == 0 and connection.master then connection.master:stop() end
  end
  local function on_exit()
    left = left - 1
    close()
  end
  local ok, e = pcall(function()
    local address = find_address(job, connection, host)
    local argv = ssh(job, connection.more)
    argv[#argv + 1] = host
    argv[#argv + 1] = remote_command(job, share)
    for _ = 1, workers do
      job:spawn { argv = argv, label = host, address = address, env = {}, on_exit = on_exit }
      left = left + 1
    end
  end)
  if not ok then
    close()
    error(e, 0)
  end
end

function launcher.start(job)
  if not job.hosts then errors.raise("ArgumentError", "tarn.addprocs: the ssh launcher needs hosts: {\"alpha*4\", \"user@beta\"}") end
  local parts, next_part = {}, 1
  for _, host in ipairs(job.hosts) do
    for first = 1, host.n, SESSIONS do
      parts[#parts + 1] = { host = host.name, share = host.n, workers = math.min(SESSIONS, host.n - first + 1) }
    end
  end
  local function work()
    while parts[next_part] and not job.closed do
      local part = parts[next_part]
      next_part = next_part + 1
      local ok, e = pcall(start_on, job, part.host, part.workers, part.share)
      if not ok then job:fail(part.host, part.workers, e) end
    end
  end
  local hands = {}
  for i = 1, math.min(math.max(job.options.max_parallel or MAX_PARALLEL, 1), #parts) do hands[i] = future.run(false, work) end
  local ok, e = pcall(function()
    for _, hand in ipairs(hands) do hand:fetch() end
  end)
  if not ok then
    for _, hand in ipairs(hands) do hand:cancel() end
    error(e, 0)
  end
end

function launcher.stop(process) process:kill() end

return launcher
