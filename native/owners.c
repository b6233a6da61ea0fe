/*
 * Whose is a slot: the accounting pass. Owners are a tree - store, volumes, snapshots, directories,
 * files - and each slot and node gets the lowest owner that all its references lie below. What
 * deleting an owner frees is then the number of slots whose owner is it or lies below it.
 *
 * A node that is reached again from below the owner it has needs no second visit: what it leads to
 * has that owner or a higher one. A node's owner only rises, so it is visited as often as the tree
 * of owners is deep at the most, and a node that many clones share two or three times.
 *
 * What dedup saves is counted on the way: blocks that files wrote and still have, less the slots
 * that these are in. Each node counts once, so what only clones share is not in it.
 *
 * Memory: 33 bits a slot, 12 bytes a node, 8 an owner. Everything runs on one thread and
 * touches nothing that the engine thread changes.
 */
#include "core.h"

struct rmt_owners {
  rmt_marks *nodes;     /* index of node ids only */
  uint32_t *node_owner; /* by index */
  uint64_t *counted;    /* nodes whose written entries are in the sums below */
  uint64_t written, written_slots;
  uint64_t node_count;
  uint32_t *parent, *depth; /* by owner; owner 1 is the store, 0 is nobody */
  uint32_t count, capacity;
  uint64_t entries;
  uint32_t slabs;
  uint32_t **slot_owner;
  uint64_t **slot_written; /* a bit a slot: some file that is there wrote it */
};

rmt_owners *rmt_owners_new(const rmt_core *core) {
  rmt_owners *o = calloc(1, sizeof *o);
  if (!o) return NULL;
  o->nodes = rmt_marks_new(core);
  o->slot_owner = calloc(core->slab_count + 1u, sizeof *o->slot_owner);
  o->slot_written = calloc(core->slab_count + 1u, sizeof *o->slot_written);
  bool whole = o->nodes && o->slot_owner && o->slot_written;
  for (; whole && o->slabs < core->slab_count; o->slabs++) {
    o->slot_owner[o->slabs] = calloc(core->slab_slots, sizeof **o->slot_owner);
    o->slot_written[o->slabs] = calloc(core->slab_words, sizeof **o->slot_written);
    whole = o->slot_owner[o->slabs] && o->slot_written[o->slabs];
  }
  if (whole) return o;
  rmt_owners_free(o);
  return NULL;
}

void rmt_owners_free(rmt_owners *o) {
  if (!o) return;
  for (uint32_t i = 0; i < o->slabs; i++) {
    free(o->slot_owner[i]);
    free(o->slot_written[i]);
  }
  free(o->slot_owner);
  free(o->slot_written);
  free(o->counted);
  rmt_marks_free(o->nodes);
  free(o->node_owner);
  free(o->parent);
  free(o->depth);
  free(o);
}

int rmt_owners_add_ids(rmt_owners *o, const uint64_t *ids, uint64_t count) {
  return rmt_gc_add_ids(o->nodes, ids, count);
}

int rmt_owners_add(rmt_owners *o, uint32_t parent, uint32_t *owner) {
  if (parent > o->count || (!parent && o->count)) return RMT_RANGE;
  if (o->count + 1 >= o->capacity) {
    if (o->capacity > UINT32_MAX / 2) return RMT_RANGE;
    uint32_t capacity = o->capacity ? 2 * o->capacity : 64;
    uint32_t *grown = realloc(o->parent, capacity * sizeof *grown);
    if (!grown) return RMT_NOMEM;
    o->parent = grown;
    grown = realloc(o->depth, capacity * sizeof *grown);
    if (!grown) return RMT_NOMEM;
    o->depth = grown;
    o->capacity = capacity;
  }
  *owner = ++o->count;
  o->parent[*owner] = parent;
  o->depth[*owner] = parent ? o->depth[parent] + 1 : 0;
  return RMT_OK;
}

/* The lowest owner that both are, or lie below. */
static uint32_t common(const rmt_owners *o, uint32_t a, uint32_t b) {
  if (!a || !b) return a ? a : b;
  while (a != b) {
    if (o->depth[a] >= o->depth[b])
      a = o->parent[a];
    else
      b = o->parent[b];
  }
  return a;
}

