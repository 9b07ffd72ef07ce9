/* Intrusive doubly linked list, circular with a head. No allocation. Not thread-safe. */
#ifndef TARN_BASE_LIST_H
#define TARN_BASE_LIST_H
#include <stdbool.h>
#include <stddef.h>

typedef struct tarn_list {
  struct tarn_list *prev, *next;
} tarn_list_t;

#define TARN_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void tarn_list_init(tarn_list_t *l) { l->prev = l->next = l; }
static inline bool tarn_list_empty(const tarn_list_t *l) { return l->next == l; }
static inline void tarn_list_push_back(tarn_list_t *head, tarn_list_t *n) {
  n->prev = head->prev;
  n->next = head;
  head->prev->next = n;
  head->prev = n;
}
static inline void tarn_list_push_front(tarn_list_t *head, tarn_list_t *n) {
  tarn_list_push_back(head->next, n);
}
/* Unlink n and make it a list of its own, so that removing twice is harmless. */
static inline void tarn_list_remove(tarn_list_t *n) {
  n->prev->next = n->next;
  n->next->prev = n->prev;
  tarn_list_init(n);
}
/* Move all of from to the end of head; from becomes empty. */
static inline void tarn_list_append(tarn_list_t *head, tarn_list_t *from) {
  if (from->next == from) { return; }
  from->next->prev = head->prev;
  from->prev->next = head;
  head->prev->next = from->next;
  head->prev = from->prev;
  tarn_list_init(from);
}
#endif
