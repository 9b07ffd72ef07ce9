-- Arrow IPC files ("feather v2"): what a job computed opens in pandas, polars, DuckDB and the browser, and what they write is read here.
--
-- | column | Arrow |
-- | --- | --- |
-- | array of numbers | int, floating point (single, double); read also date, time, timestamp, duration: the numbers that Arrow stores |
-- | array of bool, bits | bool |
-- | strings | utf8 where it is, else binary; their large forms above 2 GiB |
-- | nullable | the same with a validity bitmap |
-- | pooled | dictionary |
--
-- Not said: arrays of structs and of several dimensions (saving them is NotSerializable); not read: half floats, decimals, lists, structs,
-- views (ArgumentError, naming the column; others of the file can be chosen).
local core = require "tarn.core"
local errors = require "tarn.errors"
local options = require "tarn.options"
local place = require "tarn.place"
local read = require "tarn.arrow.columns"
local tabular = require "tarn.table"
local write = require "tarn.arrow.write"

local OPTIONS = { columns = true, key = true }

local arrow = {}

local KEY = "tarn.key." -- in the schema's metadata, with a number: the names of the key's columns

local function argument_error(fmt, ...) errors.raise("ArgumentError", fmt:format(...)) end

---Write a table to an Arrow IPC file, or replace one: the old file or the new one, never half. The key is kept with it.
---@param path string
---@param t tarn.Table
function arrow.save(path, t)
  if not tabular.is(t) then argument_error("tarn.arrow.save: a tarn.table is needed, not a %s", type(t)) end
  local metadata = {}
  for i, name in ipairs(t.key) do metadata[i] = { KEY .. i, name } end
  local parts, kept = write.parts(#t, t.columns, metadata)
  core.raw_save(place.file(path, "tarn.arrow.save"), parts)
  return kept and nil -- until here it has kept what the parts point to
end

-- The key that was saved with it, if its columns are among those that were read.
local function saved_key(columns, metadata)
  local names, key = {}, {}
  for _, pair in ipairs(columns) do names[pair[1]] = true end
  while metadata[KEY .. #key + 1] do
    local name = metadata[KEY .. #key + 1]
    if not names[name] then return nil end
    key[#key + 1] = name
  end
  return #key > 0 and key or nil
end

---A table from an Arrow file, or from a stream in a file. Large buffers are mapped, not copied, where there is one record batch. The
---columns are sealed. The file must
---stay as it is while the table is in use: replace it by another (as save does), do not write into it. What is wrong with it: Corrupt.
---@param path string
---@param opts? {columns:string[]?,key:(string|string[])?} the columns that are wanted, and the key. Default: all, and the key that it was
--- saved with
---@return tarn.Table table
function arrow.load(path, opts)
  opts = options.check(opts, OPTIONS, "tarn.arrow.load")
  local columns, metadata = read(place.file(path, "tarn.arrow.load"), opts.columns)
  return tabular { columns = columns, key = opts.key or saved_key(columns, metadata) }
end

return arrow
