/* Errors: codes, their names in Lua, and messages. A message is formatted aside and then copied, so
 * that an error may be wrapped in place (its own message as an argument). Threads: any; an error
 * belongs to its caller. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct error_info {
  int code;
  const char *kind, *text;
} error_info_t;

/* Of several codes of one kind, the first is what the kind's name is turned back into. */
static const error_info_t infos[] = {
    {TARN_EINVAL, "ArgumentError", "invalid argument"},
    {TARN_EIO, "IOError", "input/output error"},
    {TARN_EDISKFULL, "DiskFull", "no space left on the disk"},
    {TARN_EPOOLFULL, "PoolFull", "no room within max_memsize"},
    {TARN_ENOENT, "KeyError", "no such object"},
    {TARN_ECORRUPT, "Corrupt", "corrupt data"},
    {TARN_EPROTO, "ProtocolError", "the peer broke the protocol"},
    {TARN_EAUTH, "AuthError", "the peer did not prove that it knows the secret"},
    {TARN_ELOST, "WorkerLost", "the process is gone"},
    {TARN_ETIMEDOUT, "Timeout", "timed out"},
    {TARN_ECANCELED, "Cancelled", "cancelled"},
    {TARN_EREMOTE, "RemoteError", "the job failed"},
    {TARN_ENOMEM, "PoolFull", "out of memory"},
    {TARN_ETOOBIG, "ArgumentError", "too large"},
    {TARN_EAGAIN, "IOError", "not ready yet"},
    {TARN_ENEEDLUA, "IOError", "needs the Lua thread"},
    {TARN_EMOVED, "Moved", "the object is elsewhere now"},
    {TARN_EELSEWHERE, "Elsewhere", "another process has the object's bytes"},
};
enum { INFO_COUNT = sizeof infos / sizeof infos[0] };

static const error_info_t *find(int code) {
  for (size_t i = 0; i < INFO_COUNT; i++) {
    if (infos[i].code == code) { return &infos[i]; }
  }
  return NULL;
}

const char *tarn_error_kind(int code) {
  const error_info_t *info = find(code);
  return info ? info->kind : "IOError";
}

const char *tarn_error_text(int code) {
  if (code == TARN_OK) { return "no error"; }
  const error_info_t *info = find(code);
  return info ? info->text : "unknown error";
}

int tarn_error_code(const char *kind, uint32_t length) {
  for (size_t i = 0; i < INFO_COUNT; i++) {
    if (strlen(infos[i].kind) == length && memcmp(infos[i].kind, kind, length) == 0) {
      return infos[i].code;
    }
  }
  return TARN_EREMOTE;
}

/* A text did not fit into `capacity` bytes: end it by dots, and not within a UTF-8 sequence. */
static void mark_cut(char *text, size_t capacity) {
  size_t end = capacity - 4;
  while (end > 0 && ((unsigned char)text[end] & 0xc0u) == 0x80u) { end--; }
  memcpy(text + end, "...", 4);
}

static int set_text(tarn_error_t *err, int code, const char *text) {
  err->code = code;
  err->needed = err->available = 0;
  err->path_at = err->path_size = 0;
  strcpy(err->message, text[0] ? text : tarn_error_text(code));
  return code;
}

static void format(char *text, const char *fmt, va_list args) {
  int length = vsnprintf(text, TARN_ERROR_TEXT, fmt, args);
  if (length < 0) {
    text[0] = '\0';
  } else if (length >= TARN_ERROR_TEXT) {
    mark_cut(text, TARN_ERROR_TEXT);
  }
}

int tarn_error_set(tarn_error_t *err, int code, const char *fmt, ...) {
  if (err) {
    char text[TARN_ERROR_TEXT];
    va_list args;
    va_start(args, fmt);
    format(text, fmt, args);
    va_end(args);
    set_text(err, code, text);
  }
  return code;
}

static int code_of_errno(int sys_errno) {
  switch (sys_errno) {
  case ENOSPC:
  case EDQUOT:
  case EFBIG:
    return TARN_EDISKFULL;
  case ENOMEM:
    return TARN_ENOMEM;
  default:
    return TARN_EIO;
  }
}

int tarn_error_errno(tarn_error_t *err, int sys_errno, const char *fmt, ...) {
  int code = code_of_errno(sys_errno);
  if (err) {
    char text[TARN_ERROR_TEXT], reason[128];
    va_list args;
    va_start(args, fmt);
    format(text, fmt, args);
    va_end(args);
    /* The reason must survive a long text (a path, say), so the text gives way. */
    const char *why = strerror_r(sys_errno, reason, sizeof reason);
    size_t why_length = strnlen(why, sizeof reason);
    size_t room = TARN_ERROR_TEXT - sizeof ": " - why_length;
    if (strlen(text) > room) { mark_cut(text, room + 1); }
    size_t length = strlen(text);
    memcpy(text + length, ": ", 2);
    memcpy(text + length + 2, why, why_length);
    text[length + 2 + why_length] = '\0';
    set_text(err, code, text);
  }
  return code;
}

int tarn_error_bytes(tarn_error_t *err, uint64_t needed, uint64_t available) {
  if (!err) { return 0; }
  err->needed = needed;
  err->available = available;
  return err->code;
}

bool tarn_error_has_bytes(const tarn_error_t *err) {
  return err->needed > 0 || err->code == TARN_EPOOLFULL || err->code == TARN_EDISKFULL ||
         err->code == TARN_ENOMEM;
}

int tarn_error_path(tarn_error_t *err, const char *path) {
  if (!err) { return 0; }
  const char *at = strstr(err->message, path);
  if (at) { /* else it was too long to be told whole */
    err->path_at = (uint16_t)(at - err->message);
    err->path_size = (uint16_t)strlen(path);
  }
  return err->code;
}

int tarn_error_wrap(tarn_error_t *err, const tarn_error_t *why, const char *before) {
  tarn_error_t was = *why;
  tarn_error_set(err, was.code, "%s: %s", before, was.message);
  err->needed = was.needed;
  err->available = was.available;
  size_t at = strlen(before) + 2 + was.path_at;
  if (was.path_size > 0 && at + was.path_size < TARN_ERROR_TEXT - 4) {
    err->path_at = (uint16_t)at;
    err->path_size = was.path_size;
  }
  return was.code;
}
