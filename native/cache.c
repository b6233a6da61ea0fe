/*
 * The node cache. Extent-map nodes stay as they are stored; a hash table finds them, a clock evicts
 * clean ones when a node is inserted. Nothing is evicted inside an operation, because only
 * rmt_insert_node and rmt_release evict, and those are called between operations. As many clean
 * nodes stay as one call can need, however many dirty ones there are: else the call that is
 * repeated for each node it misses would lose the others each time, and never end.
 */
#include "core.h"

#include <errno.h>

static const uint32_t MAGIC_EXTENT = 0x584D5452u; /* 'RTMX' */
static const uint8_t KIND_EXTENT = 1;

rmt_core *rmt_new(uint32_t fanout, uint32_t slab_slots, uint64_t seed, uint64_t cache_nodes,
                  uint64_t index_entries) {
  if (fanout < 4 || fanout > RMT_FANOUT_MAX || slab_slots < 1 || slab_slots > 1u << 30) return NULL;
  rmt_core *core = calloc(1, sizeof *core);
  if (!core) return NULL;
  core->fanout = fanout;
  core->slab_slots = slab_slots;
  core->slab_chunks = (slab_slots + RMT_CHUNK_SLOTS - 1) / RMT_CHUNK_SLOTS;
  core->slab_words = core->slab_chunks * (RMT_CHUNK_SLOTS / 64);
  core->seed = seed;
  core->clean_min = map_nodes_bound(core, rmt_call_blocks(core));
  core->cache_nodes = cache_nodes < core->clean_min ? core->clean_min : cache_nodes;
  uint64_t buckets = 64;
  while (buckets < core->cache_nodes) buckets *= 2;
  core->table_mask = buckets - 1;
  core->table = calloc(buckets, sizeof *core->table);
  core->slabs = calloc(RMT_SLABS_MAX, sizeof *core->slabs);
  core->state.next_id = 1;
  core->state.epoch = 1;
  if (!core->table || !core->slabs || index_new(core, index_entries) != RMT_OK) {
    rmt_free(core);
    return NULL;
  }
  return core;
}

void rmt_free(rmt_core *core) {
  if (!core) return;
  for (uint64_t i = 0; i < core->dirty_count; i++)
    if (core->dirty[i]->state == NODE_DETACHED) free(core->dirty[i]);
  for (uint64_t i = 0; core->table && i <= core->table_mask; i++) {
    for (node *n = core->table[i], *next; n; n = next) {
      next = n->chain;
      if (n->state != NODE_SEALED) free(n);
    }
  }
  while (core->spare) {
    node *next = core->spare->chain;
    free(core->spare);
    core->spare = next;
  }
  for (uint32_t i = 0; core->slabs && i < core->slab_count; i++) {
    free(core->slabs[i].allocated); /* one allocation for all fixed bitmaps */
    free(core->slabs[i].touched);
    free(core->slabs[i].chunk_dirty);
  }
  free(core->table);
  free(core->dirty);
  free(core->slabs);
  free(core->freed);
  free(core->cuts);
  index_free(core);
  free(core);
}

rmt_shared *rmt_state(rmt_core *core) { return &core->state; }

uint64_t rmt_call_blocks(const rmt_core *core) {
  uint64_t blocks = 8 * (uint64_t)core->fanout;
  return blocks < RMT_CALL_BLOCKS_MAX ? blocks : RMT_CALL_BLOCKS_MAX;
}

static node **bucket_of(rmt_core *core, uint64_t id) {
  return &core->table[(id * 0x9E3779B97F4A7C15ull >> 20) & core->table_mask];
}

node *cache_find(rmt_core *core, uint64_t id) {
  for (node *n = *bucket_of(core, id); n; n = n->chain) {
    if (n->id == id) {
      n->used = 1;
      return n;
    }
  }
  core->state.missing = id;
  return NULL;
}

static void table_add(rmt_core *core, node *n) {
  node **bucket = bucket_of(core, n->id);
  n->chain = *bucket;
  *bucket = n;
  if (core->hand) {
    n->next = core->hand;
    n->prev = core->hand->prev;
    n->prev->next = n->next->prev = n;
  } else {
    core->hand = n->prev = n->next = n;
  }
  n->used = 1;
  core->state.cached++;
}

static void table_remove(rmt_core *core, node *n) {
  node **link = bucket_of(core, n->id);
  while (*link != n) link = &(*link)->chain;
  *link = n->chain;
  if (n->next == n) {
    core->hand = NULL;
  } else {
    if (core->hand == n) core->hand = n->next;
    n->prev->next = n->next;
    n->next->prev = n->prev;
  }
  core->state.cached--;
}

static void evict(rmt_core *core) {
  uint64_t steps = 2 * core->state.cached;
  while (core->state.cached > core->cache_nodes && core->clean > core->clean_min && steps-- > 0) {
    node *n = core->hand;
    core->hand = n->next;
    if (n->used) {
      n->used = 0;
    } else if (n->state == NODE_CLEAN) {
      table_remove(core, n);
      core->clean--;
      free(n);
    }
  }
}

