/*
 * Extent maps: persistent radix trees of nodes, one a file. A node may be changed in place iff it
 * was born after the tree was last shared (cache_own decides); otherwise the path is copied.
 *
 * Readers walk with cache_find and stop at the first missing node. Writers first make sure that all
 * nodes they need are cached and that memory for new ones is there, then change; nothing fails in
 * between.
 */
#include "core.h"

static uint32_t index_at(const rmt_core *core, uint32_t level, uint64_t block) {
  if (level) block /= level_span(core, level - 1);
  return (uint32_t)(block % core->fanout);
}

/*
 * The node that a tree or an entry names, which must be of this level and map so many blocks.
 * Checked at every step down, this makes each walk end, whatever is stored: levels fall, so no node
 * is below itself, and a count that is not zero (or not full) leads to a block (or a hole) straight
 * away.
 */
static int open_node(rmt_core *core, uint64_t id, uint32_t level, uint64_t blocks, node **out) {
  *out = cache_find(core, id);
  if (!*out) return RMT_MISSING;
  if (node_header(*out)->level == level && node_header(*out)->blocks == blocks) return RMT_OK;
  core->state.missing = id;
  return RMT_CORRUPT_NODE;
}

/* Before a map is changed, with any node of it cached or none. */
static int check_root(rmt_core *core, const rmt_tree *tree) {
  node *root;
  if (tree->root) return open_node(core, tree->root, tree->height - 1, tree->blocks, &root);
  core->state.missing = 0;
  return tree->blocks || tree->height ? RMT_CORRUPT_NODE : RMT_OK;
}

bool map_may_change(const rmt_core *core, const rmt_tree *tree) {
  return tree->shared_epoch < core->state.epoch;
}

/* The leaf of a block: NULL with RMT_OK for a hole, which then goes on until *hole_end. */
static int find_leaf(rmt_core *core, const rmt_tree *tree, uint64_t block, node **leaf,
                     uint64_t *hole_end) {
  *leaf = NULL;
  *hole_end = RMT_BLOCKS_MAX;
  if (!tree->root || block >= level_span(core, tree->height - 1)) return RMT_OK;
  entry e = {tree->root, tree->blocks};
  for (uint32_t level = tree->height - 1;; level--) {
    node *n;
    int status = open_node(core, e.word, level, e.value, &n);
    if (status != RMT_OK) return status;
    if (!level) {
      *leaf = n;
      return RMT_OK;
    }
    e = node_entries(n)[index_at(core, level, block)];
    if (!e.word) {
      uint64_t span = level_span(core, level - 1);
      *hole_end = (block / span + 1) * span;
      return RMT_OK;
    }
  }
}

int rmt_resolve(rmt_core *core, const rmt_tree *tree, uint64_t first, uint64_t count,
                uint64_t *addresses, uint64_t *checksums) {
  if (first >= RMT_BLOCKS_MAX || count > RMT_BLOCKS_MAX - first) return RMT_RANGE;
  uint64_t i = 0;
  while (i < count) {
    node *leaf;
    uint64_t hole_end, block = first + i;
    int status = find_leaf(core, tree, block, &leaf, &hole_end);
    if (status != RMT_OK) return status;
    uint64_t end = leaf ? (block / core->fanout + 1) * core->fanout : hole_end;
    for (; i < count && first + i < end; i++) {
      entry e = {0, 0};
      if (leaf) e = node_entries(leaf)[(first + i) % core->fanout];
      addresses[i] = e.word ? e.word & RMT_ADDRESS_MASK : RMT_HOLE;
      checksums[i] = e.value;
    }
  }
  return RMT_OK;
}

static int next_data_below(rmt_core *core, entry from, uint32_t level, uint64_t base,
                           uint64_t block, uint64_t *out) {
  node *n;
  int status = open_node(core, from.word, level, from.value, &n);
  if (status != RMT_OK) return status;
  uint64_t span = level ? level_span(core, level - 1) : 1;
  for (uint64_t i = block > base ? (block - base) / span : 0; i < core->fanout; i++) {
    entry e = node_entries(n)[i];
    uint64_t start = base + i * span;
    if (!e.word || (level && !e.value)) continue;
    if (!level) {
      *out = start;
      return RMT_OK;
    }
    status = next_data_below(core, e, level - 1, start, block, out);
    if (status != RMT_OK || *out != RMT_HOLE) return status;
  }
  *out = RMT_HOLE;
  return RMT_OK;
}

