/*
 * Looks into runs' filters, for filter.c and filter_bmi2.c, which say how to count ones (`ones`)
 * and where the k-th one is (`select_one`; 64 or more: there is none).
 *
 * A new block asks the filters of all runs of its partition, and the answer is no; so the way to
 * that has no branch that depends on the key. The processor is then busy with several filters at
 * once, and does not wait for the memory of one after the other: first all are asked where the tags
 * of the key's bucket are, then the tags, which have come meanwhile.
 */
#define TAGS_AT_ONCE 7u

static inline uint64_t eight_bytes(const void *at) {
  uint64_t word;
  memcpy(&word, at, sizeof word);
  return word;
}

/* Whether one of the n tags from the i-th on, TAGS_AT_ONCE at most, is this. */
static inline bool has_tag(const uint8_t *tags, uint64_t i, uint64_t n, uint32_t tag) {
  const uint64_t each = 0x0101010101010101u;
  uint64_t differ = eight_bytes(tags + i) ^ tag * each;
  uint64_t zero = (differ - each) & ~differ & each << (TAG_BITS - 1);
  return zero & ((1ull << n * TAG_BITS) - 1);
}

/* The entries of a key's bucket: [*from, *to). Their tags are to be looked at; false: of a group
 * that is too full, all of it. */
static inline bool bucket_of_run(const run *r, uint64_t key, uint32_t *tag, uint64_t *from,
                                 uint64_t *to) {
  uint64_t rest, bucket = scale(key, r->groups * GROUP_BUCKETS, &rest);
  uint32_t at = (uint32_t)bucket % GROUP_BUCKETS;
  const group *g = &r->filter[bucket / GROUP_BUCKETS];
  *tag = (uint32_t)(rest >> (64 - TAG_BITS));
  *from = g[0].rank;
  *to = g[1].rank;
  if (*to - *from > GROUP_ENTRIES) return false;

  /* One word more: what is shifted in comes from there. */
  uint64_t words[4] = {eight_bytes(g->unary), eight_bytes(g->unary + 2), g->unary[4], 0};
  /* A bucket's bits begin behind the one that ends the bucket before. */
  uint32_t first = ones(words[0]), both = first + ones(words[1]), k = at - (at > 0);
  uint32_t word = (k >= first) + (k >= both), before[3] = {0, first, both};
  uint32_t one = 64 * word + select_one(words[word], k - before[word]);
  uint32_t start = at ? one + 1 : 0;
  start = start < GROUP_BITS ? start : GROUP_BITS;
  uint32_t shift = start % 64;
  uint64_t bits = words[start / 64] >> shift | words[start / 64 + 1] << 1 << (63 - shift);
  uint64_t end = *from + (start - at) + (bits ? (uint64_t)__builtin_ctzll(bits) : GROUP_BITS);

  *from += start - at;
  if (end < *to) *to = end;
  return true;
}

/* The first entries of a bucket that follow each other and have this tag; false: none has. */
static inline bool tagged(const run *r, uint32_t tag, uint64_t *from, uint64_t *to) {
  uint64_t n = *to - *from, end;
  if (n <= TAGS_AT_ONCE && !has_tag(r->tags, *from, n, tag)) return false;
  while (*from < *to && r->tags[*from] != tag) ++*from;
  for (end = *from; end < *to && r->tags[end] == tag;) end++;
  *to = end;
  return *from < *to;
}

static inline uint32_t all_may_have(run *const *runs, uint32_t count, uint64_t key,
                                    candidate *found) {
  uint32_t tags[RUNS_MAX], n = 0;
  candidate buckets[RUNS_MAX];
  bool known[RUNS_MAX];
  for (uint32_t i = 0; i < count; i++) {
    candidate *b = &buckets[i];
    b->run = runs[i];
    known[i] = bucket_of_run(b->run, key, &tags[i], &b->from, &b->to);
    __builtin_prefetch(b->run->tags + b->from);
  }
  for (uint32_t i = count; i-- > 0;)
    if (!known[i] || tagged(runs[i], tags[i], &buckets[i].from, &buckets[i].to))
      found[n++] = buckets[i];
  return n;
}
