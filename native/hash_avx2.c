/* XXH3 for machines that have AVX2; hash.c chooses. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__AVX2__)
#pragma GCC target("avx2")
#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash_avx2(const void *data, size_t length, uint64_t seed);
uint64_t hash_avx2(const void *data, size_t length, uint64_t seed) {
  return XXH3_64bits_withSeed(data, length, seed);
}
#endif
