-- Programs that a case measures beside tarn: servers on loopback, ended by pid, and clients that run to their end. What is started
-- goes with the bench, however that ends.
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local tarn = require "tarn"
local uv = require "luv"

local peer = {}

local PATIENCE_S = 20
local running = {}

-- Is there such a program?
function peer.here(program) return os.execute(("command -v '%s' >/dev/null 2>&1"):format(program)) == 0 end

-- A TCP port of loopback that nobody listens on.
function peer.port()
  local socket = uv.new_tcp()
  assert(socket:bind("127.0.0.1", 0))
  local port = socket:getsockname().port
  socket:close()
  return port
end

-- cpus: a list for taskset ("0", "0,1"), or nil.
local function command(argv, cpus)
  local all = { "/usr/bin/setpriv", "--pdeathsig", "KILL" }
  if cpus then
    for _, word in ipairs { "/usr/bin/taskset", "-c", cpus } do all[#all + 1] = word end
  else
    all[#all + 1] = "/usr/bin/env"
  end
  for _, word in ipairs(argv) do all[#all + 1] = tostring(word) end
  return all
end

-- Bind a running process, all its threads, to CPUs.
function peer.pin(pid, cpus)
  local done = process.run({ "/usr/bin/taskset", "-apc", cpus, tostring(pid) }, { cwd = lfs.currentdir() })
  assert(done.code == 0, done.err)
end

-- Start a server and wait until ready() is true. opts: cwd, env, cpus. Returns its process (spec.helper.process).
function peer.start(argv, ready, opts)
  opts = opts or {}
  local server = process.start(command(argv, opts.cpus), { cwd = opts.cwd, env = opts.env })
  running[#running + 1] = server
  local deadline = posix.now() + PATIENCE_S
  while not ready() do
    if next(posix.poll({ server.pidfd }, 0)) or posix.now() > deadline then
      error(("%s did not start: %s%s"):format(argv[1], server.out, server.err), 0)
    end
    tarn.sleep(0.01)
  end
  return server
end

-- For start: something accepts connections on the port of loopback.
function peer.accepts(port)
  return function()
    local ok, fd = pcall(posix.connect, "127.0.0.1:" .. port)
    if ok then posix.close(fd) end
    return ok
  end
end

-- For start: the file (a unix socket) is there.
function peer.exists(path)
  return function() return lfs.attributes(path, "mode") ~= nil end
end

-- End every server of this bench, and remove the directories that they ran in.
function peer.stop_all()
  for _, server in ipairs(running) do server:destroy() end
  running = {}
  for _, path in ipairs(process.take_tmpdirs()) do process.remove_tree(path) end
end

peer.tmpdir = process.tmpdir

-- Run a program to its end; returns what it printed, and raises what it said when it failed. opts: cwd, env, cpus, stdin, timeout_s.
function peer.run(argv, opts)
  opts = opts or {}
  local done = process.run(command(argv, opts.cpus),
    { cwd = opts.cwd or lfs.currentdir(), env = opts.env, stdin = opts.stdin, timeout_s = opts.timeout_s or 300 })
  if done.code ~= 0 then error(("%s failed: %s%s"):format(argv[1], done.out:sub(-500), done.err:sub(-500)), 0) end
  return done.out
end

-- The same, for one that prints a figure.
function peer.figure(argv, opts)
  local text = peer.run(argv, opts)
  return tonumber(text) or error(("%s printed no figure but: %s"):format(argv[1], text), 0)
end

-- The path of bench/lib/NAME.c, compiled with -O2. libraries: names for pkg-config.
function peer.compile(name, libraries)
  local source, program = ("bench/lib/%s.c"):format(name), ("%s/build/bench/%s"):format(lfs.currentdir(), name)
  local made = lfs.attributes(program, "modification")
  local changed = math.max(lfs.attributes(source, "modification"), lfs.attributes("bench/lib/client.h", "modification"))
  if made and made >= changed then return program end
  lfs.mkdir("build")
  lfs.mkdir("build/bench")
  local flags = libraries and ("$(pkg-config --cflags --libs %s)"):format(libraries) or ""
  local line = ("cc -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -o '%s' '%s' %s"):format(program, source, flags)
  if os.execute(line) ~= 0 then error("could not compile: " .. line, 0) end
  return program
end

-- Wall seconds, from a clock that nobody sets.
function peer.now() return posix.now() end

return peer
