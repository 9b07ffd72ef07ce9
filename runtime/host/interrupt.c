/* Ctrl-C (SIGINT), SIGTERM and SIGHUP in a driver. Once: Lua is told (lua/tarn/interrupt.lua), which ends the process in order. Again, before Lua is
 * done with the first: the process ends at once, and what it has started goes with it (a worker's standard input ends).
 *
 * The handler runs on any thread. It wakes the loop by a uv_async_t, and sets a hook, on the Lua thread only, which raises Cancelled in the
 * user's own code if that is what runs. Compiled code looks at no hooks, nor does a call of C's: when Lua has not been told after GRACE_MS, whoever runs
 * the loop then (the service thread) ends the process as a second signal would; at a prompt, which is to stay, it says that a second one is needed.
 * A signal that is ignored when tarn starts stays ignored (nohup, "&" in a script). Should a script handle one by luv, libuv's handler takes the
 * place of ours.
 *
 * The state is global because a signal handler has no other; there is one host in a process. */
#include <errno.h>
#include <lauxlib.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#include "host-private.h"

#define HOOK_INSTRUCTIONS 1000
#define GRACE_MS 2000

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { SIGNALS = sizeof(signals) / sizeof(signals[0]) };

static struct {
  tarn_host_t *host; /* borrowed; null: not installed */
  uv_async_t async;
  uv_timer_t grace; /* for Lua to be told */
  pthread_t lua_thread;
  atomic_bool stays;  /* SIGINT is not to end the process: a prompt */
  atomic_int count;   /* of signals since Lua was done with the last */
  atomic_int pending; /* the signal of which Lua has not been told; 0: none */
  bool caught[SIGNALS];
} state;

/* The file with the secret, and the directory if it is empty, are all that has a name. */
static void end_at_once(int number) {
  static const char text[] = "tarn: stopped at once\n";
  ssize_t n = write(STDERR_FILENO, text, sizeof(text) - 1);
  (void)n;
  const char *secret = tarn_service_secret_path(state.host->service);
  if (secret != NULL) { unlink(secret); }
  rmdir(state.host->spill_dir);
  _exit(128 + number);
}

/* Whose code runs: that of the innermost function which is neither C nor one of LuaJIT's own (table.remove is bytecode too). */
static bool is_users(lua_State *L) {
  lua_Debug ar;
  for (int level = 0; lua_getstack(L, level, &ar) != 0; level++) {
    if (lua_getinfo(L, "S", &ar) != 0 && strcmp(ar.what, "C") != 0 && ar.linedefined >= 0) {
      return !tarn_bind_own_source(L, ar.source);
    }
  }
  return false;
}

/* Raises in the user's code, again and again (it may be caught there) until Lua has been told. Never in tarn's own, whose state it would break. */
static void on_hook(lua_State *L, lua_Debug *ar) {
  (void)ar;
  if (is_users(L)) { tarn_bind_raise_kind(L, TARN_ECANCELED, "interrupted"); }
}

static void on_signal(int number, siginfo_t *info, void *context) {
  (void)context;
  int saved = errno;
  bool forwarded = info->si_code == SI_QUEUE && info->si_pid == getpid();
  if (!forwarded && atomic_fetch_add(&state.count, 1) > 0) { end_at_once(number); }
  if (pthread_equal(pthread_self(), state.lua_thread) != 0) {
    atomic_store(&state.pending, number);
    lua_State *L = state.host->L; /* null at the very end */
    if (L != NULL) { lua_sethook(L, on_hook, LUA_MASKCALL | LUA_MASKCOUNT, HOOK_INSTRUCTIONS); }
    uv_async_send(&state.async);
  } else if (!forwarded) {
    pthread_sigqueue(state.lua_thread, number, (union sigval){0});
  }
  errno = saved;
}

static void on_grace(uv_timer_t *grace) {
  (void)grace;
  int number = atomic_load(&state.pending);
  if (number == 0) { return; }
  if (number != SIGINT || !atomic_load(&state.stays)) { end_at_once(number); }
  static const char text[] = "tarn: compiled code or C runs on; Ctrl-C again ends the process\n";
  ssize_t n = write(STDERR_FILENO, text, sizeof(text) - 1);
  (void)n;
}

/* The turn ends, and looks. */
static void on_async(uv_async_t *async) {
  (void)async;
  uv_timer_start(&state.grace, on_grace, GRACE_MS, 0);
}

void tarn__interrupt_install(tarn_host_t *h) {
  if (uv_async_init(&h->loop, &state.async, on_async) != 0) { return; }
  uv_timer_init(&h->loop, &state.grace);
  uv_unref((uv_handle_t *)&state.grace);
  state.host = h;
  state.lua_thread = pthread_self();
  for (int i = 0; i < SIGNALS; i++) {
    struct sigaction old, action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&action.sa_mask);
    state.caught[i] = sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN;
    if (state.caught[i]) { sigaction(signals[i], &action, NULL); }
  }
}

bool tarn__interrupt_pending(void) {
  return atomic_load_explicit(&state.pending, memory_order_relaxed) != 0;
}

/* core.interrupt_pending(): has a signal arrived of which Lua has not been told? */
static int core_interrupt_pending(lua_State *L) {
  lua_pushboolean(L, tarn__interrupt_pending());
  return 1;
}

/* core.interrupt_take() -> the signal that has arrived, and of which Lua knows from now on; 0: none. */
static int core_interrupt_take(lua_State *L) {
  int number = atomic_exchange(&state.pending, 0);
  if (number != 0) { lua_sethook(L, NULL, 0, 0); }
  lua_pushnumber(L, number);
  return 1;
}

/* core.interrupt_done(): the next one is a first one again. */
static int core_interrupt_done(lua_State *L) {
  (void)L;
  atomic_store(&state.count, 0);
  return 0;
}

/* core.interrupt_stays(stays): from now on Ctrl-C is not, or is, to end the process. */
static int core_interrupt_stays(lua_State *L) {
  atomic_store(&state.stays, lua_toboolean(L, 1));
  return 0;
}

void tarn__interrupt_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"interrupt_pending", core_interrupt_pending},
                                       {"interrupt_take", core_interrupt_take},
                                       {"interrupt_done", core_interrupt_done},
                                       {"interrupt_stays", core_interrupt_stays},
                                       {NULL, NULL}};
  luaL_register(L, NULL, functions);
}

void tarn__interrupt_close(void) {
  if (state.host == NULL) { return; }
  for (int i = 0; i < SIGNALS; i++) {
    if (state.caught[i]) { signal(signals[i], SIG_IGN); }
  }
  state.host = NULL;
  uv_close((uv_handle_t *)&state.async, NULL);
  uv_close((uv_handle_t *)&state.grace, NULL);
}
