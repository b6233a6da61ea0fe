/*
 * What a pass over a whole store asks of stored nodes and slots. Everything here works on buffers
 * of its caller and on constants of the store, so that any thread may call it beside the load; only
 * the last section touches a core, and belongs to the engine thread.
 *
 * A window holds what maps say of a run of slots: addresses[i] is RMT_HOLE, or the slot itself with
 * RMT_CONFLICT set when two maps give it different checksums (one of them must be wrong).
 */
#include "core.h"

#include <errno.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define BRIDGED_MAX 15u /* slots nobody asked for that one read may take along */

static const uint32_t MAGIC_EXTENT = 0x584D5452u;    /* 'RTMX' */
static const uint32_t MAGIC_NAMESPACE = 0x4E4D5452u; /* 'RTMN' */

typedef struct {
  _Alignas(16) uint8_t bytes[RMT_HEADER + RMT_FANOUT_MAX * sizeof(entry)];
} page;

static const entry *leaf_entries(const rmt_shape *shape, const uint8_t *node, page *copy) {
  memcpy(copy->bytes, node, RMT_HEADER + (size_t)shape->fanout * sizeof(entry));
  return (const entry *)(copy->bytes + RMT_HEADER);
}

int rmt_audit_node(const rmt_shape *shape, uint64_t id, const uint8_t *node, size_t length) {
  page copy;
  if (length < RMT_HEADER || length > sizeof copy.bytes) return RMT_CORRUPT_NODE;
  memcpy(copy.bytes, node, length);
  header *h = (header *)copy.bytes;
  bool extent = h->magic == MAGIC_EXTENT && h->kind == 1 &&
                length == RMT_HEADER + (size_t)shape->fanout * sizeof(entry);
  bool names = h->magic == MAGIC_NAMESPACE && h->kind == 2;
  if (h->id != id || (!extent && !names)) return RMT_CORRUPT_NODE;
  uint64_t stored = h->checksum;
  h->checksum = 0;
  return XXH3_64bits_withSeed(copy.bytes, length, shape->seed) == stored ? RMT_OK
                                                                         : RMT_CORRUPT_NODE;
}

void rmt_audit_clear(uint64_t *addresses, uint64_t count) {
  memset(addresses, 0xff, count * sizeof *addresses);
}

void rmt_audit_claim(const rmt_shape *shape, const uint8_t *node, uint64_t first, uint64_t count,
                     uint64_t *addresses, uint64_t *checksums) {
  page copy;
  const entry *entries = leaf_entries(shape, node, &copy);
  for (uint32_t i = 0; i < shape->fanout; i++) {
    uint64_t address = entries[i].word & RMT_ADDRESS_MASK, at = address - first;
    if (!entries[i].word || address < first || at >= count) continue;
    if (addresses[at] == RMT_HOLE) {
      addresses[at] = address;
      checksums[at] = entries[i].value;
    } else if (checksums[at] != entries[i].value) {
      addresses[at] |= RMT_CONFLICT;
    }
  }
}

uint32_t rmt_audit_find(const rmt_shape *shape, const uint8_t *node, const uint8_t *wanted,
                        uint64_t slots, uint32_t *found) {
  page copy;
  const entry *entries = leaf_entries(shape, node, &copy);
  uint32_t count = 0;
  for (uint32_t i = 0; i < shape->fanout; i++) {
    uint64_t address = entries[i].word & RMT_ADDRESS_MASK;
    if (!entries[i].word) continue;
    if (address >= slots || wanted[address >> 3] >> (address & 7) & 1) found[count++] = i;
  }
  return count;
}

