/*
 * The C core on hostile nodes: libFuzzer's target, and (with -DREPLAY) a program that runs the
 * files and directories it is given.
 *
 * An input is a small store and what is done to it: the geometry, up to NODES nodes, the bits of
 * the slots, up to TREES map descriptors, then operations until the bytes end. Nodes are written
 * in a short form so that a mutation of one byte is a change of one field; unless the input says
 * otherwise, their sums, id and checksum are then made right. That is how the parser is reached: by
 * nodes that pass every check of their own and lie about levels, children, addresses, counts or
 * ids. A node may also be raw bytes.
 *
 * What must hold, besides no crash, no undefined behaviour and no hang (libFuzzer's -timeout):
 * a call that fails leaves its tree as it was; nothing asks for more nodes than a walk can need;
 * what a write within one leaf put there is what the next read returns; space counters stay in
 * order; every node that a commit stores is one that the core accepts again.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "replay.h"
#include "rmt.h"

#define NODES 12u
#define TREES 4u
#define SLABS 3u
#define STORED 512u
#define OPERATIONS 48u
#define BLOCKS 12u    /* of one read or write */
#define LOADS_MAX 600 /* nodes that one call may ask for */
#define NODE_BYTES_MAX (RMT_HEADER + 16u * RMT_FANOUT_MAX)
#define FIRST_NEW_ID 1000u

