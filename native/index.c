/*
 * The fingerprint index: fingerprint -> address, eight entries a bucket, a fixed number of entries.
 * It is a hint. A full bucket forgets an entry; what it answers may be stale; the writer compares
 * bytes before it believes anything.
 */
#include "core.h"

#define BUCKET 8u

static uint64_t *bucket(const rmt_core *core, uint64_t fingerprint) {
  uint64_t first = (fingerprint * 0x9E3779B97F4A7C15ull >> 16) & core->index_mask;
  return core->index + 2 * (first & ~(uint64_t)(BUCKET - 1));
}

void rmt_index_insert(rmt_core *core, uint64_t fingerprint, uint64_t address) {
  if (address > RMT_ADDRESS_MASK) return; /* an index file may say anything */
  uint64_t *b = bucket(core, fingerprint), *free_entry = NULL;
  for (uint32_t i = 0; i < BUCKET; i++) {
    uint64_t *e = b + 2 * i;
    if (e[1] && e[0] == fingerprint) {
      e[1] = address + 1;
      return;
    }
    if (!e[1] && !free_entry) free_entry = e;
  }
  if (free_entry) {
    core->state.index_used++;
  } else {
    free_entry = b + 2 * (fingerprint & (BUCKET - 1));
  }
  free_entry[0] = fingerprint;
  free_entry[1] = address + 1;
}

int rmt_index_lookup(const rmt_core *core, uint64_t fingerprint, uint64_t *address) {
  const uint64_t *b = bucket(core, fingerprint);
  for (uint32_t i = 0; i < BUCKET; i++) {
    if (b[2 * i + 1] && b[2 * i] == fingerprint) {
      *address = b[2 * i + 1] - 1;
      return 1;
    }
  }
  return 0;
}

uint64_t rmt_index_export(const rmt_core *core, uint64_t *out, uint64_t capacity) {
  uint64_t count = 0;
  for (uint64_t i = 0; i <= core->index_mask && count < capacity; i++) {
    const uint64_t *e = core->index + 2 * i;
    if (!e[1]) continue;
    out[2 * count] = e[0];
    out[2 * count + 1] = e[1] - 1;
    count++;
  }
  return count;
}
