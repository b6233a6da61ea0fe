/*
 * Jobs that make runs: of a frozen table, or of neighbouring runs of one partition. A step takes so
 * many entries, reads and writes in order, and leaves out what is of no use any more: entries that
 * a newer one replaces, and those whose slot is free.
 *
 * Between begin and install a job's sources answer lookups; nothing of what it writes is looked at.
 * So it may be dropped at any time. A slot's bit is read beside the engine thread: an entry whose
 * slot is allocated from before the job on is kept, and any other need not be.
 */
#include "index.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define BUFFER_PAGES 64u
#define SORTED_MAX 48u /* longer clusters are sorted by qsort */

typedef struct {
  table *table;
  run *run;
  uint64_t at; /* next place in the table; next rank in the run */
  fingerprint *cluster;
  uint64_t cluster_count, cluster_at, cluster_room;
  uint8_t *pages;
  uint64_t first_page, page_count;
  bool skipping, done;
  fingerprint now;
} source;

struct rmt_index_job {
  const rmt_core *core;
  source sources[RUNS_MAX];
  uint32_t part, source_count;
  run *made;
  front *front; /* gets all that is written */
  uint64_t entries_max, buckets, bucket, written, dropped;
  uint8_t *pages, *ends; /* ends: each key's last byte */
  uint32_t buffered;     /* entries */
  int error;
  bool finished;
};

static bool is_live(const rmt_core *core, uint64_t address) {
  uint64_t number = address / core->slab_slots, slot = address % core->slab_slots;
  if (number >= __atomic_load_n(&core->slab_count, __ATOMIC_ACQUIRE)) return false;
  const uint64_t *word = &core->slabs[number].allocated[slot >> 6];
  return __atomic_load_n(word, __ATOMIC_RELAXED) >> (slot & 63) & 1;
}

static int by_key(const void *a, const void *b) {
  uint64_t x = ((const fingerprint *)a)->key, y = ((const fingerprint *)b)->key;
  return (x > y) - (x < y);
}

static void sort(fingerprint *f, uint64_t count) {
  if (count > SORTED_MAX) {
    qsort(f, count, sizeof *f, by_key);
    return;
  }
  for (uint64_t i = 1; i < count; i++) {
    fingerprint moved = f[i];
    uint64_t j = i;
    for (; j && f[j - 1].key > moved.key; j--) f[j] = f[j - 1];
    f[j] = moved;
  }
}

/* The next entries without a gap between them: no later one has a smaller key. */
static int next_cluster(source *s) {
  const table *t = s->table;
  uint64_t end = t->slots + PROBES_MAX;
  s->cluster_count = s->cluster_at = 0;
  for (; s->at < end; s->at++) {
    fingerprint f = entry_get(t->entries + s->at * ENTRY_BYTES);
    if (!f.address && s->cluster_count) break;
    if (!f.address) continue;
    if (s->cluster_count == s->cluster_room) {
      uint64_t room = s->cluster_room ? 2 * s->cluster_room : 64;
      fingerprint *grown = realloc(s->cluster, room * sizeof *grown);
      if (!grown) return RMT_NOMEM;
      s->cluster = grown;
      s->cluster_room = room;
    }
    s->cluster[s->cluster_count++] = f;
  }
  sort(s->cluster, s->cluster_count);
  return RMT_OK;
}

/* Pages that cannot be read, or fail their checksum, have no entries. */
static bool load_page(const rmt_core *core, source *s, uint64_t number) {
  const run *r = s->run;
  if (number < s->first_page || number >= s->first_page + s->page_count) {
    uint64_t left = run_pages(r->entries) - number;
    s->first_page = number;
    s->page_count = left < BUFFER_PAGES ? left : BUFFER_PAGES;
    if (read_whole(r->fd, s->pages, s->page_count * PAGE_BYTES, number * PAGE_BYTES)) {
      s->page_count = 0;
      return false;
    }
  }
  const uint8_t *page = s->pages + (number - s->first_page) * PAGE_BYTES;
  return page_checksum(core->seed, r->high ^ number << 32, page) == entry_get(page).key;
}

static int advance(const rmt_core *core, source *s) {
  if (s->table) {
    if (s->cluster_at == s->cluster_count) {
      int status = next_cluster(s);
      if (status != RMT_OK) return status;
    }
    s->done = s->cluster_at == s->cluster_count;
    if (!s->done) s->now = s->cluster[s->cluster_at++];
    return RMT_OK;
  }
  while (s->at < s->run->entries) {
    uint64_t number = s->at / PAGE_ENTRIES, at = s->at % PAGE_ENTRIES;
    if (!at) s->skipping = !load_page(core, s, number);
    if (s->skipping) {
      s->at += PAGE_ENTRIES;
      continue;
    }
    fingerprint f = entry_get(s->pages + (number - s->first_page) * PAGE_BYTES + PAGE_HEADER +
                              at * ENTRY_BYTES);
    s->at++;
    if (!f.address || key_part(f.key) != s->run->part || f.key < s->now.key) continue;
    s->now = f;
    return RMT_OK;
  }
  s->done = true;
  return RMT_OK;
}

