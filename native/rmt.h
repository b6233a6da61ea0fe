/*
 * Ramet's hot path: extent maps, slots, fingerprints, block reads and writes.
 *
 * One rmt_core holds what one store needs; there are no globals. Only the engine thread changes a
 * core. Other threads may call rmt_fetch, rmt_ask, rmt_warm, rmt_sealed_node and what gc.c says,
 * which touch nothing that the engine thread changes. No function returns a pointer into a core
 * except rmt_sealed_node, whose buffer lives until rmt_release.
 *
 * Every call that can fail changes nothing when it returns RMT_MISSING (load the node named in
 * core->missing, insert it, call again), RMT_COLD (only without `wait`: slots are not in the page
 * cache; have a thread rmt_warm them, call again), RMT_NEED_SLAB, RMT_NOMEM or RMT_IO; punch and
 * share work in steps, each of which is whole. docs/FORMAT.md describes what is stored.
 */
#ifndef RMT_H
#define RMT_H

#include <stddef.h>
#include <stdint.h>

#define RMT_BLOCK 4096u
#define RMT_HEADER 48u
#define RMT_FANOUT_MAX 252u
#define RMT_LEVELS_MAX 24u
#ifndef RMT_SLABS_MAX /* the fuzzers make many small cores */
#define RMT_SLABS_MAX 65536u
#endif
#define RMT_CHUNK_SLOTS 8192u
#define RMT_CHUNK_BYTES 2048u
#define RMT_BLOCKS_MAX (1ull << 40)
#define RMT_CALL_BLOCKS_MAX 1024u
#define RMT_FETCH_SMALL 131072u
#define RMT_FETCH_LARGE 1048576u
#define RMT_PREFIX_MAX 64u
#define RMT_HOLE UINT64_MAX
#define RMT_CONFLICT (1ull << 63)

enum rmt_status {
  RMT_OK = 0,
  RMT_MISSING = 1,
  RMT_NEED_SLAB = 2,
  RMT_CORRUPT_BLOCK = 3,
  RMT_CORRUPT_NODE = 4,
  RMT_NOMEM = 5,
  RMT_IO = 6,
  RMT_RANGE = 7,
  RMT_UNKNOWN = 8,
  RMT_SEEN = 9,
  RMT_DONE = 10,
  RMT_RECLAIMED = 11,
  RMT_COLD = 12
};

#define RMT_MAPPED 1ull
#define RMT_OWNED 2ull /* written here, into a slot taken for it */
#define RMT_DEDUP 4ull /* written here, and found to be stored already */
#define RMT_FLAG_SHIFT 48
#define RMT_ADDRESS_MASK ((1ull << 48) - 1)

typedef struct rmt_core rmt_core;
typedef struct rmt_sealed rmt_sealed;
typedef struct rmt_marks rmt_marks;
typedef struct rmt_owners rmt_owners;
typedef struct rmt_index_job rmt_index_job;
typedef struct rmt_index_front_job rmt_index_front_job;
typedef struct rmt_fetchers rmt_fetchers;

typedef struct {
  uint64_t root; /* node id, 0: nothing mapped */
  uint64_t blocks;
  uint64_t shared_epoch;
  uint64_t domain; /* blocks are shared by dedup within one domain only */
  uint32_t height; /* levels, 0 when root is 0 */
  uint32_t pad;
} rmt_tree;

/* A run of blocks in a run of slots of one slab, all of them shared or none. */
typedef struct {
  uint64_t block, address, count;
  uint64_t shared; /* 0: no other file, snapshot or clone has them; 1: one may */
} rmt_extent;

/* A range of a file, and where in a buffer its bytes go. */
typedef struct {
  uint64_t offset;
  uint32_t size, at;
} rmt_piece;

/* Blocks to be written: each `piece` of them lie together, `stride` bytes after the last ones. */
typedef struct {
  const uint8_t *data;
  uint64_t piece, stride;
} rmt_source;

typedef struct {
  uint64_t block, address; /* of the block that failed its check */
  int32_t error;           /* errno, with RMT_IO */
  uint32_t pad;
} rmt_failure;

/* A subtree that its tree, last shared in `epoch`, has let go of. */
typedef struct {
  uint64_t id, epoch;
  uint32_t level, pad;
} rmt_cut;

