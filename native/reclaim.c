/*
 * What trees have let go of. A subtree that is cut off is not walked then: its root waits in
 * core->cuts until the caller takes it, keeps it in a durable queue and has it reclaimed a node at
 * a time. A node belongs to the tree it was cut from, and so is reclaimed, iff it was born after
 * that tree was last shared; what is below a shared node is left to gc.
 */
#include "core.h"

int cuts_reserve(rmt_core *core, uint64_t count) {
  uint64_t room = core->state.cuts + count;
  if (room <= core->cut_capacity) return RMT_OK;
  uint64_t capacity = room + room / 2 + 16;
  rmt_cut *grown = realloc(core->cuts, capacity * sizeof *grown);
  if (!grown) return RMT_NOMEM;
  core->cuts = grown;
  core->cut_capacity = capacity;
  return RMT_OK;
}

void cuts_add(rmt_core *core, uint64_t id, uint32_t level, uint64_t epoch) {
  if (id) core->cuts[core->state.cuts++] = (rmt_cut){id, epoch, level, 0};
}

uint64_t rmt_take_cuts(rmt_core *core, rmt_cut *out, uint64_t capacity) {
  uint64_t count = core->state.cuts < capacity ? core->state.cuts : capacity;
  if (!count) return 0;
  core->state.cuts -= count;
  memcpy(out, core->cuts + core->state.cuts, count * sizeof *out);
  return count;
}

void reclaim_entry(rmt_core *core, entry e) {
  uint64_t address = e.word & RMT_ADDRESS_MASK;
  if (!e.word) return;
  if (e.word >> RMT_FLAG_SHIFT & RMT_OWNED && !rmt_is_shared(core, address))
    slots_free(core, address);
  else
    core->state.debt++;
}

int rmt_reclaim(rmt_core *core, const rmt_cut *cut, rmt_cut *children, uint32_t *count) {
  *count = 0;
  node *n = cache_find(core, cut->id);
  if (!n) return RMT_MISSING;
  header *h = node_header(n);
  if (h->level != cut->level) return RMT_CORRUPT_NODE;
  if (h->birth <= cut->epoch) {
    core->state.debt += h->blocks;
    return RMT_OK;
  }
  if (slots_reserve_freed(core, core->fanout) != RMT_OK) return RMT_NOMEM;
  const entry *entries = node_entries(n);
  for (uint32_t i = 0; i < core->fanout; i++) {
    if (!h->level)
      reclaim_entry(core, entries[i]);
    else if (entries[i].word)
      children[(*count)++] = (rmt_cut){entries[i].word, cut->epoch, h->level - 1u, 0};
  }
  rmt_drop_node(core, cut->id);
  return RMT_RECLAIMED;
}