int rmt_owners_common(const rmt_owners *o, uint32_t a, uint32_t b, uint32_t *owner) {
  if (!a || !b || a > o->count || b > o->count) return RMT_RANGE;
  *owner = common(o, a, b);
  return RMT_OK;
}

int rmt_owners_enter(rmt_owners *o, uint64_t id, uint32_t owner) {
  if (!owner || owner > o->count) return RMT_RANGE;
  if (!o->node_owner) {
    o->node_count = rmt_gc_ids(o->nodes);
    o->counted = calloc(o->node_count / 64 + 1, sizeof *o->counted);
    if (!o->counted) return RMT_NOMEM;
    o->node_owner = calloc(o->node_count + 1, sizeof *o->node_owner);
    if (!o->node_owner) {
      free(o->counted);
      o->counted = NULL;
      return RMT_NOMEM;
    }
  }
  uint64_t at = marks_find(o->nodes, id);
  if (at >= o->node_count) return RMT_UNKNOWN;
  uint32_t now = common(o, o->node_owner[at], owner);
  if (now == o->node_owner[at]) return RMT_SEEN;
  o->node_owner[at] = now;
  return RMT_OK;
}

static int visit(const rmt_core *core, rmt_owners *o, uint32_t owner, uint64_t id,
                 const uint8_t *data, size_t length, uint64_t *children, uint64_t *count) {
  node_copy copy;
  if (!node_read(core, &copy, id, data, length)) return RMT_CORRUPT_NODE;
  const entry *entries = (const entry *)(copy.data + RMT_HEADER);
  uint8_t level = ((const header *)copy.data)->level;
  uint64_t at = marks_find(o->nodes, id);
  bool first = at < o->node_count && !bit_get(o->counted, at);
  if (first) bit_set(o->counted, at);
  for (uint32_t i = 0; i < core->fanout; i++) {
    if (!entries[i].word) continue;
    o->entries++;
    if (level) {
      int status = rmt_owners_enter(o, entries[i].word, owner);
      if (status == RMT_OK)
        children[(*count)++] = entries[i].word;
      else if (status != RMT_SEEN)
        return RMT_CORRUPT_NODE;
      continue;
    }
    uint64_t address = entries[i].word & RMT_ADDRESS_MASK, number = address / core->slab_slots;
    if (number >= o->slabs) continue; /* hostile, or of a slab that came later */
    uint32_t *slot = &o->slot_owner[number][address % core->slab_slots];
    *slot = common(o, *slot, owner);
    if (!first || !(entries[i].word & RMT_WRITTEN_HERE)) continue;
    o->written++;
    o->written_slots += !bit_get(o->slot_written[number], address % core->slab_slots);
    bit_set(o->slot_written[number], address % core->slab_slots);
  }
  return RMT_OK;
}

int rmt_owners_visit(const rmt_core *core, rmt_owners *o, uint32_t owner, const uint64_t *ids,
                     const uint8_t *const *data, const uint64_t *lengths, uint64_t nodes,
                     uint64_t *children, uint64_t *count, uint64_t *failed) {
  *count = 0;
  for (uint64_t i = 0; i < nodes; i++) {
    int status = visit(core, o, owner, ids[i], data[i], lengths[i], children, count);
    if (status != RMT_OK) {
      *failed = ids[i];
      return status;
    }
  }
  return RMT_OK;
}

uint32_t rmt_owners_count(const rmt_owners *o) { return o->count; }

uint64_t rmt_owners_deduped(const rmt_owners *o) { return o->written - o->written_slots; }

void rmt_owners_sums(const rmt_core *core, const rmt_owners *o, uint64_t *sums) {
  memset(sums, 0, (o->count + 1) * sizeof *sums);
  for (uint32_t s = 0; s < o->slabs; s++)
    for (uint32_t i = 0; i < core->slab_slots; i++) sums[o->slot_owner[s][i]]++;
  sums[0] = 0;
  for (uint32_t owner = o->count; owner > 1; owner--) sums[o->parent[owner]] += sums[owner];
}