/* Blocks by what became of them; writes add theirs. */
typedef struct {
  uint64_t fresh, duplicate, zero;
} rmt_written;

typedef struct {
  uint64_t missing; /* with RMT_MISSING: the node to load */
  uint64_t next_id; /* the next node id to hand out */
  uint64_t epoch;   /* birth of new nodes */
  uint64_t cached, dirty, allocated, busy, total, index_used;
  uint64_t changed; /* slots or nodes changed since the last seal */
  uint64_t holes;   /* free slots known to take no space on the host */
  uint64_t cuts;    /* waiting for rmt_take_cuts */
  uint64_t debt;    /* blocks that were let go of and may be garbage now: only gc can tell */
  uint64_t dirty_chunks;
  uint64_t taken;        /* slots taken since the core was made */
  uint64_t index_frozen; /* tables of the index that wait to be written */
  uint64_t cold;         /* with RMT_COLD: how many slots rmt_cold gives */
} rmt_shared;

rmt_core *rmt_new(uint32_t fanout, uint32_t slab_slots, uint64_t seed, uint64_t cache_nodes,
                  uint64_t index_entries);
void rmt_free(rmt_core *core);
rmt_shared *rmt_state(rmt_core *core);
uint64_t rmt_call_blocks(const rmt_core *core); /* blocks that one read or write may name */
/* hash.c; pieces: `size` bytes `at` each, the sum of every one */
uint64_t rmt_hash(const rmt_core *core, const void *data, size_t length);
void rmt_hash_pieces(const rmt_core *core, const uint8_t *data, const rmt_piece *pieces,
                     uint32_t count, uint64_t *sums);

/* cache.c */
int rmt_insert_node(rmt_core *core, uint64_t id, const uint8_t *data, size_t length);
void rmt_drop_node(rmt_core *core, uint64_t id);
void rmt_forget(rmt_core *core);
int rmt_seal(rmt_core *core, rmt_sealed **out);
uint64_t rmt_sealed_nodes(const rmt_sealed *sealed);
const uint8_t *rmt_sealed_node(const rmt_core *core, rmt_sealed *sealed, uint64_t index,
                               uint64_t *id, size_t *length);
uint64_t rmt_sealed_chunks(const rmt_sealed *sealed);
const uint8_t *rmt_sealed_chunk(const rmt_sealed *sealed, uint64_t index, uint32_t *slab,
                                uint32_t *chunk);
uint64_t rmt_sealed_slabs(const rmt_sealed *sealed);
uint32_t rmt_sealed_slab(const rmt_sealed *sealed, uint64_t index);
void rmt_release(rmt_core *core, rmt_sealed *sealed);
uint64_t rmt_release_freed(rmt_core *core, rmt_sealed *sealed);
void rmt_sealed_free(rmt_sealed *sealed);

/* map.c */
int rmt_resolve(rmt_core *core, const rmt_tree *tree, uint64_t first, uint64_t count,
                uint64_t *addresses, uint64_t *checksums);
/* What was found before a missing node is answered; RMT_MISSING only when that is nothing. */
int rmt_lookup(rmt_core *core, const rmt_tree *tree, uint64_t first, uint64_t count,
               rmt_extent *out, uint64_t capacity, uint64_t *found, uint64_t *next);
int rmt_next_data(rmt_core *core, const rmt_tree *tree, uint64_t block, uint64_t *out);
int rmt_next_hole(rmt_core *core, const rmt_tree *tree, uint64_t block, uint64_t *out);
/* How many blocks before `end` are mapped, in O(height). */
int rmt_mapped_before(rmt_core *core, const rmt_tree *tree, uint64_t end, uint64_t *out);
int rmt_punch(rmt_core *core, rmt_tree *tree, uint64_t first, uint64_t count);
int rmt_share(rmt_core *core, rmt_tree *dst, uint64_t *dst_first, const rmt_tree *src,
              uint64_t *src_first, uint64_t *count);