int rmt_next_data(rmt_core *core, const rmt_tree *tree, uint64_t block, uint64_t *out) {
  *out = RMT_HOLE;
  if (!tree->root || !tree->blocks || block >= level_span(core, tree->height - 1)) return RMT_OK;
  entry top = {tree->root, tree->blocks};
  int status = next_data_below(core, top, tree->height - 1, 0, block, out);
  if (status == RMT_OK && *out >= RMT_BLOCKS_MAX) *out = RMT_HOLE;
  return status;
}

static int next_hole_below(rmt_core *core, entry from, uint32_t level, uint64_t base,
                           uint64_t block, uint64_t *out) {
  node *n;
  int status = open_node(core, from.word, level, from.value, &n);
  if (status != RMT_OK) return status;
  uint64_t span = level ? level_span(core, level - 1) : 1;
  for (uint64_t i = block > base ? (block - base) / span : 0; i < core->fanout; i++) {
    entry e = node_entries(n)[i];
    uint64_t start = base + i * span;
    if (!e.word) {
      *out = start > block ? start : block;
      return RMT_OK;
    }
    if (!level || e.value == span) continue;
    status = next_hole_below(core, e, level - 1, start, block, out);
    if (status != RMT_OK || *out != RMT_HOLE) return status;
  }
  *out = RMT_HOLE;
  return RMT_OK;
}

int rmt_next_hole(rmt_core *core, const rmt_tree *tree, uint64_t block, uint64_t *out) {
  *out = block;
  if (!tree->root || block >= level_span(core, tree->height - 1)) return RMT_OK;
  entry top = {tree->root, tree->blocks};
  int status = next_hole_below(core, top, tree->height - 1, 0, block, out);
  if (status == RMT_OK && *out == RMT_HOLE) *out = level_span(core, tree->height - 1);
  return status;
}

int rmt_mapped_before(rmt_core *core, const rmt_tree *tree, uint64_t end, uint64_t *out) {
  *out = 0;
  if (!tree->root || !end) return RMT_OK;
  if (end >= level_span(core, tree->height - 1)) {
    *out = tree->blocks;
    return RMT_OK;
  }
  uint64_t mapped = 0;
  entry e = {tree->root, tree->blocks};
  for (uint32_t level = tree->height; level-- && e.word;) {
    node *n;
    int status = open_node(core, e.word, level, e.value, &n);
    if (status != RMT_OK) return status;
    const entry *entries = node_entries(n);
    uint32_t last = index_at(core, level, end);
    for (uint32_t i = 0; i < last; i++)
      if (entries[i].word) mapped += level ? entries[i].value : 1;
    e = entries[last];
  }
  *out = mapped;
  return RMT_OK;
}

/* Whether an overwrite would leave the entry's slot to others: not written here alone since the
 * tree was last shared. */
static bool may_be_shared(const rmt_core *core, const rmt_tree *tree, node *leaf, uint64_t word) {
  return node_header(leaf)->birth <= tree->shared_epoch || !(word >> RMT_FLAG_SHIFT & RMT_OWNED) ||
         rmt_is_shared(core, word & RMT_ADDRESS_MASK);
}

static bool goes_on(const rmt_core *core, const rmt_extent *e, uint64_t block, uint64_t address,
                    bool shared) {
  return e->block + e->count == block && e->address + e->count == address && e->shared == shared &&
         address % core->slab_slots;
}

int rmt_lookup(rmt_core *core, const rmt_tree *tree, uint64_t first, uint64_t count,
               rmt_extent *out, uint64_t capacity, uint64_t *found, uint64_t *next) {
  if (first >= RMT_BLOCKS_MAX || count > RMT_BLOCKS_MAX - first) return RMT_RANGE;
  uint64_t start = first, end = first + count, n = 0;
  *found = 0;
  *next = end;
  while (first < end) {
    node *leaf = NULL;
    uint64_t hole_end, data;
    int status = rmt_next_data(core, tree, first, &data);
    if (status == RMT_OK && (data == RMT_HOLE || data >= end)) break;
    if (status == RMT_OK) status = find_leaf(core, tree, data, &leaf, &hole_end);
    if (status == RMT_MISSING && first > start) {
      *found = n;
      *next = first;
      return RMT_OK;
    }
    if (status != RMT_OK) return status;
    first = data;
    uint64_t leaf_end = (first / core->fanout + 1) * core->fanout;
    for (; leaf && first < end && first < leaf_end; first++) {
      uint64_t word = node_entries(leaf)[first % core->fanout].word;
      if (!word) continue;
      uint64_t address = word & RMT_ADDRESS_MASK;
      bool shared = may_be_shared(core, tree, leaf, word);
      if (n && goes_on(core, &out[n - 1], first, address, shared)) {
        out[n - 1].count++;
        continue;
      }
      if (n == capacity) {
        *found = n;
        *next = first;
        return RMT_OK;
      }
      out[n++] = (rmt_extent){first, address, 1, shared};
    }
  }
  *found = n;
  return RMT_OK;
}

