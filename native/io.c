/*
 * Block reads and writes. A read is resolve (walk the map) and fetch (pread, check every block);
 * the second half touches no cache, so a thread may run it. A write is: find the old entries,
 * classify each block (zero, same, duplicate, fresh), take slots and write the fresh ones, change
 * the map.
 *
 * Without `wait` nothing here waits for a disk to read (RWF_NOWAIT): what is not in the page cache
 * is RMT_COLD, and nothing has changed. The kernel has begun to read it by then. A file system
 * that cannot tell (tmpfs, which is always warm; FUSE) is waited for all the same.
 *
 * The order inside a write is what keeps data alive: duplicates are compared byte for byte and
 * marked shared before anything that the write replaces is freed.
 */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#define FETCH_BLOCKS 512u
#define RUN_VECTORS 256
#define DIGEST_BLOCKS 32u /* still in the CPU's cache when they are compared */
#define WINDOW_BLOCKS 16u

static bool in_a_slab(const rmt_core *core, uint64_t address) {
  uint64_t number = address / core->slab_slots;
  return number < RMT_SLABS_MAX && core->slabs[number].present;
}

static ssize_t read_nowait(int fd, uint8_t *out, size_t length, off_t at) {
  struct iovec whole = {out, length};
  return preadv2(fd, &whole, 1, at, RWF_NOWAIT);
}

/* Past the end of any file there is nothing to read, or to begin to read. */
bool io_nowait(int fd) {
  uint8_t byte;
  return read_nowait(fd, &byte, 1, (off_t)1 << 60) == 0;
}

/* 0 or an errno; EAGAIN: it is cold. */
static int read_slots(const rmt_core *core, uint64_t address, uint8_t *out, size_t length,
                      bool wait) {
  uint64_t number = address / core->slab_slots;
  if (!in_a_slab(core, address)) return EIO;
  const slab *s = &core->slabs[number];
  off_t at = (off_t)(address % core->slab_slots) * RMT_BLOCK;
  wait |= !s->nowait;
  while (length) {
    ssize_t got = wait ? pread(s->fd, out, length, at) : read_nowait(s->fd, out, length, at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) { /* past the end of a slab file that was cut: the check will fail */
      memset(out, 0, length);
      return 0;
    }
    out += got;
    at += got;
    length -= (size_t)got;
  }
  return 0;
}

static int read_failed(const rmt_failure *failure) {
  return failure->error == EAGAIN ? RMT_COLD : RMT_IO;
}

static int check_block(const rmt_core *core, const uint8_t *data, uint64_t checksum, uint64_t block,
                       uint64_t address, rmt_failure *failure) {
  if (rmt_hash(core, data, RMT_BLOCK) == checksum) return RMT_OK;
  failure->block = block;
  failure->address = address;
  return RMT_CORRUPT_BLOCK;
}

/* One block of which only a part is wanted. */
static int fetch_part(const rmt_core *core, uint64_t address, uint64_t checksum, uint64_t block,
                      size_t skip, uint8_t *out, size_t length, bool wait, rmt_failure *failure) {
  uint8_t scratch[RMT_BLOCK];
  failure->error = read_slots(core, address, scratch, RMT_BLOCK, wait);
  if (failure->error) return read_failed(failure);
  int status = check_block(core, scratch, checksum, block, address, failure);
  if (status == RMT_OK) memcpy(out, scratch + skip, length);
  return status;
}

