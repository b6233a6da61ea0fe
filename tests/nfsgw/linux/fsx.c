/*
 * Random operations on two files, each checked against a copy of the files in memory.
 *
 * `version` says what the file system can do, and all of that has to work: "3" what NFSv3 can,
 * "4.2" clones, copies and holes as well, "mount" what the FUSE mount can.  There, every
 * RENEW_EVERY operations, the files are closed, RENEW is said and a line awaited, so that the other
 * side may mount anew.  A wrong byte ends it with the seed and the last operations.
 */
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "check.h"

enum { FILES = 2, MOST = 64 * BLOCK, PIECE = 12 * BLOCK, KEPT = 12, RENEW_EVERY = 1000 };

typedef enum {
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
  COPY,
  COPY_ALL,
  ZERO,
  KEEP_SIZE,
  DIRECT_READ,
  DIRECT_WRITE,
  SEEK,
  KINDS
} kind_of;

static const struct {
  const char *words;
  int since;        /* 3: every version has it, 4: from "4.2" on, 5: "mount" alone */
  int inside, from; /* it ends with the file; it has a second range, which no other may overlap */
} kinds[KINDS] = {
    [READ] = {"read", 3, 1, 0},
    [WRITE] = {"write", 3, 0, 0},
    [MAPPED_READ] = {"mapped read", 3, 1, 0},
    [MAPPED_WRITE] = {"mapped write", 3, 0, 0},
    [TRUNCATE] = {"truncate", 3, 0, 0},
    [SYNC] = {"sync", 3, 0, 0},
    [REOPEN] = {"reopen", 3, 0, 0},
    [PUNCH] = {"punch", 4, 1, 0},
    [ALLOCATE] = {"allocate", 4, 0, 0},
    [CLONE] = {"clone", 4, 1, 1},
    [COPY] = {"copy", 4, 1, 1},
    [COPY_ALL] = {"copy of all", 5, 1, 1},
    [ZERO] = {"zero", 5, 0, 0},
    [KEEP_SIZE] = {"allocate, keeping the size", 5, 0, 0},
    [DIRECT_READ] = {"direct read", 5, 1, 0},
    [DIRECT_WRITE] = {"direct write", 5, 0, 0},
    [SEEK] = {"seek", 5, 1, 0},
};

typedef struct {
  kind_of kind;
  int file, into;
  off_t offset, length, target;
} operation;

typedef struct {
  char path[PATH_MAX];
  int fd, direct;
  off_t size;
  unsigned char copy[MOST];
} walked;

typedef struct {
  walked files[FILES];
  int version;
  uint64_t random, seed;
  long number;
  unsigned char data[MOST];
  operation last[KEPT];
} state;

static uint64_t chance(state *s, uint64_t below) {
  s->random ^= s->random << 13;
  s->random ^= s->random >> 7;
  s->random ^= s->random << 17;
  return (s->random >> 11) % below;
}

static _Noreturn void wrong(state *s, const walked *f, off_t at_byte) {
  printf("WRONG byte %lld of %s (size %lld, seed %llu)\n", (long long)at_byte, f->path,
         (long long)f->size, (unsigned long long)s->seed);
  for (long n = s->number - KEPT + 1; n <= s->number; n++) {
    operation *each = &s->last[(n + KEPT) % KEPT];
    if (n >= 0)
      printf("%ld: %s %d:%llx+%llx to %d:%llx\n", n, kinds[each->kind].words, each->file,
             (unsigned long long)each->offset, (unsigned long long)each->length, each->into,
             (unsigned long long)each->target);
  }
  fail(__FILE__, __LINE__, "the file and its copy are the same");
}

static void compare(state *s, const walked *f, const unsigned char *found, off_t offset,
                    off_t length) {
  for (off_t n = 0; n < length; n++)
    if (found[n] != f->copy[offset + n]) wrong(s, f, offset + n);
}