/* slots.c */
int rmt_add_slab(rmt_core *core, uint32_t slab, int fd);
void rmt_backed_first(rmt_core *core, int on); /* take free slots that are no holes first */
int rmt_load_chunk(rmt_core *core, uint32_t slab, uint32_t chunk, const uint8_t *bits);
int rmt_is_allocated(const rmt_core *core, uint64_t address);
int rmt_is_shared(const rmt_core *core, uint64_t address);
int rmt_hold(rmt_core *core, uint32_t slab, uint32_t *slot, uint64_t want, uint64_t *address,
             uint64_t *count);
int rmt_trim_take(rmt_core *core, uint32_t slab, uint32_t *slot, uint32_t run_min,
                  uint64_t *address, uint64_t *count);
int rmt_trim_give(rmt_core *core, uint64_t address, uint64_t count, int punched);
int rmt_trim_punch(const rmt_core *core, uint64_t address, uint64_t count, rmt_failure *failure);

/* backed.c */
void rmt_learn_holes(rmt_core *core);
/* Where the space ends that a file has from a byte on, also past its end; the byte itself: none. */
uint64_t rmt_backed_end(int fd, uint64_t from);

/* reclaim.c */
uint64_t rmt_take_cuts(rmt_core *core, rmt_cut *out, uint64_t capacity);
int rmt_reclaim(rmt_core *core, const rmt_cut *cut, rmt_cut *children, uint32_t *count);

/* gc.c */
int rmt_gc_arm(rmt_core *core);
void rmt_gc_disarm(rmt_core *core);
rmt_marks *rmt_marks_new(const rmt_core *core);
void rmt_marks_free(rmt_marks *marks);
int rmt_gc_add_ids(rmt_marks *marks, const uint64_t *ids, uint64_t count);
uint64_t rmt_gc_ids(const rmt_marks *marks);
int rmt_gc_see(rmt_marks *marks, uint64_t id);
int rmt_gc_visit(const rmt_core *core, rmt_marks *marks, const uint64_t *ids,
                 const uint8_t *const *data, const uint64_t *lengths, uint64_t nodes,
                 uint64_t *children, uint64_t *count, uint64_t *failed);
uint64_t rmt_gc_entries(const rmt_marks *marks);
uint64_t rmt_gc_unseen(const rmt_marks *marks, uint64_t *from, uint64_t *out, uint64_t capacity);
int rmt_gc_sweep(rmt_core *core, const rmt_marks *marks, uint32_t slab, uint32_t *word,
                 uint64_t limit, uint64_t *freed);

/* owners.c */
rmt_owners *rmt_owners_new(const rmt_core *core);
void rmt_owners_free(rmt_owners *owners);
int rmt_owners_add_ids(rmt_owners *owners, const uint64_t *ids, uint64_t count);
int rmt_owners_add(rmt_owners *owners, uint32_t parent, uint32_t *owner);
int rmt_owners_common(const rmt_owners *owners, uint32_t a, uint32_t b, uint32_t *owner);
int rmt_owners_enter(rmt_owners *owners, uint64_t id, uint32_t owner);
int rmt_owners_visit(const rmt_core *core, rmt_owners *owners, uint32_t owner, const uint64_t *ids,
                     const uint8_t *const *data, const uint64_t *lengths, uint64_t nodes,
                     uint64_t *children, uint64_t *count, uint64_t *failed);
uint32_t rmt_owners_count(const rmt_owners *owners);
void rmt_owners_sums(const rmt_core *core, const rmt_owners *owners, uint64_t *sums);
uint64_t rmt_owners_deduped(const rmt_owners *owners);

