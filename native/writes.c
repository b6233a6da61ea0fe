/*
 * Block writes: find the old entries, classify each block (zero, same, duplicate, fresh), take
 * slots and write the fresh ones, change the map. As for reads (io.c), nothing waits for a disk to
 * read without `wait`.
 *
 * The order inside a write is what keeps data alive: duplicates are compared byte for byte and
 * marked shared before anything that the write replaces is freed.
 */
#include "core.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#define RUN_VECTORS 256
#define DIGEST_BLOCKS 32u /* still in the CPU's cache when they are compared */
#define WINDOW_BLOCKS 16u

enum kind { ZERO, SAME, DUPLICATE, TWIN, FRESH };

/* A block to be written. TWIN: equal to the fresh block `twin` of the same call. */
typedef struct {
  uint64_t fingerprint, address, old_address;
  uint32_t twin;
  uint8_t kind;
} block;

/* Slots read together, because those compared before followed each other: from `address` on. They
 * stay as they are until the call takes slots. */
typedef struct {
  uint64_t address, count, next; /* next: the slot after the one that was compared last */
  uint8_t data[WINDOW_BLOCKS * RMT_BLOCK];
} window;

typedef struct {
  uint64_t domain;
  block *blocks;
  uint64_t *old_addresses, *old_checksums;
  uint32_t *table; /* fingerprint -> fresh block of this call + 1 */
  uint32_t table_mask, fresh;
  window *window;
  const rmt_source *source;
  uint64_t count;
  bool wait;
} batch;

static const uint8_t *data_of(const batch *b, uint64_t i) {
  const rmt_source *s = b->source;
  return s->data + i / s->piece * s->stride + i % s->piece * RMT_BLOCK;
}

static int batch_new(batch *b, const rmt_source *source, uint64_t count) {
  uint32_t size = 8;
  while (size < 2 * count) size *= 2;
  *b = (batch){.table_mask = size - 1, .source = source, .count = count};
  b->blocks = calloc(count, sizeof *b->blocks);
  b->old_addresses = malloc(count * sizeof *b->old_addresses);
  b->old_checksums = malloc(count * sizeof *b->old_checksums);
  b->table = calloc(size, sizeof *b->table);
  return b->blocks && b->old_addresses && b->old_checksums && b->table ? RMT_OK : RMT_NOMEM;
}

static void batch_free(batch *b) {
  free(b->blocks);
  free(b->old_addresses);
  free(b->old_checksums);
  free(b->table);
}

static bool is_zero(const uint8_t *data) {
  uint64_t first;
  memcpy(&first, data, sizeof first);
  return !first && !memcmp(data, data + sizeof first, RMT_BLOCK - sizeof first);
}

/* The slot's bytes, from the window: moved there if it is elsewhere, and with the neighbours where
 * the one before was asked for last. NULL: they cannot be read (or not yet: EAGAIN in `error`). */
static const uint8_t *windowed(const rmt_core *core, window *w, uint64_t address, bool wait,
                               int *error) {
  uint64_t room = core->slab_slots - address % core->slab_slots;
  uint64_t count = address != w->next ? 1 : room < WINDOW_BLOCKS ? room : WINDOW_BLOCKS;
  w->next = address + 1;
  *error = 0;
  if (address - w->address < w->count) return w->data + (address - w->address) * RMT_BLOCK;
  *error = read_slots(core, address, w->data, count * RMT_BLOCK, wait);
  if (*error && count > 1) {
    count = 1;
    *error = read_slots(core, address, w->data, RMT_BLOCK, wait);
  }
  w->address = address;
  w->count = *error ? 0 : count;
  return *error ? NULL : w->data;
}

/* Whether a slot holds exactly these bytes. A slot that cannot be read is not equal; one that is
 * cold is noted, and the write will not go on. */
static bool slot_equals(rmt_core *core, batch *b, uint64_t address, const uint8_t *data) {
  int error;
  const uint8_t *found = windowed(core, b->window, address, b->wait, &error);
  if (found) return !memcmp(found, data, RMT_BLOCK);
  if (error == EAGAIN) note_cold(core, address);
  return error == EAGAIN;
}

static bool find_twin(batch *b, uint32_t i) {
  block *w = &b->blocks[i];
  uint32_t at = (uint32_t)(w->fingerprint >> 7) & b->table_mask;
  for (; b->table[at]; at = (at + 1) & b->table_mask) {
    uint32_t other = b->table[at] - 1;
    if (b->blocks[other].fingerprint != w->fingerprint) continue;
    if (memcmp(data_of(b, other), data_of(b, i), RMT_BLOCK)) continue;
    w->twin = other;
    return true;
  }
  b->table[at] = i + 1;
  return false;
}

/* Zero or not; and what the index is asked next is on its way into the CPU's cache. */
static void digest(const rmt_core *core, batch *b, uint32_t i, bool dedup) {
  block *w = &b->blocks[i];
  const uint8_t *data = data_of(b, i);
  w->kind = is_zero(data) ? ZERO : FRESH;
  if (w->kind == ZERO) return;
  w->fingerprint = rmt_hash(core, data, RMT_BLOCK);
  if (dedup) index_prefetch(core, index_key(b->domain, w->fingerprint));
}

