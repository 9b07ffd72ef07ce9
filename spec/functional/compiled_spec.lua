-- Modules that the build has compiled: used where their source is the one that was compiled, and nowhere else.
local lfs = require "lfs"
local process = require "spec.helper.process"

describe("compiled modules", function()
  local root, size_lua, source, stamp

  local function shell(...)
    local command = (...):format(select(2, ...))
    assert(os.execute(command) == 0, command)
  end

  local function write(path, text)
    process.write_file(path, text)
    assert(lfs.touch(path, stamp, stamp))
  end

  local function compile()
    shell("cd %s && build/tarn lua/tarn/compile.lua build/tarn.bytecode . lua/tarn/size.lua lua/tarn/log.lua", root)
  end

  local function run(code)
    local result = process.run { root .. "/build/tarn", "-e", code }
    return result.out .. result.err
  end

  local function error_text() return run('tarn.max_memsize("much")') end

  before_each(function()
    root = process.tmpdir()
    shell("mkdir %s/build && cp %s %s/build/tarn", root, process.tarn_path, root)
    shell("cp -rp %s/lua %s/serializers %s", process.root, process.root, root)
    size_lua = root .. "/lua/tarn/size.lua"
    local file = assert(io.open(size_lua))
    source = file:read("*a")
    file:close()
    stamp = lfs.attributes(size_lua, "modification")
    -- Of the same length, so that only what has been compiled can show it.
    write(size_lua, (source:gsub("a size such", "A SIZE SUCH")))
    compile()
    write(size_lua, source)
  end)

  it("are loaded instead of their source, under its name", function()
    assert.is_truthy(error_text():find("A SIZE SUCH", 1, true), error_text())
    assert.equal("@" .. size_lua .. "\n", run('print(debug.getinfo(require("tarn.size").parse, "S").source)'))
  end)

  it("are not, once the source has changed", function()
    stamp = stamp + 1
    write(size_lua, source)
    assert.is_truthy(error_text():find("a size such", 1, true), error_text())
  end)

  it("are not, where another LuaJIT has compiled them, or the file is damaged", function()
    local path = root .. "/build/tarn.bytecode"
    local file = assert(io.open(path, "rb"))
    local bytes = file:read("*a")
    file:close()
    local index_end = bytes:find("\n\n", 1, true)
    local index = bytes:sub(1, index_end + 1)
    for _, damaged in ipairs { "LuaJIT 1.0\n" .. bytes:match("\n(.*)"), "", "\0", bytes:sub(1, -2), bytes:sub(1, index_end), index .. "\0",
      index .. ("x"):rep(#bytes - index_end - 2) .. "\0", (bytes:gsub("(log%.lua %d+ %d+) %d+", "%1 99999999")) } do
      process.write_file(path, damaged)
      local text = error_text()
      assert.is_truthy(text:lower():find("a size such", 1, true), text)
    end
  end)
end)
