/* Who holds what (docs/REFERENCES.md), between the files refs*.c.
 *
 * One mutex guards all of it: Lua opens and closes references, whoever lets go of a stored value drops its guard, and the loop works off
 * messages. It is a leaf: nothing is called with it held that takes another, or that calls back. */
#ifndef TARN_SERVICE_REFS_PRIVATE_H
#define TARN_SERVICE_REFS_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>
#include "base/list.h"
#include "base/map.h"
#include "image/image.h"
#include "pool/pool.h"
#include "service/service.h"

struct tarn_conn;

#define TARN_TRANSFER_EXT                                                                          \
  0x21 /* MessagePack extension in a frame, beside its value: docs/REFERENCES.md */

/* Numbers that wait to be sent. */
typedef struct tarn__numbers {
  uint64_t *at; /* owned */
  size_t count, capacity;
} tarn__numbers_t;

/* Objects of ours that just one other process holds: id -> its pid. What holds else, and where it is, would be an entry's to say. */
typedef struct tarn__soles {
  tarn_map_t pages; /* owned; refs_sole.c */
  uint64_t count;
} tarn__soles_t;
#define TARN__SOLE_NOBODY UINT32_MAX /* in place of a pid: nobody, and it is dead if it stays so */
#define TARN__SOLE_ALL (UINT32_MAX - 1) /* there was no memory to note who holds it: it stays */

/* An object of which a reference is here, or has left. */
typedef struct tarn_held {
  uint64_t id; /* its number where it was made */
  uint32_t origin;
  atomic_uint at; /* the owner, as far as is known here */
  uint32_t moves; /* how often it had moved when it came there: what is older is no news */
  uint32_t
      left;     /* another's that was ours: by which move it left here, of which holders are told */
  uint32_t uds; /* userdata in Lua */
  uint32_t pins; /* guards, and foreign clients */
  /* Ours: its number in our pool; 0: it has no value. Another's: 0, but for one that we have handed over without having seen the answer. */
  uint64_t local;
  uint64_t
      asked; /* another's: 0: registered; the number of the refs.hold that does it; or TO_ASK */
  union { /* Ours: who holds it. Another's that was ours: who has been told where it is, and has not answered; once for each time */
    uint32_t holder;   /* while the capacity is 0, and so the count at most 1 */
    uint32_t *holders; /* owned */
  };
  uint32_t holder_count, holder_capacity;
  bool recorded;    /* ours, and process 1 has a record of it: Lua is told of its end */
  bool queued;      /* in the todo of its registrar */
  tarn_list_t link; /* there */
} tarn__held_t;
#define TARN__TO_ASK UINT64_MAX

/* References that something other than Lua holds: an image, a message. */
typedef struct tarn__guard {
  tarn_guard_t base;
  uint32_t count;
  tarn__held_t *held[]; /* each with a pin */
} tarn__guard_t;

/* What is said when a number of other things have happened: transfers got, a fence or a question answered, a new owner noted. */
typedef enum { TARN__SAY_GOT, TARN__SAY_DONE, TARN__SAY_FENCED, TARN__SAY_TOLD } tarn__say_kind_t;
typedef struct tarn__say {
  tarn__say_kind_t kind;
  uint32_t to;
  uint64_t number;        /* the transfer, or the fence's round; TOLD: the object's id */
  uint64_t round;         /* TOLD: of the refs.moved that is answered */
  uint32_t origin, moves; /* TOLD */
  uint32_t waits;         /* for how many */
} tarn__say_t;

typedef struct tarn__wait { /* a say waits for a refs.held, or for a transfer's end */
  tarn_list_t link;
  uint64_t number; /* of the refs.hold */
  tarn__say_t *say;
} tarn__wait_t;

/* A message with references, under way to another process. */
typedef struct tarn__transfer {
  uint64_t number;
  uint64_t token; /* of the connection that it takes */
  uint32_t to;
  tarn__guard_t *guard;
  tarn_list_t waits; /* for its end */
  tarn_place_t at[]; /* where we said that each one is */
} tarn__transfer_t;

/* A fence of another process that is not answered yet. */
typedef struct tarn__fence {
  tarn_list_t link;
  uint32_t from;
  uint64_t round;
  uint32_t count, pids[]; /* of whose loss we are not told yet: the others are 0 */
} tarn__fence_t;

