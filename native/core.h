/* What the files of the hot path share, and nobody else sees. */
#ifndef RMT_CORE_H
#define RMT_CORE_H

#include <stdbool.h>
#include <string.h>

#include "alloc.h"
#include "rmt.h"

enum node_state { NODE_CLEAN, NODE_DIRTY, NODE_SEALED, NODE_DETACHED };

/*
 * A cached node, by state:
 *   CLEAN     in the table; LMDB has the same; may be evicted
 *   DIRTY     in the table and in core->dirty; may be changed in place by its owner
 *   SEALED    in the table and in a sealed set; a change copies it and makes this one DETACHED
 *   DETACHED  in a dirty or sealed set only; freed with the set (in core->dirty: never stored)
 */
typedef struct node {
  struct node *chain;       /* hash table */
  struct node *prev, *next; /* clock ring of all nodes in the table */
  uint64_t id;
  uint8_t state;
  uint8_t used; /* clock: looked at since the hand went by */
  _Alignas(16) uint8_t data[];
} node;

typedef struct {
  uint64_t word, value; /* leaf: address and flags, checksum; interior: child id, blocks below */
} entry;

typedef struct {
  uint32_t magic;
  uint8_t kind, level;
  uint16_t used;
  uint64_t id, birth, checksum, blocks, reserved;
} header;

typedef struct {
  uint64_t *allocated, *shared, *busy, *hole; /* one bit a slot */
  uint64_t *touched;                          /* gc's, NULL while no run is armed */
  uint8_t *chunk_dirty;
  int fd;
  uint32_t free, holes;          /* holes: of the free ones */
  bool present, written, nowait; /* nowait: its file system can say that a page is cold */
  bool known;                    /* its holes are, by backed.c */
} slab;

#define SLOT_RUN_MIN 32u
#define SLOT_RUNS_MAX 2048u
typedef struct {
  uint64_t address;
  uint32_t count;
} slot_run;

typedef struct {
  uint32_t slab, chunk;
  uint8_t bits[RMT_CHUNK_BYTES];
} sealed_chunk;

struct rmt_sealed {
  node **nodes;
  uint64_t node_count;
  uint64_t *freed;
  uint64_t freed_count;
  sealed_chunk *chunks;
  uint64_t chunk_count;
  uint32_t *slabs;
  uint64_t slab_count;
};

struct rmt_core {
  rmt_shared state;
  uint32_t fanout, slab_slots, slab_words, slab_chunks;
  uint64_t seed, cache_nodes, clean, clean_min;
  node **table;
  uint64_t table_mask;
  node *hand;
  node **dirty;
  uint64_t dirty_count, dirty_capacity;
  node *spare; /* reserved nodes, chained */
  uint64_t spare_count;
  slab *slabs; /* RMT_SLABS_MAX of them */
  uint32_t slab_count, alloc_slab, alloc_slot;
  slot_run runs[SLOT_RUNS_MAX]; /* a ring: freed together, and likely to be free still */
  uint32_t runs_first, runs_count;
  uint64_t *freed;
  uint64_t freed_count, freed_capacity;
  rmt_cut *cuts;
  uint64_t cut_capacity;
  bool armed;
  bool backed_first;         /* free slots that are no holes are taken first */
  bool hole_taken;           /* by the write that goes on */
  struct index_parts *index; /* index.h */
  uint64_t cold[RMT_CALL_BLOCKS_MAX];
};

/* Flags of an entry that a copy of it, in another node, does not have. */
#define RMT_WRITTEN_HERE ((RMT_OWNED | RMT_DEDUP) << RMT_FLAG_SHIFT)

static inline header *node_header(node *n) { return (header *)n->data; }
static inline entry *node_entries(node *n) { return (entry *)(n->data + RMT_HEADER); }

static inline size_t node_bytes(const rmt_core *core) {
  return RMT_HEADER + (size_t)core->fanout * sizeof(entry);
}

/* Blocks below one node of a level; saturates, which is past every block number there is. */
static inline uint64_t level_span(const rmt_core *core, uint32_t level) {
  uint64_t span = core->fanout;
  while (level-- > 0 && span < RMT_BLOCKS_MAX) span *= core->fanout;
  return span;
}