void rmt_forget(rmt_core *core) {
  for (uint64_t i = 0; i <= core->table_mask; i++) {
    for (node *n = core->table[i], *next; n; n = next) {
      next = n->chain;
      if (n->state == NODE_CLEAN) {
        table_remove(core, n);
        core->clean--;
        free(n);
      }
    }
  }
}

static bool node_is_sound(const rmt_core *core, uint64_t id, uint8_t *data, size_t length) {
  header *h = (header *)data;
  if (length != node_bytes(core) || h->magic != MAGIC_EXTENT || h->kind != KIND_EXTENT)
    return false;
  if (id && h->id != id) return false;
  if (h->id >= core->state.next_id || h->birth > core->state.epoch) return false; /* not yet made */
  uint64_t stored = h->checksum;
  h->checksum = 0;
  bool same = rmt_hash(core, data, length) == stored;
  h->checksum = stored;
  if (!same || (h->level && level_span(core, h->level - 1) >= RMT_BLOCKS_MAX)) return false;
  const entry *entries = (const entry *)(data + RMT_HEADER);
  uint64_t blocks = 0, used = 0, below = h->level ? level_span(core, h->level - 1) : 0;
  for (uint32_t i = 0; i < core->fanout; i++) {
    if (!entries[i].word) {
      if (entries[i].value) return false;
      continue;
    }
    used++;
    if (h->level) {
      if (entries[i].value > below) return false;
      blocks += entries[i].value;
    } else {
      if (!(entries[i].word >> RMT_FLAG_SHIFT & RMT_MAPPED)) return false;
      blocks++;
    }
  }
  return blocks == h->blocks && used == h->used;
}

int rmt_insert_node(rmt_core *core, uint64_t id, const uint8_t *data, size_t length) {
  if (length != node_bytes(core)) return RMT_CORRUPT_NODE;
  node *n = malloc(sizeof *n + length);
  if (!n) return RMT_NOMEM;
  memcpy(n->data, data, length);
  if (!node_is_sound(core, id, n->data, length)) {
    free(n);
    return RMT_CORRUPT_NODE;
  }
  n->id = id;
  n->state = NODE_CLEAN;
  core->clean++;
  table_add(core, n);
  if (core->state.cached > core->cache_nodes) evict(core);
  return RMT_OK;
}

int cache_reserve(rmt_core *core, uint64_t nodes) {
  uint64_t room = core->dirty_count + 2 * nodes + 1;
  if (room > core->dirty_capacity) {
    uint64_t capacity = room + room / 2 + 64;
    node **grown = realloc(core->dirty, capacity * sizeof *grown);
    if (!grown) return RMT_NOMEM;
    core->dirty = grown;
    core->dirty_capacity = capacity;
  }
  while (core->spare_count < nodes) {
    node *n = malloc(sizeof *n + node_bytes(core));
    if (!n) return RMT_NOMEM;
    n->chain = core->spare;
    core->spare = n;
    core->spare_count++;
  }
  return RMT_OK;
}

static node *take_spare(rmt_core *core) {
  node *n = core->spare;
  core->spare = n->chain;
  core->spare_count--;
  return n;
}

static void make_dirty(rmt_core *core, node *n) {
  n->state = NODE_DIRTY;
  core->dirty[core->dirty_count++] = n;
  core->state.dirty++;
  core->state.changed++;
}

node *cache_create(rmt_core *core, uint32_t level) {
  node *n = take_spare(core);
  memset(n->data, 0, node_bytes(core));
  n->id = core->state.next_id++;
  header *h = node_header(n);
  h->magic = MAGIC_EXTENT;
  h->kind = KIND_EXTENT;
  h->level = (uint8_t)level;
  h->id = n->id;
  h->birth = core->state.epoch;
  table_add(core, n);
  make_dirty(core, n);
  return n;
}

static node *copy_of(rmt_core *core, node *n) {
  node *twin = take_spare(core);
  memcpy(twin->data, n->data, node_bytes(core));
  return twin;
}

node *cache_own(rmt_core *core, node *n, const rmt_tree *tree) {
  header *h = node_header(n);
  if (h->birth > tree->shared_epoch) {
    if (n->state == NODE_DIRTY) return n;
    if (n->state == NODE_SEALED) {
      node *twin = copy_of(core, n);
      twin->id = n->id;
      twin->state = NODE_DIRTY;
      table_remove(core, n);
      n->state = NODE_DETACHED;
      table_add(core, twin);
      n = twin;
    }
    core->clean -= n->state == NODE_CLEAN;
    make_dirty(core, n);
    return n;
  }
  node *twin = copy_of(core, n);
  twin->id = core->state.next_id++;
  h = node_header(twin);
  h->id = twin->id;
  h->birth = core->state.epoch;
  if (!h->level) {
    entry *entries = node_entries(twin);
    for (uint32_t i = 0; i < core->fanout; i++) entries[i].word &= ~RMT_WRITTEN_HERE;
  }
  table_add(core, twin);
  make_dirty(core, twin);
  return twin;
}

