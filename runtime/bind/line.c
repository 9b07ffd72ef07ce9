/* core.line_*: a line typed at the terminal, edited by GNU readline. The library is loaded when a prompt is first wanted (it need not be there: then lines
 * are as the terminal gives them), and driven by its callback interface: Lua waits on the loop for a byte and feeds it, so nothing blocks. No
 * callback of readline's enters Lua: each leaves a note, which line_feed returns.
 *
 * Readline's state is global, and so is this. Lua thread only. */
#include <dlfcn.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "bind.h"

/* libedit gives the same names, and blocks while an escape sequence is incomplete: not taken. */
static const char *const libraries[] = {"libreadline.so.8", "libreadline.so.9", "libreadline.so"};

typedef int command_t(int, int);

/* What is used of readline/readline.h and history.h. */
static struct {
  void *library; /* null: not loaded */
  int fd; /* an epoll descriptor: readable when standard input is. Libuv would make the terminal itself non-blocking, for the shell too */
  void (*install)(const char *prompt, void (*on_line)(char *));
  void (*remove)(void);
  void (*read_char)(void);
  int (*add_command)(const char *name, command_t *fn, int key);
  int (*insert)(const char *text);
  int (*on_new_line)(void);
  void (*redisplay)(void);
  void (*free_line_state)(void);
  void (*signal_cleanup)(void);
  void (*resize)(void);
  void (*add_history)(const char *line);
  int (*clear_visible_line)(void);
  char **buffer;
  int *point, *catch_signals, *catch_resize;
  const char **name;
  char *line;   /* owned: typed, not yet given to Lua */
  bool ended;   /* end of input */
  bool tab;     /* completion is wanted */
  bool showing; /* a prompt stands there */
} rl = {.fd = -1};

static const struct {
  const char *name;
  void *at;
} symbols[] = {{"rl_callback_handler_install", &rl.install},
               {"rl_callback_handler_remove", &rl.remove},
               {"rl_callback_read_char", &rl.read_char},
               {"rl_add_defun", &rl.add_command},
               {"rl_insert_text", &rl.insert},
               {"rl_on_new_line", &rl.on_new_line},
               {"rl_redisplay", &rl.redisplay},
               {"rl_free_line_state", &rl.free_line_state},
               {"rl_callback_sigcleanup", &rl.signal_cleanup},
               {"rl_resize_terminal", &rl.resize},
               {"add_history", &rl.add_history},
               {"rl_clear_visible_line", &rl.clear_visible_line},
               {"rl_line_buffer", &rl.buffer},
               {"rl_point", &rl.point},
               {"rl_catch_signals", &rl.catch_signals},
               {"rl_catch_sigwinch", &rl.catch_resize},
               {"rl_readline_name", &rl.name}};

/* False: the library lacks something. */
static bool find_symbols(void *library) {
  for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
    void *found = dlsym(library, symbols[i].name);
    if (found == NULL) { return false; }
    memcpy(symbols[i].at, &found, sizeof(found));
  }
  return true;
}

static void hide(void) {
  if (rl.showing) { rl.remove(); }
  rl.showing = false;
}

static void on_line(char *line) {
  hide(); /* while the line is run the terminal is as it was */
  rl.line = line;
  rl.ended = line == NULL;
}

static int on_tab(int count, int key) {
  (void)count;
  (void)key;
  rl.tab = true;
  return 0;
}

static int watch_input(void) {
  struct epoll_event event = {.events = EPOLLIN};
  rl.fd = epoll_create1(EPOLL_CLOEXEC);
  if (rl.fd >= 0 && epoll_ctl(rl.fd, EPOLL_CTL_ADD, STDIN_FILENO, &event) == 0) { return 0; }
  if (rl.fd >= 0) { close(rl.fd); }
  rl.fd = -1;
  return -1;
}

