/* Free ranges as a treap: ordered by offset, heap-ordered by a random priority; each node knows the
 * largest range below it, so that the lowest fit is one descent. Not thread-safe. */
#include "pool/range-private.h"

#include <assert.h>
#include "base/alloc.h"

struct tarn__range {
  tarn__range_t *left, *right; /* owned */
  uint64_t offset, size;
  uint64_t largest; /* size of the largest range in this subtree */
  uint32_t priority;
};

static void update(tarn__range_t *n) {
  n->largest = n->size;
  if (n->left && n->left->largest > n->largest) { n->largest = n->left->largest; }
  if (n->right && n->right->largest > n->largest) { n->largest = n->right->largest; }
}

/* Ranges below at go to *low, the others to *high. */
static void split(tarn__range_t *n, uint64_t at, tarn__range_t **low, tarn__range_t **high) {
  if (!n) {
    *low = *high = NULL;
  } else if (n->offset < at) {
    split(n->right, at, &n->right, high);
    *low = n;
    update(n);
  } else {
    split(n->left, at, low, &n->left);
    *high = n;
    update(n);
  }
}

static tarn__range_t *merge(tarn__range_t *low, tarn__range_t *high) {
  if (!low) { return high; }
  if (!high) { return low; }
  if (low->priority > high->priority) {
    low->right = merge(low->right, high);
    update(low);
    return low;
  }
  high->left = merge(low, high->left);
  update(high);
  return high;
}

static tarn__range_t *pop_first(tarn__range_t *n, tarn__range_t **out) {
  if (!n->left) {
    *out = n;
    return n->right;
  }
  n->left = pop_first(n->left, out);
  update(n);
  return n;
}

static tarn__range_t *pop_last(tarn__range_t *n, tarn__range_t **out) {
  if (!n->right) {
    *out = n;
    return n->left;
  }
  n->right = pop_last(n->right, out);
  update(n);
  return n;
}

/* The subtree n holds a range of at least size: take from the lowest such. Returns the subtree
 * without it; *used_up is a node that became empty. */
static tarn__range_t *take(tarn__range_t *n, uint64_t size, uint64_t *offset,
                           tarn__range_t **used_up) {
  if (n->left && n->left->largest >= size) {
    n->left = take(n->left, size, offset, used_up);
  } else if (n->size >= size) {
    *offset = n->offset;
    n->offset += size;
    n->size -= size;
    if (n->size == 0) {
      *used_up = n;
      return merge(n->left, n->right);
    }
  } else {
    n->right = take(n->right, size, offset, used_up);
  }
  update(n);
  return n;
}

void tarn__ranges_init(tarn__ranges_t *r) { *r = (tarn__ranges_t){.seed = 2463534242u}; }

void tarn__ranges_clear(tarn__ranges_t *r) {
  uint64_t offset, size;
  while (tarn__ranges_pop(r, &offset, &size)) {}
}

bool tarn__ranges_take(tarn__ranges_t *r, uint64_t size, uint64_t *offset) {
  assert(size > 0);
  if (!r->root || r->root->largest < size) { return false; }
  tarn__range_t *used_up = NULL;
  r->root = take(r->root, size, offset, &used_up);
  r->bytes -= size;
  if (used_up) {
    r->count--;
    tarn_free(used_up);
  }
  return true;
}

bool tarn__ranges_give(tarn__ranges_t *r, uint64_t offset, uint64_t size) {
  assert(size > 0);
  tarn__range_t *low, *high, *node = NULL, *before = NULL, *after = NULL;
  uint64_t given = size;
  split(r->root, offset, &low, &high);
  if (low) {
    low = pop_last(low, &before);
    assert(before->offset + before->size <= offset);
    if (before->offset + before->size == offset) {
      offset = before->offset;
      size += before->size;
      node = before;
    } else {
      before->left = before->right = NULL;
      update(before);
      low = merge(low, before);
    }
  }
  if (high) {
    high = pop_first(high, &after);
    assert(offset + size <= after->offset);
    if (offset + size == after->offset) {
      size += after->size;
      if (node) {
        tarn_free(after);
        r->count--;
      } else {
        node = after;
      }
    } else {
      after->left = after->right = NULL;
      update(after);
      high = merge(after, high);
    }
  }
  if (!node) {
    node = tarn_malloc(sizeof *node);
    if (!node) {
      r->root = merge(low, high);
      return false;
    }
    r->seed ^= r->seed << 13;
    r->seed ^= r->seed >> 17;
    r->seed ^= r->seed << 5;
    node->priority = r->seed;
    r->count++;
  }
  node->left = node->right = NULL;
  node->offset = offset;
  node->size = size;
  update(node);
  r->root = merge(merge(low, node), high);
  r->bytes += given;
  return true;
}

bool tarn__ranges_pop(tarn__ranges_t *r, uint64_t *offset, uint64_t *size) {
  if (!r->root) { return false; }
  tarn__range_t *first;
  r->root = pop_first(r->root, &first);
  *offset = first->offset;
  *size = first->size;
  r->bytes -= first->size;
  r->count--;
  tarn_free(first);
  return true;
}