int map_ensure(rmt_core *core, const rmt_tree *tree, uint64_t first, uint64_t count) {
  uint64_t block = first, end = first + count;
  int status = check_root(core, tree);
  if (status != RMT_OK) return status;
  while (block < end) {
    node *leaf;
    uint64_t hole_end;
    status = find_leaf(core, tree, block, &leaf, &hole_end);
    if (status != RMT_OK) return status;
    block = leaf ? (block / core->fanout + 1) * core->fanout : hole_end;
  }
  return RMT_OK;
}

uint64_t map_nodes_bound(const rmt_core *core, uint64_t count) {
  uint64_t nodes = 2 * RMT_LEVELS_MAX;
  for (uint32_t level = 0; level < RMT_LEVELS_MAX; level++) {
    uint64_t span = level_span(core, level);
    nodes += count / span + 2;
    if (span >= RMT_BLOCKS_MAX) break;
  }
  return nodes;
}

void map_grow(rmt_core *core, rmt_tree *tree, uint64_t end) {
  if (!tree->root) {
    uint32_t level = 0;
    while (level_span(core, level) < end) level++;
    tree->root = cache_create(core, level)->id;
    tree->height = level + 1;
    return;
  }
  while (level_span(core, tree->height - 1) < end) {
    node *top = cache_create(core, tree->height);
    if (tree->blocks) {
      node_entries(top)[0] = (entry){tree->root, tree->blocks};
      node_header(top)->blocks = tree->blocks;
    } else {
      cuts_add(core, tree->root, tree->height - 1, tree->shared_epoch);
    }
    tree->root = top->id;
    tree->height++;
  }
}

/* Own the path down to `target`'s level; path[0] is the root. Missing children are made. */
static node *own_path(rmt_core *core, rmt_tree *tree, uint64_t block, uint32_t target, node **path,
                      uint32_t *depth) {
  node *n = cache_own(core, cache_find(core, tree->root), tree);
  tree->root = n->id;
  *depth = 0;
  path[(*depth)++] = n;
  for (uint32_t level = tree->height - 1; level > target; level--) {
    entry *e = &node_entries(n)[index_at(core, level, block)];
    node *child =
        e->word ? cache_own(core, cache_find(core, e->word), tree) : cache_create(core, level - 1);
    e->word = child->id;
    n = child;
    path[(*depth)++] = n;
  }
  return n;
}

node *map_own_leaf(rmt_core *core, rmt_tree *tree, uint64_t block, node **path, uint32_t *depth) {
  return own_path(core, tree, block, 0, path, depth);
}

/* The lowest node of the path mapped `grown` more blocks: tell it, its ancestors and the tree. */
void map_count(rmt_core *core, rmt_tree *tree, node **path, uint32_t depth, uint64_t block,
               int64_t grown) {
  tree->blocks += (uint64_t)grown;
  for (uint32_t i = 0; i < depth; i++) {
    header *h = node_header(path[i]);
    h->blocks += (uint64_t)grown;
    if (i + 1 < depth)
      node_entries(path[i])[index_at(core, h->level, block)].value += (uint64_t)grown;
  }
}

/* The highest level whose node at `block` is whole inside [block, end); -1: less than a leaf. */
static int whole_level(const rmt_core *core, uint64_t block, uint64_t end, uint32_t height) {
  int level = -1;
  for (uint32_t l = 0; l < height; l++) {
    uint64_t span = level_span(core, l);
    if (block % span || end - block < span) break;
    level = (int)l;
  }
  return level;
}

