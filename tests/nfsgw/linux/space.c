/* Space by NFSv4.2: clones of files and ranges, copies, holes that are made and found. */
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "check.h"

enum { BLOCKS = 64, SIZE = BLOCKS * BLOCK };

static int clone_range(int from, off_t offset, off_t length, int to, off_t target) {
  struct file_clone_range range = {from, (uint64_t)offset, (uint64_t)length, (uint64_t)target};
  return ioctl(to, FICLONERANGE, &range);
}

static void whole_files(const char *dir) {
  const char *path = at(dir, "source"), *other = at(dir, "clone");
  make(path, SIZE + 123, 1);
  int from = opened(path, O_RDWR), to = opened(other, O_RDWR | O_CREAT);
  must(ioctl(to, FICLONE, from) == 0 && size_of(to) == SIZE + 123);
  forget(to);
  is_pattern(to, 0, SIZE + 123, 1);
  put(to, "changed", 7, 5 * BLOCK - 3);
  put(from, "elsewhere", 9, 9 * BLOCK);
  forget(to);
  forget(from);
  is_pattern(from, 0, 9 * BLOCK, 1);
  is_pattern(to, 5 * BLOCK + 4, SIZE + 123 - 5 * BLOCK - 4, 1);
  must(close(from) == 0 && unlink(path) == 0);
  is_pattern(to, 0, 5 * BLOCK - 3, 1);
  must(close(to) == 0 && unlink(other) == 0);
}

static void ranges(const char *dir) {
  const char *path = at(dir, "source"), *other = at(dir, "target");
  make(path, SIZE + 100, 1);
  make(other, 8 * BLOCK, 2);
  int from = opened(path, O_RDWR), to = opened(other, O_RDWR);
  must(clone_range(from, 3 * BLOCK, 2 * BLOCK, to, 4 * BLOCK) == 0);
  is_pattern(to, 0, 4 * BLOCK, 2);
  is_pattern(to, 6 * BLOCK, 2 * BLOCK, 2);
  unsigned char found[2 * BLOCK], wanted[2 * BLOCK];
  get(to, found, sizeof found, 4 * BLOCK);
  pattern(wanted, sizeof wanted, 1, 3 * BLOCK);
  must(memcmp(found, wanted, sizeof found) == 0);
  fails(EINVAL, clone_range(from, 1, BLOCK, to, 0));
  fails(EINVAL, clone_range(from, 0, BLOCK, to, 1));
  fails(EINVAL, clone_range(from, 0, 100, to, 0));
  fails(EINVAL, clone_range(from, 0, SIZE + BLOCK, to, 0));
  /* a tail that ends with the source, past the end of the target: it grows */
  must(clone_range(from, 0, 0, to, 16 * BLOCK) == 0);
  must(size_of(to) == 16 * BLOCK + SIZE + 100);
  forget(to);
  is_zero(to, 8 * BLOCK, 8 * BLOCK);
  /* within one file; not onto itself */
  must(clone_range(from, 0, 4 * BLOCK, from, 32 * BLOCK) == 0);
  fails(EINVAL, clone_range(from, 0, 4 * BLOCK, from, 2 * BLOCK));
  forget(from);
  get(from, found, BLOCK, 33 * BLOCK);
  pattern(wanted, BLOCK, 1, BLOCK);
  must(memcmp(found, wanted, BLOCK) == 0);
  must(close(from) == 0 && close(to) == 0 && unlink(path) == 0 && unlink(other) == 0);
}

/* copy_file_range takes any offsets. */
static void copies(const char *dir) {
  const char *path = at(dir, "source"), *other = at(dir, "target");
  make(path, SIZE, 1);
  int from = opened(path, O_RDWR), to = opened(other, O_RDWR | O_CREAT);
  off_t source = 1001, target = 77;
  size_t left = SIZE - 1001;
  while (left > 0) {
    ssize_t done = copy_file_range(from, &source, to, &target, left, 0);
    must(done > 0);
    left -= (size_t)done;
  }
  must(copy_file_range(from, &source, to, &target, 1, 0) == 0);
  forget(to);
  must(size_of(to) == SIZE - 1001 + 77);
  is_zero(to, 0, 77);
  unsigned char found[BLOCK], wanted[BLOCK];
  for (off_t offset = 0; offset + BLOCK <= SIZE - 1001; offset += BLOCK) {
    get(to, found, BLOCK, 77 + offset);
    pattern(wanted, BLOCK, 1, (uint64_t)(1001 + offset));
    must(memcmp(found, wanted, BLOCK) == 0);
  }
  must(close(from) == 0 && close(to) == 0 && unlink(path) == 0 && unlink(other) == 0);
}

static void holes(const char *dir) {
  const char *path = at(dir, "holes");
  make(path, SIZE, 1);
  int fd = opened(path, O_RDWR);
  must(lseek(fd, 0, SEEK_HOLE) == SIZE && lseek(fd, 100, SEEK_DATA) == 100);
  must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8 * BLOCK, 4 * BLOCK) == 0);
  must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 99, 1000) == 0);
  forget(fd);
  must(size_of(fd) == SIZE);
  is_pattern(fd, 0, 99, 1);
  is_zero(fd, 99, 1000);
  is_pattern(fd, 1099, 8 * BLOCK - 1099, 1);
  is_zero(fd, 8 * BLOCK, 4 * BLOCK);
  is_pattern(fd, 12 * BLOCK, SIZE - 12 * BLOCK, 1);
  must(lseek(fd, 0, SEEK_HOLE) == 8 * BLOCK && lseek(fd, 8 * BLOCK, SEEK_DATA) == 12 * BLOCK);
  must(lseek(fd, 9 * BLOCK + 5, SEEK_HOLE) == 9 * BLOCK + 5);
  fails(ENXIO, lseek(fd, SIZE, SEEK_DATA));
  fails(ENXIO, lseek(fd, SIZE + BLOCK, SEEK_HOLE));
  must(fallocate(fd, 0, SIZE, 10 * BLOCK + 5) == 0 && size_of(fd) == SIZE + 10 * BLOCK + 5);
  is_zero(fd, SIZE, 10 * BLOCK + 5);
  must(ftruncate(fd, SIZE * 2) == 0);
  must(lseek(fd, SIZE + 12 * BLOCK, SEEK_DATA) == -1 && errno == ENXIO);
  must(close(fd) == 0 && unlink(path) == 0);
}

int space(const char *dir) {
  whole_files(dir);
  ranges(dir);
  copies(dir);
  holes(dir);
  return 0;
}

/* What `cp --reflink=always` does. */
int cloned(const char *path, const char *to) {
  int from = opened(path, O_RDONLY), target = opened(to, O_WRONLY | O_CREAT | O_EXCL);
  must(ioctl(target, FICLONE, from) == 0);
  must(close(target) == 0 && close(from) == 0);
  return 0;
}

int punched(const char *path, off_t offset, off_t length) {
  int fd = opened(path, O_RDWR);
  must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) == 0);
  must(lseek(fd, offset, SEEK_DATA) >= offset + length || errno == ENXIO);
  must(close(fd) == 0);
  return 0;
}