/* core.line_open() -> a descriptor that is readable when line_feed is due; nil: there is no readline. */
static int core_line_open(lua_State *L) {
  for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]) && rl.library == NULL; i++) {
    void *library = dlopen(libraries[i], RTLD_NOW | RTLD_LOCAL);
    if (library != NULL && !find_symbols(library)) {
      dlclose(library);
      library = NULL;
    }
    rl.library = library;
  }
  if (rl.library == NULL || (rl.fd < 0 && watch_input() != 0)) { return 0; }
  *rl.name = "tarn";
  *rl.catch_signals = 0; /* host/interrupt.c has them */
  *rl.catch_resize = 0;
  rl.add_command("tarn-complete", on_tab, '\t');
  lua_pushnumber(L, rl.fd);
  return 1;
}

static int need(lua_State *L) {
  return rl.library == NULL ? luaL_error(L, "line_open comes first") : 0;
}

/* core.line_prompt(text): show it, and edit a new line. */
static int core_line_prompt(lua_State *L) {
  need(L);
  hide();
  rl.tab = false;
  rl.install(luaL_checkstring(L, 1), on_line);
  rl.showing = true;
  return 0;
}

/* core.line_feed() -> "line", text: the prompt has gone; "end"; "tab", what stands before the cursor; nothing: more is to come. */
static int core_line_feed(lua_State *L) {
  need(L);
  if (!rl.showing) { return 0; }
  rl.read_char();
  if (rl.line != NULL) {
    lua_pushliteral(L, "line");
    lua_pushstring(L, rl.line);
    free(rl.line); /* readline's, by malloc */
    rl.line = NULL;
    return 2;
  }
  if (rl.ended) {
    rl.ended = false;
    lua_pushliteral(L, "end");
    return 1;
  }
  if (!rl.tab) { return 0; }
  rl.tab = false;
  lua_pushliteral(L, "tab");
  lua_pushlstring(L, *rl.buffer, (size_t)*rl.point);
  return 2;
}

/* core.line_insert(text): as if it had been typed. */
static int core_line_insert(lua_State *L) {
  need(L);
  const char *text = luaL_checkstring(L, 1);
  if (rl.showing) {
    rl.insert(text);
    rl.redisplay();
  }
  return 0;
}

/* core.line_hide(): take prompt and line off the screen, where something is to be printed; line_redraw() shows them again. */
static int core_line_hide(lua_State *L) {
  need(L);
  if (rl.showing) { rl.clear_visible_line(); }
  return 0;
}

static int core_line_redraw(lua_State *L) {
  need(L);
  if (rl.showing) {
    rl.on_new_line();
    rl.redisplay();
  }
  return 0;
}

static int core_line_resize(lua_State *L) {
  need(L);
  if (rl.showing) { rl.resize(); }
  return 0;
}

/* core.line_discard(): forget what was typed; the prompt is no more. */
static int core_line_discard(lua_State *L) {
  need(L);
  if (rl.showing) {
    rl.free_line_state();
    rl.signal_cleanup();
    hide();
  }
  return 0;
}

static int core_line_history(lua_State *L) {
  need(L);
  rl.add_history(luaL_checkstring(L, 1));
  return 0;
}

/* core.line_close(): the terminal is as it was. The library stays. */
static int core_line_close(lua_State *L) {
  (void)L;
  if (rl.library != NULL) { hide(); }
  if (rl.fd >= 0) { close(rl.fd); }
  rl.fd = -1;
  return 0;
}

void tarn__line_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"line_open", core_line_open},
                                       {"line_prompt", core_line_prompt},
                                       {"line_feed", core_line_feed},
                                       {"line_insert", core_line_insert},
                                       {"line_hide", core_line_hide},
                                       {"line_redraw", core_line_redraw},
                                       {"line_resize", core_line_resize},
                                       {"line_discard", core_line_discard},
                                       {"line_history", core_line_history},
                                       {"line_close", core_line_close},
                                       {NULL, NULL}};
  luaL_register(L, NULL, functions);
}
