/*
 * A front: a filter before the filters of a partition's runs, so that most new blocks cost one line
 * of memory instead of two for each run. Blocks of 256 bits, and two bits of one for each key; the
 * key's first bits choose the block and how far the second bit is from the first, its last byte the
 * first. A run's filter knows nothing of that byte, so what both let pass is the product.
 *
 * A partition's front has the bits of every key of every run of it, or there is none: a job puts
 * what it writes into the front that there was when it began, and a run that joins by another way,
 * or when the front is another one, ends the front (front_drop). So there is no order of jobs that
 * makes a lookup miss a key; the engine keeps jobs apart so that none is ended in vain.
 *
 * A front is made by a job of its own, when the store was opened or the front has become too full:
 * of the runs' filters, which have the first bits of each key, and the ends in their files. Where
 * the first bits leave open which of some places a key has, it gets the bits of all of them.
 */
#include "index.h"

#include <fcntl.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define BLOCK_WORDS 4u
#define BLOCK_PLACES 32u   /* as many distances */
#define BLOCK_KEYS 102u    /* of a full one: two and a half bits each */
#define PORTION (1u << 14) /* entries at least in a step: whole pages of ends */
#define FRACTION 24u
#define AHEAD (1u << 20) /* bytes, whole portions */

struct front {
  uint64_t places, room, held; /* keys: it was made for; put into it */
  uint32_t pins;
  bool gone;
  uint64_t *words; /* each block in one line */
  void *memory;
};

struct rmt_index_front_job {
  rmt_core *core;
  run *runs[RUNS_MAX];
  uint32_t part, run_count, now;
  front *made;
  uint64_t at, group, entries; /* next entry of the run; its group; entries of all runs so far */
  XXH3_state_t *sum;
  uint8_t *ends;
  bool failed, finished;
};

static uint32_t second_bit(uint64_t place, uint32_t first) {
  return (first + 1 + 7 * (uint32_t)(place % BLOCK_PLACES)) % 256;
}

static uint64_t *word_of(const front *f, uint64_t place, uint32_t bit) {
  return &f->words[place / BLOCK_PLACES * BLOCK_WORDS + bit / 64];
}

static bool has_bit(const front *f, uint64_t place, uint32_t bit) {
  return __atomic_load_n(word_of(f, place, bit), __ATOMIC_RELAXED) >> bit % 64 & 1;
}

static void set_bit(front *f, uint64_t place, uint32_t bit) {
  if (!has_bit(f, place, bit))
    __atomic_fetch_or(word_of(f, place, bit), 1ull << bit % 64, __ATOMIC_RELAXED);
}

/* While nobody else has the front. */
static void put_at(front *f, uint64_t place, uint32_t end) {
  uint32_t second = second_bit(place, end);
  *word_of(f, place, end) |= 1ull << end % 64;
  *word_of(f, place, second) |= 1ull << second % 64;
}

bool front_may_have(const front *f, uint64_t key) {
  uint64_t rest, place = scale(key, f->places, &rest);
  uint8_t end = (uint8_t)key;
  return has_bit(f, place, end) && has_bit(f, place, second_bit(place, end));
}

void front_put(front *f, uint64_t key) {
  uint64_t rest, place = scale(key, f->places, &rest);
  uint8_t end = (uint8_t)key;
  set_bit(f, place, end);
  set_bit(f, place, second_bit(place, end));
}

void front_prefetch(const front *f, uint64_t key) {
  uint64_t rest;
  __builtin_prefetch(word_of(f, scale(key, f->places, &rest), 0));
}

uint64_t front_bytes(const front *f) { return f->places / BLOCK_PLACES * BLOCK_WORDS * 8; }

static void front_free(front *f) {
  if (!f) return;
  free(f->memory);
  free(f);
}

front *front_pin(front *f) {
  if (f) f->pins++;
  return f;
}

void front_unpin(front *f) {
  if (f && !--f->pins && f->gone) front_free(f);
}

void front_drop(part *p) {
  if (p->front && !p->front->pins)
    front_free(p->front);
  else if (p->front)
    p->front->gone = true;
  p->front = NULL;
}

void front_joined(part *p, const front *with, uint64_t entries) {
  if (p->front != with)
    front_drop(p);
  else if (p->front)
    p->front->held += entries;
}

static front *front_new(uint64_t room) {
  uint64_t blocks = room / BLOCK_KEYS + 1, line = 8 * BLOCK_WORDS;
  front *f = calloc(1, sizeof *f);
  if (!f) return NULL;
  f->memory = calloc(blocks + 1, line);
  f->words = (uint64_t *)(((uintptr_t)f->memory + line - 1) / line * line);
  f->places = blocks * BLOCK_PLACES;
  f->room = room;
  if (f->memory) return f;
  free(f);
  return NULL;
}

