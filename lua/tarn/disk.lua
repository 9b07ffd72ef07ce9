-- Objects and files: what moves, copies and saves objects to disk, and reads FileRefs.
--
-- A file that is named is the user's. One that is read becomes an object of the reading process's pool (C reads and maps it), tied to
-- the file as it then was: a file that has changed since is read anew. Process 1 knows who has read what.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local protect = require "tarn.protect"
local refs = require "tarn.refs"
local rpc = require "tarn.rpc"
local task = require "tarn.task"
local uv = require "luv"

local disk = {}

local DRIVER = 1

local function argument_error(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end

local function here(pid) return pid == core.myid() end

-- A path that means the same in another process.
local function absolute(path, what)
  if type(path) ~= "string" or path == "" or path:find("%z") then
    argument_error("%s: a file's path is needed, not %s", what, failure.describe(path))
  end
  return path:sub(1, 1) == "/" and path or uv.cwd() .. "/" .. path
end

---------------------------------------------------------------------------------------------------- objects to files, on their owner

local owner = {}

local function fileref(ref, path) return core.fileref(core.host(), path, ref.size, not path and ref or nil) end

function owner.movetodisk(ref, path)
  if path then
    path = core.file_path(path)
    core.file_move(ref, path)
  else
    core.pool_evict(ref)
  end
  return fileref(ref, path)
end

function owner.copytodisk(ref, path)
  if path then
    path = core.file_path(path)
    core.file_save(ref, path, false)
  else
    core.pool_copy(ref)
  end
  return fileref(ref, path)
end

function owner.savetodisk(ref, path)
  path = core.file_path(path)
  core.file_save(ref, path, true)
  return fileref(ref, path)
end

function owner.deletefromdisk(_, path) core.file_delete(core.file_path(path)) end

local function run_here(name, ref, path)
  if name ~= "deletefromdisk" then protect.ensure(ref) end
  return owner[name](ref, path)
end

local function on_owner() return run_here(core.payload()) end

function rpc.on_request.disk(token, from, msgid) return rpc.serve(token, from, msgid, on_owner) end

local function run(name, ref, path, needs_path)
  local what = "tarn." .. name
  if refs.is_file(ref) then ref = core.fileref_ref(ref) or ref end
  if not refs.is(ref) then argument_error("%s: a DRef is needed, not %s", what, failure.describe(ref)) end
  if path ~= nil or needs_path then path = absolute(path, what) end
  if here(ref.owner) then return run_here(name, ref, path) end
  task.check(what)
  return rpc.call_owner(what, ref, "disk", name, ref, path)
end

-- Write an object to disk and release its memory -> FileRef. A path: a new file, the user's. None: the spill file.
function disk.movetodisk(ref, path) return run("movetodisk", ref, path) end

-- The same, and it stays in memory.
function disk.copytodisk(ref, path) return run("copytodisk", ref, path) end

-- Write or replace a file of the user's with what an object is -> FileRef. The pool does not notice.
function disk.savetodisk(ref, path) return run("savetodisk", ref, path, true) end

-- Remove such a file, on the object's owner.
function disk.deletefromdisk(ref, path)
  if refs.is_file(path) then path = path.path end
  return run("deletefromdisk", ref, path, true)
end

---------------------------------------------------------------------------------------------------- who has read what

local readers = {} -- on process 1: host .. ":" .. path -> list of DRefs

local function note(file, ref, is)
  local list = readers[file] or {}
  for i = #list, 1, -1 do
    if list[i] == ref then table.remove(list, i) end
  end
  if is then list[#list + 1] = ref end
  readers[file] = #list > 0 and list or nil
end

rpc.on_notify["file.read"] = function() note(core.payload()) end

rpc.watch("lost", function(pid)
  for file, list in pairs(readers) do
    for i = #list, 1, -1 do
      if list[i].owner == pid then table.remove(list, i) end
    end
    if #list == 0 then readers[file] = nil end
  end
end)

local function tell(file, ref, is)
  if here(DRIVER) then return note(file, ref, is) end
  core.notify(DRIVER, "file.read", file, ref, is)
end

local function readers_of(file) return { unpack(readers[file] or {}) } end

local function readers_payload() return readers_of(core.payload()) end

rpc.on_request["file.readers"] = function(token, from, msgid) return rpc.serve(token, from, msgid, readers_payload) end

local function name_of(host, path) return host .. ":" .. path end

-- The DRefs into which a file has been read, anywhere. x: a FileRef, or a path of this machine.
function disk.who_has_read(x)
  local what = "tarn.who_has_read"
  local file
  if refs.is_file(x) then
    if not x.path then return {} end
    file = name_of(x.host, x.path)
  else
    local path = absolute(x, what)
    local ok, canonical = pcall(core.file_path, path)
    file = name_of(core.host(), ok and canonical or path)
  end
  if here(DRIVER) then return readers_of(file) end
  task.check(what)
  return rpc.call(what, DRIVER, "file.readers", file)
end

---------------------------------------------------------------------------------------------------- files to objects

-- path -> {ref, identity, verified; code: it may hold functions, for those alone who have allowed them}
local files = {}

local function drop(path)
  local entry = files[path]
  if not entry then return end
  files[path] = nil
  core.pool_delete(entry.ref)
  tell(name_of(core.host(), path), entry.ref, false)
end

local function read(path, opts)
  drop(path)
  local value, ref, identity = core.file_open(path, opts)
  files[path] = { ref = ref, identity = identity, verified = opts.verify, code = opts.code }
  tell(name_of(core.host(), path), ref, true)
  return value
end

-- What of an object may be met that is not this file's own fault: it was deleted, or the file changed in between.
local function is_passing(e) return errors.iserror(e, "KeyError") or errors.iserror(e, "IOError") end

local function get_here(path, opts)
  local ok, canonical = pcall(core.file_path, path)
  if ok then path = canonical end
  local entry = files[path]
  if entry then
    local known, identity = pcall(core.file_identity, path)
    if not known then
      drop(path)
      error(identity, 0)
    end
    if identity == entry.identity and (entry.verified or not opts.verify) then
      local good, value = pcall(core.file_get, entry.ref, opts.code, path, opts.code or not entry.code)
      if good then return value end
      if not is_passing(value) then error(value, 0) end
    end
  end
  return read(path, opts)
end

local hosts = {} -- pid -> the name of its machine

rpc.on_request["file.host"] = function(token, from, msgid) return rpc.serve(token, from, msgid, core.host) end
rpc.watch("lost", function(pid) hosts[pid] = nil end)

local function get_payload() return get_here(core.payload()) end

rpc.on_request["file.get"] = function(token, from, msgid) return rpc.serve(token, from, msgid, get_payload) end

-- A process on that machine; nil when there is none.
local function process_at(host)
  for _, pid in ipairs(core.members()) do
    if not here(pid) then
      if not hosts[pid] then
        local ok, name = pcall(rpc.call, "tarn.poolget", pid, "file.host")
        if ok then
          hosts[pid] = name
        elseif errors.iserror(name, "Cancelled") then
          error(name, 0)
        end
      end
      if hosts[pid] == host then return pid end
    end
  end
end

local function check_opts(opts, what)
  if opts == nil then return { code = false, verify = false } end
  if type(opts) ~= "table" then argument_error("%s: options are a table, not %s", what, failure.describe(opts)) end
  for name in pairs(opts) do
    if name ~= "code" and name ~= "verify" then argument_error("%s: unknown option '%s'", what, tostring(name)) end
  end
  return { code = opts.code and true or false, verify = opts.verify and true or false }
end

-- The value of a FileRef with a path. opts: code, verify.
function disk.get(ref, opts)
  local what = "tarn.poolget"
  opts = check_opts(opts, what)
  if ref.host == core.host() then return get_here(ref.path, opts) end
  task.check(what)
  local pid = process_at(ref.host)
  if not pid then
    local message = "%s: it is on host '%s', where no process of this cluster is; this one is on '%s'"
    errors.raise("IOError", message:format(ref.path, ref.host, core.host()), { path = ref.path })
  end
  return rpc.call(what, pid, "file.get", ref.path, opts)
end

-- Forget what has been read of a file here. The file stays.
function disk.forget(ref) drop(ref.path) end

function disk.forget_all()
  for path in pairs(files) do drop(path) end
end

return disk