static void cut_child(rmt_core *core, rmt_tree *tree, uint64_t block, uint32_t level) {
  node *path[RMT_LEVELS_MAX];
  uint32_t depth;
  node *parent = own_path(core, tree, block, level + 1, path, &depth);
  entry *e = &node_entries(parent)[index_at(core, level + 1, block)];
  int64_t gone = (int64_t)e->value;
  cuts_add(core, e->word, level, tree->shared_epoch);
  *e = (entry){0, 0};
  map_count(core, tree, path, depth, block, -gone);
}

static void clear_leaf(rmt_core *core, rmt_tree *tree, uint64_t block, uint64_t end) {
  node *path[RMT_LEVELS_MAX];
  uint32_t depth;
  entry *entries = node_entries(map_own_leaf(core, tree, block, path, &depth));
  int64_t gone = 0;
  uint64_t leaf_end = (block / core->fanout + 1) * core->fanout;
  for (uint64_t b = block; b < end && b < leaf_end; b++) {
    entry *e = &entries[b % core->fanout];
    if (!e->word) continue;
    reclaim_entry(core, *e);
    *e = (entry){0, 0};
    gone++;
  }
  map_count(core, tree, path, depth, block, -gone);
}

int rmt_punch(rmt_core *core, rmt_tree *tree, uint64_t first, uint64_t count) {
  if (first >= RMT_BLOCKS_MAX || count > RMT_BLOCKS_MAX - first) return RMT_RANGE;
  if (!map_may_change(core, tree)) return RMT_CORRUPT_NODE;
  uint64_t block = first, end = first + count;
  if (cuts_reserve(core, 1) != RMT_OK) return RMT_NOMEM;
  if (tree->root && !first && end >= level_span(core, tree->height - 1)) {
    cuts_add(core, tree->root, tree->height - 1, tree->shared_epoch);
    *tree = (rmt_tree){.shared_epoch = tree->shared_epoch, .domain = tree->domain};
    return RMT_OK;
  }
  for (;;) {
    int status = rmt_next_data(core, tree, block, &block);
    if (status != RMT_OK) return status;
    if (block == RMT_HOLE || block >= end) return RMT_OK;
    int level = -1;
    uint64_t start = block;
    for (uint32_t l = 0; l + 1 < tree->height; l++) {
      uint64_t span = level_span(core, l), aligned = block - block % span;
      if (aligned < first || end - aligned < span) break;
      level = (int)l;
      start = aligned;
    }
    if (cache_reserve(core, map_nodes_bound(core, 1)) != RMT_OK ||
        slots_reserve_freed(core, core->fanout) != RMT_OK || cuts_reserve(core, 1) != RMT_OK)
      return RMT_NOMEM;
    if (level >= 0)
      cut_child(core, tree, start, (uint32_t)level);
    else
      clear_leaf(core, tree, block, end);
  }
}

/* The subtree of `level` at `block` of a tree: child id and blocks, zero for a hole. */
static int find_subtree(rmt_core *core, const rmt_tree *tree, uint64_t block, uint32_t level,
                        entry *out) {
  *out = (entry){0, 0};
  if (!tree->root || block >= level_span(core, tree->height - 1)) return RMT_OK;
  entry e = {tree->root, tree->blocks};
  for (uint32_t at = tree->height - 1; at > level && e.word; at--) {
    node *n;
    int status = open_node(core, e.word, at, e.value, &n);
    if (status != RMT_OK) return status;
    e = node_entries(n)[index_at(core, at, block)];
  }
  if (e.value) *out = e;
  return RMT_OK;
}

static void share_child(rmt_core *core, rmt_tree *dst, uint64_t block, uint32_t level,
                        entry child) {
  node *path[RMT_LEVELS_MAX];
  uint32_t depth;
  node *parent = own_path(core, dst, block, level + 1, path, &depth);
  entry *e = &node_entries(parent)[index_at(core, level + 1, block)];
  int64_t grown = (int64_t)child.value - (int64_t)e->value;
  if (e->word != child.word) cuts_add(core, e->word, level, dst->shared_epoch);
  *e = child;
  map_count(core, dst, path, depth, block, grown);
}

