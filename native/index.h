/*
 * The fingerprint index's own: tables in memory, sorted runs in files, and the jobs that make runs.
 * docs/FORMAT.md tells the file's layout, and why the index is made so.
 *
 * Keys are spread evenly, so a key's first bits choose one of PARTS partitions, each an index of
 * its own; and what follows them gives its place: in a table (order-preserving hash, so that a
 * table is all but sorted), in a run's filter, and in the front of all runs.
 *
 * The engine thread owns everything here. A job's step may run on a thread beside it: it reads
 * tables that are frozen and runs, which nobody changes, and adds to a front, which only gains
 * bits; all are pinned until the job is freed.
 */
#ifndef RMT_INDEX_H
#define RMT_INDEX_H

#include "core.h"

#define PARTS_BITS 4
#define PARTS (1u << PARTS_BITS)
#define RUNS_MAX 48u
#define FROZEN_MAX 2u
#define PROBES_MAX 512u

#define ENTRY_BYTES 13u /* key u64, address + 1 in 40 bits */
#define INDEX_ADDRESS_MAX ((1ull << 40) - 2)
#define PAGE_BYTES 4096u
#define PAGE_HEADER 8u
#define PAGE_ENTRIES ((PAGE_BYTES - PAGE_HEADER) / ENTRY_BYTES)

/* Filter: groups of 64 buckets, of 60 entries on average; a tag of a byte an entry. */
#define GROUP_BUCKETS 64u
#define GROUP_LOAD 60u
#define GROUP_BITS 160u
#define GROUP_ENTRIES (GROUP_BITS - GROUP_BUCKETS) /* a fuller group has no tags: read the file */
#define TAG_BITS 8u
#define FILTER_SLACK 8u /* bytes of memory behind it: tags are read several at a time */

typedef struct {
  uint64_t key, address;
} fingerprint;

typedef struct {
  uint64_t slots, used, limit, number;
  uint32_t pins;
  bool gone;
  uint8_t *entries; /* slots + PROBES_MAX of them */
} table;

/* `unary`: for each bucket a 0 an entry, then a 1. */
typedef struct {
  uint32_t rank; /* entries of the run before the group */
  uint32_t unary[GROUP_BITS / 32];
} group;

typedef struct {
  int fd;
  uint32_t part, pins;
  bool gone;
  uint64_t low, high; /* the tables it is made of, by number */
  uint64_t entries, groups, file_bytes;
  group *filter; /* groups + 1; the tags follow */
  uint8_t *tags;
  uint64_t ends_at, ends_checksum; /* its keys' last bytes in the file; 0: it has none */
} run;

typedef struct front front;

typedef struct {
  table *active, *frozen[FROZEN_MAX];
  front *front;        /* asked before the runs, if there is one; front.c */
  run *runs[RUNS_MAX]; /* oldest first, as the frozen tables */
  uint32_t frozen_count, run_count, made;
} part;

struct index_parts {
  part parts[PARTS];
  uint64_t number, slots_min, run_entries, lookups, reads, misled, damaged, forgotten;
};

static inline uint32_t key_part(uint64_t key) { return (uint32_t)(key >> (64 - PARTS_BITS)); }

static inline uint64_t scale(uint64_t key, uint64_t range, uint64_t *rest) {
  __extension__ unsigned __int128 product =
      (__extension__(unsigned __int128)(key << PARTS_BITS)) * range;
  *rest = (uint64_t)product;
  return (uint64_t)(product >> 64);
}

static inline fingerprint entry_get(const uint8_t *at) {
  fingerprint f = {0, 0};
  memcpy(&f.key, at, 8);
  memcpy(&f.address, at + 8, 5); /* little-endian, as the format is */
  return f;
}

static inline void entry_put(uint8_t *at, fingerprint f) {
  memcpy(at, &f.key, 8);
  memcpy(at + 8, &f.address, 5);
}

/* index.c */
void table_free(table *t);

/* runs.c */
size_t filter_bytes(uint64_t groups, uint64_t entries);
uint64_t ends_bytes(uint64_t entries);
uint64_t run_pages(uint64_t entries);
uint64_t page_checksum(uint64_t seed, uint64_t number, const uint8_t *page);
void run_free(run *r);
/* The run that a file holds, filter and all, or NULL: none that is whole. Takes the descriptor. */
run *run_load(uint64_t seed, int fd, int *status);
int run_write_tail(uint64_t seed, run *r, const uint8_t *ends, uint64_t *written);
int read_whole(int fd, uint8_t *out, size_t length, uint64_t at);
int write_whole(int fd, const uint8_t *data, size_t length, uint64_t at);

/* front.c */
bool front_may_have(const front *f, uint64_t key); /* whether any run may */
void front_prefetch(const front *f, uint64_t key);
void front_put(front *f, uint64_t key); /* any thread */
uint64_t front_bytes(const front *f);
front *front_pin(front *f); /* or NULL */
void front_unpin(front *f);
void front_drop(part *p);
/* A run has joined the partition; its keys are in this front, which had not so many of them. */
void front_joined(part *p, const front *with, uint64_t entries);

/* Whether filter_bmi2.c has anything: Clang ignores its pragma. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FILTER_BMI2 1
#else
#define FILTER_BMI2 0
#endif

/* Entries of a run that may have a key: [from, to). */
typedef struct {
  const run *run;
  uint64_t from, to;
} candidate;

/* filter.c: of some runs those that may have the key, the last first; how many. */
uint32_t runs_may_have(run *const *runs, uint32_t count, uint64_t key, candidate *found);

#endif
