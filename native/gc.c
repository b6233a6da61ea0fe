/*
 * gc's marks. A run knows the ids of all nodes stored in the commit that it traces, sorted, with a
 * bit each (seen), and of each slot of the slabs of that time whether it was reached by a leaf, and
 * whether it was allocated or shared by dedup since (touched; the engine thread sets that). Memory:
 * 65 bits a node, two bits a slot.
 *
 * rmt_gc_add_ids, rmt_gc_see, rmt_gc_visit and rmt_gc_unseen run on the marking thread and touch
 * nothing that the engine thread changes; a slab that is added meanwhile has no marks, and all that
 * is in it was allocated since.
 */
#include "core.h"

struct rmt_marks {
  uint64_t *ids;
  uint64_t *seen;
  uint64_t count, capacity, entries;
  uint32_t slabs; /* so many have bits */
  uint64_t *reached[];
};

int rmt_gc_arm(rmt_core *core) {
  rmt_gc_disarm(core);
  for (uint32_t i = 0; i < core->slab_count; i++) {
    slab *s = &core->slabs[i];
    s->touched = calloc(core->slab_words, sizeof *s->touched);
    if (!s->touched) {
      rmt_gc_disarm(core);
      return RMT_NOMEM;
    }
  }
  core->armed = true;
  return RMT_OK;
}

void rmt_gc_disarm(rmt_core *core) {
  core->armed = false;
  for (uint32_t i = 0; i < core->slab_count; i++) {
    free(core->slabs[i].touched);
    core->slabs[i].touched = NULL;
  }
}

rmt_marks *rmt_marks_new(const rmt_core *core) {
  rmt_marks *m = calloc(1, sizeof *m + core->slab_count * sizeof *m->reached);
  if (!m) return NULL;
  for (; m->slabs < core->slab_count; m->slabs++) {
    m->reached[m->slabs] = calloc(core->slab_words, sizeof **m->reached);
    if (m->reached[m->slabs]) continue;
    rmt_marks_free(m);
    return NULL;
  }
  return m;
}

void rmt_marks_free(rmt_marks *m) {
  if (!m) return;
  for (uint32_t i = 0; i < m->slabs; i++) free(m->reached[i]);
  free(m->ids);
  free(m->seen);
  free(m);
}

int rmt_gc_add_ids(rmt_marks *m, const uint64_t *ids, uint64_t count) {
  uint64_t room = m->count + count;
  if (room > m->capacity) {
    uint64_t capacity = (room + room / 2 + 64) & ~63ull;
    uint64_t *grown = realloc(m->ids, capacity * sizeof *grown);
    if (!grown) return RMT_NOMEM;
    m->ids = grown;
    grown = realloc(m->seen, capacity / 8);
    if (!grown) return RMT_NOMEM;
    memset(grown + m->capacity / 64, 0, (capacity - m->capacity) / 8);
    m->seen = grown;
    m->capacity = capacity;
  }
  for (uint64_t i = 0; i < count; i++) {
    if (m->count && ids[i] <= m->ids[m->count - 1]) return RMT_RANGE;
    m->ids[m->count++] = ids[i];
  }
  return RMT_OK;
}

uint64_t rmt_gc_ids(const rmt_marks *m) { return m->count; }

uint64_t marks_find(const rmt_marks *m, uint64_t id) {
  uint64_t low = 0, high = m->count;
  while (low < high) {
    uint64_t middle = low + (high - low) / 2;
    if (m->ids[middle] < id)
      low = middle + 1;
    else
      high = middle;
  }
  return low < m->count && m->ids[low] == id ? low : UINT64_MAX;
}

int rmt_gc_see(rmt_marks *m, uint64_t id) {
  uint64_t at = marks_find(m, id);
  if (at == UINT64_MAX) return RMT_UNKNOWN;
  if (bit_get(m->seen, at)) return RMT_SEEN;
  bit_set(m->seen, at);
  return RMT_OK;
}

bool node_read(const rmt_core *core, node_copy *copy, uint64_t id, const uint8_t *data,
               size_t length) {
  if (length != node_bytes(core)) return false;
  memcpy(copy->data, data, length);
  header *h = (header *)copy->data;
  uint64_t stored = h->checksum;
  h->checksum = 0;
  return h->id == id && rmt_hash(core, copy->data, length) == stored;
}

static void reach(const rmt_core *core, rmt_marks *m, uint64_t address) {
  uint64_t number = address / core->slab_slots;
  if (number < m->slabs) bit_set(m->reached[number], address % core->slab_slots);
}

/* One node: its slots are reached, its children that nobody has seen yet are appended. */
static int visit(const rmt_core *core, rmt_marks *m, uint64_t id, const uint8_t *data,
                 size_t length, uint64_t *children, uint64_t *count) {
  node_copy copy;
  if (!node_read(core, &copy, id, data, length)) return RMT_CORRUPT_NODE;
  const header *h = (const header *)copy.data;
  const entry *entries = (const entry *)(copy.data + RMT_HEADER);
  m->entries += h->used;
  for (uint32_t i = 0; i < core->fanout; i++) {
    if (!entries[i].word) continue;
    if (!h->level) {
      reach(core, m, entries[i].word & RMT_ADDRESS_MASK);
      continue;
    }
    int status = rmt_gc_see(m, entries[i].word);
    if (status == RMT_UNKNOWN) return RMT_CORRUPT_NODE;
    if (status == RMT_OK) children[(*count)++] = entries[i].word;
  }
  return RMT_OK;
}

int rmt_gc_visit(const rmt_core *core, rmt_marks *m, const uint64_t *ids,
                 const uint8_t *const *data, const uint64_t *lengths, uint64_t nodes,
                 uint64_t *children, uint64_t *count, uint64_t *failed) {
  *count = 0;
  for (uint64_t i = 0; i < nodes; i++) {
    int status = visit(core, m, ids[i], data[i], lengths[i], children, count);
    if (status != RMT_OK) {
      *failed = ids[i];
      return status;
    }
  }
  return RMT_OK;
}

uint64_t rmt_gc_entries(const rmt_marks *m) { return m->entries; }

uint64_t rmt_gc_unseen(const rmt_marks *m, uint64_t *from, uint64_t *out, uint64_t capacity) {
  uint64_t count = 0;
  for (; *from < m->count && count < capacity; ++*from)
    if (!bit_get(m->seen, *from)) out[count++] = m->ids[*from];
  return count;
}

int rmt_gc_sweep(rmt_core *core, const rmt_marks *m, uint32_t number, uint32_t *word,
                 uint64_t limit, uint64_t *freed) {
  *freed = 0;
  if (!core->armed || number >= m->slabs || number >= core->slab_count) return RMT_RANGE;
  slab *s = &core->slabs[number];
  if (slots_reserve_freed(core, limit + 64) != RMT_OK) return RMT_NOMEM;
  for (; *word < core->slab_words && *freed < limit; ++*word) {
    uint64_t dead = s->allocated[*word] & ~m->reached[number][*word] & ~s->touched[*word];
    for (; dead; dead &= dead - 1, ++*freed) {
      uint32_t slot = *word * 64 + (uint32_t)__builtin_ctzll(dead);
      slots_free(core, (uint64_t)number * core->slab_slots + slot);
    }
  }
  return *word < core->slab_words ? RMT_OK : RMT_DONE;
}
