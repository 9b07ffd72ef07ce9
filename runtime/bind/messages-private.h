/* What the files of messages share: messages.c, payload.c, plain.c. Lua thread. */
#ifndef TARN_BIND_MESSAGES_PRIVATE_H
#define TARN_BIND_MESSAGES_PRIVATE_H

#include "bind/bind.h"
#include "bind/codec.h"
#include "service/service.h"

/* ---- payload.c. All of these raise; what they return is the caller's ---- */
/* What was encoded, taken over. */
tarn_payload_t tarn__payload_of(lua_State *L, tarn_encoded_t *e);
/* The value at index for a foreign client, to whom a ref is its key: what it stands for is the client's until it closes its connection. */
tarn_payload_t tarn__payload_foreign(lua_State *L, int index);
/* The values from first to the top of the stack, as a list. */
tarn_payload_t tarn__payload_list(lua_State *L, int first, const tarn_list_names_t *names);
void tarn__payload_drop(lua_State *L, tarn_payload_t *p);
/* What a request's parameters are to who has made a call: function and reference are not counted among its arguments. */
const tarn_list_names_t *tarn__parameter_names(const char *method);
void tarn__payload_open(lua_State *L); /* adds to the core table at the top of the stack */

/* ---- plain.c ---- */
/* Ask pid to store what was encoded, which is taken over; pushes the msgid. */
void tarn__set_request(lua_State *L, uint32_t pid, uint32_t flags, tarn_encoded_t *e);
void tarn__plain_open(lua_State *L); /* likewise */

/* ---- messages.c ---- */
uint32_t tarn__check_pid(lua_State *L, int index);
/* A request was queued, with rc: push its msgid, or raise. */
int tarn__sent(lua_State *L, int rc, uint32_t msgid);
/* Its response will be one value, not a list of them. */
void tarn__expect_single(lua_State *L, uint32_t msgid);

#endif
