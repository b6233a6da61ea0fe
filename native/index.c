/*
 * The fingerprint index: fingerprint -> address. New entries go into tables in memory; a full table
 * is frozen, and written as a sorted run by a job (merge.c); a lookup asks tables and runs, newest
 * first, and runs by way of their front (front.c) and their filters. What it answers may be stale;
 * the writer compares bytes before it believes anything.
 *
 * The tables' sizes follow the index: MEMORY_SHARE entries of runs for one slot. First tables are
 * limited to different parts of their size, or all partitions would freeze at one moment.
 */
#include "index.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#define MEMORY_SHARE 60u
#define SLOTS_MIN 16u
#define SYNTHETIC_BATCH 32u /* as a write asks */

static uint8_t *table_find(const table *t, uint64_t key, bool *found) {
  uint64_t rest, home = scale(key, t->slots, &rest);
  uint8_t *at = t->entries + home * ENTRY_BYTES;
  for (uint32_t i = 0; i < PROBES_MAX; i++, at += ENTRY_BYTES) {
    fingerprint f = entry_get(at);
    *found = f.address && f.key == key;
    if (*found || !f.address) return at;
  }
  return NULL;
}

void table_free(table *t) {
  if (!t) return;
  free(t->entries);
  free(t);
}

static table *table_new(const struct index_parts *index, const part *p) {
  uint64_t slots = index->run_entries / MEMORY_SHARE / PARTS;
  if (slots < index->slots_min) slots = index->slots_min;
  table *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  t->slots = slots;
  t->limit = slots * 3 / 4;
  if (!p->made) t->limit = t->limit * (uint64_t)(p - index->parts + 1) / PARTS + 1;
  t->entries = calloc(slots + PROBES_MAX, ENTRY_BYTES);
  if (t->entries) return t;
  free(t);
  return NULL;
}

/* Freeze the active table, when there is room for a frozen one and memory for a new one. */
static bool freeze(rmt_core *core, part *p) {
  struct index_parts *index = core->index;
  if (p->frozen_count == FROZEN_MAX) return false;
  p->made++;
  table *fresh = table_new(index, p);
  if (!fresh) return false;
  p->active->number = ++index->number;
  p->frozen[p->frozen_count++] = p->active;
  p->active = fresh;
  core->state.index_frozen++;
  return true;
}

void rmt_index_insert(rmt_core *core, uint64_t key, uint64_t address) {
  if (address > INDEX_ADDRESS_MAX) return; /* an index file may say anything */
  struct index_parts *index = core->index;
  part *p = &index->parts[key_part(key)];
  if (p->active->used >= p->active->limit) freeze(core, p);
  bool found;
  uint8_t *at = table_find(p->active, key, &found);
  if (!at && freeze(core, p)) at = table_find(p->active, key, &found);
  if (!at || (!found && p->active->used > p->active->slots * 9 / 10)) {
    index->forgotten++;
    return;
  }
  entry_put(at, (fingerprint){key, address + 1});
  p->active->used += !found;
  core->state.index_used += !found;
}

static int read_page(const run *r, uint64_t at, bool wait, uint8_t *page) {
  struct iovec vector = {page, PAGE_BYTES};
  ssize_t got = preadv2(r->fd, &vector, 1, (off_t)at, RWF_NOWAIT);
  if (got == PAGE_BYTES) return RMT_INDEX_FOUND;
  if (!wait && got < 0 && errno == EAGAIN) return RMT_INDEX_COLD;
  return read_whole(r->fd, page, PAGE_BYTES, at) ? RMT_INDEX_ABSENT : RMT_INDEX_FOUND;
}

static int run_find(const rmt_core *core, const candidate *c, uint64_t key, bool wait,
                    rmt_index_answer *answer) {
  const run *r = c->run;
  uint8_t page[PAGE_BYTES];
  uint64_t here = UINT64_MAX;
  for (uint64_t i = c->from; i < c->to; i++) {
    uint64_t number = i / PAGE_ENTRIES;
    if (number != here) {
      *answer = (rmt_index_answer){.fd = r->fd, .offset = number * PAGE_BYTES};
      int status = read_page(r, answer->offset, wait, page);
      if (status == RMT_INDEX_COLD) return status;
      core->index->reads++;
      if (status == RMT_INDEX_ABSENT ||
          page_checksum(core->seed, r->high ^ number << 32, page) != entry_get(page).key) {
        core->index->damaged++;
        return RMT_INDEX_ABSENT;
      }
      here = number;
    }
    fingerprint f = entry_get(page + PAGE_HEADER + i % PAGE_ENTRIES * ENTRY_BYTES);
    if (f.key != key) continue;
    answer->address = f.address - 1;
    return rmt_is_allocated(core, f.address - 1) ? RMT_INDEX_FOUND : RMT_INDEX_ABSENT;
  }
  core->index->misled++;
  return RMT_INDEX_ABSENT;
}

