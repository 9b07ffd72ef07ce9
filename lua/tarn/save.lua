-- tarn.save and tarn.load: a value to a file or to a store and back, without a pool's object.
local core = require "tarn.core"
local options = require "tarn.options"
local place = require "tarn.place"

local save = {}

local function s3() return require "tarn.s3" end -- which is loaded when it is wanted

local OPTIONS = { code = true, verify = true }

-- Options of what reads: {code, verify}, both booleans.
function save.options(opts, what)
  opts = options.check(opts, OPTIONS, what)
  return { code = opts.code and true or false, verify = opts.verify and true or false }
end

---Write a value to a file, or replace one: the old file or the new one, never half. DRefs and Futures cannot be saved. To
---`s3://bucket/key`, an object in a store (docs/STORES.md), it suspends. Errors: IOError, DiskFull, NotSerializable.
---@param path string a path, file:// or s3://
---@param x any
function save.save(path, x)
  local at = place.of(path, "tarn.save")
  if at.bucket then return s3().save(at, x, "tarn.save") end
  return core.save(at.path, x)
end

---The value in a saved file, mapped: the file must stay as it is while the value is in use. From `s3://bucket/key` it is read into this
---process's memory, within its budget and verified; that suspends. Errors: IOError, Corrupt, PoolFull, DiskFull.
---@param path string a path, file:// or s3://
---@param opts? {code:boolean?,verify:boolean?} code: it may hold functions; verify: check all of a large file first
---@return any value
function save.load(path, opts)
  local at = place.of(path, "tarn.load")
  if not at.bucket then return core.load(at.path, opts) end
  return s3().load(at, save.options(opts, "tarn.load").code, "tarn.load")
end

return save