static void share_entries(rmt_core *core, rmt_tree *dst, uint64_t block, const entry *from,
                          uint64_t count) {
  node *path[RMT_LEVELS_MAX];
  uint32_t depth;
  entry *into = node_entries(map_own_leaf(core, dst, block, path, &depth)) + block % core->fanout;
  int64_t grown = 0;
  for (uint64_t i = 0; i < count; i++) {
    entry old = into[i], new = from ? from[i] : (entry){0, 0};
    new.word &= ~RMT_WRITTEN_HERE;
    grown += (new.word != 0) - (old.word != 0);
    into[i] = new;
    if (old.word && (old.word & RMT_ADDRESS_MASK) != (new.word &RMT_ADDRESS_MASK))
      reclaim_entry(core, old);
  }
  map_count(core, dst, path, depth, block, grown);
}

/* A hole over a hole, however long, is one step: make *done larger if it is. */
static int skip_holes(rmt_core *core, const rmt_tree *dst, uint64_t dst_first, const rmt_tree *src,
                      uint64_t src_first, uint64_t count, uint64_t *done) {
  node *into, *from;
  uint64_t into_end, from_end;
  int status = find_leaf(core, dst, dst_first, &into, &into_end);
  if (status == RMT_OK) status = find_leaf(core, src, src_first, &from, &from_end);
  if (status != RMT_OK || into || from) return status;
  uint64_t skip = count;
  if (into_end - dst_first < skip) skip = into_end - dst_first;
  if (from_end - src_first < skip) skip = from_end - src_first;
  if (skip > *done) *done = skip;
  return RMT_OK;
}

/* One step: a shared subtree, or the entries that lie in one leaf on both sides. */
static int share_step(rmt_core *core, rmt_tree *dst, uint64_t dst_first, const rmt_tree *src,
                      uint64_t src_first, uint64_t count, uint64_t *done) {
  uint32_t dst_levels = dst->root ? dst->height - 1 : 0;
  int level = whole_level(core, dst_first, dst_first + count, dst_levels);
  int src_level = whole_level(core, src_first, src_first + count, src->root ? src->height : 0);
  if (src_level < level) level = src_level;
  if (level >= 0) {
    entry child, old;
    int status = find_subtree(core, src, src_first, (uint32_t)level, &child);
    if (status == RMT_OK) status = find_subtree(core, dst, dst_first, (uint32_t)level, &old);
    if (status != RMT_OK) return status;
    *done = level_span(core, (uint32_t)level);
    if (!child.word && !old.word)
      return skip_holes(core, dst, dst_first, src, src_first, count, done);
    share_child(core, dst, dst_first, (uint32_t)level, child);
    return RMT_OK;
  }
  node *from, *into;
  uint64_t hole_end, room = core->fanout - dst_first % core->fanout;
  int status = find_leaf(core, dst, dst_first, &into, &hole_end);
  if (status == RMT_OK) status = find_leaf(core, src, src_first, &from, &hole_end);
  if (status != RMT_OK) return status;
  uint64_t left = from ? core->fanout - src_first % core->fanout : hole_end - src_first;
  *done = count < room ? count : room;
  if (left < *done) *done = left;
  if (!into && !from) return skip_holes(core, dst, dst_first, src, src_first, count, done);
  const entry *entries = from ? node_entries(from) + src_first % core->fanout : NULL;
  share_entries(core, dst, dst_first, entries, *done);
  return RMT_OK;
}

int rmt_share(rmt_core *core, rmt_tree *dst, uint64_t *dst_first, const rmt_tree *src,
              uint64_t *src_first, uint64_t *count) {
  if (*dst_first >= RMT_BLOCKS_MAX || *count > RMT_BLOCKS_MAX - *dst_first) return RMT_RANGE;
  if (*src_first >= RMT_BLOCKS_MAX || *count > RMT_BLOCKS_MAX - *src_first) return RMT_RANGE;
  if (!map_may_change(core, dst)) return RMT_CORRUPT_NODE;
  int status = check_root(core, dst);
  if (status == RMT_OK) status = check_root(core, src);
  if (status != RMT_OK) return status;
  while (*count) {
    if (cache_reserve(core, map_nodes_bound(core, 1)) != RMT_OK ||
        slots_reserve_freed(core, core->fanout) != RMT_OK ||
        cuts_reserve(core, 1 + RMT_LEVELS_MAX) != RMT_OK)
      return RMT_NOMEM;
    map_grow(core, dst, *dst_first + *count);
    uint64_t done;
    status = share_step(core, dst, *dst_first, src, *src_first, *count, &done);
    if (status != RMT_OK) return status;
    *dst_first += done;
    *src_first += done;
    *count -= done;
  }
  return RMT_OK;
}
