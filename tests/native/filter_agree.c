/*
 * Filters of runs as the two fast ways read them, against one that goes bit by bit: on groups as
 * the merge makes them, and on groups of any bits, which a damaged or hostile file may have. Built
 * with sanitizers: nothing may be read that is not the filter's.
 */
#include "../../native/filter.c"

#include <stdio.h>

#define GROUPS 37u
#define RUNS RUNS_MAX
#define ENTRIES_MAX (GROUPS * GROUP_ENTRIES)

#define CHECK(true_)                                                             \
  do {                                                                           \
    if (!(true_)) {                                                              \
      fprintf(stderr, "%s:%d: %s, seed %u\n", __FILE__, __LINE__, #true_, seed); \
      exit(1);                                                                   \
    }                                                                            \
  } while (0)

static unsigned seed;
static uint64_t state;

static uint64_t random_word(void) {
  uint64_t x = state += 0x9E3779B97F4A7C15ull;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ x >> 27) * 0x94D049BB133111EBull;
  return x ^ x >> 31;
}

static bool bit_of(const group *g, uint32_t i) {
  return i < GROUP_BITS && (g->unary[i / 32] >> i % 32 & 1);
}

/* docs/FORMAT.md word for word. */
static bool slowly(const run *r, uint64_t key, uint64_t *from, uint64_t *to) {
  uint64_t rest, bucket = scale(key, r->groups * GROUP_BUCKETS, &rest);
  uint32_t tag = (uint32_t)(rest >> (64 - TAG_BITS)), at = 0;
  const group *g = &r->filter[bucket / GROUP_BUCKETS];
  uint64_t entry = *from = g[0].rank;
  *to = g[1].rank;
  if (*to - *from > GROUP_ENTRIES) return true;
  for (uint32_t left = bucket % GROUP_BUCKETS; left; at++) {
    if (at >= GROUP_BITS) return false;
    if (bit_of(g, at))
      left--;
    else
      entry++;
  }
  bool any = false;
  for (; at < GROUP_BITS && !bit_of(g, at) && entry < g[1].rank; at++, entry++) {
    bool is = r->tags[entry] == tag;
    if (is && !any) *from = entry;
    if (is) *to = entry + 1;
    if (any && !is) break;
    any |= is;
  }
  return any;
}

/* Groups with so many entries on average; sound ones, or of any bits. */
static void make(run *r, uint32_t load, bool sound) {
  uint32_t rank = 0;
  for (uint32_t n = 0; n < GROUPS; n++) {
    group *g = &r->filter[n];
    *g = (group){.rank = rank};
    uint32_t at = 0, entries = 0;
    for (uint32_t b = 0; sound && b < GROUP_BUCKETS; b++) {
      while (random_word() % (load + GROUP_BUCKETS) < load && entries < GROUP_ENTRIES)
        entries++, at++;
      g->unary[at / 32] |= 1u << at % 32;
      at++;
    }
    if (!sound) {
      for (uint32_t i = 0; i < GROUP_BITS / 32; i++)
        g->unary[i] = (uint32_t)(random_word() & (random_word() | (load & 1 ? ~0ull : 0)));
      entries = (uint32_t)(random_word() % (GROUP_ENTRIES + 2));
    }
    rank += entries < ENTRIES_MAX - rank ? entries : ENTRIES_MAX - rank;
  }
  r->filter[GROUPS].rank = rank;
  r->entries = rank;
  uint64_t few = random_word() % 3; /* equal tags in a bucket, often */
  for (uint64_t i = 0; i < rank; i++)
    r->tags[i] = few ? (uint8_t)random_word() : (uint8_t)(random_word() & 1 ? 0xff : 0);
}

static uint64_t key_of(const run *r) {
  uint64_t key = random_word(), rest;
  if (random_word() & 1) return key;
  /* One whose tag is that of an entry of its group, perhaps of its bucket. */
  uint64_t range = r->groups * GROUP_BUCKETS, bucket = scale(key, range, &rest);
  const group *g = &r->filter[bucket / GROUP_BUCKETS];
  if (g[1].rank <= g[0].rank) return key;
  uint64_t tag = r->tags[g[0].rank + random_word() % (g[1].rank - g[0].rank)];
  __extension__ unsigned __int128 product =
      (__extension__(unsigned __int128) bucket << 64) | tag << (64 - TAG_BITS) | 1ull << 40;
  return (uint64_t)(product / range + 1) >> PARTS_BITS;
}

/* What filter.c and filter_bmi2.c say of some runs is this, in this order. */
static void check_same(const candidate *told, uint32_t count, const candidate *right,
                       uint32_t right_count) {
  CHECK(count == right_count);
  for (uint32_t i = 0; i < count; i++) {
    CHECK(told[i].run == right[i].run && told[i].from == right[i].from);
    CHECK(told[i].to == right[i].to && told[i].from < told[i].to);
    CHECK(told[i].to <= told[i].run->entries);
  }
}

int main(int count, char **words) {
  seed = count > 1 ? (unsigned)atoi(words[1]) : 1;
  state = seed;
  unsigned found = 0, fast = FILTER_BMI2 && __builtin_cpu_supports("bmi2");
  for (unsigned world = 0; world < 250; world++) {
    run made[RUNS], *runs[RUNS];
    uint32_t run_count = (uint32_t)(random_word() % (RUNS + 1));
    for (uint32_t i = 0; i < run_count; i++) {
      run *r = runs[i] = &made[i];
      *r = (run){.groups = GROUPS};
      r->filter = calloc(1, (GROUPS + 1) * sizeof(group) + ENTRIES_MAX + FILTER_SLACK);
      if (!r->filter) return 1;
      r->tags = (uint8_t *)(r->filter + GROUPS + 1);
      make(r, (uint32_t)(random_word() % 90), random_word() % 3);
      /* Not a byte more than there is of one that was loaded. */
      size_t bytes = (GROUPS + 1) * sizeof(group) + r->entries + FILTER_SLACK;
      r->filter = realloc(r->filter, bytes);
      if (!r->filter) return 1;
      r->tags = (uint8_t *)(r->filter + GROUPS + 1);
    }
    for (unsigned n = 0; n < 300; n++) {
      uint64_t key = run_count ? key_of(runs[random_word() % run_count]) : random_word();
      candidate right[RUNS], told[RUNS];
      uint32_t right_count = 0;
      for (uint32_t i = run_count; i-- > 0;) {
        candidate *c = &right[right_count];
        c->run = runs[i];
        right_count += slowly(runs[i], key, &c->from, &c->to);
      }
      check_same(told, all_may_have(runs, run_count, key, told), right, right_count);
#if FILTER_BMI2
      if (fast) check_same(told, may_have_bmi2(runs, run_count, key, told), right, right_count);
#endif
      found += right_count;
    }
    for (uint32_t i = 0; i < run_count; i++) free(runs[i]->filter);
  }
  printf("%u found, %s\n", found, fast ? "both ways" : "one way");
  return found < 1000;
}
