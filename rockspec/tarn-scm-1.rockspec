-- Builds this tree and installs it:
--   luarocks --lua-version 5.1 make --deps-mode none LUA_INCDIR=/usr/include/luajit-2.1 rockspec/tarn-scm-1.rockspec
-- The program, with LuaJIT in it, becomes TREE/bin/tarn; its modules, serializers and examples lie in TREE/share/lua/5.1/tarn, where
-- no other Lua takes them for its own.
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
    CMAKE_INSTALL_DOCDIR = "$(PREFIX)/doc",
    CMAKE_INSTALL_MANDIR = "$(PREFIX)/doc/man",
  },
}