static int flush_pages(rmt_index_job *job) {
  uint64_t pages = run_pages(job->buffered), first = job->made->entries - job->buffered;
  uint64_t number = first / PAGE_ENTRIES;
  for (uint64_t n = 0; n < pages; n++) {
    uint8_t *page = job->pages + n * PAGE_BYTES;
    uint64_t checksum = page_checksum(job->core->seed, job->made->high ^ (number + n) << 32, page);
    memcpy(page, &checksum, sizeof checksum);
  }
  job->error = write_whole(job->made->fd, job->pages, pages * PAGE_BYTES, number * PAGE_BYTES);
  if (job->error) return RMT_IO;
  /* Ask for the write now, so that it is spread over the job and not one burst at its end. */
  sync_file_range(job->made->fd, (off_t)(number * PAGE_BYTES), (off_t)(pages * PAGE_BYTES),
                  SYNC_FILE_RANGE_WRITE);
  job->written += pages * PAGE_BYTES;
  memset(job->pages, 0, BUFFER_PAGES * PAGE_BYTES);
  job->buffered = 0;
  return RMT_OK;
}

/* Close the buckets before this one; groups that begin note how many entries are before them. */
static void close_buckets(rmt_index_job *job, uint64_t until) {
  run *r = job->made;
  for (; job->bucket < until; job->bucket++) {
    group *g = &r->filter[job->bucket / GROUP_BUCKETS];
    uint32_t at = job->bucket % GROUP_BUCKETS;
    uint64_t bit = r->entries - g->rank + at;
    if (bit < GROUP_BITS) g->unary[bit / 32] |= 1u << (bit & 31);
    if (at == GROUP_BUCKETS - 1) g[1].rank = (uint32_t)r->entries;
  }
}

static int put(rmt_index_job *job, fingerprint f) {
  run *r = job->made;
  uint64_t rest, bucket = scale(f.key, job->buckets, &rest);
  close_buckets(job, bucket);
  r->tags[r->entries] = (uint8_t)(rest >> (64 - TAG_BITS));
  job->ends[r->entries] = (uint8_t)f.key;
  if (job->front) front_put(job->front, f.key);
  uint32_t page = job->buffered / PAGE_ENTRIES, at = job->buffered % PAGE_ENTRIES;
  entry_put(job->pages + page * PAGE_BYTES + PAGE_HEADER + at * ENTRY_BYTES, f);
  r->entries++;
  job->buffered++;
  return job->buffered == BUFFER_PAGES * PAGE_ENTRIES ? flush_pages(job) : RMT_OK;
}

static int finish(rmt_index_job *job) {
  run *r = job->made;
  close_buckets(job, job->buckets);
  int status = job->buffered ? flush_pages(job) : RMT_OK;
  if (status != RMT_OK) return status;
  if (r->entries) {
    job->error = run_write_tail(job->core->seed, r, job->ends, &job->written);
    /* What it is made of goes when it is there: then a power loss must not take both. */
    if (!job->error && job->sources[0].run && fdatasync(r->fd)) job->error = errno;
    if (job->error) return RMT_IO;
    /* Fewer entries than thought: give the tags' rest back, it may be much. */
    group *whole = realloc(r->filter, filter_bytes(r->groups, r->entries) + FILTER_SLACK);
    if (whole) r->filter = whole;
    r->tags = (uint8_t *)(r->filter + r->groups + 1);
  }
  posix_fadvise(r->fd, 0, 0, POSIX_FADV_RANDOM);
  job->finished = true;
  return RMT_DONE;
}

/* The smallest key; of equal ones the newest, and sources are in that order. */
static source *smallest(rmt_index_job *job) {
  source *least = NULL;
  for (uint32_t i = 0; i < job->source_count; i++) {
    source *s = &job->sources[i];
    if (!s->done && (!least || s->now.key < least->now.key)) least = s;
  }
  return least;
}

int rmt_index_job_step(rmt_index_job *job, uint64_t entries) {
  while (!job->finished && entries--) {
    source *s = smallest(job);
    if (!s) return finish(job);
    fingerprint f = s->now;
    int status = advance(job->core, s);
    if (status == RMT_OK && !is_live(job->core, f.address - 1)) {
      job->dropped++;
      continue;
    }
    for (uint32_t i = 0; status == RMT_OK && i < job->source_count; i++)
      while (status == RMT_OK && !job->sources[i].done && job->sources[i].now.key == f.key)
        status = advance(job->core, &job->sources[i]);
    if (status == RMT_OK) status = put(job, f);
    if (status != RMT_OK) return status;
  }
  return job->finished ? RMT_DONE : RMT_OK;
}

static void pin(source *s, int by) {
  if (s->table) s->table->pins += (uint32_t)by;
  if (s->run) s->run->pins += (uint32_t)by;
}