int rmt_fetch(const rmt_core *core, const uint64_t *addresses, const uint64_t *checksums,
              uint64_t first, uint64_t count, uint64_t skip, uint8_t *buffer, size_t length,
              int wait, rmt_failure *failure) {
  uint64_t i = 0;
  while (length && i < count) {
    size_t part = RMT_BLOCK - skip < length ? RMT_BLOCK - skip : length;
    uint64_t run = 1, size = part;
    int status = RMT_OK;
    if (addresses[i] == RMT_HOLE) {
      while (i + run < count && addresses[i + run] == RMT_HOLE && size < length) {
        size += length - size < RMT_BLOCK ? length - size : RMT_BLOCK;
        run++;
      }
      memset(buffer, 0, size);
    } else if (!in_a_slab(core, addresses[i])) {
      failure->block = first + i;
      failure->address = addresses[i];
      status = RMT_CORRUPT_BLOCK;
    } else if (part < RMT_BLOCK) {
      status = fetch_part(core, addresses[i], checksums[i], first + i, skip, buffer, part, wait,
                          failure);
    } else {
      uint64_t room = core->slab_slots - addresses[i] % core->slab_slots;
      while (i + run < count && run < room && addresses[i + run] == addresses[i] + run &&
             length - size >= RMT_BLOCK) {
        size += RMT_BLOCK;
        run++;
      }
      failure->error = read_slots(core, addresses[i], buffer, size, wait);
      if (failure->error) return read_failed(failure);
      for (uint64_t b = 0; b < run && status == RMT_OK; b++)
        status = check_block(core, buffer + b * RMT_BLOCK, checksums[i + b], first + i + b,
                             addresses[i + b], failure);
    }
    if (status != RMT_OK) return status;
    buffer += size;
    length -= size;
    skip = 0;
    i += run;
  }
  return RMT_OK;
}

static void note_cold(rmt_core *core, uint64_t address) {
  if (address != RMT_HOLE) core->cold[core->state.cold++] = address;
}

void rmt_cold(const rmt_core *core, uint64_t *out) {
  memcpy(out, core->cold, core->state.cold * sizeof *out);
}

static uint64_t run_of_slots(const rmt_core *core, const uint64_t *addresses, uint64_t count) {
  uint64_t room = core->slab_slots - addresses[0] % core->slab_slots, run = 1;
  while (run < count && run < room && addresses[run] == addresses[0] + run) run++;
  return run;
}

void rmt_ask(const rmt_core *core, const uint64_t *addresses, uint64_t count) {
  for (uint64_t i = 0, run = 1; i < count; i += run, run = 1) {
    if (addresses[i] == RMT_HOLE || !in_a_slab(core, addresses[i])) continue;
    run = run_of_slots(core, addresses + i, count - i);
    int fd = core->slabs[addresses[i] / core->slab_slots].fd;
    off_t at = (off_t)(addresses[i] % core->slab_slots) * RMT_BLOCK;
    (void)posix_fadvise(fd, at, (off_t)run * RMT_BLOCK, POSIX_FADV_WILLNEED); /* advice only */
  }
}

/* What fails, or is another block's by now, is no matter: nobody looks at what is read here. */
void rmt_warm(const rmt_core *core, const uint64_t *addresses, uint64_t count) {
  uint8_t scratch[RMT_BLOCK];
  rmt_ask(core, addresses, count);
  for (uint64_t i = 0; i < count; i++)
    if (addresses[i] != RMT_HOLE) (void)read_slots(core, addresses[i], scratch, RMT_BLOCK, true);
}

int rmt_read(rmt_core *core, const rmt_tree *tree, uint64_t offset, uint8_t *buffer, size_t length,
             int wait, rmt_failure *failure) {
  uint64_t addresses[FETCH_BLOCKS], checksums[FETCH_BLOCKS];
  while (length) {
    uint64_t first = offset / RMT_BLOCK, skip = offset % RMT_BLOCK;
    uint64_t count = (skip + length + RMT_BLOCK - 1) / RMT_BLOCK;
    if (count > FETCH_BLOCKS) count = FETCH_BLOCKS;
    size_t size = count * RMT_BLOCK - skip < length ? count * RMT_BLOCK - skip : length;
    int status = rmt_resolve(core, tree, first, count, addresses, checksums);
    if (status == RMT_OK)
      status =
          rmt_fetch(core, addresses, checksums, first, count, skip, buffer, size, wait, failure);
    if (status == RMT_COLD) {
      core->state.cold = 0;
      for (uint64_t i = 0; i < count; i++) note_cold(core, addresses[i]);
    }
    if (status != RMT_OK) return status;
    offset += size;
    buffer += size;
    length -= size;
  }
  return RMT_OK;
}

unsigned rmt_read_pieces(rmt_core *core, const rmt_tree *tree, const rmt_piece *pieces,
                         unsigned count, uint8_t *buffer, rmt_failure *failure) {
  for (unsigned i = 0; i < count; i++)
    if (rmt_read(core, tree, pieces[i].offset, buffer + pieces[i].at, pieces[i].size, 0, failure))
      return i;
  return count;
}

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
  const uint8_t *data;
  uint64_t count;
  bool wait;
} batch;

