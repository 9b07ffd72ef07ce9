-- The dashboard: a web page on loopback that shows what a cluster does. It is served by a process of its own, which looks at the cluster
-- from outside as tarn top does: so it answers while the driver computes, costs the cluster nothing while nobody looks, and cannot harm
-- it.
--
--   tarn.dashboard (any process)  --starts-->  tarn dashboard --attached  --looks through-->  that process  --asks-->  all others
--
-- Everything is read-only, and below the token: /TOKEN/ is the page, /TOKEN/events what it listens to (server-sent events),
-- /TOKEN/metrics, or /metrics?token=TOKEN, the figures for Prometheus. A request whose Host is not this machine is refused, so that no
-- page elsewhere can have a browser ask by a name that it has made to lead here.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local ffi = require "ffi"
local future = require "tarn.future"
local json = require "tarn.json"
local metrics = require "tarn.metrics"
local observer = require "tarn.observer"
local options = require "tarn.options"
local read_file = require "tarn.read_file"
local subprocess = require "tarn.subprocess"
local task = require "tarn.task"
local uv = require "luv"
local watch = require "tarn.watch"

pcall(ffi.cdef, "int sodium_memcmp(const void *a, const void *b, size_t size); void randombytes_buf(void *to, size_t size);")
local C = ffi.C

local dashboard = {}

local LOOK_S, OBJECTS_S, HOUSEKEEPING_MS = 1, 4, 5000
local OBJECTS_SHOWN = 20
local TOKEN_BYTES = 16
local CHARTS = { "/usr/share/javascript/chart.js/chart.min.js", "/usr/share/nodejs/chart.js/dist/chart.min.js" }
local FOLDER = debug.getinfo(1, "S").source:match("^@(.*)%.lua$") .. "/"

