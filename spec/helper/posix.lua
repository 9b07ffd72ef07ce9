-- The few system calls that the helpers need, reached through LuaJIT's ffi. They block the calling thread, with deadlines, and
-- wait for descriptors (a process is one too: pidfd), never by sleeping: so they work in any state of the runtime under test.
local ffi = require "ffi"
local bit = require "bit"

-- Names of our own, so that no other spec's declarations collide with these.
ffi.cdef [[
struct spec_pollfd { int fd; short events; short revents; };
struct spec_sockaddr_in { uint16_t family; uint8_t port[2]; uint8_t addr[4]; uint8_t zero[8]; };
struct spec_timespec { long tv_sec; long tv_nsec; };
int spec_poll(struct spec_pollfd *, unsigned long, int) asm("poll");
int spec_pipe2(int *, int) asm("pipe2");
int spec_close(int) asm("close");
long spec_read(int, void *, size_t) asm("read");
long spec_write(int, const void *, size_t) asm("write");
int spec_kill(int, int) asm("kill");
int spec_getpid(void) asm("getpid");
unsigned spec_geteuid(void) asm("geteuid");
int spec_waitpid(int, int *, int) asm("waitpid");
long spec_syscall(long, ...) asm("syscall");
int spec_clock_gettime(int, struct spec_timespec *) asm("clock_gettime");
char *spec_mkdtemp(char *) asm("mkdtemp");
long spec_readlink(const char *, char *, size_t) asm("readlink");
int spec_setenv(const char *, const char *, int) asm("setenv");
char *spec_strerror(int) asm("strerror");
extern char **environ;
int spec_posix_spawn(int *, const char *, const void *, const void *, const char **, const char **) asm("posix_spawn");
int spec_fa_init(void *) asm("posix_spawn_file_actions_init");
int spec_fa_destroy(void *) asm("posix_spawn_file_actions_destroy");
int spec_fa_open(void *, int, const char *, int, unsigned) asm("posix_spawn_file_actions_addopen");
int spec_posix_openpt(int) asm("posix_openpt");
int spec_grantpt(int) asm("grantpt");
int spec_unlockpt(int) asm("unlockpt");
char *spec_ptsname(int) asm("ptsname");
int spec_ioctl(int, unsigned long, ...) asm("ioctl");
int spec_fa_dup2(void *, int, int) asm("posix_spawn_file_actions_adddup2");
int spec_fa_chdir(void *, const char *) asm("posix_spawn_file_actions_addchdir_np");
int spec_attr_init(void *) asm("posix_spawnattr_init");
int spec_attr_destroy(void *) asm("posix_spawnattr_destroy");
int spec_attr_setflags(void *, short) asm("posix_spawnattr_setflags");
int spec_attr_setsigdefault(void *, const void *) asm("posix_spawnattr_setsigdefault");
int spec_attr_setsigmask(void *, const void *) asm("posix_spawnattr_setsigmask");
int spec_sigemptyset(void *) asm("sigemptyset");
int spec_sigaddset(void *, int) asm("sigaddset");
int spec_socket(int, int, int) asm("socket");
int spec_connect(int, const void *, unsigned) asm("connect");
int spec_shutdown(int, int) asm("shutdown");
]]

local C = ffi.C
local O_CLOEXEC, POLLIN = 0x80000, 1
local SYS_PIDFD_OPEN, WNOHANG = 434, 1
local SETSIGDEF, SETSIGMASK, SETSID = 0x04, 0x08, 0x80
-- What a shell (in the background), nohup or tarn itself may have set to be ignored, which programs inherit.
local SIGNALS = { 1, 2, 3, 13, 15 } -- SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM

local M = { SIGSTOP = 19, SIGCONT = 18, SIGTERM = 15, SIGKILL = 9, SIGINT = 2 }

function M.strerror() return ffi.string(C.spec_strerror(ffi.errno())) end

local time = ffi.new("struct spec_timespec[1]")
-- Monotonic seconds.
function M.now()
  C.spec_clock_gettime(1, time)
  return tonumber(time[0].tv_sec) + tonumber(time[0].tv_nsec) * 1e-9
