/* Filters of runs by instructions that count and place bits; filter.c chooses. */
#include "index.h"
#if FILTER_BMI2
#pragma GCC target("popcnt,bmi,bmi2")

#include <immintrin.h>

uint32_t may_have_bmi2(run *const *runs, uint32_t count, uint64_t key, candidate *found);

static inline uint32_t ones(uint64_t x) { return (uint32_t)_mm_popcnt_u64(x); }

static inline uint32_t select_one(uint64_t x, uint32_t k) {
  return (uint32_t)_tzcnt_u64(_pdep_u64(1ull << k, x));
}

#include "filter.h"

uint32_t may_have_bmi2(run *const *runs, uint32_t count, uint64_t key, candidate *found) {
  return all_may_have(runs, count, key, found);
}
#endif