/* Another process, or this one. */
typedef struct tarn__party {
  uint32_t pid;
  bool lost;
  bool struck; /* and nothing of it is left */
  bool busy;   /* in refs->busy */
  tarn_list_t link;
  tarn_map_t made;  /* the objects that were made there: id -> tarn__held_t */
  tarn_list_t todo; /* of those that it registers, to be asked for or dropped */
  tarn__numbers_t got, done, fenced;
  tarn__numbers_t moved; /* owner, origin, id, moves */
  uint64_t moved_round;  /* how often all that it has not answered of that has been said anew */
  tarn__numbers_t told;  /* round, origin, id, moves */
  uint64_t hold_number;  /* of the last refs.hold */
  uint64_t held_number;  /* up to which they have been worked off there */
  uint64_t held_due; /* up to which its have been worked off here, to be sent; 0: nothing to say */
  tarn_list_t waiting;   /* tarn__wait_t, for refs.held */
  uint64_t out_token;    /* the connection that our messages to it take; 0: none yet */
  uint64_t in_token;     /* and the one that its come on */
  uint64_t heard_number; /* of its last refs.hold, refs.here or refs.sync: an older one is late */
  uint32_t transfers;    /* ours to it that are not answered */
  uint64_t
      asked_of; /* the last of its transfers on a connection that is no more: what comes up to that is lost */
  bool must_sync, must_ask; /* a connection broke */
  bool must_here; /* one was left in order: the next is our channel from its first message on */
  bool
      must_hold; /* that our refs.holds have been worked off may have been said to nobody: a refs.hold of nothing is to be sent */
  bool must_collect;   /* it is to collect its garbage */
  bool fence_due;      /* our fence is to be sent to it */
  bool fence_waits;    /* and waits for its answer */
  uint64_t unknown_ns; /* since when it has been no member, and not lost either; 0: it is one */
} tarn__party_t;

typedef struct tarn_refs {
  pthread_mutex_t mutex;
  tarn_map_t parties;   /* pid -> tarn__party_t */
  tarn__soles_t soles;  /* of these objects there is no entry */
  tarn_map_t transfers; /* number -> tarn__transfer_t */
  uint64_t last_transfer;
  tarn_list_t busy;     /* parties for which there is something to do */
  tarn_list_t fences;   /* of others */
  uint64_t fence_round; /* of ours */
  bool fencing;
  bool
      succeeding; /* we have made ourselves the owner of objects of a lost process: a fence is to be sent */
  tarn__numbers_t
      kept; /* the entries (tarn__held_t) of these: each has a pin until it is answered */
  tarn__numbers_t doomed; /* objects of ours that nobody holds any more */
  tarn__numbers_t ended;  /* of those, the ones that are recorded: origin, id */
  atomic_bool dirty;      /* there is something for tarn__refs_flush */
  atomic_bool pressure;   /* the pool is evicting */
  atomic_bool suspect;    /* of some object of ours only userdata of ours is left */
  uint64_t pressed_ns;    /* when holders were last asked to collect */
  uint64_t count;         /* entries, the soles not among them */
  uv_prepare_t prepare;   /* before the loop blocks */
  uv_timer_t tick;        /* while something must be tried again */
  bool open;
} tarn_refs_t;

/* ---- refs.c: the table. [locked]: with the mutex ---- */
void tarn__refs_lock(struct tarn_service *s);
void tarn__refs_unlock(struct tarn_service *s);
tarn__party_t *tarn__party(struct tarn_service *s,
                           uint32_t pid); /* [locked] made at need; null: no memory */
/* [locked] Null: none, or it is a sole. */
tarn__held_t *tarn__held_peek(struct tarn_service *s, uint32_t origin, uint64_t id);
/* [locked] Null: none, or it is a sole and there is no memory to make an entry of it. */
tarn__held_t *tarn__held_find(struct tarn_service *s, uint32_t origin, uint64_t id);
/* [locked] The entry, made at need: at is where it is, if there is nothing to tell. Null: no memory. */
tarn__held_t *tarn__held_get(struct tarn_service *s, uint32_t origin, uint64_t id, uint32_t at);
/* [locked] Uds, pins or holders are fewer: is it dead? Ours goes at once, another's is queued; one that just one process holds becomes a sole.
 * h is not to be used afterwards. */
void tarn__held_check(struct tarn_service *s, tarn__held_t *h);
void tarn__object_doom(struct tarn_service *s, uint64_t local); /* [locked] nobody holds it */
void tarn__soles_doom(struct tarn_service *s); /* [locked] those that nobody holds */
void tarn__held_queue(struct tarn_service *s,
                      tarn__held_t *h); /* [locked] into its registrar's todo */