end

function M.getpid() return C.spec_getpid() end
function M.geteuid() return C.spec_geteuid() end
function M.kill(pid, signal) return C.spec_kill(pid, signal or M.SIGKILL) == 0 end
function M.close(fd) C.spec_close(fd) end
function M.setenv(name, value) C.spec_setenv(name, value, 1) end

local buffer = ffi.new("uint8_t[65536]")
function M.readlink(path)
  local n = C.spec_readlink(path, ffi.cast("char *", buffer), 65536)
  return n >= 0 and ffi.string(buffer, n) or nil
end

--- The path of the file in (what was) directory dir that process pid ("self") has open, such as its spill file.
function M.open_file(pid, dir)
  for fd = 3, 1000 do
    local path = "/proc/" .. pid .. "/fd/" .. fd
    local target = M.readlink(path)
    if target and target:find(dir, 1, true) then return path end
  end
  error("process " .. pid .. " has no file in " .. dir .. " open", 2)
end

--- The byte at an offset of a file becomes another.
function M.spoil(path, offset)
  local file = assert(io.open(path, "r+b"))
  file:seek("set", offset)
  local byte = assert(file:read(1), "the file is too short")
  file:seek("set", offset)
  file:write(string.char((byte:byte() + 1) % 256))
  file:close()
end

-- A descriptor of the process, readable when it has ended; nil when there is no such process.
function M.pidfd(pid)
  local fd = tonumber(C.spec_syscall(SYS_PIDFD_OPEN, ffi.cast("int", pid), ffi.cast("int", 0)))
  return fd >= 0 and fd or nil
end