void rmt_drop_node(rmt_core *core, uint64_t id) {
  node *n = cache_find(core, id);
  if (!n) return;
  table_remove(core, n);
  if (n->state == NODE_CLEAN) {
    core->clean--;
    free(n);
  } else {
    if (n->state == NODE_DIRTY) core->state.dirty--;
    n->state = NODE_DETACHED;
  }
}

static int seal_chunks(rmt_core *core, rmt_sealed *sealed) {
  sealed->chunks = malloc((core->state.dirty_chunks + 1) * sizeof *sealed->chunks);
  sealed->slabs = malloc((core->slab_count + 1) * sizeof *sealed->slabs);
  if (!sealed->chunks || !sealed->slabs) return RMT_NOMEM;
  for (uint32_t s = 0; s < core->slab_count; s++) {
    slab *sl = &core->slabs[s];
    if (sl->written) sealed->slabs[sealed->slab_count++] = s;
    for (uint32_t c = 0; c < core->slab_chunks; c++) {
      if (!sl->chunk_dirty[c]) continue;
      sealed_chunk *out = &sealed->chunks[sealed->chunk_count++];
      uint32_t at = c * (RMT_CHUNK_SLOTS / 64);
      out->slab = s;
      out->chunk = c;
      memcpy(out->bits, sl->allocated + at, RMT_CHUNK_BYTES / 2);
      memcpy(out->bits + RMT_CHUNK_BYTES / 2, sl->shared + at, RMT_CHUNK_BYTES / 2);
    }
  }
  return RMT_OK;
}

int rmt_seal(rmt_core *core, rmt_sealed **out) {
  rmt_sealed *sealed = calloc(1, sizeof *sealed);
  if (!sealed) return RMT_NOMEM;
  if (seal_chunks(core, sealed) != RMT_OK) {
    rmt_sealed_free(sealed);
    return RMT_NOMEM;
  }
  for (uint32_t s = 0; s < core->slab_count; s++) {
    core->slabs[s].written = false;
    memset(core->slabs[s].chunk_dirty, 0, core->slab_chunks);
  }
  core->state.dirty_chunks = 0;
  uint64_t kept = 0;
  for (uint64_t i = 0; i < core->dirty_count; i++) {
    node *n = core->dirty[i];
    if (n->state == NODE_DETACHED) {
      free(n);
      continue;
    }
    n->state = NODE_SEALED;
    core->dirty[kept++] = n;
  }
  sealed->nodes = core->dirty;
  sealed->node_count = kept;
  core->dirty = NULL;
  core->dirty_count = core->dirty_capacity = 0;
  core->state.dirty = 0;
  sealed->freed = core->freed;
  sealed->freed_count = core->freed_count;
  core->freed = NULL;
  core->freed_count = core->freed_capacity = 0;
  core->state.changed = 0;
  *out = sealed;
  return RMT_OK;
}

uint64_t rmt_sealed_nodes(const rmt_sealed *sealed) { return sealed->node_count; }

const uint8_t *rmt_sealed_node(const rmt_core *core, rmt_sealed *sealed, uint64_t index,
                               uint64_t *id, size_t *length) {
  node *n = sealed->nodes[index];
  header *h = node_header(n);
  h->checksum = 0;
  h->used = 0;
  entry *entries = node_entries(n);
  for (uint32_t i = 0; i < core->fanout; i++) h->used += entries[i].word != 0;
  h->checksum = rmt_hash(core, n->data, node_bytes(core));
  *id = n->id;
  *length = node_bytes(core);
  return n->data;
}

uint64_t rmt_sealed_chunks(const rmt_sealed *sealed) { return sealed->chunk_count; }

const uint8_t *rmt_sealed_chunk(const rmt_sealed *sealed, uint64_t index, uint32_t *slab_out,
                                uint32_t *chunk) {
  const sealed_chunk *c = &sealed->chunks[index];
  *slab_out = c->slab;
  *chunk = c->chunk;
  return c->bits;
}

uint64_t rmt_sealed_slabs(const rmt_sealed *sealed) { return sealed->slab_count; }
uint32_t rmt_sealed_slab(const rmt_sealed *sealed, uint64_t index) { return sealed->slabs[index]; }

void rmt_release(rmt_core *core, rmt_sealed *sealed) {
  for (uint64_t i = 0; i < sealed->node_count; i++) {
    node *n = sealed->nodes[i];
    if (n->state == NODE_DETACHED) {
      free(n);
    } else {
      n->state = NODE_CLEAN;
      core->clean++;
    }
  }
  sealed->node_count = 0;
  if (core->state.cached > core->cache_nodes) evict(core);
}

void rmt_sealed_free(rmt_sealed *sealed) {
  if (!sealed) return;
  for (uint64_t i = 0; i < sealed->node_count; i++) free(sealed->nodes[i]);
  free(sealed->nodes);
  free(sealed->freed);
  free(sealed->chunks);
  free(sealed->slabs);
  free(sealed);
}
