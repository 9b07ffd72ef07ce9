/* Errors. A function that can fail returns 0 or one of these negative codes; the message, where there is more
 * to say than the code does, is written into a tarn_error_t that the caller owns. */
#ifndef TARN_BASE_ERR_H
#define TARN_BASE_ERR_H

#include <stdbool.h>
#include <stdint.h>

enum {
  TARN_OK = 0,
  TARN_ENOMEM = -1,     /* the C heap or the address space is exhausted */
  TARN_EINVAL = -2,     /* an argument is wrong                        -> ArgumentError */
  TARN_EIO = -3,        /* a system call failed                        -> IOError */
  TARN_EDISKFULL = -4,  /* no space on the disk, or max_disksize       -> DiskFull */
  TARN_EPOOLFULL = -5,  /* no room within max_memsize                  -> PoolFull */
  TARN_ENOENT = -6,     /* no such object                              -> KeyError */
  TARN_ECORRUPT = -7,   /* bytes that are not what they should be      -> Corrupt */
  TARN_EPROTO = -8,     /* a peer broke the protocol                   -> ProtocolError */
  TARN_EAUTH = -9,      /* a peer did not prove that it knows the secret -> AuthError */
  TARN_ELOST = -10,     /* the process is gone                         -> WorkerLost */
  TARN_ETIMEDOUT = -11, /* -> Timeout */
  TARN_ECANCELED = -12, /* -> Cancelled */
  TARN_EAGAIN = -13,    /* not now; the caller will be told when (never reaches users) */
  TARN_ETOOBIG =
      -14, /* beyond a bound of size, depth or count      -> ArgumentError / ProtocolError */
  TARN_ENEEDLUA = -15, /* only the Lua thread can do it (never reaches users) */
  TARN_EREMOTE = -16,  /* an error of a job's own                     -> RemoteError */
  TARN_EMOVED =
      -17, /* the object is at process `needed` since its move `available` (never reaches users) */
  TARN_EELSEWHERE =
      -18 /* process `needed` has the object's bytes too: ask that one (never reaches users) */
};

#define TARN_ERROR_TEXT 384

/* An error with its story. Plain data: copy it freely. */
typedef struct tarn_error {
  int code;                    /* TARN_E*, 0 when nothing went wrong */
  uint16_t path_at, path_size; /* where in message the path stands that it is about; size 0: none */
  uint64_t needed,
      available; /* bytes; for TARN_EPOOLFULL, TARN_EDISKFULL and TARN_ENOMEM, else 0 */
  char message[TARN_ERROR_TEXT]; /* for people; never empty when code is set */
} tarn_error_t;

/* Fill err (null allowed) and return code. fmt names what was wrong and where. */
int tarn_error_set(tarn_error_t *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same from errno: picks the code (ENOSPC, EDQUOT, EFBIG -> EDISKFULL; ENOMEM -> ENOMEM; else EIO) and
 * appends strerror. */
int tarn_error_errno(tarn_error_t *err, int sys_errno, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* How many bytes were wanted and how many there were. err: null allowed. Returns its code. */
int tarn_error_bytes(tarn_error_t *err, uint64_t needed, uint64_t available);

/* Say which path err (null allowed) is about; it must stand in the message. Returns err's code. */
int tarn_error_path(tarn_error_t *err, const char *path);

/* err is why, with "before: " before its message: code, figures and path stay. They may be the same. Returns the code. */
int tarn_error_wrap(tarn_error_t *err, const tarn_error_t *why, const char *before);

/* Is it about room, so that needed and available say something? */
bool tarn_error_has_bytes(const tarn_error_t *err);

/* The name of the Lua error kind for a code: "PoolFull". Static; "IOError" for an unknown code. */
const char *tarn_error_kind(int code);

/* The code for a kind's name, TARN_EREMOTE for an unknown one. */
int tarn_error_code(const char *kind, uint32_t length);

/* A short text for a code alone. Static. */
const char *tarn_error_text(int code);

#endif