static inline bool bit_get(const uint64_t *bits, uint64_t i) {
  return bits[i >> 6] >> (i & 63) & 1;
}
static inline void bit_set(uint64_t *bits, uint64_t i) { bits[i >> 6] |= 1ull << (i & 63); }
static inline void bit_clear(uint64_t *bits, uint64_t i) { bits[i >> 6] &= ~(1ull << (i & 63)); }

/*
 * Equal blocks of different domains have different keys, so they never meet. (Keys of different
 * blocks may be equal, as fingerprints may: the bytes decide.)
 */
static inline uint64_t index_key(uint64_t domain, uint64_t fingerprint) {
  return fingerprint + domain * 0x9E3779B97F4A7C15ull;
}

/* cache.c */
node *cache_find(rmt_core *core, uint64_t id);               /* NULL: core->state.missing is set */
int cache_reserve(rmt_core *core, uint64_t nodes);           /* room for so many new nodes */
node *cache_create(rmt_core *core, uint32_t level);          /* from the reserve */
node *cache_own(rmt_core *core, node *n, const rmt_tree *t); /* the node to change instead of n */

/* map.c */
/*
 * A tree that was shared in this epoch, or says it will be in a later one, would copy its path on
 * every change, whatever is reserved: no sound one is.
 */
bool map_may_change(const rmt_core *core, const rmt_tree *tree);
int map_ensure(rmt_core *core, const rmt_tree *tree, uint64_t first, uint64_t count);
uint64_t map_nodes_bound(const rmt_core *core, uint64_t count);
void map_grow(rmt_core *core, rmt_tree *tree, uint64_t end);
node *map_own_leaf(rmt_core *core, rmt_tree *tree, uint64_t block, node **path, uint32_t *depth);
void map_count(rmt_core *core, rmt_tree *tree, node **path, uint32_t depth, uint64_t block,
               int64_t grown);

/* slots.c */
int slots_reserve_freed(rmt_core *core, uint64_t count);
bool slots_take_run(rmt_core *core, uint32_t want, uint64_t *address, uint32_t *got);
void slots_give_back(rmt_core *core, uint64_t address); /* undo a take: nobody has seen it */
/* Of a slot that was taken: it takes space on the host now, or found none there. */
void slots_written(rmt_core *core, uint64_t address);
void slots_no_room(rmt_core *core, uint64_t address);
/* Free slots from `slot` to `end` are holes, or are not. */
void slots_know(rmt_core *core, uint32_t number, uint32_t slot, uint32_t end, bool hole);
void slots_free(rmt_core *core, uint64_t address); /* for reuse after the commit */
void slots_share(rmt_core *core, uint64_t address);

/* io.c */
bool io_nowait(int fd);
/* 0 or an errno; EAGAIN: it is cold. */
int read_slots(const rmt_core *core, uint64_t address, uint8_t *out, size_t length, bool wait);
void note_cold(rmt_core *core, uint64_t address); /* a slot of the call's RMT_COLD */

/* gc.c */
typedef struct {
  _Alignas(16) uint8_t data[RMT_HEADER + RMT_FANOUT_MAX * sizeof(entry)];
} node_copy;
/* A stored extent node, checked: length, checksum, its own id. */
bool node_read(const rmt_core *core, node_copy *copy, uint64_t id, const uint8_t *data,
               size_t length);
uint64_t marks_find(const rmt_marks *marks, uint64_t id); /* its index, or UINT64_MAX */

/* index.c */
int index_new(rmt_core *core, uint64_t entries);
void index_free(rmt_core *core);
/* Into the CPU's cache: what is asked of a key first, and, when that has come, next. */
void index_prefetch(const rmt_core *core, uint64_t key);
void index_prefetch_runs(const rmt_core *core, uint64_t key);

/* reclaim.c */
int cuts_reserve(rmt_core *core, uint64_t count); /* room for so many cuts */
void cuts_add(rmt_core *core, uint64_t id, uint32_t level, uint64_t epoch);
void reclaim_entry(rmt_core *core, entry e); /* a tree lets go of a mapped block */

#endif