/* Some entries of a group, whose ends these are: the group's entries [from, to) of the run. */
static void put_group(front *f, const run *r, uint64_t number, uint64_t from, uint64_t to,
                      const uint8_t *ends) {
  const group *g = &r->filter[number];
  __extension__ unsigned __int128 places = (__extension__(unsigned __int128) f->places) << FRACTION;
  uint64_t begin = (uint64_t)(places * number / r->groups);
  if (g[1].rank - g[0].rank > GROUP_ENTRIES) { /* it says of no entry where it is: all bits */
    uint64_t last = (uint64_t)(places * (number + 1) / r->groups) >> FRACTION;
    if (last >= f->places) last = f->places - 1;
    uint64_t *first = word_of(f, begin >> FRACTION, 0), *past = word_of(f, last, 0) + BLOCK_WORDS;
    memset(first, 0xff, (size_t)(past - first) * sizeof *first);
    return;
  }
  /* Cells, one for each tag of a bucket, are as wide as this; what it leaves out adds up to less
   * than `loss`. */
  uint64_t cell = (uint64_t)(places / r->groups / (GROUP_BUCKETS << TAG_BITS));
  const uint64_t loss = (GROUP_BUCKETS << TAG_BITS) + 2;
  uint64_t entry = g[0].rank;
  for (uint32_t w = 0; w < GROUP_BITS / 32; w++)
    for (uint32_t zeros = ~g->unary[w]; zeros && entry < to; zeros &= zeros - 1, entry++) {
      uint32_t bit = 32 * w + (uint32_t)__builtin_ctz(zeros);
      uint64_t bucket = bit - (entry - g[0].rank);
      if (bucket >= GROUP_BUCKETS) return;
      if (entry < from) continue;
      uint64_t low = begin + (bucket << TAG_BITS | r->tags[entry]) * cell;
      uint64_t place = low >> FRACTION, last = (low + cell + loss) >> FRACTION;
      for (; place <= last && place < f->places; place++) put_at(f, place, ends[entry - from]);
    }
}

/* The next entries of a run; false: their ends cannot be had. */
static bool put_portion(rmt_index_front_job *job, const run *r) {
  uint64_t left = r->entries - job->at, count = left < PORTION ? left : PORTION, from = job->at;
  uint64_t to = from + count, bytes = ends_bytes(count);
  if (!from && XXH3_64bits_reset_withSeed(job->sum, job->core->seed) != XXH_OK) return false;
  /* Runs are opened for reads of single pages: without this each portion waits for the disk. */
  if (from % AHEAD == 0)
    posix_fadvise(r->fd, (off_t)(r->ends_at + from), 2 * AHEAD, POSIX_FADV_WILLNEED);
  if (read_whole(r->fd, job->ends, bytes, r->ends_at + from)) return false;
  XXH3_64bits_update(job->sum, job->ends, bytes);
  while (r->filter[job->group].rank < to) {
    uint64_t rank = r->filter[job->group].rank;
    uint64_t first = rank > from ? rank : from, next = r->filter[job->group + 1].rank;
    put_group(job->made, r, job->group, first, next < to ? next : to, job->ends + (first - from));
    if (next > to || job->group + 1 == r->groups) break;
    job->group++;
  }
  job->at = to;
  job->entries += count;
  return to < r->entries || XXH3_64bits_digest(job->sum) == r->ends_checksum;
}

int rmt_index_front_step(rmt_index_front_job *job, uint64_t entries) {
  uint64_t until = job->entries + entries;
  while (!job->finished && job->entries < until) {
    if (job->now == job->run_count) {
      job->finished = true;
      break;
    }
    const run *r = job->runs[job->now];
    job->failed = !put_portion(job, r);
    job->finished = job->failed;
    if (job->failed || job->at < r->entries) continue;
    job->now++;
    job->at = job->group = 0;
  }
  return job->finished ? RMT_DONE : RMT_OK;
}

void rmt_index_front_free(rmt_index_front_job *job) {
  if (!job) return;
  for (uint32_t i = 0; i < job->run_count; i++)
    if (!--job->runs[i]->pins && job->runs[i]->gone) run_free(job->runs[i]);
  front_free(job->made);
  XXH3_freeState(job->sum);
  free(job->ends);
  free(job);
}

rmt_index_front_job *rmt_index_front_begin(rmt_core *core, uint32_t number, uint64_t room) {
  if (number >= PARTS) return NULL;
  const part *p = &core->index->parts[number];
  for (uint32_t i = 0; i < p->run_count; i++)
    if (!p->runs[i]->ends_at) return NULL;
  rmt_index_front_job *job = calloc(1, sizeof *job);
  if (!job) return NULL;
  job->core = core;
  job->part = number;
  job->made = front_new(room);
  job->sum = XXH3_createState();
  job->ends = malloc(PORTION);
  for (; job->run_count < p->run_count; job->run_count++) {
    job->runs[job->run_count] = p->runs[job->run_count];
    job->runs[job->run_count]->pins++;
  }
  if (job->made && job->sum && job->ends) return job;
  rmt_index_front_free(job);
  return NULL;
}

int rmt_index_front_install(rmt_core *core, rmt_index_front_job *job) {
  part *p = &core->index->parts[job->part];
  if (job->failed) job->runs[job->now]->ends_at = 0; /* not again */
  if (job->failed || !job->finished || p->run_count != job->run_count ||
      memcmp(p->runs, job->runs, p->run_count * sizeof(run *)) != 0)
    return RMT_UNKNOWN;
  front_drop(p);
  p->front = job->made;
  p->front->held = job->entries;
  job->made = NULL;
  return RMT_OK;
}

int rmt_index_front_at(const rmt_core *core, uint32_t number, uint64_t *figures) {
  if (number >= PARTS || !core->index->parts[number].front) return RMT_RANGE;
  const front *f = core->index->parts[number].front;
  figures[0] = f->room;
  figures[1] = f->held;
  return RMT_OK;
}
