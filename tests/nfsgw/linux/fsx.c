/*
 * Random operations on one file, each checked against a copy of the file in memory.
 *
 * `version` "4.2" has clones, copies and holes among the operations, and all of them have to work;
 * "3" has what NFSv3 can do.  A wrong byte ends it with the seed and the last operations.
 */
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "check.h"

enum { MOST = 64 * BLOCK, PIECE = 12 * BLOCK, KEPT = 12 };
enum {
  READ,
  WRITE,
  MAPPED_READ,
  MAPPED_WRITE,
  TRUNCATE,
  SYNC,
  REOPEN,
  PUNCH,
  ALLOCATE,
  CLONE,
  COPY
};
enum { OPERATIONS_3 = REOPEN + 1, OPERATIONS_42 = COPY + 1 };

static const char *const words[] = {"read",     "write", "mapped read", "mapped write",
                                    "truncate", "sync",  "reopen",      "punch",
                                    "allocate", "clone", "copy"};

typedef struct {
  int kind;
  off_t offset, length, target;
} operation;

typedef struct {
  const char *path;
  int fd, other;
  uint64_t random, seed;
  long number;
  off_t size;
  unsigned char copy[MOST], data[MOST];
  operation last[KEPT];
} state;

static uint64_t chance(state *s, uint64_t below) {
  s->random ^= s->random << 13;
  s->random ^= s->random >> 7;
  s->random ^= s->random << 17;
  return (s->random >> 11) % below;
}

static _Noreturn void wrong(state *s, off_t at_byte) {
  printf("WRONG byte %lld of %s (size %lld, seed %llu)\n", (long long)at_byte, s->path,
         (long long)s->size, (unsigned long long)s->seed);
  for (long n = s->number - KEPT + 1; n <= s->number; n++) {
    operation *each = &s->last[(n + KEPT) % KEPT];
    if (n >= 0)
      printf("%ld: %s %llx+%llx to %llx\n", n, words[each->kind], (unsigned long long)each->offset,
             (unsigned long long)each->length, (unsigned long long)each->target);
  }
  fail(__FILE__, __LINE__, "the file and its copy are the same");
}

static void compare(state *s, const unsigned char *found, off_t offset, off_t length) {
  for (off_t n = 0; n < length; n++)
    if (found[n] != s->copy[offset + n]) wrong(s, offset + n);
}

static void grown(state *s, off_t end) {
  if (end > s->size) s->size = end;
}

static void mapped(state *s, operation what) {
  off_t start = what.offset / BLOCK * BLOCK;
  size_t length = (size_t)(what.offset - start + what.length);
  int writes = what.kind == MAPPED_WRITE;
  if (writes && what.offset + what.length > s->size)
    must(ftruncate(s->fd, what.offset + what.length) == 0);
  unsigned char *map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, start);
  must(map != MAP_FAILED);
  if (writes) {
    memcpy(map + (what.offset - start), s->data, (size_t)what.length);
    memcpy(s->copy + what.offset, s->data, (size_t)what.length);
    grown(s, what.offset + what.length);
    if (chance(s, 2)) must(msync(map, length, MS_SYNC) == 0);
  } else {
    compare(s, map + (what.offset - start), what.offset, what.length);
  }
  must(munmap(map, length) == 0);
}

static void copy_all(int from, off_t offset, int to, off_t target, off_t left) {
  while (left > 0) {
    ssize_t done = copy_file_range(from, &offset, to, &target, (size_t)left, 0);
    must(done > 0);
    left -= done;
  }
}

/* A copy goes by another file: within one the client copies by itself. */
static void ranged(state *s, operation what) {
  struct file_clone_range range = {s->fd, (uint64_t)what.offset, (uint64_t)what.length,
                                   (uint64_t)what.target};
  if (what.kind == CLONE) {
    must(ioctl(s->fd, FICLONERANGE, &range) == 0);
  } else {
    off_t between = (off_t)chance(s, MOST);
    copy_all(s->fd, what.offset, s->other, between, what.length);
    copy_all(s->other, between, s->fd, what.target, what.length);
  }
  memmove(s->copy + what.target, s->copy + what.offset, (size_t)what.length);
  grown(s, what.target + what.length);
}

