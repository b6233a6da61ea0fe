/*
 * Slots: which are allocated, which may be referenced more than once, which may be written.
 *
 *   allocated busy
 *       0      0     free: may be taken
 *       1      1     holds a block
 *       0      1     freed: unusable until the commit that frees it is durable and its readers gone
 *
 * allocated and shared are committed state, stored by chunk; busy is not. Slots are taken in runs,
 * so that a sequential write is sequential on disk: first those that were freed in runs of late,
 * whose pages are in memory and whose place on disk is there, then next-fit.
 *
 * hole (in memory only): a free slot that takes no space on the host, as far as is known: it was
 * punched out of its slab's file, or backed.c found it so. A slot that is taken keeps the bit until
 * it was written, so a write that fails leaves what was known.
 */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

static slab *slab_of(const rmt_core *core, uint64_t address, uint32_t *slot) {
  uint64_t number = address / core->slab_slots;
  if (number >= core->slab_count || !core->slabs[number].present) return NULL;
  *slot = (uint32_t)(address % core->slab_slots);
  return &core->slabs[number];
}

static void chunk_changed(rmt_core *core, slab *s, uint32_t slot) {
  uint8_t *dirty = &s->chunk_dirty[slot / RMT_CHUNK_SLOTS];
  core->state.dirty_chunks += !*dirty;
  *dirty = 1;
  core->state.changed++;
}

int rmt_add_slab(rmt_core *core, uint32_t number, int fd) {
  if (number != core->slab_count || number >= RMT_SLABS_MAX) return RMT_RANGE;
  slab *s = &core->slabs[number];
  s->allocated = calloc(4 * (size_t)core->slab_words, sizeof *s->allocated);
  s->chunk_dirty = calloc(core->slab_chunks, 1);
  if (!s->allocated || !s->chunk_dirty) {
    free(s->allocated);
    free(s->chunk_dirty);
    s->allocated = NULL;
    s->chunk_dirty = NULL;
    return RMT_NOMEM;
  }
  s->shared = s->allocated + core->slab_words;
  s->busy = s->shared + core->slab_words;
  s->hole = s->busy + core->slab_words;
  s->fd = fd;
  s->nowait = io_nowait(fd);
  s->free = core->slab_slots;
  s->present = true;
  core->state.total += core->slab_slots;
  core->slab_count++;
  return RMT_OK;
}

int rmt_load_chunk(rmt_core *core, uint32_t number, uint32_t chunk, const uint8_t *bits) {
  if (number >= core->slab_count || chunk >= core->slab_chunks) return RMT_RANGE;
  slab *s = &core->slabs[number];
  uint32_t left = core->slab_slots - chunk * RMT_CHUNK_SLOTS;
  for (uint32_t i = left; i < RMT_CHUNK_SLOTS; i++) /* gc would free them in the next slab */
    if ((bits[i >> 3] | bits[RMT_CHUNK_BYTES / 2 + (i >> 3)]) >> (i & 7) & 1) return RMT_RANGE;
  uint32_t at = chunk * (RMT_CHUNK_SLOTS / 64);
  memcpy(s->allocated + at, bits, RMT_CHUNK_BYTES / 2);
  memcpy(s->shared + at, bits + RMT_CHUNK_BYTES / 2, RMT_CHUNK_BYTES / 2);
  memcpy(s->busy + at, bits, RMT_CHUNK_BYTES / 2);
  uint32_t count = 0;
  for (uint32_t i = 0; i < RMT_CHUNK_SLOTS / 64; i++)
    count += (uint32_t)__builtin_popcountll(s->allocated[at + i]);
  if (count > s->free) return RMT_RANGE;
  s->free -= count;
  core->state.allocated += count;
  core->state.busy += count;
  return RMT_OK;
}

int rmt_is_allocated(const rmt_core *core, uint64_t address) {
  uint32_t slot;
  const slab *s = slab_of(core, address, &slot);
  return s && bit_get(s->allocated, slot);
}

int rmt_is_shared(const rmt_core *core, uint64_t address) {
  uint32_t slot;
  const slab *s = slab_of(core, address, &slot);
  return s && bit_get(s->shared, slot);
}

int slots_reserve_freed(rmt_core *core, uint64_t count) {
  uint64_t room = core->freed_count + count;
  if (room <= core->freed_capacity) return RMT_OK;
  uint64_t capacity = room + room / 2 + 64;
  uint64_t *grown = realloc(core->freed, capacity * sizeof *grown);
  if (!grown) return RMT_NOMEM;
  core->freed = grown;
  core->freed_capacity = capacity;
  return RMT_OK;
}

/* The first free slot at or after `slot`, or slab_slots; with `backed`, of those that are no hole.
 */
