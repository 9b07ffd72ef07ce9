-- tarn where it is installed, by CMake and by LuaRocks: the demo from there, away from the source tree.
local lfs = require "lfs"
local process = require "spec.helper.process"
local says = require("spec.helper.cluster").says

local root = process.root

local function run(argv, opts)
  local result = process.run(argv, opts)
  if result.code ~= 0 then error(("%s failed:\n%s%s"):format(argv[1], result.out:sub(-2000), result.err:sub(-2000)), 2) end
  return result
end

-- The demo by the tarn in dir, whose modules and examples lie in share.
local function run_demo(dir, share)
  local result = run({ dir .. "/bin/tarn", share .. "/examples/flights.lua" }, { cwd = process.tmpdir(), timeout_s = 120 })
  assert.equal("", result.err)
  says(result.out, "mean delay", "delays by route")
  -- It, and its workers, have their modules from there.
  local print_home = 'print(tarn.remotecall_fetch(2, function() return package.searchpath("tarn.array", package.path) end))'
  result = run({ dir .. "/bin/tarn", "-p", "1", "-e", print_home }, { cwd = process.tmpdir() })
  local from = result.out:gsub("/bin/%.%./", "/"):gsub("\n", "")
  assert.equal(share .. "/lua/tarn/array.lua", from)
end

describe("installed by CMake", function()
  it("runs the demo from a prefix that has been moved, and has documents and examples there", function()
    local dir = process.tmpdir()
    run({ "/usr/bin/cmake", "--install", root .. "/build", "--prefix", dir .. "/first" })
    assert(os.rename(dir .. "/first", dir .. "/moved"))
    local moved = dir .. "/moved"
    run_demo(moved, moved .. "/share/tarn")
    for _, file in ipairs { "share/doc/tarn/README.md", "share/doc/tarn/docs/PROTOCOL.md", "share/tarn/examples/clients/client.py" } do
      assert.equal("file", lfs.attributes(moved .. "/" .. file, "mode"), file)
    end
    local result = run({ moved .. "/bin/tarn", moved .. "/share/tarn/examples/serializer.lua" }, { cwd = process.tmpdir() })
    assert.equal("", result.err)
  end)
end)

describe("installed by LuaRocks", function()
  it("runs the demo from a fresh tree", function()
    local dir, tree = process.tmpdir(), process.tmpdir()
    local command = { "/bin/cp", "-r" }
    for _, name in ipairs { "CMakeLists.txt", "LICENSE", "README.md", "CHANGELOG.md", "runtime", "lua", "serializers", "examples", "docs",
      "rockspec" } do
      command[#command + 1] = root .. "/" .. name
    end
    command[#command + 1] = dir
    run(command)
    run({ "/usr/bin/luarocks", "--lua-version", "5.1", "--tree", tree, "make", "--deps-mode", "none", "LUA_INCDIR=/usr/include/luajit-2.1",
      "rockspec/tarn-scm-1.rockspec" },
      { cwd = dir, timeout_s = 240, env = { HOME = tree, CMAKE_GENERATOR = "Ninja" } })
    run_demo(tree, tree .. "/share/lua/5.1/tarn")
  end)
end)