static void prefetch_groups(const part *p, uint64_t key) {
  uint64_t rest;
  for (uint32_t i = 0; i < p->run_count; i++) {
    const run *r = p->runs[i];
    const group *g = &r->filter[scale(key, r->groups * GROUP_BUCKETS, &rest) / GROUP_BUCKETS];
    __builtin_prefetch(g);
    __builtin_prefetch(&g[1].rank); /* in the next line, three times of eight */
  }
}

/* The runs that may have a key, the newest first. */
static uint32_t runs_to_read(const part *p, uint64_t key, candidate *found) {
  if (p->front) {
    if (!front_may_have(p->front, key)) return 0;
    prefetch_groups(p, key);
  }
  return runs_may_have(p->runs, p->run_count, key, found);
}

int rmt_index_find(const rmt_core *core, uint64_t key, int wait, rmt_index_answer *answer) {
  const part *p = &core->index->parts[key_part(key)];
  uint64_t stale = UINT64_MAX;
  core->index->lookups++;
  for (uint32_t i = p->frozen_count + 1; i-- > 0;) {
    bool found;
    const table *t = i == p->frozen_count ? p->active : p->frozen[i];
    const uint8_t *at = table_find(t, key, &found);
    if (!at || !found) continue;
    answer->address = entry_get(at).address - 1;
    if (rmt_is_allocated(core, answer->address)) return RMT_INDEX_FOUND;
    stale = answer->address;
  }
  candidate found[RUNS_MAX];
  uint32_t count = runs_to_read(p, key, found);
  for (uint32_t i = 0; i < count; i++) {
    int status = run_find(core, &found[i], key, wait, answer);
    if (status != RMT_INDEX_ABSENT) return status;
  }
  answer->address = stale; /* better than nothing: its slot may be allocated again */
  return stale == UINT64_MAX ? RMT_INDEX_ABSENT : RMT_INDEX_FOUND;
}

int rmt_index_lookup(const rmt_core *core, uint64_t key, uint64_t *address) {
  rmt_index_answer answer;
  if (rmt_index_find(core, key, 1, &answer) != RMT_INDEX_FOUND) return 0;
  *address = answer.address;
  return 1;
}

static void prefetch_place(const table *t, uint64_t key) {
  uint64_t rest;
  __builtin_prefetch(t->entries + scale(key, t->slots, &rest) * ENTRY_BYTES);
}

void index_prefetch(const rmt_core *core, uint64_t key) {
  const part *p = &core->index->parts[key_part(key)];
  prefetch_place(p->active, key);
  if (p->front)
    front_prefetch(p->front, key);
  else
    prefetch_groups(p, key);
}

void index_prefetch_runs(const rmt_core *core, uint64_t key) {
  const part *p = &core->index->parts[key_part(key)];
  if (p->front && front_may_have(p->front, key)) prefetch_groups(p, key);
}

static uint64_t table_export(const table *t, uint64_t *out, uint64_t count, uint64_t capacity) {
  for (uint64_t i = 0; i < t->slots + PROBES_MAX && count < capacity; i++) {
    fingerprint f = entry_get(t->entries + i * ENTRY_BYTES);
    if (!f.address) continue;
    out[2 * count] = f.key;
    out[2 * count + 1] = f.address - 1;
    count++;
  }
  return count;
}

uint64_t rmt_index_export(const rmt_core *core, uint64_t *out, uint64_t capacity) {
  uint64_t count = 0;
  for (uint32_t n = 0; n < PARTS; n++) {
    const part *p = &core->index->parts[n];
    for (uint32_t i = 0; i < p->frozen_count; i++)
      count = table_export(p->frozen[i], out, count, capacity);
    count = table_export(p->active, out, count, capacity);
  }
  return count;
}

static uint64_t synthetic_key(uint64_t x) { /* splitmix64's last steps: a permutation */
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ x >> 27) * 0x94D049BB133111EBull;
  return x ^ x >> 31;
}

void rmt_index_synthetic_inserts(rmt_core *core, uint64_t first, uint64_t count) {
  const part *parts = core->index->parts;
  for (uint64_t i = first; i < first + count; i++) {
    if ((i - first) % SYNTHETIC_BATCH == 0) /* a write has just looked there */
      for (uint64_t j = i; j < first + count && j < i + SYNTHETIC_BATCH; j++) {
        uint64_t key = synthetic_key(j);
        prefetch_place(parts[key_part(key)].active, key);
      }
    rmt_index_insert(core, synthetic_key(i), i);
  }
}

