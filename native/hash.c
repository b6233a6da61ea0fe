/*
 * XXH3, by the widest instructions that this machine has: the same sums in half the time. The
 * library picks them when it is compiled, so it is compiled twice.
 */
#include "core.h"

#define XXH_INLINE_ALL

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__AVX2__)
uint64_t hash_avx2(const void *data, size_t length, uint64_t seed); /* hash_avx2.c */
#define WIDER
#endif

#include <xxhash.h>

uint64_t rmt_hash(const rmt_core *core, const void *data, size_t length) {
#ifdef WIDER
  if (__builtin_cpu_supports("avx2")) return hash_avx2(data, length, core->seed);
#endif
  return XXH3_64bits_withSeed(data, length, core->seed);
}

void rmt_hash_pieces(const rmt_core *core, const uint8_t *data, const rmt_piece *pieces,
                     uint32_t count, uint64_t *sums) {
  for (uint32_t i = 0; i < count; i++)
    sums[i] = rmt_hash(core, data + pieces[i].at, pieces[i].size);
}
