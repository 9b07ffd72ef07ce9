/* Machine code that LuaJIT gets wrong, made right. Before April 2022 (Debian 12's is of March) it may lose the upper half of an address in what
 * it compiles of `next` and `pairs` on x86-64: its helper lj_vm_next returns an address in rax and an index in edx, and where the register
 * allocator wants them the other way round, they are exchanged as 32 bits (LuaJIT issue 829). That depends on how many registers the code
 * around it takes; the process crashes, or reads what lies elsewhere.
 *
 * So each new trace is searched for a call of lj_vm_next that is followed by that exchange; between them may stand stores of the results on
 * the stack. The call then goes to a thunk that exchanges all 64 bits, the stores name the other register, and the exchange becomes a nop. Later
 * LuaJITs emit other bytes, in which nothing is found. A trace is searched before it can run (lua/tarn/mend.lua). */
#include <lauxlib.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "host/host-private.h"

#if defined(__x86_64__)

#define CALL 0xe8
#define CALL_BYTES 5
#define THUNK_TARGET 4

/* LuaJIT's code lies within 1 GiB of its library, and a call reaches 2 GiB. */
static const intptr_t near = (intptr_t)512 << 20;
static const intptr_t step = (intptr_t)1 << 20;

/* lj_vm_next returns through a slot of its caller's frame, so the thunk must leave the stack as it found it: the return address waits in r11,
 * which no one minds, and lj_vm_next does not use. */
static const uint8_t thunk_code[] = {
    0x41, 0x5b,                            /* pop r11 */
    0x48, 0xb8, 0,    0, 0, 0, 0, 0, 0, 0, /* mov rax, lj_vm_next */
    0xff, 0xd0,                            /* call rax */
    0x48, 0x92,                            /* xchg rax, rdx */
    0x41, 0xff, 0xe3,                      /* jmp r11 */
};

static uint8_t *thunk; /* a page near LuaJIT */

static uint8_t *page_near(uintptr_t place, size_t size) {
  for (intptr_t i = 2; i / 2 * step < near; i++) {
    uintptr_t away = (uintptr_t)(i % 2 == 0 ? i / 2 * step : -(i / 2) * step);
    void *hint = (void *)((place + away) & ~(uintptr_t)(size - 1));
    void *p = mmap(hint, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) { return NULL; }
    intptr_t distance = (intptr_t)((uintptr_t)p - place);
    if (distance > -near && distance < near) { return p; }
    munmap(p, size);
  }
  return NULL;
}

static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static bool write_thunk(uint64_t next) {
  memcpy(thunk, thunk_code, sizeof thunk_code);
  memcpy(thunk + THUNK_TARGET, &next, sizeof next);
  return mprotect(thunk, page_size(), PROT_READ | PROT_EXEC) == 0;
}

/* The size of a `mov [rsp + d], eax` or edx, or of their 64 bits; 0: something else. *reg: where the byte that names the register is. */
static size_t store_size(const uint8_t *p, const uint8_t *end, size_t *reg) {
  size_t rex = p < end && *p == 0x48;
  if (end - p < (ptrdiff_t)rex + 4 || p[rex] != 0x89 || p[rex + 2] != 0x24) { return 0; }
  *reg = rex + 1;
  uint8_t form = p[rex + 1] & (uint8_t)~0x10;
  return form == 0x44 ? rex + 4 : form == 0x84 ? rex + 7 : 0;
}

/* The exchange that belongs to the call at p; null: none. */
static uint8_t *exchange_after(uint8_t *p, const uint8_t *end) {
  p += CALL_BYTES;
  for (size_t n, reg; (n = store_size(p, end, &reg)) > 0;) { p += n; }
  return p < end && *p == 0x92 ? p : NULL;
}

static void mend_call(uint8_t *call, uint8_t *exchange) {
  int32_t distance = (int32_t)(thunk - (call + CALL_BYTES));
  memcpy(call + 1, &distance, sizeof distance);
  for (uint8_t *p = call + CALL_BYTES; p < exchange;) {
    size_t reg = 0, n = store_size(p, exchange, &reg);
    p[reg] ^= 0x10;
    p += n;
  }
  *exchange = 0x90;
}

static bool protect(uint8_t *from, const uint8_t *end, int how) {
  uintptr_t mask = page_size() - 1, first = (uintptr_t)from & ~mask;
  return mprotect((void *)first, (((uintptr_t)end + mask) & ~mask) - first, how) == 0;
}

static bool calls(const uint8_t *p, uintptr_t function) {
  int32_t distance;
  memcpy(&distance, p + 1, sizeof distance);
  return (uintptr_t)p + CALL_BYTES + (uintptr_t)(intptr_t)distance == function;
}

static const char *mend_one(uint8_t *call, uint8_t *exchange, uintptr_t next) {
  bool ready =
      (thunk[0] != 0 || write_thunk(next)) && protect(call, exchange + 1, PROT_READ | PROT_WRITE);
  if (!ready) { return "the code of a trace cannot be changed"; }
  mend_call(call, exchange);
  bool done = protect(call, exchange + 1, PROT_READ | PROT_EXEC);
  return done ? NULL : "the code of a trace cannot be made executable again";
}

/* (address of a trace's code, its size, address of lj_vm_next) -> number of calls that have been made right; without the last, which takes
 * time to find: of those that have an exchange after them, whatever they call. */
static int mend(lua_State *L) {
  uint8_t *code = (uint8_t *)(uintptr_t)luaL_checknumber(L, 1);
  uint8_t *end = code + (size_t)luaL_checknumber(L, 2);
  uintptr_t next = (uintptr_t)luaL_optnumber(L, 3, 0);
  int found = 0;
  for (uint8_t *p = code; end - p > CALL_BYTES; p++) {
    uint8_t *exchange = *p == CALL ? exchange_after(p, end) : NULL;
    if (exchange == NULL || (next != 0 && !calls(p, next))) { continue; }
    const char *problem = next != 0 ? mend_one(p, exchange, next) : NULL;
    if (problem != NULL) { return luaL_error(L, "%s", problem); }
    found++;
  }
  lua_pushinteger(L, found);
  return 1;
}

void tarn__mcode_open(lua_State *L) {
  if (thunk == NULL) { thunk = page_near((uintptr_t)lua_newstate, page_size()); }
  if (thunk == NULL) { return; }
  lua_pushcfunction(L, mend);
  lua_setfield(L, -2, "mend");
}

#else

void tarn__mcode_open(lua_State *L) { (void)L; }

#endif