uint64_t rmt_index_synthetic_lookups(rmt_core *core, uint64_t first, uint64_t count,
                                     uint64_t stride) {
  uint64_t address, found = 0;
  for (uint64_t i = 0; i < count; i++) {
    if (i % SYNTHETIC_BATCH == 0) {
      uint64_t end = count - i < SYNTHETIC_BATCH ? count : i + SYNTHETIC_BATCH;
      for (uint64_t j = i; j < end; j++) index_prefetch(core, synthetic_key(first + j * stride));
      for (uint64_t j = i; j < end; j++)
        index_prefetch_runs(core, synthetic_key(first + j * stride));
    }
    found += (uint64_t)rmt_index_lookup(core, synthetic_key(first + i * stride), &address) &&
             address == first + i * stride;
  }
  return found;
}

void rmt_index_import(rmt_core *core, const uint64_t *pairs, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) rmt_index_insert(core, pairs[2 * i], pairs[2 * i + 1]);
}

int rmt_index_freeze(rmt_core *core, uint32_t number, uint64_t entries_min) {
  if (number >= PARTS) return RMT_RANGE;
  part *p = &core->index->parts[number];
  return p->active->used >= entries_min && p->active->used && freeze(core, p) ? RMT_OK : RMT_DONE;
}

static void drop_table(table *t) {
  t->gone = true;
  if (!t->pins) table_free(t);
}

static void drop_run(run *r) {
  r->gone = true;
  if (!r->pins) run_free(r);
}

void rmt_index_clear(rmt_core *core) {
  struct index_parts *index = core->index;
  for (uint32_t n = 0; n < PARTS; n++) {
    part *p = &index->parts[n];
    for (uint32_t i = 0; i < p->frozen_count; i++) drop_table(p->frozen[i]);
    for (uint32_t i = 0; i < p->run_count; i++) drop_run(p->runs[i]);
    p->frozen_count = p->run_count = 0;
    front_drop(p);
    if (p->active) {
      memset(p->active->entries, 0, (p->active->slots + PROBES_MAX) * ENTRY_BYTES);
      p->active->used = 0;
    }
  }
  index->run_entries = core->state.index_used = core->state.index_frozen = 0;
}

int index_new(rmt_core *core, uint64_t entries) {
  struct index_parts *index = core->index = calloc(1, sizeof *index);
  if (!index) return RMT_NOMEM;
  index->slots_min = entries / PARTS < SLOTS_MIN ? SLOTS_MIN : entries / PARTS;
  for (uint32_t n = 0; n < PARTS; n++) {
    part *p = &index->parts[n];
    p->active = table_new(index, p);
    if (!p->active) return RMT_NOMEM;
  }
  return RMT_OK;
}

void index_free(rmt_core *core) {
  if (!core->index) return;
  rmt_index_clear(core);
  for (uint32_t n = 0; n < PARTS; n++) table_free(core->index->parts[n].active);
  free(core->index);
}

int rmt_index_open_run(rmt_core *core, int fd, uint32_t number, uint64_t low, uint64_t high) {
  int status;
  run *r = run_load(core->seed, fd, &status);
  if (!r) return status;
  struct index_parts *index = core->index;
  if (r->part != number || r->low != low || r->high != high || number >= PARTS ||
      index->parts[number].run_count >= RUNS_MAX - FROZEN_MAX) {
    run_free(r);
    return RMT_RANGE;
  }
  part *p = &index->parts[number];
  p->runs[p->run_count++] = r;
  front_drop(p);
  index->run_entries += r->entries;
  core->state.index_used += r->entries;
  if (r->high > index->number) index->number = r->high;
  return RMT_OK;
}

int rmt_index_run_at(const rmt_core *core, uint32_t number, uint32_t i, uint64_t *figures) {
  if (number >= PARTS || i >= core->index->parts[number].run_count) return RMT_RANGE;
  const run *r = core->index->parts[number].runs[i];
  figures[0] = r->low;
  figures[1] = r->high;
  figures[2] = r->entries;
  figures[3] = r->ends_at != 0;
  return RMT_OK;
}

void rmt_index_figures(const rmt_core *core, rmt_index_stats *out) {
  const struct index_parts *index = core->index;
  *out = (rmt_index_stats){.entries = core->state.index_used,
                           .run_entries = index->run_entries,
                           .lookups = index->lookups,
                           .page_reads = index->reads,
                           .misled = index->misled,
                           .damaged = index->damaged,
                           .forgotten = index->forgotten};
  for (uint32_t n = 0; n < PARTS; n++) {
    const part *p = &index->parts[n];
    out->memory_bytes += (p->active->slots + PROBES_MAX) * ENTRY_BYTES;
    for (uint32_t i = 0; i < p->frozen_count; i++)
      out->memory_bytes += (p->frozen[i]->slots + PROBES_MAX) * ENTRY_BYTES;
    for (uint32_t i = 0; i < p->run_count; i++) {
      const run *r = p->runs[i];
      out->memory_bytes += filter_bytes(r->groups, r->entries);
      out->disk_bytes += r->file_bytes;
    }
    if (p->front) out->front_bytes += front_bytes(p->front);
    out->runs += p->run_count;
    out->frozen += p->frozen_count;
  }
  out->memory_bytes += out->front_bytes;
}
