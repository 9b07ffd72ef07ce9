/* Fuzz target: decoding bytes that nobody trusts (functions refused), in a Lua state with tarn's types, then looking at what came out. See
 * decode.lua for what must hold. LuaJIT is not instrumented; the codec, the pool and the image are. Every state is closed in the end, and then
 * nothing may be left of it: the leak checker cannot see what hangs from LuaJIT's heap. */
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "bind/bind.h"
#include "pool/pool.h"

enum { RUNS_A_STATE = 20000 };

typedef struct state {
  lua_State *L;
  tarn_pool_t *pool;
  tarn_bind_t *bind;
  uint64_t bytes_before;
  unsigned runs;
} state_t;

static state_t state;

static void fail(const char *what) {
  fprintf(stderr, "decode: %s\n", what ? what : "?");
  abort();
}

static void open_state(state_t *s) {
  s->bytes_before = tarn_alloc_bytes();
  tarn_error_t err = {0};
  tarn_pool_config_t config = {
      .max_memsize = 64u << 20, .max_disksize = 0, .spill_dir = "build/fuzz/spill"};
  if (tarn_pool_create(&config, &s->pool, &err) != 0) { fail(err.message); }
  s->L = luaL_newstate();
  if (!s->L) { fail("no Lua state"); }
  luaL_openlibs(s->L);
  s->bind = tarn_bind_open(s->L, s->pool, NULL, NULL);
  if (luaL_dofile(s->L, "spec/fuzz/decode.lua")) { fail(lua_tostring(s->L, -1)); }
  s->runs = 0; /* what decode.lua returned, a function, stays at index 1 */
}

static void close_state(state_t *s) {
  lua_close(s->L);
  tarn_bind_close(s->bind);
  tarn_pool_boundary(s->pool);
  tarn_pool_destroy(s->pool);
  if (tarn_alloc_bytes() != s->bytes_before) { fail("memory is left of a state that was closed"); }
}

static void close_last(void) {
  if (state.L) { close_state(&state); }
  state.L = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static bool registered;
  if (!registered) { atexit(close_last); }
  registered = true;
  if (state.runs >= RUNS_A_STATE) { close_last(); }
  if (!state.L) { open_state(&state); }
  state.runs++;
  lua_settop(state.L, 1);
  lua_pushvalue(state.L, 1);
  lua_pushlstring(state.L, (const char *)data, size);
  if (lua_pcall(state.L, 1, 0, 0)) { fail(lua_tostring(state.L, -1)); }
  if (state.runs % 64 == 0) {
    lua_gc(state.L, LUA_GCSTEP, 200);
    tarn_pool_boundary(state.pool);
  }
  return 0;
}
