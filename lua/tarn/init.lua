-- The module `tarn`: the public names, gathered. What each one does stands where it is made.
local core = require "tarn.core"
local errors = require "tarn.errors"
local call = require "tarn.call"
local cluster = require "tarn.cluster"
local event = require "tarn.event"
local future = require "tarn.future"
local pmap = require "tarn.pmap"
local pool = require "tarn.pool"
require "tarn.record"
local save = require "tarn.save"
local serializer = require "tarn.serializer"
local task = require "tarn.task"

---Serve a web page on 127.0.0.1 that shows what the cluster does, until this process ends. A second call gives the address of the first.
---See docs/OPERATIONS.md. Suspends; raises IOError when libmicrohttpd is missing, or the port is taken.
---@param opts? { port?: integer } port: 0, the default, is any that is free
---@return string url with a token: who has it may look, and do nothing else
local function dashboard(opts) return require("tarn.dashboard").open(opts) end -- which is loaded when it is wanted

local tarn = {
  version = core.version,
  myid = core.myid,
  address = core.address,
  secret_file = core.secret_file,
  iserror = errors.iserror,
  log = require("tarn.log").log,
  sleep = task.sleep,
  async = future.async,
  timeout = future.timeout,
  as_completed = future.as_completed,
  pmap = pmap.pmap,
  array = require "tarn.array",
  bits = require "tarn.bits",
  strings = require "tarn.strings",
  nullable = require "tarn.nullable",
  pooled = require "tarn.pooled",
  table = require "tarn.table",
  arrow = require "tarn.arrow",
  ctype = require "tarn.ctype",
  serializer = serializer,
  dashboard = dashboard,
  encode = core.encode,
  decode = core.decode,
  save = save.save,
  load = save.load,
}

for _, name in ipairs { "procs", "workers", "nprocs", "nworkers", "os_pid", "on", "addprocs", "rmprocs" } do tarn[name] = cluster[name] end
for _, name in ipairs { "remotecall", "remotecall_fetch", "remote_do", "spawn", "everywhere", "fetch" } do tarn[name] = call[name] end
for name, fn in pairs(event) do tarn[name] = fn end
for name, fn in pairs(pool) do tarn[name] = fn end

return tarn