static void compare_all(state *s) {
  for (walked *f = s->files; f < s->files + FILES; f++) {
    must(size_of(f->fd) == f->size);
    get(f->fd, s->data, (size_t)f->size, 0);
    compare(s, f, s->data, 0, f->size);
  }
}

static void grown(walked *f, off_t end) {
  if (end > f->size) f->size = end;
}

static void written(state *s, walked *f, operation what) {
  memcpy(f->copy + what.offset, s->data, (size_t)what.length);
  grown(f, what.offset + what.length);
}

static void zeroed(walked *f, off_t offset, off_t end) {
  if (end > offset) memset(f->copy + offset, 0, (size_t)(end - offset));
}

static void open_file(state *s, walked *f, int flags) {
  f->fd = opened(f->path, O_RDWR | flags);
  if (s->version >= 5) f->direct = opened(f->path, O_RDWR | O_DIRECT);
}

static void close_file(state *s, walked *f) {
  must(close(f->fd) == 0);
  if (s->version >= 5) must(close(f->direct) == 0);
}

static void mapped(state *s, walked *f, operation what) {
  off_t start = what.offset / BLOCK * BLOCK;
  size_t length = (size_t)(what.offset - start + what.length);
  int writes = what.kind == MAPPED_WRITE;
  if (writes && what.offset + what.length > f->size)
    must(ftruncate(f->fd, what.offset + what.length) == 0);
  unsigned char *map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, start);
  must(map != MAP_FAILED);
  if (writes) {
    memcpy(map + (what.offset - start), s->data, (size_t)what.length);
    written(s, f, what);
    if (chance(s, 2)) must(msync(map, length, MS_SYNC) == 0);
  } else {
    compare(s, f, map + (what.offset - start), what.offset, what.length);
  }
  must(munmap(map, length) == 0);
}

static void copy(int from, off_t offset, int to, off_t target, off_t left) {
  while (left > 0) {
    ssize_t done = copy_file_range(from, &offset, to, &target, (size_t)left, 0);
    must(done > 0);
    left -= done;
  }
}

static void ranged(state *s, operation what) {
  walked *from = &s->files[what.file], *to = &s->files[what.into];
  struct file_clone_range range = {from->fd, (uint64_t)what.offset, (uint64_t)what.length,
                                   (uint64_t)what.target};
  if (what.kind == CLONE && s->version == 4) {
    must(ioctl(to->fd, FICLONERANGE, &range) == 0);
  } else {
    if (what.kind == COPY_ALL) must(ftruncate(to->fd, to->size = 0) == 0);
    copy(from->fd, what.offset, to->fd, what.target, what.length);
  }
  if (what.kind == COPY_ALL) zeroed(to, 0, MOST);
  memmove(to->copy + what.target, from->copy + what.offset, (size_t)what.length);
  grown(to, what.target + what.length);
}

/* What the file says are holes reads as zeroes; its end is the last of them. */
static void sought(state *s, walked *f) {
  off_t hole = 0, data;
  while ((data = lseek(f->fd, hole, SEEK_DATA)) >= 0) {
    for (off_t n = hole; n < data; n++)
      if (f->copy[n]) wrong(s, f, n);
    hole = lseek(f->fd, data, SEEK_HOLE);
    must(hole > data && hole <= f->size);
  }
  must(errno == ENXIO);
  for (off_t n = hole; n < f->size; n++)
    if (f->copy[n]) wrong(s, f, n);
}

static void allocated(walked *f, operation what) {
  off_t end = what.offset + what.length, within = end < f->size ? end : f->size;
  int mode = what.kind == PUNCH       ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
             : what.kind == ZERO      ? FALLOC_FL_ZERO_RANGE
             : what.kind == KEEP_SIZE ? FALLOC_FL_KEEP_SIZE
                                      : 0;
  must(fallocate(f->fd, mode, what.offset, what.length) == 0);
  if (what.kind == PUNCH || what.kind == ZERO) zeroed(f, what.offset, within);
  if (what.kind == ALLOCATE || what.kind == ZERO) grown(f, end);
}