-- Wait until one of the descriptors is readable or at its end: {fd = true}, empty at the deadline (of M.now()).
function M.poll(fds, deadline)
  local set = ffi.new("struct spec_pollfd[?]", math.max(#fds, 1))
  for i, fd in ipairs(fds) do
    set[i - 1].fd, set[i - 1].events = fd, POLLIN
  end
  local ready = {}
  repeat
    local left_ms = math.max(0, math.ceil((deadline - M.now()) * 1000))
    local n = C.spec_poll(set, #fds, left_ms)
    if n > 0 then
      for i, fd in ipairs(fds) do
        if set[i - 1].revents ~= 0 then ready[fd] = true end
      end
    end
  until n > 0 or M.now() >= deadline
  return ready
end

-- The next bytes, "" at the end, nil and a text on an error.
function M.read(fd)
  local n = tonumber(C.spec_read(fd, buffer, 65536))
  if n >= 0 then return ffi.string(buffer, n) end
  return nil, M.strerror()
end

-- All of the bytes; false and a text on an error.
function M.write(fd, bytes)
  local at = 0
  while at < #bytes do
    local n = tonumber(C.spec_write(fd, ffi.cast("const uint8_t *", bytes) + at, #bytes - at))
    if n < 0 then return false, M.strerror() end
    at = at + n
  end
  return true
end

local function pipe()
  local fds = ffi.new("int[2]")
  assert(C.spec_pipe2(fds, O_CLOEXEC) == 0, "pipe2")
  return fds[0], fds[1]
end

local function c_strings(list)
  local array = ffi.new("const char *[?]", #list + 1)
  for i, s in ipairs(list) do array[i - 1] = s end
  array[#list] = nil
  return array -- points into list's strings: keep list
end

local function environment(extra)
  local list, seen = {}, {}
  for name, value in pairs(extra) do
    seen[name] = true
    if value then list[#list + 1] = name .. "=" .. value end
  end
  local i = 0
  while C.environ[i] ~= nil do
    local entry = ffi.string(C.environ[i])
    if not seen[entry:match("^[^=]*")] then list[#list + 1] = entry end
    i = i + 1
  end
  return list
end

local O_RDWR, O_NOCTTY, TIOCSWINSZ = 2, 0x100, 0x5414

-- A new terminal of that size: the descriptor of who sits before it, and the path of the programs' end.
function M.open_terminal(rows, columns)
  local fd = C.spec_posix_openpt(bit.bor(O_RDWR, O_NOCTTY, O_CLOEXEC))
  assert(fd >= 0 and C.spec_grantpt(fd) == 0 and C.spec_unlockpt(fd) == 0, "a terminal")
  C.spec_ioctl(fd, TIOCSWINSZ, ffi.new("unsigned short[4]", { rows, columns, 0, 0 }))
  return fd, ffi.string(C.spec_ptsname(fd))
end

-- Start a program in a session of its own: pid and its standard input, output and error. env: changes to the environment (false removes).
-- terminal: a path; all three are that terminal, the program's own, and the pipes have no other end.
function M.spawn(argv, cwd, env, terminal)
  local in_r, in_w = pipe()
  local out_r, out_w = pipe()
  local err_r, err_w = pipe()
  local actions, attr = ffi.new("uint8_t[1024]"), ffi.new("uint8_t[1024]")
  local signals = ffi.new("uint8_t[256]")
  C.spec_fa_init(actions)
  C.spec_attr_init(attr)
  C.spec_attr_setflags(attr, bit.bor(SETSIGDEF, SETSIGMASK, SETSID))
  C.spec_sigemptyset(signals)
  C.spec_attr_setsigmask(attr, signals)
  for _, number in ipairs(SIGNALS) do C.spec_sigaddset(signals, number) end
  C.spec_attr_setsigdefault(attr, signals)
  if terminal then
    C.spec_fa_open(actions, 0, terminal, O_RDWR, 0)
    C.spec_fa_dup2(actions, 0, 1)
    C.spec_fa_dup2(actions, 0, 2)
  else
    C.spec_fa_dup2(actions, in_r, 0)
    C.spec_fa_dup2(actions, out_w, 1)
    C.spec_fa_dup2(actions, err_w, 2)
  end
  if cwd then C.spec_fa_chdir(actions, cwd) end
  local environ = environment(env or {})
  local pid = ffi.new("int[1]")
  local status = C.spec_posix_spawn(pid, argv[1], actions, attr, c_strings(argv), c_strings(environ))
  C.spec_fa_destroy(actions)
  C.spec_attr_destroy(attr)
  M.close(in_r)
  M.close(out_w)
  M.close(err_w)
  if status ~= 0 then
    M.close(in_w)
    M.close(out_r)
    M.close(err_r)
    error(argv[1] .. ": " .. ffi.string(C.spec_strerror(status)), 2)
  end
  return pid[0], in_w, out_r, err_r
end

-- How a child has ended: exit status, or nil and the signal. block false: nil, nil while it runs.
function M.wait(pid, block)
  local status = ffi.new("int[1]")
  local got = C.spec_waitpid(pid, status, block and 0 or WNOHANG)
  if got ~= pid then return nil, nil end
  local signal = bit.band(status[0], 0x7f)
  if signal == 0 then return bit.band(bit.rshift(status[0], 8), 0xff), nil end
  return nil, signal
end

-- A TCP connection to "HOST:PORT" (IPv4): its descriptor.
function M.connect(address)
  local a, b, c, d, port = address:match("^(%d+)%.(%d+)%.(%d+)%.(%d+):(%d+)$")
  assert(port, "not an address: " .. tostring(address))
  local to = ffi.new("struct spec_sockaddr_in")
  to.family = 2
  to.port[0], to.port[1] = bit.rshift(tonumber(port), 8), bit.band(tonumber(port), 255)
  to.addr[0], to.addr[1], to.addr[2], to.addr[3] = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  local fd = C.spec_socket(2, bit.bor(1, O_CLOEXEC), 0)
  assert(fd >= 0, "socket")
  if C.spec_connect(fd, to, ffi.sizeof(to)) ~= 0 then
    local text = M.strerror()
    M.close(fd)
    error("connect " .. address .. ": " .. text, 2)
  end
  return fd
end

function M.mkdtemp()
  local template = (os.getenv("TMPDIR") or "/tmp") .. "/tarn-spec-XXXXXX"
  local copy = ffi.new("char[?]", #template + 1, template)
  assert(C.spec_mkdtemp(copy) ~= nil, "mkdtemp")
  return ffi.string(copy)
end

return M