#define CHECK(what)                                                       \
  do {                                                                    \
    if (!(what)) {                                                        \
      fprintf(stderr, "fuzz_core.c:%d: %s is not so\n", __LINE__, #what); \
      abort();                                                            \
    }                                                                     \
  } while (0)

typedef struct {
  const uint8_t *at, *end;
} input;

typedef struct {
  uint64_t id;
  size_t length;
  uint8_t data[NODE_BYTES_MAX];
} stored;

typedef struct {
  rmt_core *core;
  uint32_t fanout, slab_slots, slabs;
  size_t node_bytes;
  stored *nodes; /* what a load finds: the input's, then what commits stored */
  uint32_t node_count, sealed_count;
  rmt_tree trees[TREES];
  rmt_sealed *sealed;
  bool armed;
} world;

static int slab_fds[SLABS]; /* made once, emptied for each input */
static stored nodes[STORED];

static uint8_t take8(input *in) { return in->at < in->end ? *in->at++ : 0; }

static uint64_t take64(input *in) {
  uint64_t value = 0;
  size_t left = (size_t)(in->end - in->at), size = left < 8 ? left : 8;
  memcpy(&value, in->at, size);
  in->at += size;
  return value;
}

/* Mostly small, sometimes anything, sometimes next to a limit. */
static uint64_t number(input *in) {
  uint8_t b = take8(in);
  if (b < 0xF0) return b;
  if (b < 0xF4) return take64(in);
  if (b < 0xF8) return RMT_BLOCKS_MAX - 1 - (b & 3) * 5;
  return 1ull << (take8(in) & 63);
}

static uint64_t word_at(const uint8_t *data, size_t at) {
  uint64_t value;
  memcpy(&value, data + at, 8);
  return value;
}

static void set_checksum(const rmt_core *core, uint8_t *data, size_t length) {
  if (length < RMT_HEADER) return;
  memset(data + 24, 0, 8);
  uint64_t checksum = rmt_hash(core, data, length);
  memcpy(data + 24, &checksum, 8);
}

static void raw_node(world *w, stored *n, input *in) {
  size_t left = (size_t)(in->end - in->at);
  n->length = take8(in) < 0xE0 ? w->node_bytes : take8(in);
  memset(n->data, 0, sizeof n->data);
  left = (size_t)(in->end - in->at);
  size_t given = n->length < left ? n->length : left;
  memcpy(n->data, in->at, given);
  in->at += given;
}

static void make_node(world *w, stored *n, input *in) {
  uint8_t form = take8(in);
  if (form >= 0xF8) {
    raw_node(w, n, in);
    if (form & 1) set_checksum(w->core, n->data, n->length);
    return;
  }
  n->length = w->node_bytes;
  memset(n->data, 0, sizeof n->data);
  uint8_t level = form & 31, count = take8(in);
  uint64_t blocks = 0, used = 0, id = n->id, birth = take8(in);
  for (uint32_t i = 0; i < (count & 15u); i++) {
    uint32_t at = take8(in) % w->fanout;
    uint64_t word = number(in), value = 0;
    if (level) {
      value = number(in);
    } else if (take8(in) < 0xF0) {
      value = take8(in);
      word = (word & RMT_ADDRESS_MASK) | (RMT_MAPPED | (value & 2)) << RMT_FLAG_SHIFT;
    }
    memcpy(n->data + RMT_HEADER + 16 * at, &word, 8);
    memcpy(n->data + RMT_HEADER + 16 * at + 8, &value, 8);
  }
  for (uint32_t i = 0; i < w->fanout; i++) {
    uint64_t word = word_at(n->data, RMT_HEADER + 16 * i);
    used += word != 0;
    if (word) blocks += level ? word_at(n->data, RMT_HEADER + 16 * i + 8) : 1;
  }
  if (count & 0x80) {
    uint8_t lie = take8(in);
    if (lie & 1) blocks = number(in);
    if (lie & 2) used = number(in);
    if (lie & 4) id = number(in);
    if (lie & 8) birth = take64(in);
  }
  memcpy(n->data, "RTMX", 4);
  n->data[4] = 1;
  n->data[5] = level;
  memcpy(n->data + 6, &used, 2);
  memcpy(n->data + 8, &id, 8);
  memcpy(n->data + 16, &birth, 8);
  memcpy(n->data + 32, &blocks, 8);
  set_checksum(w->core, n->data, n->length);
  if ((count & 0xC0) == 0xC0) n->data[take8(in) % n->length] ^= 1;
}

static void make_trees(world *w, input *in) {
  for (uint32_t i = 0; i < TREES; i++) {
    uint8_t form = take8(in);
    rmt_tree *t = &w->trees[i];
    *t = (rmt_tree){.shared_epoch = take8(in)};
    if (form < 0x20) continue;
    t->root = form < 0xF0 ? 1 + form % NODES : number(in);
    t->height = take8(in);
    uint32_t at = 0;
    while (at < w->node_count && w->nodes[at].id != t->root) at++;
    bool right = t->height < 0xF0 && at < w->node_count;
    t->blocks = right ? word_at(w->nodes[at].data, 32) : number(in);
    if (right) t->height = w->nodes[at].data[5] + 1u;
  }
}

/* The slots as the store had them when it was opened: each chunk once, before anything is done. */
static void load_chunk(world *w, uint32_t slab, input *in) {
  uint8_t bits[RMT_CHUNK_BYTES] = {0};
  uint8_t form = take8(in);
  memset(bits, form & 0x40 ? 0xFF : 0, w->slab_slots / 8);
  for (uint32_t i = 0; i < (form & 15u); i++) {
    uint32_t at = take8(in), half = form & 0x20 ? take8(in) : at >> 7;
    bits[(at & 0x7F) + (half & 1) * RMT_CHUNK_BYTES / 2 + (half >> 5 << 7)] ^= take8(in);
  }
  CHECK(rmt_load_chunk(w->core, w->slabs + slab, 0, bits) == RMT_RANGE);
  CHECK(rmt_load_chunk(w->core, slab, 1, bits) == RMT_RANGE);
  rmt_load_chunk(w->core, slab, 0, bits);
}

/* The node that a call missed; whether the call may be tried again. */
static bool load(world *w, int *loads) {
  uint64_t id = rmt_state(w->core)->missing;
  CHECK(++*loads < LOADS_MAX);
  for (uint32_t i = w->node_count; i-- > 0;)
    if (w->nodes[i].id == id)
      return rmt_insert_node(w->core, id, w->nodes[i].data, w->nodes[i].length) == RMT_OK;
  return false;
}

static bool add_slab(world *w) {
  int *fd = &slab_fds[w->slabs];
  if (!*fd) *fd = memfd_create("slab", MFD_CLOEXEC);
  CHECK(*fd > 0 && !ftruncate(*fd, 0));
  return rmt_add_slab(w->core, w->slabs++, *fd) == RMT_OK;
}

static bool again(world *w, int status, int *loads) {
  if (status == RMT_NEED_SLAB && w->slabs < SLABS) return add_slab(w);
  return status == RMT_MISSING && load(w, loads);
}

static bool same_tree(const rmt_tree *a, const rmt_tree *b) {
  return a->root == b->root && a->height == b->height && a->blocks == b->blocks &&
         a->shared_epoch == b->shared_epoch;
}

static int read_blocks(world *w, const rmt_tree *t, uint64_t offset, uint8_t *out, size_t length) {
  rmt_failure failure = {0};
  int status, loads = 0;
  do status = rmt_read(w->core, t, offset, out, length, 1, &failure);
  while (again(w, status, &loads));
  return status;
}

static void write_blocks(world *w, rmt_tree *t, input *in) {
  static uint8_t data[BLOCKS * RMT_BLOCK], back[BLOCKS * RMT_BLOCK];
  static uint8_t apart[BLOCKS * (RMT_BLOCK + 24)];
  uint64_t first = number(in), count = 1 + take8(in) % BLOCKS;
  uint8_t dedup = take8(in), letters = take8(in);
  uint64_t piece = 1 + (dedup >> 1) % BLOCKS, stride = piece * RMT_BLOCK + (letters & 24);
  rmt_source source = {apart, piece, stride};
  for (uint64_t i = 0; i < count; i++) {
    memset(data + i * RMT_BLOCK, (int)(i * (letters >> 4)) + (letters & 15), RMT_BLOCK);
    memcpy(apart + i / piece * stride + i % piece * RMT_BLOCK, data + i * RMT_BLOCK, RMT_BLOCK);
  }
  rmt_tree before = *t;
  rmt_written written = {0};
  rmt_failure failure = {0};
  int status, loads = 0;
  do status = rmt_write(w->core, t, first, count, &source, dedup & 1, 1, &written, &failure);
  while (again(w, status, &loads));
  if (status != RMT_OK) {
    CHECK(same_tree(t, &before));
    return;
  }
  CHECK(written.fresh + written.duplicate + written.zero == count);
  if (first / w->fanout != (first + count - 1) / w->fanout) return; /* leaves may be one node */
  CHECK(read_blocks(w, t, first * RMT_BLOCK, back, count * RMT_BLOCK) == RMT_OK);
  CHECK(!memcmp(data, back, count * RMT_BLOCK));
}

static void look_up(world *w, const rmt_tree *t, input *in) {
  rmt_extent out[8];
  uint64_t first = number(in), count = number(in), found, next, data, hole;
  int status, loads = 0;
  do status = rmt_lookup(w->core, t, first, count, out, 8, &found, &next);
  while (again(w, status, &loads));
  if (status == RMT_OK) {
    CHECK(found <= 8);
    for (uint64_t i = 0; i < found; i++)
      CHECK(out[i].count && out[i].block >= first && out[i].block - first < count);
  }
  loads = 0;
  do status = rmt_next_data(w->core, t, first, &data);
  while (again(w, status, &loads));
  CHECK(status != RMT_OK || data == RMT_HOLE || (data >= first && data < RMT_BLOCKS_MAX));
  loads = 0;
  do status = rmt_next_hole(w->core, t, first, &hole);
  while (again(w, status, &loads));
  CHECK(status != RMT_OK || hole >= first);
}

static void share(world *w, rmt_tree *t, input *in) {
  rmt_tree *from = &w->trees[take8(in) % TREES], copy = *from;
  uint64_t to = number(in), at = number(in), count = number(in);
  if (from == t && (to > at ? to - at : at - to) < count) return;
  uint64_t epoch = rmt_state(w->core)->epoch++;
  copy.shared_epoch = from->shared_epoch = t->shared_epoch = epoch;
  int status, loads = 0;
  do {
    uint64_t left = count;
    status = rmt_share(w->core, t, &to, &copy, &at, &count);
    if (count != left) loads = 0;
  } while (again(w, status, &loads));
}

static void punch(world *w, rmt_tree *t, input *in) {
  uint64_t first = number(in), count = number(in);
  int status, loads = 0;
  do {
    rmt_tree before = *t;
    status = rmt_punch(w->core, t, first, count);
    if (!same_tree(t, &before)) loads = 0;
  } while (again(w, status, &loads));
}

static void keep_sealed(world *w) {
  for (uint64_t i = 0; i < rmt_sealed_nodes(w->sealed); i++) {
    uint64_t id;
    size_t length;
    const uint8_t *data = rmt_sealed_node(w->core, w->sealed, i, &id, &length);
    if (w->node_count == STORED) return;
    stored *n = &w->nodes[w->node_count++];
    n->id = id;
    n->length = length;
    memcpy(n->data, data, length);
  }
  for (uint64_t i = 0; i < rmt_sealed_chunks(w->sealed); i++) {
    uint32_t slab, chunk;
    rmt_sealed_chunk(w->sealed, i, &slab, &chunk);
    CHECK(slab < w->slabs);
  }
  for (uint64_t i = 0; i < rmt_sealed_slabs(w->sealed); i++)
    CHECK(rmt_sealed_slab(w->sealed, i) < w->slabs);
}

static void commit_end(world *w) {
  if (!w->sealed) return;
  keep_sealed(w);
  rmt_release(w->core, w->sealed);
  rmt_release_freed(w->core, w->sealed);
  rmt_sealed_free(w->sealed);
  w->sealed = NULL;
}

/* Ids ascend; a node that was stored twice is there once. */
static uint64_t stored_ids(const world *w, uint64_t *ids) {
  uint64_t count = 0;
  for (uint32_t i = 0; i < w->node_count; i++) {
    uint64_t id = w->nodes[i].id, at = count;
    while (at && ids[at - 1] > id) at--;
    if (at && ids[at - 1] == id) continue;
    memmove(ids + at + 1, ids + at, (count++ - at) * sizeof *ids);
    ids[at] = id;
  }
  return count;
}

/* From the roots that the trees name; false when a node is damaged: then nothing may be freed. */
static bool mark(world *w, rmt_marks *marks, uint64_t count) {
  static uint64_t children[RMT_FANOUT_MAX];
  uint64_t pending[STORED], left = 0, found, failed;
  for (uint32_t i = 0; i < TREES; i++) {
    int status = w->trees[i].root ? rmt_gc_see(marks, w->trees[i].root) : RMT_SEEN;
    if (status == RMT_UNKNOWN) return false;
    if (status == RMT_OK) pending[left++] = w->trees[i].root;
  }
  for (uint64_t visits = 0; left; visits++) {
    CHECK(visits < count);
    uint64_t id = pending[--left], length = 0;
    const uint8_t *data = NULL;
    for (uint32_t i = 0; i < w->node_count; i++)
      if (w->nodes[i].id == id) data = w->nodes[i].data, length = w->nodes[i].length;
    if (rmt_gc_visit(w->core, marks, &id, &data, &length, 1, children, &found, &failed) != RMT_OK)
      return false;
    CHECK(found <= w->fanout && left + found <= count);
    memcpy(pending + left, children, found * sizeof *pending);
    left += found;
  }
  return true;
}

/* A whole run: arm and capture in one instant, commit, mark, sweep. */
static void gc(world *w) {
  uint64_t ids[STORED], freed, from = 0;
  commit_end(w);
  if (w->node_count + rmt_state(w->core)->dirty > STORED) return;
  if (rmt_gc_arm(w->core) != RMT_OK) return;
  rmt_marks *marks = rmt_marks_new(w->core);
  CHECK(marks && rmt_seal(w->core, &w->sealed) == RMT_OK);
  commit_end(w);
  uint64_t count = stored_ids(w, ids);
  CHECK(rmt_gc_add_ids(marks, ids, count) == RMT_OK);
  if (mark(w, marks, count)) {
    CHECK(rmt_gc_unseen(marks, &from, ids, STORED) <= count);
    for (uint32_t i = 0; i < w->slabs; i++)
      for (uint32_t word = 0; rmt_gc_sweep(w->core, marks, i, &word, 64, &freed) == RMT_OK;)
        ;
  }
  rmt_marks_free(marks);
  rmt_gc_disarm(w->core);
}

/* The accounting pass: each tree an owner below the store. */
static void account(world *w) {
  static uint64_t children[RMT_FANOUT_MAX], sums[TREES + 2];
  uint64_t ids[STORED], pending[TREES * STORED], left, found, failed, visits = 0;
  uint32_t store, owner;
  rmt_owners *owners = rmt_owners_new(w->core);
  uint64_t count = stored_ids(w, ids);
  CHECK(owners && rmt_owners_add_ids(owners, ids, count) == RMT_OK);
  CHECK(rmt_owners_add(owners, 0, &store) == RMT_OK);
  for (uint32_t t = 0; t < TREES; t++) {
    CHECK(rmt_owners_add(owners, store, &owner) == RMT_OK);
    left = rmt_owners_enter(owners, w->trees[t].root, owner) == RMT_OK;
    pending[0] = w->trees[t].root;
    while (left) {
      CHECK(visits++ < 2 * count); /* its own, then the store's */
      uint64_t id = pending[--left], length = 0;
      const uint8_t *data = NULL;
      for (uint32_t i = 0; i < w->node_count; i++)
        if (w->nodes[i].id == id) data = w->nodes[i].data, length = w->nodes[i].length;
      if (rmt_owners_visit(w->core, owners, owner, &id, &data, &length, 1, children, &found,
                           &failed) != RMT_OK)
        break;
      CHECK(found <= w->fanout && left + found <= TREES * STORED);
      memcpy(pending + left, children, found * sizeof *pending);
      left += found;
    }
  }
  CHECK(rmt_owners_count(owners) == TREES + 1);
  rmt_owners_sums(w->core, owners, sums);
  for (uint32_t i = 0; i <= TREES + 1; i++) CHECK(sums[i] <= (uint64_t)w->slabs * w->slab_slots);
  CHECK(rmt_owners_deduped(owners) <= count * w->fanout);
  rmt_owners_free(owners);
}

/* What trees have let go of, freed node by node. */
static void reclaim(world *w) {
  rmt_cut cuts[64], children[RMT_FANOUT_MAX];
  uint64_t left = rmt_take_cuts(w->core, cuts, 16);
  for (int steps = 0; left && steps < 200; steps++) {
    rmt_cut cut = cuts[--left];
    uint32_t count = 0;
    int status, loads = 0;
    do status = rmt_reclaim(w->core, &cut, children, &count);
    while (again(w, status, &loads));
    CHECK(count <= w->fanout);
    for (uint32_t i = 0; i < count && left < 64; i++) cuts[left++] = children[i];
  }
}

static void trim(world *w, uint32_t run_min) {
  for (uint32_t slab = 0; slab < w->slabs; slab++) {
    uint64_t address, count;
    for (uint32_t slot = 0; slot < w->slab_slots;) {
      CHECK(rmt_trim_take(w->core, slab, &slot, run_min, &address, &count) == RMT_OK);
      if (!count) break;
      CHECK(address / w->slab_slots == slab && address % w->slab_slots + count <= w->slab_slots);
      rmt_failure failure;
      CHECK(rmt_trim_punch(w->core, address, count, &failure) == RMT_OK);
      CHECK(rmt_trim_give(w->core, address, count, 1) == RMT_OK);
    }
  }
  rmt_learn_holes(w->core);
  rmt_backed_first(w->core, run_min & 1);
}

static void operate(world *w, input *in) {
  static uint8_t buffer[BLOCKS * RMT_BLOCK];
  uint64_t addresses[64], checksums[64], offset, address;
  uint8_t what = take8(in);
  rmt_tree *t = &w->trees[what >> 6];
  int loads = 0, status;
  switch ((what & 63) % 14) {
    case 0:
    case 1:
    case 2:
      write_blocks(w, t, in);
      break;
    case 3:
      look_up(w, t, in);
      break;
    case 4:
      share(w, t, in);
      break;
    case 5:
      punch(w, t, in);
      break;
    case 6:
      offset = number(in) * 1024;
      read_blocks(w, t, offset, buffer, 1 + (size_t)take8(in) * 192);
      break;
    case 7:
      commit_end(w);
      if (rmt_seal(w->core, &w->sealed) != RMT_OK) w->sealed = NULL;
      break;
    case 8:
      commit_end(w);
      break;
    case 9:
      rmt_forget(w->core);
      break;
    case 10:
      if (what & 32)
        gc(w);
      else
        trim(w, 1 + take8(in) % 32);
      break;
    case 11:
      reclaim(w);
      break;
    case 12:
      if (what & 32) {
        account(w);
        break;
      }
      rmt_index_insert(w->core, number(in), number(in));
      if (rmt_index_lookup(w->core, number(in), &address)) rmt_is_shared(w->core, address);
      break;
    case 13:
      offset = number(in);
      do status = rmt_resolve(w->core, t, offset, 64, addresses, checksums);
      while (again(w, status, &loads));
      break;
  }
  const rmt_shared *s = rmt_state(w->core);
  CHECK(s->allocated <= s->busy && s->busy <= s->total && s->holes <= s->total - s->busy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const uint32_t fanouts[] = {4, 4, 5, 8, 4, 252};
  static const uint32_t slots[] = {64, 64, 100, 256};
  input in = {data, data + size};
  world w = {.nodes = nodes};
  uint8_t shape = take8(&in), seed = take8(&in);
  w.fanout = fanouts[(shape & 15) % 6];
  w.slab_slots = slots[shape >> 4 & 3];
  w.node_bytes = RMT_HEADER + 16 * w.fanout;
  w.core = rmt_new(w.fanout, w.slab_slots, seed, 16, 64);
  CHECK(w.core);
  rmt_state(w.core)->next_id = FIRST_NEW_ID;
  rmt_state(w.core)->epoch = 256;
  while (w.slabs < (shape >> 6 & 1) + 1u) CHECK(add_slab(&w));
  for (uint32_t i = 0; i < w.slabs; i++) load_chunk(&w, i, &in);
  uint32_t count = take8(&in) % (NODES + 1);
  while (w.node_count < count) {
    w.nodes[w.node_count].id = w.node_count + 1;
    make_node(&w, &w.nodes[w.node_count++], &in);
  }
  make_trees(&w, &in);
  for (uint32_t i = 0; i < OPERATIONS && in.at < in.end; i++) operate(&w, &in);
  commit_end(&w);
  rmt_free(w.core);
  return 0;
}