local HEADERS = {
  ["Cache-Control"] = "no-store", ["Referrer-Policy"] = "no-referrer", ["X-Content-Type-Options"] = "nosniff", ["X-Frame-Options"] = "DENY",
  ["Content-Security-Policy"] = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    .. "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}

local function headers(content_type)
  local all = { ["Content-Type"] = content_type }
  for name, value in pairs(HEADERS) do all[name] = value end
  return all
end

---------------------------------------------------------------------------------------------------- who may ask

local function new_token()
  local bytes = ffi.new("unsigned char[?]", TOKEN_BYTES)
  C.randombytes_buf(bytes, TOKEN_BYTES)
  return (ffi.string(bytes, TOKEN_BYTES):gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

-- In a time that does not tell how much of it is right.
local function is_token(self, said)
  return type(said) == "string" and #said == #self.token and C.sodium_memcmp(said, self.token, #said) == 0
end

-- This machine, by whatever port: it may be that of a tunnel.
local LOCAL = { ["127.0.0.1"] = true, ["localhost"] = true, ["[::1]"] = true }
local function is_local(host) return host ~= nil and LOCAL[host:gsub(":%d+$", ""):lower()] == true end

---------------------------------------------------------------------------------------------------- what is answered

local function read_charts()
  for _, path in ipairs(CHARTS) do
    local text = read_file(path)
    if text then return text end
  end
end

local function serve_file(name, content_type)
  return function() return 200, content_type, assert(read_file(FOLDER .. name)) end
end

local PAGES = {
  [""] = serve_file("page.html", "text/html; charset=utf-8"),
  ["page.js"] = serve_file("page.js", "text/javascript; charset=utf-8"),
  ["page.css"] = serve_file("page.css", "text/css; charset=utf-8"),
  ["chart.js"] = function()
    local text = read_charts()
    if text then return 200, "text/javascript; charset=utf-8", text end
    return 404, "text/plain; charset=utf-8", "Chart.js is not installed (Debian: libjs-chart.js)\n"
  end,
  ["metrics"] = function(self) return 200, "text/plain; version=0.0.4; charset=utf-8", metrics.text(self.scraper:look()) end,
}

local function reply(self, number, status, content_type, body)
  if self.server then self.server:reply(number, status, headers(content_type), body) end
end

local function refuse(self, number, status, text) reply(self, number, status, "text/plain; charset=utf-8", text .. "\n") end

local turn

local function answer(self, number, page)
  local ok, status, content_type, body = pcall(page, self)
  if ok then
    reply(self, number, status, content_type, body)
  else
    refuse(self, number, 503, failure.tostring(type(status) == "table" and status.message or status))
  end
  turn(self)
end

local function open_stream(self, number)
  if not self.server:stream(number, 200, headers "text/event-stream") then return end
  self.streams[number] = true
  self.looker.next_job = {} -- it is told what is remembered; who knows it already passes over it
  self.objects_due = 0
  local t = self.sleeper
  if t and task.abandon(t) then task.wake(t, true) end
end

local function on_request(self, number, method, path, host, query_token)
  if not is_local(host) then return refuse(self, number, 403, "this page is for 127.0.0.1 and localhost only") end
  local token, rest = path:match("^/([^/]*)/(.*)$")
  if path == "/metrics" then token, rest = query_token, "metrics" end
  if not is_token(self, token) then return refuse(self, number, 403, "the token is wrong: see what tarn.dashboard has given") end
  if method ~= "GET" and method ~= "HEAD" then return refuse(self, number, 405, "this page can only be looked at") end
  if rest == "events" then return open_stream(self, number) end
  local page = PAGES[rest]
  if not page then return refuse(self, number, 404, "there is no such page") end
  future.run(false, answer, self, number, page)
end

-- Whatever there is to do for connections. What runs them may bring requests, and answers are to be sent.
function turn(self)
  local more = true
  while more and self.server do
    self.server:run()
    more = false
    for number, method, path, host, token in self.server.next, self.server do
      on_request(self, number, method, path, host, token)
      more = true
    end
  end
end

---------------------------------------------------------------------------------------------------- what the page listens to

local function tell(self, event, data)
  local text = ("event: %s\ndata: %s\n\n"):format(event, json.encode(data))
  for number in pairs(self.streams) do
    if not self.server:write(number, text) then self.streams[number] = nil end
  end
  turn(self)
end

local function with_memory(p)
  if not p.failure then p.memory, p.used = observer.memory(p), observer.used(p) end
  return p
end

local function look(self)
  local processes = self.looker:look()
  for _, p in ipairs(processes) do with_memory(p) end
  tell(self, "processes", { time = uv.now() / 1000, processes = processes, kinds = observer.MEMORY })
  local jobs = {}
  for id, answered in pairs(self.looker:jobs()) do jobs[#jobs + 1] = { id = id, jobs = answered } end
  tell(self, "jobs", jobs)
  self.objects_due = self.objects_due - LOOK_S
  if self.objects_due <= 0 then
    self.objects_due = OBJECTS_S
    tell(self, "objects", self.looker:objects(OBJECTS_SHOWN))
  end
end

local function on_slept(self)
  local t = self.sleeper
  if t and task.abandon(t) then task.wake(t, true) end
end

-- Until the next look is due; without anybody who looks, until somebody comes.
local function pause(self)
  local t = task.check("tarn dashboard")
  local timer = next(self.streams) and task.timer(LOOK_S, on_slept, self)
  self.sleeper = t
  local ok, e = task.wait(function() self.sleeper = nil end)
  self.sleeper = nil
  task.stop_timer(timer)
  if not ok then error(e, 0) end
end

-- Look while somebody is there, until the cluster or this process ends.
local function run(self)
  while not self.ended do
    if next(self.streams) then look(self) end
    if not self.ended then pause(self) end
  end
end

---------------------------------------------------------------------------------------------------- the serving process

local function stop(self)
  self.ended = true
  on_slept(self)
end

local function open(looker, scraper, port)
  local self = { looker = looker, scraper = scraper, token = new_token(), streams = {}, objects_due = 0, server = core.http_open(port) }
  self.poll = uv.new_poll(self.server:fd())
  self.poll:start("r", function() turn(self) end)
  self.housekeeping = uv.new_timer() -- connections that are idle for long are closed
  self.housekeeping:start(HOUSEKEEPING_MS, HOUSEKEEPING_MS, function() turn(self) end)
  return self
end

local function close(self)
  self.poll:close()
  self.housekeeping:close()
  local server = self.server
  self.server = nil
  server:close()
end

local OPTIONS = { ["--connect"] = "value", ["--secret-file"] = "value", ["--port"] = "port", ["--attached"] = "flag", ["--help"] = "flag" }

local USAGE = [[
usage: tarn dashboard [--connect] HOST:PORT --secret-file FILE [--port PORT]
Serves a page that shows what a running cluster does, on 127.0.0.1, until Ctrl-C or the cluster's end; prints its address. In a script:
tarn.dashboard{}.
  --connect HOST:PORT   one of the cluster's processes: what tarn.address() says there
  --secret-file FILE    what tarn.secret_file() says there
  --port PORT           0, the default: any that is free
]]

-- Ends when what started it ends: its standard input does.
local function watch_input(self)
  local input = uv.new_pipe(false)
  input:open(0)
  input:read_start(function(problem, bytes)
    if problem or not bytes then
      input:close()
      stop(self)
    end
  end)
end

-- The connection to the cluster is watched, too: while nobody looks nothing else would notice its end.
local function serve(said)
  local looker = watch.open("dashboard", said)
  local self = open(looker, observer.new(looker.client), said.port or 0)
  looker.client.on_gone = function() stop(self) end
  if said.attached then watch_input(self) end
  print(("http://127.0.0.1:%d/%s/"):format(self.server:port(), self.token))
  io.stdout:flush()
  local ok, e = pcall(run, self)
  if next(self.streams) and self.server then pcall(tell, self, "ended", "the cluster has ended") end
  close(self)
  if not ok and not looker.client.gone then error(e, 0) end
end

---The command `tarn dashboard`, with its arguments: the exit status.
function dashboard.run(...) return watch.run("dashboard", OPTIONS, USAGE, serve, ...) end

---------------------------------------------------------------------------------------------------- starting it

local started -- the process that serves, and its url

-- tarn.dashboard: see init.lua.
function dashboard.open(opts)
  opts = options.check(opts, { port = true }, "tarn.dashboard")
  local port = opts.port or 0
  if type(port) ~= "number" or port % 1 ~= 0 or port < 0 or port > 65535 then
    errors.raise("ArgumentError", "tarn.dashboard: a port is a whole number from 0 to 65535, not " .. failure.describe(port))
  end
  task.check("tarn.dashboard")
  if started and not started.process.code then return started.url end
  local process = subprocess.start { core.options.exe, "dashboard", "--attached", "--connect", core.address(), "--secret-file",
    core.secret_file(), "--port", ("%d"):format(port) }
  local url = process:match("(http://%S+)\n")
  if not url then
    process:wait()
    errors.raise("IOError", "tarn.dashboard: " .. subprocess.complaint(process):gsub("^tarn dashboard: ", ""))
  end
  started = { process = process, url = url }
  return url
end

return dashboard