void rmt_index_job_free(rmt_index_job *job) {
  if (!job) return;
  for (uint32_t i = 0; i < job->source_count; i++) {
    source *s = &job->sources[i];
    pin(s, -1);
    if (s->table && s->table->gone && !s->table->pins) table_free(s->table);
    if (s->run && s->run->gone && !s->run->pins) run_free(s->run);
    free(s->cluster);
    free(s->pages);
  }
  run_free(job->made);
  front_unpin(job->front);
  free(job->pages);
  free(job->ends);
  free(job);
}

static bool prepare(rmt_index_job *job) {
  run *r = job->made;
  r->groups = (job->entries_max + GROUP_LOAD - 1) / GROUP_LOAD;
  job->buckets = r->groups * GROUP_BUCKETS;
  r->filter = calloc(filter_bytes(r->groups, job->entries_max) + FILTER_SLACK, 1);
  job->pages = calloc(BUFFER_PAGES, PAGE_BYTES);
  job->ends = calloc(ends_bytes(job->entries_max), 1);
  if (!r->filter || !job->pages || !job->ends) return false;
  r->tags = (uint8_t *)(r->filter + r->groups + 1);
  for (uint32_t i = 0; i < job->source_count; i++) {
    source *s = &job->sources[i];
    if (s->run && !(s->pages = malloc(BUFFER_PAGES * PAGE_BYTES))) return false;
    if (advance(job->core, s) != RMT_OK) return false;
  }
  return true;
}

rmt_index_job *rmt_index_begin(rmt_core *core, uint32_t number, uint32_t first, uint32_t count,
                               int fd) {
  rmt_index_job *job = calloc(1, sizeof *job);
  run *made = calloc(1, sizeof *made);
  if (!job || !made || number >= PARTS) {
    free(job);
    free(made);
    return NULL;
  }
  part *p = &core->index->parts[number];
  *made = (run){.fd = fd, .part = number};
  job->core = core;
  job->made = made;
  job->part = number;
  job->front = front_pin(p->front);
  if (!count && p->frozen_count && p->run_count < RUNS_MAX) {
    job->sources[job->source_count++].table = p->frozen[0];
    made->low = made->high = p->frozen[0]->number;
    job->entries_max = p->frozen[0]->used;
  } else if (count && count <= RUNS_MAX && first <= p->run_count && count <= p->run_count - first) {
    for (uint32_t i = first + count; i-- > first;) {
      job->sources[job->source_count++].run = p->runs[i];
      job->entries_max += p->runs[i]->entries;
    }
    made->low = p->runs[first]->low;
    made->high = p->runs[first + count - 1]->high;
  }
  for (uint32_t i = 0; i < job->source_count; i++) pin(&job->sources[i], 1);
  if (job->source_count && job->entries_max <= UINT32_MAX && prepare(job)) return job;
  made->fd = -1;
  rmt_index_job_free(job);
  return NULL;
}

void rmt_index_job_figures(const rmt_index_job *job, uint64_t *figures) {
  figures[0] = job->made ? job->made->low : 0;
  figures[1] = job->made ? job->made->high : 0;
  figures[2] = job->made ? job->made->entries : 0;
  figures[3] = job->written;
  figures[4] = (uint64_t)job->error;
}

static void replace_runs(part *p, uint32_t at, uint32_t count, run *made) {
  uint32_t kept = made != NULL;
  for (uint32_t i = 0; i < count; i++) p->runs[at + i]->gone = true;
  memmove(&p->runs[at + kept], &p->runs[at + count], (p->run_count - at - count) * sizeof(run *));
  if (made) p->runs[at] = made;
  p->run_count = p->run_count - count + kept;
}

int rmt_index_install(rmt_core *core, rmt_index_job *job) {
  struct index_parts *index = core->index;
  part *p = &index->parts[job->part];
  uint64_t taken = 0;
  if (!job->finished) return RMT_UNKNOWN;
  for (uint32_t i = 0; i < job->source_count; i++) {
    const source *s = &job->sources[i];
    if (s->table ? s->table->gone : s->run->gone) return RMT_UNKNOWN; /* the index was cleared */
    taken += s->table ? s->table->used : s->run->entries;
  }
  run *made = job->made->entries ? job->made : NULL;
  uint64_t entries = job->made->entries;
  if (job->sources[0].table) {
    job->sources[0].table->gone = true;
    memmove(&p->frozen[0], &p->frozen[1], (FROZEN_MAX - 1) * sizeof(table *));
    p->frozen_count--;
    core->state.index_frozen--;
    if (made) p->runs[p->run_count++] = made;
    if (made) front_joined(p, job->front, entries);
    index->run_entries += entries;
  } else {
    uint32_t at = 0;
    while (p->runs[at] != job->sources[job->source_count - 1].run) at++;
    replace_runs(p, at, job->source_count, made);
    if (made) front_joined(p, job->front, 0);
    index->run_entries += entries - taken;
  }
  core->state.index_used += entries - taken;
  if (made) job->made = NULL;
  return RMT_OK;
}
