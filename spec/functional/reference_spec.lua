-- The reference and the stubs for editors, beside the running program; and that docs/tools sees what is missing, wrong or stale.
local process = require "spec.helper.process"

-- The names that programs are written against. They may become more, not fewer.
local CONTRACT = [[
  addprocs rmprocs procs workers nprocs nworkers myid everywhere on
  remotecall remotecall_fetch remote_do spawn pmap as_completed fetch timeout async sleep event promise publish lookup log
  poolset poolget pooldelete poolset_all poolget_all pooldelete_all movetodisk copytodisk savetodisk deletefromdisk
  destroyonevict migrate access
  max_memsize max_disksize approx_size poolstats who_has_read cleanup save load
  array bits strings nullable pooled table arrow ctype serializer encode decode iserror address secret_file version
]]
local METHODS = {
  ["tarn.Future"] = "fetch wait ready cancel",
  ["tarn.Event"] = "notify isset wait",
  ["tarn.Promise"] = "put ready fetch",
  ["tarn.DRef"] = "get delete key owner id size",
  ["tarn.FileRef"] = "get delete key host path size",
  ["tarn.Array"] = "ptr copy slice shape",
  ["tarn.Writer"] = "value block write",
  ["tarn.Reader"] = "value block read version",
  ["tarn.Error"] = "kind message pid traceback path needed available cause",
  ["tarn.SetOptions"] = "size destroyonevict destructor replicas remake",
  ["tarn.ProcsOptions"] = "memory disk spill_dir launcher listen respawn env init silence_s map partial",
  ["tarn.MapOptions"] = "workers batch retries progress on_error",
  ["tarn.Stats"] = "objects live_bytes resident_bytes inflight_bytes lent_bytes borrowed_bytes spilled_bytes disk_bytes lua_bytes "
    .. "max_memsize max_disksize sets gets deletes evictions spill_written_bytes mapped_back_bytes mapped_in_bytes mapped_in_count "
    .. "tcp_in_bytes tcp_out_bytes",
}

local META = { "lua/tarn/meta/core.lua", "lua/tarn/meta/tarn.lua" }

-- What the stubs define: name -> what it is, "array.is" for modules' members.
local function stubbed()
  local found = {}
  for _, path in ipairs(META) do
    local chunk = assert(loadfile(path))
    local env = {}
    setfenv(chunk, env)
    chunk()
    for name, x in pairs(env.tarn) do
      found[name] = x
      for member, fn in pairs(type(x) == "table" and x or {}) do found[name .. "." .. member] = fn end
    end
  end
  return found
end

local function parameters(fn)
  local info = debug.getinfo(fn, "u")
  return info.nparams + (info.isvararg and 0.5 or 0)
end

-- A copy of what docs/tools reads, to be spoilt.
local function copy_of_sources()
  local folder = process.tmpdir()
  assert.equal(0, os.execute(("cp -r lua docs '%s'"):format(folder)))
  return folder
end

local function check(folder, before)
  local code = (before or "") .. " arg = { '--check' } dofile 'docs/tools/reference.lua'"
  return process.run_tarn({ "-e", code }, { cwd = folder })
end

local function replace(path, old, new)
  local text = process.read_file(path)
  local from, to = text:find(old, 1, true)
  assert(from, old)
  process.write_file(path, text:sub(1, from - 1) .. new .. text:sub(to + 1))
end

describe("the reference", function()
  it("is what the annotations in the sources say, and those agree with the running program", function()
    local result = check(process.root)
    assert.equal("", result.err)
    assert.equal(0, result.code)
  end)

  it("has every name of the contract", function()
    local text = process.read_file("docs/API.md")
    for name in CONTRACT:gmatch("%S+") do
      assert.is_not_nil(tarn[name], name)
      assert.truthy(name == "arrow" or name == "version" or text:find("### `tarn." .. name .. "(", 1, true), name)
    end
    local stubs = process.read_file(META[1]) .. process.read_file(META[2])
    for class, names in pairs(METHODS) do
      local short = class:match("%u%w*$")
      local body = stubs:match("%-%-%-@class " .. class:gsub("%p", "%%%0") .. "[^%w].-\n[^-]")
      for name in names:gmatch("%S+") do
        local is = stubs:find(("\nfunction %s:%s("):format(short, name), 1, true) or body:find("@field " .. name .. "[ ?]")
        assert.truthy(is, class .. " " .. name)
      end
    end
  end)

  it("finds what has no annotation, another parameter, a field that is none, or another text than the sources", function()
    local folder = copy_of_sources()
    local function complains(about, before)
      local result = check(folder, before)
      assert.equal(1, result.code)
      assert.equal("docs: " .. about .. "\n", result.err)
    end
    assert.equal(0, check(folder).code)
    complains("tarn.unheard_of has no annotation", "tarn.unheard_of = function() end")
    complains("tarn.constant has no annotation: it is no @field of the class tarn", "tarn.constant = 5")
    local pool, text = folder .. "/lua/tarn/pool.lua", "integer the process that is to own it"
    replace(pool, "---@param pid? " .. text, "---@param id? " .. text)
    complains "tarn.poolset has the parameters (x, pid, opts), its annotation has (x, id, opts)"
    replace(pool, "---@param id? " .. text, "---@param pid? integer whose it is to be")
    local result = check(folder)
    assert.truthy(result.err:find("docs/API.md is stale", 1, true), result.err)
    assert.truthy(result.err:find("lua/tarn/meta/tarn.lua is stale", 1, true), result.err)
    replace(folder .. "/lua/tarn/array.lua", "---@field shape integer[] the dimensions, as a new list", "---@field form integer[]")
    result = check(folder)
    assert.truthy(result.err:find("a tarn.Array has no field 'form'", 1, true), result.err)
    assert.truthy(result.err:find("the field 'shape' of tarn.Array has no annotation", 1, true), result.err)
  end)
end)

describe("the stubs for editors", function()
  it("have the names of the running program and no others, with the same parameters", function()
    local stubs, real = stubbed(), {}
    for name, x in pairs(tarn) do
      real[name] = x
      local new = type(x) == "table" and (x.new or x.define)
      for member, fn in pairs(type(x) == "table" and x or {}) do
        if type(fn) == "function" and fn ~= new and member:sub(1, 1) ~= "_" then real[name .. "." .. member] = fn end
      end
    end
    local inner = { ["serializer.bind"] = true, ["serializer.load"] = true, ["ctype.of"] = true, ["ctype.mend"] = true, version = true }
    for name, x in pairs(real) do
      if not inner[name] then
        assert.equal(type(x), type(stubs[name]), name)
        if type(x) == "function" and debug.getinfo(x, "S").what ~= "C" then assert.equal(parameters(x), parameters(stubs[name]), name) end
      end
    end
    for name in pairs(stubs) do assert.is_not_nil(real[name], name) end
  end)
end)