uint32_t rmt_audit_tally(const rmt_shape *shape, const uint8_t *node, int alone, uint64_t slots,
                         uint8_t *mapped, uint8_t *again, uint8_t *owned) {
  page copy;
  const entry *entries = leaf_entries(shape, node, &copy);
  uint32_t malformed = 0;
  for (uint32_t i = 0; i < shape->fanout; i++) {
    uint64_t address = entries[i].word & RMT_ADDRESS_MASK;
    uint64_t flags = entries[i].word >> RMT_FLAG_SHIFT;
    if (!entries[i].word && !entries[i].value) continue;
    if (!(flags & RMT_MAPPED) || flags & ~(RMT_MAPPED | RMT_OWNED | RMT_DEDUP) ||
        address >= slots) {
      malformed++;
      continue;
    }
    uint8_t *byte = &mapped[address >> 3], bit = (uint8_t)(1u << (address & 7));
    if (*byte & bit) again[address >> 3] |= bit;
    *byte |= bit;
    if (alone && flags & RMT_OWNED) owned[address >> 3] |= bit;
  }
  return malformed;
}

static int read_at(int fd, uint64_t slot, uint8_t *out, uint64_t blocks) {
  size_t length = (size_t)blocks * RMT_BLOCK;
  off_t at = (off_t)slot * RMT_BLOCK;
  while (length) {
    ssize_t got = pread(fd, out, length, at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (!got) {
      memset(out, 0, length); /* past the end of a file that was cut: the check will fail */
      return 0;
    }
    out += got;
    at += got;
    length -= (size_t)got;
  }
  return 0;
}

static uint8_t judge(const rmt_shape *shape, const uint8_t *block, uint64_t checksum) {
  return XXH3_64bits_withSeed(block, RMT_BLOCK, shape->seed) == checksum ? RMT_GOOD : RMT_BAD;
}

/* How many entries from `i` one read can serve: neighbours on disk, small gaps bridged. */
static uint64_t run_of(const uint64_t *addresses, uint64_t i, uint64_t count, uint64_t room,
                       uint64_t slab_end) {
  uint64_t base = addresses[i] & ~RMT_CONFLICT, last = 0;
  for (uint64_t n = 1; i + n < count && n < room && base + n < slab_end; n++) {
    if (addresses[i + n] == RMT_HOLE) {
      if (n - last > BRIDGED_MAX) break;
    } else if ((addresses[i + n] & ~RMT_CONFLICT) == base + n) {
      last = n;
    } else {
      break;
    }
  }
  return last + 1;
}

uint64_t rmt_audit_verify(const rmt_shape *shape, int fd, const uint64_t *addresses,
                          const uint64_t *checksums, uint64_t count, uint8_t *scratch,
                          uint64_t scratch_blocks, uint8_t *verdicts) {
  uint64_t checked = 0;
  memset(verdicts, RMT_GOOD, count);
  for (uint64_t i = 0; i < count;) {
    if (addresses[i] == RMT_HOLE) {
      i++;
      continue;
    }
    uint64_t address = addresses[i] & ~RMT_CONFLICT, slot = address % shape->slab_slots;
    uint64_t run = run_of(addresses, i, count, scratch_blocks, address - slot + shape->slab_slots);
    bool whole = !read_at(fd, slot, scratch, run);
    for (uint64_t n = 0; n < run; n++) {
      if (addresses[i + n] == RMT_HOLE) continue;
      checked++;
      uint8_t *block = scratch + n * RMT_BLOCK;
      if (!whole && read_at(fd, slot + n, block, 1))
        verdicts[i + n] = RMT_UNREADABLE;
      else if (addresses[i + n] & RMT_CONFLICT)
        verdicts[i + n] = RMT_BAD;
      else
        verdicts[i + n] = judge(shape, block, checksums[i + n]);
    }
    i += run;
  }
  return checked;
}

void rmt_index_claims(rmt_core *core, uint64_t domain, const uint64_t *addresses,
                      const uint64_t *checksums, uint64_t count) {
  for (uint64_t i = 0; i < count; i++)
    if (!(addresses[i] & RMT_CONFLICT) && rmt_is_allocated(core, addresses[i]))
      rmt_index_insert(core, index_key(domain, checksums[i]), addresses[i]);
}

int rmt_set_shared(rmt_core *core, uint64_t address) {
  if (!rmt_is_allocated(core, address)) return RMT_RANGE;
  slots_share(core, address);
  return RMT_OK;
}
