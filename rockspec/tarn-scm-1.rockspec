-- Builds this tree in place:
--   luarocks --lua-version 5.1 make --deps-mode none LUA_INCDIR=/usr/include/luajit-2.1 rockspec/tarn-scm-1.rockspec
rockspec_format = "3.0"
package = "tarn"
version = "scm-1"
source = { url = "git+file://." }
description = {
  summary = "Worker processes scripted in Lua, around a pool of data that may be larger than memory",
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = { "lua == 5.1" }
build = {
  type = "cmake",
  variables = {
    CMAKE_BUILD_TYPE = "RelWithDebInfo",
    CMAKE_INSTALL_PREFIX = "$(PREFIX)",
    CMAKE_INSTALL_BINDIR = "$(BINDIR)",
    CMAKE_INSTALL_DATADIR = "$(LUADIR)",
  },
}