/* [locked] Whom we tell that we hold it, or no more: its owner; process 1 when that one is lost. Null: no memory. */
tarn__party_t *tarn__held_registrar(struct tarn_service *s, const tarn__held_t *h);
void tarn__held_free(struct tarn_service *s, tarn__held_t *h); /* [locked] out of the table */
int tarn__holder_add(tarn__held_t *h, uint32_t pid);           /* [locked] TARN_ENOMEM */
/* [locked] Once more: of one that is elsewhere now, for each time that pid is told where. TARN_ENOMEM */
int tarn__holder_again(tarn__held_t *h, uint32_t pid);
bool tarn__holder_remove(tarn__held_t *h, uint32_t pid); /* [locked] once. Was it in? */
/* [locked] All of them, until one is added. */
const uint32_t *tarn__holders(const tarn__held_t *h);
bool tarn__holder_is(const tarn__held_t *h, uint32_t pid);
void tarn__guard_unpin(struct tarn_service *s, tarn__guard_t *g); /* [locked] and free */
int tarn__numbers_add(tarn__numbers_t *n, uint64_t v);
void tarn__numbers_clear(tarn__numbers_t *n);
void tarn__refs_mark(struct tarn_service *s); /* [any] there is something for tarn__refs_flush */
void tarn__party_busy(struct tarn_service *s,
                      tarn__party_t *p);        /* [locked] there is something to send */
void tarn__refs_settle(struct tarn_service *s); /* [any] delete what is doomed */
/* [locked] A guard for the references of an image; null with 0 when it has none. moved: origin, id, owner, moves, ...; null allowed. TARN_ENOMEM. */
int tarn__guard_create(struct tarn_service *s, const uint8_t *front, size_t size,
                       const tarn__numbers_t *moved, tarn__guard_t **out);
/* Where an object is, by what the sender of a message has said. */
tarn_place_t tarn__place_told(uint32_t origin, uint64_t id, const tarn__numbers_t *moved);
/* [locked] Somebody says where the object of h is. True: it is news. */
bool tarn__held_moved(struct tarn_service *s, tarn__held_t *h, tarn_place_t to);
/* Another one for the same. */
tarn__guard_t *tarn__guard_clone(const tarn__guard_t *g); /* [locked] null: no memory */

/* ---- refs_sole.c. [locked] ---- */
uint32_t tarn__sole_get(const tarn__soles_t *all, uint64_t id);    /* 0: it is none */
int tarn__sole_set(tarn__soles_t *all, uint64_t id, uint32_t pid); /* TARN_ENOMEM */
void tarn__sole_remove(tarn__soles_t *all, uint64_t id);           /* it is one */
/* Add the ids of those from first on, so many ids. TARN_ENOMEM. */
int tarn__sole_within(const tarn__soles_t *all, uint64_t first, uint64_t count,
                      tarn__numbers_t *ids);
bool tarn__sole_any(const tarn__soles_t *all, uint32_t pid);
void tarn__sole_replace(tarn__soles_t *all, uint32_t pid, uint32_t by);
/* Remove all of pid, whose ids are added. TARN_ENOMEM: not all of them. */
int tarn__sole_take(tarn__soles_t *all, uint32_t pid, tarn__numbers_t *ids);
void tarn__sole_clear(tarn__soles_t *all);

/* ---- refs_transfer.c: messages that carry references ---- */
/* [locked] Say what kind tells once `waits` have come down to 0, that is now if they are. */
void tarn__say_less(struct tarn_service *s, tarn__say_t *say);
tarn__say_t *tarn__say_create(tarn__say_kind_t kind, uint32_t to, uint64_t number);
int tarn__say_wait(tarn__say_t *say, tarn_list_t *list, uint64_t number);
/* [locked] It waits for every refs.held that is not there yet. */
int tarn__say_wait_all(struct tarn_service *s, tarn__say_t *say);
int tarn__say_wait_held(struct tarn_service *s, tarn__say_t *say, const tarn__held_t *h);
void tarn__transfer_end(struct tarn_service *s, tarn__transfer_t *t); /* [locked] and free */

/* ---- refs_out.c ---- */
void tarn__refs_later(
    struct tarn_service *s,
    tarn__party_t *p); /* [locked, loop] there is something to send, but not now */

/* ---- refs_in.c ---- */
void tarn__refs_fence(struct tarn_service *s); /* [locked, loop] a new round of fences */

/* ---- refs_move.c ---- */
/* [locked, loop] p, which has owned an object, says in that round that it is at another process now. */
void tarn__refs_moved(struct tarn_service *s, tarn__party_t *p, uint64_t round, tarn_place_t to,
                      uint32_t origin, uint64_t id);
/* [locked, loop] What p has been told of moves, or its answers, may be lost: in a new round, it is told anew of all that it has not answered. */
void tarn__refs_tell_anew(struct tarn_service *s, tarn__party_t *p);
/* [locked] p is told where h is. */
void tarn__refs_tell_place(struct tarn_service *s, tarn__party_t *p, const tarn__held_t *h);
/* [loop] Lua gets the notification `method` [origin, id], from ourselves. */
void tarn__refs_tell_lua(struct tarn_service *s, const char *method, uint32_t origin, uint64_t id);
#define TARN__REFS_TOLD "migrate.told"  /* all old holders of one that was ours know where it is */
#define TARN__REFS_ENDED "record.ended" /* nobody holds one of ours any more that is recorded */
#endif