static void classify(rmt_core *core, batch *b, uint32_t i, bool dedup) {
  block *w = &b->blocks[i];
  const uint8_t *data = data_of(b, i);
  uint64_t candidate;
  w->old_address = b->old_addresses[i];
  if (w->kind == ZERO) return;
  if (w->old_address != RMT_HOLE && b->old_checksums[i] == w->fingerprint &&
      rmt_is_allocated(core, w->old_address) && slot_equals(core, b, w->old_address, data)) {
    w->kind = SAME;
  } else if (dedup && rmt_index_lookup(core, index_key(b->domain, w->fingerprint), &candidate) &&
             rmt_is_allocated(core, candidate) && slot_equals(core, b, candidate, data)) {
    w->kind = DUPLICATE; /* of its old slot as well: the checksum there was another one */
    w->address = candidate;
  } else if (dedup && find_twin(b, i)) {
    w->kind = TWIN;
  } else {
    w->kind = FRESH;
    b->fresh++;
  }
}

static void take_slots(rmt_core *core, batch *b) {
  uint64_t address = 0;
  uint32_t got = 0, left = b->fresh;
  core->hole_taken = false; /* by this call */
  for (uint64_t i = 0; i < b->count; i++) {
    if (b->blocks[i].kind != FRESH) continue;
    if (!got) slots_take_run(core, left, &address, &got);
    b->blocks[i].address = address++;
    got--;
    left--;
  }
}

/* Which of the fresh blocks, in their order, a write that failed has written, and up to which it
 * has tried in one piece. */
typedef struct {
  uint64_t written, tried;
} progress;

static int write_run(const rmt_core *core, uint64_t address, uint64_t blocks, struct iovec *vectors,
                     int count, progress *p) {
  int fd = core->slabs[address / core->slab_slots].fd;
  off_t start = (off_t)(address % core->slab_slots) * RMT_BLOCK, at = start;
  p->tried += blocks;
  while (count) {
    ssize_t done = pwritev(fd, vectors, count, at);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) {
      int error = errno;
      p->written += (uint64_t)(at - start) / RMT_BLOCK;
      return error;
    }
    at += done;
    while (count && (size_t)done >= vectors->iov_len) {
      done -= (ssize_t)vectors->iov_len;
      vectors++;
      count--;
    }
    if (count) {
      vectors->iov_base = (uint8_t *)vectors->iov_base + done;
      vectors->iov_len -= (size_t)done;
    }
  }
  p->written += blocks;
  return 0;
}

static int write_fresh(const rmt_core *core, const batch *b, progress *p) {
  struct iovec vectors[RUN_VECTORS];
  int count = 0;
  uint64_t start = 0, next = 0;
  for (uint64_t i = 0; i < b->count; i++) {
    const block *w = &b->blocks[i];
    if (w->kind != FRESH) continue;
    uint8_t *data = (uint8_t *)(uintptr_t)data_of(b, i);
    bool follows = count && w->address == next && w->address % core->slab_slots;
    if (follows && (uint8_t *)vectors[count - 1].iov_base + vectors[count - 1].iov_len == data) {
      vectors[count - 1].iov_len += RMT_BLOCK;
    } else {
      if (count && (!follows || count == RUN_VECTORS)) {
        int error = write_run(core, start, next - start, vectors, count, p);
        if (error) return error;
        count = 0;
      }
      if (!count) start = w->address;
      vectors[count++] = (struct iovec){data, RMT_BLOCK};
    }
    next = w->address + 1;
  }
  return count ? write_run(core, start, next - start, vectors, count, p) : 0;
}

/* A write failed: its slots are free again, and what is known of their place on the host is kept.
 * On a full disk the slot that it failed at has none. Where only such as have a place were wanted,
 * that was not known, and the others of its piece are not believed to have one either. */
static void undo_fresh(rmt_core *core, const batch *b, const progress *p, int error) {
  bool full = error == ENOSPC || error == EDQUOT;
  uint64_t end = core->backed_first ? p->tried : p->written + 1, n = 0;
  for (uint64_t i = 0; i < b->count; i++) {
    if (b->blocks[i].kind != FRESH) continue;
    uint64_t address = b->blocks[i].address;
    if (n < p->written)
      slots_written(core, address);
    else if (full && n < end)
      slots_no_room(core, address);
    slots_give_back(core, address);
    n++;
  }
}

static bool leaf_changes(const batch *b, uint64_t from, uint64_t to) {
  for (uint64_t i = from; i < to; i++) {
    uint8_t kind = b->blocks[i].kind;
    if (kind != SAME && !(kind == ZERO && b->old_addresses[i] == RMT_HOLE)) return true;
  }
  return false;
}