/* index.c */
enum rmt_index_found { RMT_INDEX_ABSENT = 0, RMT_INDEX_FOUND = 1, RMT_INDEX_COLD = 2 };
typedef struct {
  uint64_t address, offset; /* offset and fd: the page to warm, with RMT_INDEX_COLD */
  int32_t fd;
  uint32_t pad;
} rmt_index_answer;
typedef struct {
  uint64_t entries, run_entries, runs, frozen, memory_bytes, disk_bytes;
  uint64_t lookups, page_reads, misled;     /* misled: a page was read, and had no such key */
  uint64_t damaged, forgotten, front_bytes; /* front_bytes: a part of memory_bytes */
} rmt_index_stats;
void rmt_index_insert(rmt_core *core, uint64_t key, uint64_t address);
int rmt_index_lookup(const rmt_core *core, uint64_t key, uint64_t *address);
/* The same; without `wait` RMT_INDEX_COLD where a page is not in the page cache. */
int rmt_index_find(const rmt_core *core, uint64_t key, int wait, rmt_index_answer *answer);
/* The entries of tables, pairs of key and address. */
uint64_t rmt_index_export(const rmt_core *core, uint64_t *out, uint64_t capacity);
void rmt_index_import(rmt_core *core, const uint64_t *pairs, uint64_t count);
void rmt_index_clear(rmt_core *core);
void rmt_index_figures(const rmt_core *core, rmt_index_stats *out);
/* Freeze a partition's table with at least so many entries; RMT_DONE: not so, or no room. */
int rmt_index_freeze(rmt_core *core, uint32_t part, uint64_t entries_min);
/* The newest run, in the file of this name. Takes the descriptor; RMT_RANGE: not whole. */
int rmt_index_open_run(rmt_core *core, int fd, uint32_t part, uint64_t low, uint64_t high);
/* Low, high, entries; whether a front can be made of it. */
int rmt_index_run_at(const rmt_core *core, uint32_t part, uint32_t i, uint64_t *figures);
/* For measurements: made-up keys of the addresses [first, ...), and how many of them are found. */
void rmt_index_synthetic_inserts(rmt_core *core, uint64_t first, uint64_t count);
uint64_t rmt_index_synthetic_lookups(rmt_core *core, uint64_t first, uint64_t count,
                                     uint64_t stride);
/* runs.c: any thread */
int rmt_index_check(uint64_t seed, int fd, uint64_t slots, uint64_t *past, uint64_t *damaged);

/* merge.c: only the step runs on any thread; a job ends before its core does */
/* Write a partition's oldest frozen table (count 0), or its runs [first, first + count), to fd. */
rmt_index_job *rmt_index_begin(rmt_core *core, uint32_t part, uint32_t first, uint32_t count,
                               int fd);
int rmt_index_job_step(rmt_index_job *job, uint64_t entries); /* RMT_DONE at its end */
void rmt_index_job_figures(const rmt_index_job *job, uint64_t *figures);
/* Its run takes the place of what it was made of, unless the index was cleared meanwhile. */
int rmt_index_install(rmt_core *core, rmt_index_job *job);
void rmt_index_job_free(rmt_index_job *job); /* closes fd, if there is no run that has it */

/* front.c: a filter before those of a partition's runs; threads and life as a job of merge.c */
/* Make one with room for so many keys; NULL: a run's keys cannot be had, or no memory. */
rmt_index_front_job *rmt_index_front_begin(rmt_core *core, uint32_t part, uint64_t room);
int rmt_index_front_step(rmt_index_front_job *job, uint64_t entries); /* RMT_DONE at its end */
/* It is asked from now on; RMT_UNKNOWN: a run cannot be read, or other runs are there by now. */
int rmt_index_front_install(rmt_core *core, rmt_index_front_job *job);
void rmt_index_front_free(rmt_index_front_job *job);
/* Keys it was made for, and has; RMT_RANGE: the partition has none. */
int rmt_index_front_at(const rmt_core *core, uint32_t part, uint64_t *figures);

/* host.c */
int rmt_allocate(int fd, uint64_t offset, uint64_t length, int keep_size); /* 0 or an errno */
void rmt_begin_write_back(int fd);
/* Until one can be read, or so long; 1: fd, 2: the other, 3: both. -1: none. */
int rmt_poll(int fd, int other, int64_t nanoseconds);

int rmt_overwrites_in_place(int fd); /* writing again takes no new space */

/* io.c */
int rmt_read(rmt_core *core, const rmt_tree *tree, uint64_t offset, uint8_t *buffer, size_t length,
             int wait, rmt_failure *failure);
/* Several ranges of a file, as far as they need not wait and are sound; returns how many were. */
unsigned rmt_read_pieces(rmt_core *core, const rmt_tree *tree, const rmt_piece *pieces,
                         unsigned count, uint8_t *buffer, rmt_failure *failure);
int rmt_fetch(const rmt_core *core, const uint64_t *addresses, const uint64_t *checksums,
              uint64_t first, uint64_t count, uint64_t skip, uint8_t *buffer, size_t length,
              int wait, rmt_failure *failure);