static uint32_t next_free(const rmt_core *core, const slab *s, uint32_t slot, bool backed) {
  while (slot < core->slab_slots) {
    uint64_t used = s->busy[slot >> 6] | (backed ? s->hole[slot >> 6] : 0);
    uint64_t word = ~used >> (slot & 63);
    if (word) {
      slot += (uint32_t)__builtin_ctzll(word);
      return slot < core->slab_slots ? slot : core->slab_slots;
    }
    slot = (slot | 63) + 1;
  }
  return core->slab_slots;
}

static bool find_free(rmt_core *core, bool backed) {
  for (uint32_t tries = 0; tries <= core->slab_count; tries++) {
    if (core->alloc_slab >= core->slab_count) core->alloc_slab = core->alloc_slot = 0;
    slab *s = &core->slabs[core->alloc_slab];
    if (s->free > (backed ? s->holes : 0)) {
      core->alloc_slot = next_free(core, s, core->alloc_slot, backed);
      if (core->alloc_slot < core->slab_slots) return true;
      core->alloc_slot = next_free(core, s, 0, backed);
      if (core->alloc_slot < core->slab_slots) return true;
    }
    core->alloc_slab++;
    core->alloc_slot = 0;
  }
  return false;
}

/* A free slot, or one that becomes free, is a hole: count it, or do not any more. */
static void count_hole(rmt_core *core, slab *s, int32_t by) {
  s->holes += (uint32_t)by;
  core->state.holes += (uint64_t)(int64_t)by;
}

static uint32_t take(rmt_core *core, slab *s, uint32_t slot, uint32_t end, bool backed) {
  uint32_t first = slot;
  for (; slot < end && !bit_get(s->busy, slot); slot++) {
    bool hole = bit_get(s->hole, slot);
    if (hole && backed) break;
    if (hole) {
      count_hole(core, s, -1);
      core->hole_taken = true;
    }
    bit_set(s->allocated, slot);
    bit_set(s->busy, slot);
    bit_clear(s->shared, slot);
    if (core->armed && s->touched) bit_set(s->touched, slot);
    chunk_changed(core, s, slot);
  }
  uint32_t count = slot - first;
  s->free -= count;
  s->written = true;
  core->state.allocated += count;
  core->state.busy += count;
  core->state.taken += count;
  return count;
}

static uint32_t end_of(const rmt_core *core, uint32_t slot, uint32_t want) {
  uint32_t left = core->slab_slots - slot;
  return slot + (want < left ? want : left);
}

/* From the runs that were freed together, first freed first taken; 0: there are none. */
static uint32_t take_freed(rmt_core *core, uint32_t want, uint64_t *address) {
  while (core->runs_count) {
    slot_run *run = &core->runs[core->runs_first];
    uint32_t slot, count = 0;
    slab *s = slab_of(core, run->address, &slot);
    if (s && run->count && !bit_get(s->hole, slot)) {
      *address = run->address;
      count = take(core, s, slot, end_of(core, slot, want < run->count ? want : run->count), false);
    }
    run->address += count;
    run->count -= count;
    if (count && run->count) return count;
    core->runs_first = (core->runs_first + 1) % SLOT_RUNS_MAX;
    core->runs_count--;
    if (count) return count;
  }
  return 0;
}

bool slots_take_run(rmt_core *core, uint32_t want, uint64_t *address, uint32_t *got) {
  bool backed = core->backed_first && core->slab_count && find_free(core, true);
  if (!backed && (*got = take_freed(core, want, address))) return true;
  if (!backed && (!core->slab_count || !find_free(core, false))) return false;
  slab *s = &core->slabs[core->alloc_slab];
  uint32_t slot = core->alloc_slot;
  *address = (uint64_t)core->alloc_slab * core->slab_slots + slot;
  *got = take(core, s, slot, end_of(core, slot, want), backed);
  core->alloc_slot = slot + *got;
  return true;
}

void rmt_backed_first(rmt_core *core, int on) { core->backed_first = on != 0; }

void slots_written(rmt_core *core, uint64_t address) {
  uint32_t slot;
  if (!core->hole_taken) return;
  slab *s = slab_of(core, address, &slot);
  bit_clear(s->hole, slot);
}

void slots_no_room(rmt_core *core, uint64_t address) {
  uint32_t slot;
  slab *s = slab_of(core, address, &slot);
  bit_set(s->hole, slot);
}

void slots_give_back(rmt_core *core, uint64_t address) {
  uint32_t slot;
  slab *s = slab_of(core, address, &slot);
  if (bit_get(s->hole, slot)) count_hole(core, s, 1);
  bit_clear(s->allocated, slot);
  bit_clear(s->busy, slot);
  s->free++;
  core->state.allocated--;
  core->state.busy--;
}

void slots_free(rmt_core *core, uint64_t address) {
  uint32_t slot;
  slab *s = slab_of(core, address, &slot);
  if (!s || !bit_get(s->allocated, slot)) return;
  bit_clear(s->allocated, slot);
  bit_clear(s->shared, slot);
  chunk_changed(core, s, slot);
  core->freed[core->freed_count++] = address;
  core->state.allocated--;
}