static int64_t set_entry(rmt_core *core, batch *b, uint64_t i, entry *e) {
  block *w = &b->blocks[i];
  if (w->kind == SAME) return 0;
  entry old = *e;
  if (w->kind == ZERO) {
    *e = (entry){0, 0};
  } else {
    uint64_t flags = RMT_MAPPED | (w->kind == FRESH ? RMT_OWNED : RMT_DEDUP);
    uint64_t address = w->kind == TWIN ? b->blocks[w->twin].address : w->address;
    *e = (entry){address | flags << RMT_FLAG_SHIFT, w->fingerprint};
  }
  reclaim_entry(core, old);
  return (int64_t)(e->word != 0) - (int64_t)(old.word != 0);
}

static void change_map(rmt_core *core, rmt_tree *tree, uint64_t first, batch *b) {
  uint64_t i = 0;
  map_grow(core, tree, first + b->count);
  while (i < b->count) {
    uint64_t leaf_end = ((first + i) / core->fanout + 1) * core->fanout - first;
    uint64_t to = leaf_end < b->count ? leaf_end : b->count;
    if (leaf_changes(b, i, to)) {
      node *path[RMT_LEVELS_MAX];
      uint32_t depth;
      uint64_t at = first + i;
      entry *entries = node_entries(map_own_leaf(core, tree, at, path, &depth));
      int64_t grown = 0;
      for (uint64_t j = i; j < to; j++)
        grown += set_entry(core, b, j, &entries[(first + j) % core->fanout]);
      map_count(core, tree, path, depth, at, grown);
    }
    i = to;
  }
}

static void finish(rmt_core *core, rmt_tree *tree, uint64_t first, batch *b, rmt_written *written) {
  for (uint64_t i = 0; i < b->count; i++) {
    const block *w = &b->blocks[i];
    if (w->kind == DUPLICATE) slots_share(core, w->address);
    if (w->kind == TWIN) slots_share(core, b->blocks[w->twin].address);
    written->fresh += w->kind == FRESH;
    written->zero += w->kind == ZERO;
    written->duplicate += w->kind == SAME || w->kind == DUPLICATE || w->kind == TWIN;
  }
  if (leaf_changes(b, 0, b->count)) change_map(core, tree, first, b);
  for (uint64_t i = 0; i < b->count; i++) {
    const block *w = &b->blocks[i];
    if (w->kind != FRESH) continue;
    slots_written(core, w->address);
    rmt_index_insert(core, index_key(b->domain, w->fingerprint), w->address);
  }
}

static int write_batch(rmt_core *core, rmt_tree *tree, uint64_t first, batch *b, bool dedup,
                       rmt_written *written, rmt_failure *failure) {
  int status = rmt_resolve(core, tree, first, b->count, b->old_addresses, b->old_checksums);
  if (status == RMT_OK) status = map_ensure(core, tree, first, b->count);
  if (status != RMT_OK) return status;
  core->state.cold = 0;
  for (uint32_t at = 0; at < b->count; at += DIGEST_BLOCKS) {
    uint32_t end = b->count - at < DIGEST_BLOCKS ? (uint32_t)b->count : at + DIGEST_BLOCKS;
    for (uint32_t i = at; i < end; i++) digest(core, b, i, dedup);
    for (uint32_t i = at; dedup && i < end; i++)
      if (b->blocks[i].kind != ZERO)
        index_prefetch_runs(core, index_key(b->domain, b->blocks[i].fingerprint));
    for (uint32_t i = at; i < end; i++) classify(core, b, i, dedup);
  }
  if (core->state.cold) return RMT_COLD;
  if (b->fresh > core->state.total - core->state.busy) return RMT_NEED_SLAB;
  if (cache_reserve(core, map_nodes_bound(core, b->count)) != RMT_OK ||
      slots_reserve_freed(core, b->count) != RMT_OK || cuts_reserve(core, RMT_LEVELS_MAX) != RMT_OK)
    return RMT_NOMEM;
  take_slots(core, b);
  progress p = {0, 0};
  failure->error = write_fresh(core, b, &p);
  if (failure->error) {
    undo_fresh(core, b, &p, failure->error);
    return RMT_IO;
  }
  finish(core, tree, first, b, written);
  return RMT_OK;
}

int rmt_write(rmt_core *core, rmt_tree *tree, uint64_t first, uint64_t count,
              const rmt_source *source, int dedup, int wait, rmt_written *written,
              rmt_failure *failure) {
  if (count > rmt_call_blocks(core) || first >= RMT_BLOCKS_MAX || count > RMT_BLOCKS_MAX - first)
    return RMT_RANGE;
  if (!map_may_change(core, tree)) return RMT_CORRUPT_NODE;
  batch b;
  window w; /* its bytes are not touched before they are read */
  int status = batch_new(&b, source, count);
  w.address = w.count = 0;
  w.next = RMT_HOLE;
  b.window = &w;
  b.domain = tree->domain;
  b.wait = wait != 0;
  if (status == RMT_OK) status = write_batch(core, tree, first, &b, dedup != 0, written, failure);
  batch_free(&b);
  return status;
}
