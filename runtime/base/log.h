/* One line to standard error: "12:00:01.234 tarn[2] warn: text". Thread-safe, one write(2) a line; the level
 * is read once from TARN_LOG (debug, info, warn, error; default warn). */
#ifndef TARN_BASE_LOG_H
#define TARN_BASE_LOG_H
#include <stdbool.h>
#include <stdint.h>

enum { TARN_LOG_DEBUG, TARN_LOG_INFO, TARN_LOG_WARN, TARN_LOG_ERROR };

void tarn_log(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool tarn_log_enabled(int level);
const char *tarn_log_unknown_level(void); /* what TARN_LOG says, if that is no level; else null */
void tarn_log_set_process(uint32_t pid);  /* tarn's process id shown in the lines; 0: none yet */

/* Something stands on the terminal from the cursor on, below what is printed: a display of progress, a prompt. Who prints a line meanwhile
 * writes tarn_log_erase(fd) before it; who drew it draws it again. */
void tarn_log_set_below(bool drawn);
const char *tarn_log_erase(int fd); /* static; "" when there is nothing to erase */
bool tarn_log_take_erased(void);    /* has anybody, since the last call? */
#endif