void slots_share(rmt_core *core, uint64_t address) {
  uint32_t slot;
  slab *s = slab_of(core, address, &slot);
  if (!bit_get(s->shared, slot)) {
    bit_set(s->shared, slot);
    chunk_changed(core, s, slot);
  }
  if (core->armed && s->touched) bit_set(s->touched, slot);
}

static void note_run(rmt_core *core, uint64_t address, uint64_t count) {
  if (count < SLOT_RUN_MIN || core->runs_count == SLOT_RUNS_MAX) return;
  uint32_t at = (core->runs_first + core->runs_count++) % SLOT_RUNS_MAX;
  core->runs[at] = (slot_run){address, (uint32_t)count};
}

uint64_t rmt_release_freed(rmt_core *core, rmt_sealed *sealed) {
  uint64_t count = sealed->freed_count, first = 0;
  for (uint64_t i = 0; i < count; i++) {
    uint32_t slot;
    slab *s = slab_of(core, sealed->freed[i], &slot);
    bit_clear(s->busy, slot);
    s->free++;
    if (sealed->freed[i] != sealed->freed[first] + (i - first) || !slot) {
      note_run(core, sealed->freed[first], i - first);
      first = i;
    }
  }
  if (count) note_run(core, sealed->freed[first], count - first);
  core->state.busy -= count;
  sealed->freed_count = 0;
  return count;
}

/* The next run of free slots at or after `slot`, at most `want`, is in use until it is given back;
 * none of it is taken for a hole any more. */
int rmt_hold(rmt_core *core, uint32_t number, uint32_t *slot, uint64_t want, uint64_t *address,
             uint64_t *count) {
  if (number >= core->slab_count) return RMT_RANGE;
  slab *s = &core->slabs[number];
  uint32_t at = next_free(core, s, *slot, false);
  *address = (uint64_t)number * core->slab_slots + at;
  for (*count = 0; *count < want && at < core->slab_slots && !bit_get(s->busy, at); at++) {
    if (bit_get(s->hole, at)) count_hole(core, s, -1);
    bit_clear(s->hole, at);
    bit_set(s->busy, at);
    ++*count;
  }
  *slot = at;
  s->free -= (uint32_t)*count;
  core->state.busy += *count;
  return RMT_OK;
}

/* The run of free slots at or after `slot` that are not holes; ends before the next other one. */
static uint32_t next_backed(const rmt_core *core, const slab *s, uint32_t slot, uint32_t *end) {
  slot = *end = next_free(core, s, slot, true);
  while (*end < core->slab_slots && !bit_get(s->busy, *end) && !bit_get(s->hole, *end)) ++*end;
  return slot;
}

int rmt_trim_take(rmt_core *core, uint32_t number, uint32_t *slot, uint32_t run_min,
                  uint64_t *address, uint64_t *count) {
  if (number >= core->slab_count) return RMT_RANGE;
  slab *s = &core->slabs[number];
  *count = 0;
  while (*slot < core->slab_slots) {
    uint32_t end, start = next_backed(core, s, *slot, &end);
    *slot = end;
    if (end - start < run_min) continue;
    for (uint32_t i = start; i < end; i++) bit_set(s->busy, i);
    s->free -= end - start;
    core->state.busy += end - start;
    *address = (uint64_t)number * core->slab_slots + start;
    *count = end - start;
    return RMT_OK;
  }
  return RMT_OK;
}

int rmt_trim_punch(const rmt_core *core, uint64_t address, uint64_t count, rmt_failure *failure) {
  uint32_t slot;
  const slab *s = slab_of(core, address, &slot);
  if (!s || count > core->slab_slots - slot) return RMT_RANGE;
  failure->error = 0;
  while (fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)slot * RMT_BLOCK,
                   (off_t)count * RMT_BLOCK)) {
    if (errno == EINTR) continue;
    failure->error = errno;
    return RMT_IO;
  }
  return RMT_OK;
}

int rmt_trim_give(rmt_core *core, uint64_t address, uint64_t count, int punched) {
  uint32_t slot;
  slab *s = slab_of(core, address, &slot);
  if (!s || count > core->slab_slots - slot) return RMT_RANGE;
  for (uint64_t i = 0; i < count; i++) {
    bit_clear(s->busy, slot + i);
    if (!punched) continue;
    bit_set(s->hole, slot + i);
    count_hole(core, s, 1);
  }
  s->free += (uint32_t)count;
  core->state.busy -= count;
  return RMT_OK;
}

void slots_know(rmt_core *core, uint32_t number, uint32_t slot, uint32_t end, bool hole) {
  slab *s = &core->slabs[number];
  for (; slot < end; slot++) {
    if (bit_get(s->busy, slot) || bit_get(s->hole, slot) == hole) continue;
    count_hole(core, s, hole ? 1 : -1);
    if (hole)
      bit_set(s->hole, slot);
    else
      bit_clear(s->hole, slot);
  }
}
