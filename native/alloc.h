/*
 * Memory for the hot path. In the build that tests failed allocations (build.py --fail-alloc) each
 * call of malloc, calloc and realloc in these files is counted, and one of them fails; otherwise
 * this header is stdlib.h.
 */
#ifndef RMT_ALLOC_H
#define RMT_ALLOC_H

#include <stdlib.h>

#ifdef RMT_FAIL_ALLOC

extern long rmt_alloc_count, rmt_alloc_fail; /* calls so far; the one that fails, 0: none */

static inline int rmt_alloc_fails(void) { return ++rmt_alloc_count == rmt_alloc_fail; }

static inline void *rmt_malloc(size_t size) { return rmt_alloc_fails() ? NULL : malloc(size); }
static inline void *rmt_calloc(size_t count, size_t size) {
  return rmt_alloc_fails() ? NULL : calloc(count, size);
}
static inline void *rmt_realloc(void *old, size_t size) {
  return rmt_alloc_fails() ? NULL : realloc(old, size);
}

#define malloc rmt_malloc
#define calloc rmt_calloc
#define realloc rmt_realloc

#endif
#endif