static void carried_out(state *s, operation what) {
  walked *f = &s->files[what.file];
  switch (what.kind) {
    case READ:
    case DIRECT_READ:
      get(what.kind == READ ? f->fd : f->direct, s->data, (size_t)what.length, what.offset);
      compare(s, f, s->data, what.offset, what.length);
      break;
    case WRITE:
    case DIRECT_WRITE:
      put(what.kind == WRITE ? f->fd : f->direct, s->data, (size_t)what.length, what.offset);
      written(s, f, what);
      break;
    case MAPPED_READ:
    case MAPPED_WRITE:
      mapped(s, f, what);
      break;
    case TRUNCATE:
      must(ftruncate(f->fd, what.offset) == 0);
      zeroed(f, what.offset, f->size);
      f->size = what.offset;
      break;
    case SYNC:
      forget(f->fd);
      break;
    case REOPEN:
      close_file(s, f);
      open_file(s, f, 0);
      break;
    case CLONE:
    case COPY:
    case COPY_ALL:
      ranged(s, what);
      break;
    case SEEK:
      sought(s, f);
      break;
    default:
      allocated(f, what);
  }
  must(size_of(s->files[what.into].fd) == s->files[what.into].size);
}

/*
 * One that is possible now.  A clone is of whole blocks.  Over NFS a copy goes to the other file:
 * within one the client copies by itself.
 */
static operation chosen(state *s) {
  operation what = {.file = (int)chance(s, FILES)};
  do what.kind = (kind_of)chance(s, KINDS);
  while (kinds[what.kind].since > s->version);
  off_t size = s->files[what.file].size, room = kinds[what.kind].inside ? size : MOST;
  int from = kinds[what.kind].from, other = s->version < 5 || what.kind == COPY_ALL;
  what.into = !from ? what.file : other ? FILES - 1 - what.file : (int)chance(s, FILES);
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
  if (what.kind == COPY_ALL) what.offset = what.target = 0, what.length = size;
  int overlaps =
      what.into == what.file && llabs((long long)(what.target - what.offset)) < what.length;
  if (what.length == 0 || (from && overlaps)) {
    what.kind = SYNC;
    what.into = what.file;
  }
  return what;
}

static void renewed(state *s) {
  char line[16];
  for (int n = 0; n < FILES; n++) close_file(s, &s->files[n]);
  printf("RENEW\n");
  must(fgets(line, sizeof line, stdin) != NULL);
  for (int n = 0; n < FILES; n++) open_file(s, &s->files[n], 0);
  compare_all(s);
}

int fsx(const char *path, uint64_t seed, long count, const char *version) {
  static state s;
  s.version = strcmp(version, "3") == 0 ? 3 : strcmp(version, "4.2") == 0 ? 4 : 5;
  for (int n = 0; n < FILES; n++) {
    snprintf(s.files[n].path, PATH_MAX, "%s-%d", path, n);
    open_file(&s, &s.files[n], O_CREAT | O_TRUNC);
  }
  s.seed = seed;
  s.random = seed * 2 + 1;
  for (int n = 0; n < 20; n++) chance(&s, 2);
  for (s.number = 0; s.number < count; s.number++) {
    operation what = chosen(&s);
    s.last[s.number % KEPT] = what;
    pattern(s.data, (size_t)what.length, seed, (uint64_t)s.number << 20);
    carried_out(&s, what);
    if (s.version >= 5 && (s.number + 1) % RENEW_EVERY == 0) renewed(&s);
  }
  for (int n = 0; n < FILES; n++) forget(s.files[n].fd);
  compare_all(&s);
  for (int n = 0; n < FILES; n++) {
    close_file(&s, &s.files[n]);
    must(unlink(s.files[n].path) == 0);
  }
  return 0;
}