static int batch_new(batch *b, const uint8_t *data, uint64_t count) {
  uint32_t size = 8;
  while (size < 2 * count) size *= 2;
  *b = (batch){.table_mask = size - 1, .data = data, .count = count};
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

/* The slot's bytes, if the window has them or can be moved there. One slot alone, or one whose
 * neighbours cannot be read now, is for the caller to read. */
static const uint8_t *windowed(const rmt_core *core, window *w, uint64_t address, bool wait) {
  bool follows = address == w->next || address + 1 == w->next; /* or is asked for again */
  w->next = address + 1;
  if (address - w->address < w->count) return w->data + (address - w->address) * RMT_BLOCK;
  if (!follows) return NULL;
  uint64_t room = core->slab_slots - address % core->slab_slots;
  w->address = address;
  w->count = room < WINDOW_BLOCKS ? room : WINDOW_BLOCKS;
  if (read_slots(core, address, w->data, w->count * RMT_BLOCK, wait)) w->count = 0;
  return w->count ? w->data : NULL;
}

/* Whether a slot holds exactly these bytes. A slot that cannot be read is not equal; one that is
 * cold is noted, and the write will not go on. */
static bool slot_equals(rmt_core *core, batch *b, uint64_t address, const uint8_t *data) {
  uint8_t scratch[RMT_BLOCK];
  const uint8_t *found = windowed(core, b->window, address, b->wait);
  if (found) return !memcmp(found, data, RMT_BLOCK);
  int error = read_slots(core, address, scratch, RMT_BLOCK, b->wait);
  if (error == EAGAIN) note_cold(core, address);
  return error ? error == EAGAIN : !memcmp(scratch, data, RMT_BLOCK);
}

static bool find_twin(batch *b, uint32_t i) {
  block *w = &b->blocks[i];
  uint32_t at = (uint32_t)(w->fingerprint >> 7) & b->table_mask;
  for (; b->table[at]; at = (at + 1) & b->table_mask) {
    uint32_t other = b->table[at] - 1;
    if (b->blocks[other].fingerprint != w->fingerprint) continue;
    if (memcmp(b->data + (size_t)other * RMT_BLOCK, b->data + (size_t)i * RMT_BLOCK, RMT_BLOCK))
      continue;
    w->twin = other;
    return true;
  }
  b->table[at] = i + 1;
  return false;
}

/* Zero or not; and what the index is asked next is on its way into the CPU's cache. */
static void digest(const rmt_core *core, batch *b, uint32_t i, bool dedup) {
  block *w = &b->blocks[i];
  const uint8_t *data = b->data + (size_t)i * RMT_BLOCK;
  w->kind = is_zero(data) ? ZERO : FRESH;
  if (w->kind == ZERO) return;
  w->fingerprint = rmt_hash(core, data, RMT_BLOCK);
  if (dedup) index_prefetch(core, index_key(b->domain, w->fingerprint));
}

static void classify(rmt_core *core, batch *b, uint32_t i, bool dedup) {
  block *w = &b->blocks[i];
  const uint8_t *data = b->data + (size_t)i * RMT_BLOCK;
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
    uint8_t *data = (uint8_t *)(uintptr_t)(b->data + i * RMT_BLOCK);
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

int rmt_write(rmt_core *core, rmt_tree *tree, uint64_t first, uint64_t count, const uint8_t *data,
              int dedup, int wait, rmt_written *written, rmt_failure *failure) {
  if (count > rmt_call_blocks(core) || first >= RMT_BLOCKS_MAX || count > RMT_BLOCKS_MAX - first)
    return RMT_RANGE;
  if (!map_may_change(core, tree)) return RMT_CORRUPT_NODE;
  batch b;
  window w; /* its bytes are not touched before they are read */
  int status = batch_new(&b, data, count);
  w.address = w.count = 0;
  w.next = RMT_HOLE;
  b.window = &w;
  b.domain = tree->domain;
  b.wait = wait != 0;
  if (status == RMT_OK) status = write_batch(core, tree, first, &b, dedup != 0, written, failure);
  batch_free(&b);
  return status;
}