void rmt_cold(const rmt_core *core, uint64_t *out); /* the slots of the last RMT_COLD */
/* On any thread: have slots read, all at once, and go on; or wait until they are in the page cache.
 */
void rmt_ask(const rmt_core *core, const uint64_t *addresses, uint64_t count);
void rmt_warm(const rmt_core *core, const uint64_t *addresses, uint64_t count);

/* writes.c */
int rmt_write(rmt_core *core, rmt_tree *tree, uint64_t first, uint64_t count,
              const rmt_source *source, int dedup, int wait, rmt_written *written,
              rmt_failure *failure);

/* fetchers.c: threads of their own. Engine thread but for rmt_fetchers_stop. */
typedef struct {
  uint64_t tag;
  rmt_failure failure;
  int32_t status; /* as rmt_fetch says */
  uint32_t pad;
} rmt_fetched;

/* `jobs` of RMT_FETCH_SMALL bytes, and a quarter as many of RMT_FETCH_LARGE. `wake_fd` is an
 * eventfd that does not block. NULL: no memory. No thread is started yet. */
rmt_fetchers *rmt_fetchers_new(uint32_t threads_max, uint32_t jobs, int wake_fd);
/* Fetch a range of a file on a thread, and write `prefix` and the bytes to `fd`. RMT_DONE: no job
 * is free, or none is so large, or it was stopped; otherwise as rmt_resolve, which is all that is
 * done here. */
int rmt_fetch_begin(rmt_fetchers *fetchers, rmt_core *core, const rmt_tree *tree, uint64_t offset,
                    size_t length, const uint8_t *prefix, size_t prefix_bytes, int fd,
                    uint64_t tag);
/* The tags of jobs that have ended, and a note of each that failed, of which nothing was written to
 * its descriptor, or that had nothing to wait for (RMT_OK). Returns how many; less than `capacity`:
 * all that there were. */
uint32_t rmt_fetch_take(rmt_fetchers *fetchers, uint64_t *tags, uint32_t capacity,
                        rmt_fetched *noted, uint32_t *notes);
/* Take on no more; returns when all jobs have ended. What has ended may still be taken. */
void rmt_fetchers_stop(rmt_fetchers *fetchers);
void rmt_fetchers_free(rmt_fetchers *fetchers); /* after it was stopped */

/* audit.c: passes over a whole store. All but the last three: any thread. */
typedef struct {
  uint64_t seed;
  uint32_t fanout, slab_slots;
} rmt_shape;
enum rmt_verdict { RMT_GOOD = 0, RMT_BAD = 1, RMT_UNREADABLE = 2 };

/* Whether a stored node is whole: kind, length, its own id, checksum. */
int rmt_audit_node(const rmt_shape *shape, uint64_t id, const uint8_t *node, size_t length);
void rmt_audit_clear(uint64_t *addresses, uint64_t count); /* all RMT_HOLE */
/* Enter what a leaf maps into the window of slots [first, first + count). */
void rmt_audit_claim(const rmt_shape *shape, const uint8_t *node, uint64_t first, uint64_t count,
                     uint64_t *addresses, uint64_t *checksums);
/* The entries of a leaf whose slot has its bit set in `wanted`, or lies past all slots. */
uint32_t rmt_audit_find(const rmt_shape *shape, const uint8_t *node, const uint8_t *wanted,
                        uint64_t slots, uint32_t *found);
/* Note a leaf's slots in bitmaps (mapped, mapped again, owned alone); how many entries are none. */
uint32_t rmt_audit_tally(const rmt_shape *shape, const uint8_t *node, int alone, uint64_t slots,
                         uint8_t *mapped, uint8_t *again, uint8_t *owned);
/* Read slots of one slab, check each against its checksum; a verdict an entry. Returns how many. */
uint64_t rmt_audit_verify(const rmt_shape *shape, int fd, const uint64_t *addresses,
                          const uint64_t *checksums, uint64_t count, uint8_t *scratch,
                          uint64_t scratch_blocks, uint8_t *verdicts);
void rmt_index_claims(rmt_core *core, uint64_t domain, const uint64_t *addresses,
                      const uint64_t *checksums, uint64_t count);
int rmt_set_shared(rmt_core *core, uint64_t address); /* RMT_RANGE: the slot is not allocated */

#endif
