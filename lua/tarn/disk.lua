-- Objects and files: what moves, copies and saves objects to disk, and reads FileRefs.
--
-- A file that is named is the user's. One that is read becomes an object of the reading process's pool (C reads and maps it), tied to
-- the file as it then was: a file that has changed since is read anew. Process 1 knows who has read what.
local core = require "tarn.core"
local errors = require "tarn.errors"
local failure = require "tarn.failure"
local future = require "tarn.future"
local place = require "tarn.place"
local protect = require "tarn.protect"
local refs = require "tarn.refs"
local rpc = require "tarn.rpc"
local save = require "tarn.save"
local task = require "tarn.task"
local uv = require "luv"

local disk = {}

local DRIVER = 1

local function argument_error(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end

local function here(pid) return pid == core.myid() end

local function s3() return require "tarn.s3" end -- which is loaded when it is wanted

local function is_s3(path) return path:sub(1, 5) == "s3://" end

-- Where a path means what it means here: "" is everywhere.
local function host_of(path) return is_s3(path) and "" or core.host() end

-- A path that means the same in another process: absolute, or s3://.
local function absolute(path, what)
  local at = place.of(path, what)
  if at.bucket or at.path:sub(1, 1) == "/" then return at.path end
  return uv.cwd() .. "/" .. at.path
end

---------------------------------------------------------------------------------------------------- objects to files, on their owner

local owner = {}

local function fileref(ref, path)
  return core.fileref(path and host_of(path) or core.host(), path, ref.size, not path and ref or nil)
end

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
  if is_s3(path) then
    s3().save_object(place.of(path), ref, "tarn.savetodisk")
    return fileref(ref, path)
  end
  path = core.file_path(path)
  core.file_save(ref, path, true)
  return fileref(ref, path)
end

function owner.deletefromdisk(_, path)
  if is_s3(path) then return s3().delete(place.of(path), "tarn.deletefromdisk") end
  core.file_delete(core.file_path(path))
end

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
  if path and not needs_path and is_s3(path) then
    argument_error("%s: an object of the pool cannot be in a store: tarn.savetodisk writes '%s', and tarn.pooldelete lets go of the object",
      what, path)
  end
  return rpc.call_owner(what, ref, run_here, "disk", name, ref, path)
end

---Write an object to disk and release its memory; reading it maps it back. With a path: a new file, which is the user's and is never
---deleted by tarn. Without:
---into the spill file; the FileRef then holds the object as a DRef does. Errors: IOError (the file exists, for one), DiskFull.
---@param ref tarn.DRef
---@param path? string on the owner's machine
---@return tarn.FileRef fileref
function disk.movetodisk(ref, path) return run("movetodisk", ref, path) end

---The same, and the object stays in memory.
---@param ref tarn.DRef
---@param path? string
---@return tarn.FileRef fileref
function disk.copytodisk(ref, path) return run("copytodisk", ref, path) end

---Write an object to a file of the user's own, or replace one: the old file or the new one, never half. The pool does not notice. To
---`s3://bucket/key`, an object in a store, the owner writes it with its own environment's keys (docs/STORES.md).
---@param ref tarn.DRef
---@param path string on the owner's machine; or s3://
---@return tarn.FileRef fileref
function disk.savetodisk(ref, path) return run("savetodisk", ref, path, true) end

---Remove such a file, on the object's owner.
---@param ref tarn.DRef
---@param path string|tarn.FileRef
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

local function name_here(path) return name_of(host_of(path), path) end

---The objects into which a file has been read, anywhere in the cluster.
---@param x tarn.FileRef|string or a path of this machine, or s3://
---@return tarn.DRef[] refs
function disk.who_has_read(x)
  local what = "tarn.who_has_read"
  local file
  if refs.is_file(x) then
    if not x.path then return {} end
    file = name_of(x.host or "", x.path)
  else
    local path = absolute(x, what)
    local ok, canonical = pcall(core.file_path, path)
    file = name_here(ok and not is_s3(path) and canonical or path)
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
  tell(name_here(path), entry.ref, false)
end

-- How what is read is told apart, and read: files, and objects in a store, which suspend and are verified as a whole.
local FILE = { identity = core.file_identity, open = core.file_open }
local STORE = {
  identity = function(path) return s3().identity(place.of(path), "tarn.poolget") end,
  open = function(path, opts)
    local value, ref, identity = s3().open(place.of(path), opts.code, "tarn.poolget")
    opts.verify = true
    return value, ref, identity
  end,
}

local function read(kind, path, opts)
  drop(path)
  local value, ref, identity = kind.open(path, opts)
  files[path] = { ref = ref, identity = identity, verified = opts.verify, code = opts.code }
  tell(name_here(path), ref, true)
  return value
end

-- What of an object may be met that is not this file's own fault: it was deleted, or the file changed in between.
local function is_passing(e) return errors.iserror(e, "KeyError") or errors.iserror(e, "IOError") end

local function get_known(kind, path, opts)
  local entry = files[path]
  if entry then
    local known, identity = pcall(kind.identity, path)
    if not known then
      if not errors.iserror(identity, "Cancelled") then drop(path) end
      error(identity, 0)
    end
    if identity == entry.identity and (entry.verified or not opts.verify) then
      local good, value = pcall(core.file_get, entry.ref, opts.code, path, opts.code or not entry.code)
      if good then return value end
      if not is_passing(value) then error(value, 0) end
    end
  end
  return read(kind, path, opts)
end

local reading = {} -- path of an object in a store -> Future: a task is at it, others wait

local function get_stored(path, opts)
  while reading[path] do reading[path]:wait() end
  local turn = future.new()
  reading[path] = turn
  local ok, value = pcall(get_known, STORE, path, opts)
  reading[path] = nil
  future.succeed(turn)
  if not ok then error(value, 0) end
  return value
end

local function get_here(path, opts)
  local ok, canonical = pcall(core.file_path, path)
  return get_known(FILE, ok and canonical or path, opts)
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

-- The value of a FileRef with a path. opts: code, verify.
function disk.get(ref, opts)
  local what = "tarn.poolget"
  opts = save.options(opts, what)
  if is_s3(ref.path) then return get_stored(ref.path, opts) end
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
