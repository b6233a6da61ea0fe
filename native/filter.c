/* Filters of runs on any machine; and on those that have the instructions, by filter_bmi2.c. */
#include "index.h"

uint32_t may_have_bmi2(run *const *runs, uint32_t count, uint64_t key, candidate *found);

static inline uint32_t ones(uint64_t x) {
  x -= x >> 1 & 0x5555555555555555u;
  x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
  return (uint32_t)(((x + (x >> 4)) & 0x0F0F0F0F0F0F0F0Fu) * 0x0101010101010101u >> 56);
}

/* Bytes' counts are summed, then a byte is searched. */
static inline uint32_t select_one(uint64_t x, uint32_t k) {
  const uint64_t each = 0x0101010101010101u, high = 0x8080808080808080u;
  if (k >= ones(x)) return 64;
  uint64_t s = x - (x >> 1 & 0x5555555555555555u);
  s = (s & 0x3333333333333333u) + (s >> 2 & 0x3333333333333333u);
  s = ((s + (s >> 4)) & 0x0F0F0F0F0F0F0F0Fu) * each;
  uint32_t at = 8 * (uint32_t)((((k * each | high) - s) & high) / 128 * each >> 56);
  uint64_t left = x >> at;
  for (k -= (uint32_t)(s << 8 >> at) & 0xff; k; k--) left &= left - 1;
  return at + (uint32_t)__builtin_ctzll(left);
}

#include "filter.h"

uint32_t runs_may_have(run *const *runs, uint32_t count, uint64_t key, candidate *found) {
#if FILTER_BMI2
  /* AMD's before Zen 3 take a hundred cycles for a pdep. */
  if (__builtin_cpu_supports("bmi2") && (__builtin_cpu_is("intel") || __builtin_cpu_is("znver3") ||
                                         __builtin_cpu_supports("avx512vbmi2")))
    return may_have_bmi2(runs, count, key, found);
#endif
  return all_may_have(runs, count, key, found);
}
