-- The directions in which rooms may include each other (runtime/README.md): the sources are read, and every #include judged.
local lfs = require "lfs"

local USES = { -- room -> those whose headers it may include
  base = {},
  image = { "base" },
  pool = { "image", "base" },
  net = { "image", "base" },
  service = { "pool", "net", "image", "base" },
  bind = { "service", "pool", "net", "image", "base" },
  host = { "bind", "service", "pool", "net", "image", "base" },
  main = { "host", "bind", "service", "pool", "net", "image", "base" },
}
local LUA_HEADERS = { ["lua.h"] = true, ["lauxlib.h"] = true, ["lualib.h"] = true, ["luajit.h"] = true, ["luaconf.h"] = true,
  ["luv.h"] = true }

local function may_include_uv(room, file)
  return room == "net" or room == "service" or room == "host" or (room == "pool" and file:match("^spill"))
    or (room == "base" and file:match("^err"))
end

local function set_of(list)
  local set = {}
  for _, name in ipairs(list) do set[name] = true end
  return set
end

-- Calls visit(room, file, line, include) for every #include under runtime/.
local function each_include(visit)
  local function scan(room, path, file)
    local number = 0
    for text in io.lines(path) do
      number = number + 1
      local name = text:match('^%s*#%s*include%s*["<]([^">]+)[">]')
      if name then visit(room, file, number, name) end
    end
  end
  for room in lfs.dir("runtime") do
    local path = "runtime/" .. room
    if room:match("%.[ch]$") then
      scan("main", path, room)
    elseif room:match("^%a") and lfs.attributes(path, "mode") == "directory" then
      assert.truthy(USES[room], "an unknown room: " .. path)
      for file in lfs.dir(path) do
        if file:match("%.[ch]$") then scan(room, path .. "/" .. file, file) end
      end
    end
  end
end

-- The includes for which judge(room, file, include) gives a text.
local function offences(judge)
  local list, count = {}, 0
  each_include(function(room, file, line, name)
    count = count + 1
    local problem = judge(room, file, name)
    if problem then list[#list + 1] = ("runtime/%s/%s:%d includes %s: %s"):format(room, file, line, name, problem) end
  end)
  assert.is_true(count > 50, "the sources were found")
  return table.concat(list, "\n")
end

describe("the rooms of runtime/", function()
  it("include only rooms to their right", function()
    assert.equal("", offences(function(room, _, name)
      local other = name:match("^(%a+)/")
      if other and USES[other] and other ~= room and not set_of(USES[room])[other] then
        return room .. " may not use " .. other
      end
      if name:match("^%.%.?/") then return "by a relative path" end
    end))
  end)

  it("keep their private headers to themselves", function()
    assert.equal("", offences(function(room, _, name)
      local other = name:match("^(%a+)/") or room
      if name:match("%-private%.h$") and other ~= room then return "private to " .. other end
    end))
  end)

  it("leave Lua's headers to bind and host", function()
    assert.equal("", offences(function(room, _, name)
      local base = name:match("[^/]+$")
      if LUA_HEADERS[base] and room ~= "bind" and room ~= "host" then return "Lua below bind" end
    end))
  end)

  it("leave libuv to net, service, host, pool/spill and base/err", function()
    assert.equal("", offences(function(room, file, name)
      if (name == "uv.h" or name:match("^uv/")) and not may_include_uv(room, file) then return "libuv is not for this file" end
    end))
  end)
end)