static void carried_out(state *s, operation what) {
  int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  off_t end = what.offset + what.length;
  switch (what.kind) {
    case READ:
      get(s->fd, s->data, (size_t)what.length, what.offset);
      compare(s, s->data, what.offset, what.length);
      break;
    case WRITE:
      put(s->fd, s->data, (size_t)what.length, what.offset);
      memcpy(s->copy + what.offset, s->data, (size_t)what.length);
      grown(s, end);
      break;
    case TRUNCATE:
      must(ftruncate(s->fd, what.offset) == 0);
      if (what.offset < s->size) memset(s->copy + what.offset, 0, (size_t)(s->size - what.offset));
      s->size = what.offset;
      break;
    case SYNC:
      forget(s->fd);
      break;
    case REOPEN:
      must(close(s->fd) == 0);
      s->fd = opened(s->path, O_RDWR);
      break;
    case PUNCH:
      must(fallocate(s->fd, punch, what.offset, what.length) == 0);
      memset(s->copy + what.offset, 0,
             (size_t)(end < s->size ? what.length : s->size - what.offset));
      break;
    case ALLOCATE:
      must(fallocate(s->fd, 0, what.offset, what.length) == 0);
      grown(s, end);
      break;
    case CLONE:
    case COPY:
      ranged(s, what);
      break;
    default:
      mapped(s, what);
  }
  must(size_of(s->fd) == s->size);
}

/* One that is possible now; reads and sources of copies end with the file. */
static operation chosen(state *s, int operations) {
  operation what = {.kind = (int)chance(s, (uint64_t)operations)};
  int inside =
      what.kind == READ || what.kind == MAPPED_READ || what.kind >= CLONE || what.kind == PUNCH;
  off_t room = inside ? s->size : MOST;
  what.offset = room ? (off_t)chance(s, (uint64_t)room) : 0;
  what.length = (off_t)chance(s, PIECE) + 1;
  if (what.kind == CLONE) {
    what.offset = what.offset / BLOCK * BLOCK;
    what.length = (what.length + BLOCK - 1) / BLOCK * BLOCK;
  }
  if (what.length > room - what.offset) what.length = room - what.offset;
  if (what.kind == CLONE) what.length = what.length / BLOCK * BLOCK;
  what.target = (off_t)chance(s, (uint64_t)(MOST - what.length + 1));
  if (what.kind == CLONE) what.target = what.target / BLOCK * BLOCK;
  int overlaps = llabs((long long)(what.target - what.offset)) < what.length;
  if ((what.length == 0 && what.kind != SYNC) || (what.kind >= CLONE && overlaps)) what.kind = SYNC;
  return what;
}

int fsx(const char *path, uint64_t seed, long count, const char *version) {
  static state s;
  char other[PATH_MAX];
  snprintf(other, sizeof other, "%s-other", path);
  int operations = strcmp(version, "3") == 0 ? OPERATIONS_3 : OPERATIONS_42;
  s.path = path;
  s.fd = opened(path, O_RDWR | O_CREAT | O_TRUNC);
  s.other = opened(other, O_RDWR | O_CREAT | O_TRUNC);
  s.seed = seed;
  s.random = seed * 2 + 1;
  for (int n = 0; n < 20; n++) chance(&s, 2);
  for (s.number = 0; s.number < count; s.number++) {
    operation what = chosen(&s, operations);
    s.last[s.number % KEPT] = what;
    pattern(s.data, (size_t)what.length, seed, (uint64_t)s.number << 20);
    carried_out(&s, what);
  }
  forget(s.fd);
  get(s.fd, s.data, (size_t)s.size, 0);
  compare(&s, s.data, 0, s.size);
  must(close(s.fd) == 0 && unlink(path) == 0);
  must(close(s.other) == 0 && unlink(other) == 0);
  return 0;
}
