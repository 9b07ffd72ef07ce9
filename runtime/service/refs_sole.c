/* Objects of ours of which nothing is to be known but the one process that holds them: what most objects are that are stored for others. An
 * entry of its own for each would cost more than all the rest of a small object; here it is 7 bytes, as ids are given out in sequence.
 * Pages of sixteen neighbours in a map. [locked], all of it: the mutex of the table. */
#include "base/alloc.h"
#include "base/err.h"
#include "refs-private.h"

enum { PAGE_BITS = 4, PAGE_SIZE = 1 << PAGE_BITS };

typedef struct page {
  uint32_t pids[PAGE_SIZE]; /* by the id's last bits; 0: none */
} page_t;

static page_t *page_of(const tarn__soles_t *all, uint64_t id) {
  return tarn_map_get(&all->pages, id >> PAGE_BITS);
}

uint32_t tarn__sole_get(const tarn__soles_t *all, uint64_t id) {
  const page_t *page = page_of(all, id);
  return page != NULL ? page->pids[id % PAGE_SIZE] : 0;
}

int tarn__sole_set(tarn__soles_t *all, uint64_t id, uint32_t pid) {
  page_t *page = page_of(all, id);
  if (page == NULL) {
    page = tarn_calloc(1, sizeof(*page));
    if (page == NULL || tarn_map_set(&all->pages, id >> PAGE_BITS, page) != 0) {
      tarn_free(page);
      return TARN_ENOMEM;
    }
  }
  all->count += page->pids[id % PAGE_SIZE] == 0;
  page->pids[id % PAGE_SIZE] = pid;
  return 0;
}

/* Has it become empty and gone? */
static bool drop_empty(tarn__soles_t *all, uint64_t number, page_t *page) {
  for (int i = 0; i < PAGE_SIZE; i++) {
    if (page->pids[i] != 0) { return false; }
  }
  tarn_map_remove(&all->pages, number);
  tarn_free(page);
  return true;
}

void tarn__sole_remove(tarn__soles_t *all, uint64_t id) {
  page_t *page = page_of(all, id);
  page->pids[id % PAGE_SIZE] = 0;
  all->count--;
  (void)drop_empty(all, id >> PAGE_BITS, page);
}

int tarn__sole_within(const tarn__soles_t *all, uint64_t first, uint64_t count,
                      tarn__numbers_t *ids) {
  size_t cursor = 0;
  uint64_t number = 0;
  for (const page_t *page; (page = tarn_map_next(&all->pages, &cursor, &number)) != NULL;) {
    for (uint64_t i = 0; i < PAGE_SIZE; i++) {
      uint64_t id = number << PAGE_BITS | i;
      if (page->pids[i] == 0 || id - first >= count) { continue; }
      if (tarn__numbers_add(ids, id) != 0) { return TARN_ENOMEM; }
    }
  }
  return 0;
}

bool tarn__sole_any(const tarn__soles_t *all, uint32_t pid) {
  size_t cursor = 0;
  uint64_t number = 0;
  for (const page_t *page; (page = tarn_map_next(&all->pages, &cursor, &number)) != NULL;) {
    for (int i = 0; i < PAGE_SIZE; i++) {
      if (page->pids[i] == pid) { return true; }
    }
  }
  return false;
}

void tarn__sole_replace(tarn__soles_t *all, uint32_t pid, uint32_t by) {
  size_t cursor = 0;
  uint64_t number = 0;
  for (page_t *page; (page = tarn_map_next(&all->pages, &cursor, &number)) != NULL;) {
    for (int i = 0; i < PAGE_SIZE; i++) {
      if (page->pids[i] == pid) { page->pids[i] = by; }
    }
  }
}

int tarn__sole_take(tarn__soles_t *all, uint32_t pid, tarn__numbers_t *ids) {
  size_t cursor = 0;
  uint64_t number = 0;
  for (page_t *page; (page = tarn_map_next(&all->pages, &cursor, &number)) != NULL;) {
    for (uint64_t i = 0; i < PAGE_SIZE; i++) {
      if (page->pids[i] != pid) { continue; }
      if (tarn__numbers_add(ids, number << PAGE_BITS | i) != 0) { return TARN_ENOMEM; }
      page->pids[i] = 0;
      all->count--;
    }
    if (drop_empty(all, number, page)) { cursor--; } /* what came after it may be in its place */
  }
  return 0;
}

void tarn__sole_clear(tarn__soles_t *all) {
  size_t cursor = 0;
  uint64_t number = 0;
  for (page_t *page; (page = tarn_map_next(&all->pages, &cursor, &number)) != NULL;) {
    tarn_free(page);
  }
  tarn_map_clear(&all->pages);
  all->count = 0;
}
