/* What the files of bind/ that deal with saved files and objects on disk share. Lua thread. */
#ifndef TARN_BIND_FILE_PRIVATE_H
#define TARN_BIND_FILE_PRIVATE_H

#include "base/buf.h"
#include "bind/bind.h"
#include "bind/codec.h"

/* ---- file_form.c ---- */
typedef struct tarn__file_part {
  const void *bytes; /* borrowed */
  size_t size;
  uint64_t at; /* where it begins; of a form only */
} tarn__file_part_t;
/* What a value is as a saved file: these parts one after another. */
typedef struct tarn__file_form {
  tarn__file_part_t *parts; /* owned */
  size_t part_count;
  uint64_t size;        /* of all */
  tarn_buf_t header;    /* owned: the file's, with the checksums of the rest */
  uint8_t fixed[32];    /* the beginning of the front, which says that the blocks follow it */
  const uint8_t *front; /* borrowed */
  size_t front_size;
  const void **data; /* of the blocks; owned */
  uint64_t *sizes;   /* owned */
  uint32_t count;
} tarn__file_form_t;
/* Push a userdata with the form of what was encoded (e), or of a value whose pieces are mapped (v), either of which must outlive it; the other is null. path: for
 * errors. Raises NotSerializable: what holds references cannot be saved. */
tarn__file_form_t *tarn__file_form(lua_State *L, const char *path, const tarn_encoded_t *e,
                                   tarn_value_t *v);
void tarn__file_form_clear(tarn__file_form_t *form);
/* Are the bytes still those that the header was made for? */
bool tarn__file_form_holds(const tarn__file_form_t *form);

/* ---- file_write.c ---- */
/* Write what was encoded (e), or a value whose pieces are mapped (v), to path; the other is null. replace: the file there, if any,
 * else there must be none. Raises IOError, DiskFull (with the path), NotSerializable: e is the collector's, v must be in a box. */
void tarn__file_write(lua_State *L, const char *path, bool replace, const tarn_encoded_t *e,
                      tarn_value_t *v);
/* The same, atomically, for a file of another form, which is these parts one after another. Replaces. */
void tarn__file_write_parts(lua_State *L, const char *path, const tarn__file_part_t *parts,
                            size_t count);
/* Raise err with the file as its path. */
int tarn__file_raise(lua_State *L, const char *path, const tarn_error_t *err);

/* ---- codec_file.c ---- */
const char *tarn__file_check_path(lua_State *L, int index, const char *function);
/* An option of the table at index, or otherwise. */
bool tarn__check_option(lua_State *L, int index, const char *name, bool otherwise);
/* Push a box that lets go of the value in it when it is collected, or cleared. */
tarn_value_t **tarn__value_box(lua_State *L);
void tarn__value_box_clear(tarn_value_t **box);
/* Push a box with the value that a saved file is. Raises, with the path. */
tarn_value_t **tarn__file_open(lua_State *L, const char *path, bool verify,
                               tarn_saved_identity_t *identity);
/* Push what it decodes to. Raises, with the path. */
void tarn__file_push(lua_State *L, const char *path, tarn_value_t *v, bool may_code);

/* ---- objects.c ---- */
/* The id of the DRef at index 1, which must be of this process. */
uint64_t tarn__object_own_id(lua_State *L);
/* Raise what went wrong with object id, if anything (rc != 0). */
void tarn__object_check(lua_State *L, int rc, tarn_error_t *err, uint64_t id);
/* Its value, room made for it as need be; null for a live one. flags: TARN_GET_QUIET, or 0. Raises. */
tarn_value_t *tarn__object_value(lua_State *L, uint64_t id, uint32_t flags);
/* Encode the value at index of the live object id; NotSerializable names the object. See tarn_codec_encode. */
tarn_encoded_t *tarn__object_encode(lua_State *L, uint64_t id, int index);
bool tarn__object_push_live(lua_State *L,
                            uint64_t id); /* its anchored value, else nothing and false */
bool tarn__object_push_cached(lua_State *L,
                              uint64_t id); /* what is still there of a value with an image */
void tarn__object_cache(lua_State *L, uint64_t id, int index); /* remember it so */
/* The value v as a new object; pushes its DRef. */
void tarn__object_push_new(lua_State *L, tarn_value_t *v, uint32_t flags);
/* The ids of watched objects that are gone, in an array from tarn_malloc; null: none. */
uint64_t *tarn__drops_take_deleted(struct tarn_drops *d, size_t *count);

/* ---- fileref.c ---- */
typedef struct tarn__fileref {
  uint64_t size;        /* bytes, as its object had it */
  uint32_t host_length; /* the host's name, a zero byte, the path, a zero byte */
  uint32_t path_length; /* 0: it has no path, but the object's DRef in its environment */
  char text[];
} tarn__fileref_t;
tarn__fileref_t *tarn__fileref_test(lua_State *L, int index);
/* ref: stack index of the DRef of one without a path, else 0. Pushes it. */
void tarn__fileref_push(lua_State *L, const char *host, size_t host_length, const char *path,
                        size_t path_length, uint64_t size, int ref);
void tarn__fileref_open(lua_State *L); /* adds to the core table at the top of the stack */

/* ---- disk.c ---- */
/* Push a box with the object's value, verified; nothing is touched, nothing counted. For an object that is not live. Raises. */
tarn_value_t **tarn__file_peek(lua_State *L, uint64_t id);
void tarn__disk_open(lua_State *L);

/* ---- remote.c, remote_form.c, remote_sink.c: see lua/tarn/s3.lua ---- */
void tarn__remote_open(lua_State *L); /* each adds to the core table at the top of the stack */
void tarn__remote_form_open(lua_State *L);
void tarn__remote_sink_open(lua_State *L);
/* The form at index; null: it is none. Its bytes from at on; what it does not have (any more) is zero. */
tarn__file_form_t *tarn__remote_form_test(lua_State *L, int index);
void tarn__remote_form_read(const tarn__file_form_t *form, uint64_t at, void *to, size_t size);
/* The sink at index; null: it is none. Bytes of the object from at on; where they do not belong anywhere they are dropped. */
typedef struct tarn__remote_sink tarn__remote_sink_t;
tarn__remote_sink_t *tarn__remote_sink_test(lua_State *L, int index);
void tarn__remote_sink_write(tarn__remote_sink_t *sink, uint64_t at, const void *bytes,
                             size_t size);

/* ---- raw_file.c ---- */
void tarn__raw_open(lua_State *L);

#endif
