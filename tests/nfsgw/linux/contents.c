/* Bytes: patterns, holes, truncates, appends, mmap, direct I/O, offsets at the ends. */
#include <sys/mman.h>

#include "check.h"

static void pieces(const char *dir) {
  static const size_t sizes[] = {1, 511, 4096, 10000, 65536, MIB};
  static unsigned char data[MIB];
  const char *path = at(dir, "pieces");
  for (unsigned n = 0; n < sizeof sizes / sizeof *sizes; n++) {
    off_t end = n == 0 ? 3000 : 3 * MIB / 2;
    int fd = opened(path, O_RDWR | O_CREAT | O_TRUNC);
    for (off_t offset = 0; offset < end; offset += (off_t)sizes[n]) {
      pattern(data, sizes[n], n, (uint64_t)offset);
      put(fd, data, sizes[n], offset);
    }
    forget(fd);
    must(size_of(fd) >= end);
    is_pattern(fd, 0, (size_t)size_of(fd), n);
    must(pread(fd, data, 1, size_of(fd)) == 0);
    must(close(fd) == 0);
  }
  must(unlink(path) == 0);
}

static void holes(const char *dir) {
  static const off_t far[] = {MIB + 7, (off_t)5 << 30, (off_t)1 << 42};
  unsigned char data[5000];
  const char *path = at(dir, "holes");
  for (unsigned n = 0; n < sizeof far / sizeof *far; n++) {
    int fd = opened(path, O_RDWR | O_CREAT | O_TRUNC);
    pattern(data, sizeof data, 7, (uint64_t)far[n]);
    put(fd, data, sizeof data, far[n]);
    forget(fd);
    must(size_of(fd) == far[n] + (off_t)sizeof data);
    is_zero(fd, 0, MIB);
    is_zero(fd, far[n] - 5001, 5001);
    is_pattern(fd, far[n], sizeof data, 7);
    must(close(fd) == 0);
  }
  int fd = opened(path, O_RDWR);
  fails(EINVAL, lseek(fd, -1, SEEK_SET));
  fails(EINVAL, pread(fd, data, 1, -1));
  fails(EINVAL, ftruncate(fd, -1));
  must(close(fd) == 0 && unlink(path) == 0);
}

static void truncates(const char *dir) {
  const char *path = at(dir, "truncates");
  make(path, 3 * BLOCK, 1);
  int fd = opened(path, O_RDWR);
  must(ftruncate(fd, BLOCK + 100) == 0 && size_of(fd) == BLOCK + 100);
  must(ftruncate(fd, 3 * BLOCK) == 0);
  forget(fd);
  is_pattern(fd, 0, BLOCK + 100, 1);
  is_zero(fd, BLOCK + 100, 2 * BLOCK - 100);
  must(truncate(path, 0) == 0 && size_of(fd) == 0);
  must(truncate(path, 10) == 0);
  is_zero(fd, 0, 10);
  must(close(fd) == 0);
  fd = opened(path, O_WRONLY | O_TRUNC);
  must(size_of(fd) == 0 && close(fd) == 0 && unlink(path) == 0);
}

static void appends(const char *dir) {
  const char *path = at(dir, "appends");
  unsigned char data[777];
  int one = opened(path, O_WRONLY | O_CREAT | O_APPEND);
  int two = opened(path, O_WRONLY | O_APPEND);
  for (unsigned n = 0; n < 60; n++) {
    pattern(data, sizeof data, 3, n * sizeof data);
    must(write(n % 2 ? one : two, data, sizeof data) == (ssize_t)sizeof data);
  }
  must(close(one) == 0 && close(two) == 0);
  int fd = opened(path, O_RDWR);
  forget(fd);
  must(size_of(fd) == 60 * (off_t)sizeof data);
  is_pattern(fd, 0, 60 * sizeof data, 3);
  must(close(fd) == 0 && unlink(path) == 0);
}

static void maps(const char *dir) {
  enum { SIZE = 64 * BLOCK };
  const char *path = at(dir, "maps");
  int fd = opened(path, O_RDWR | O_CREAT);
  must(ftruncate(fd, SIZE) == 0);
  unsigned char *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  must(map != MAP_FAILED);
  pattern(map + 5, SIZE - 10, 4, 5);
  must(msync(map, SIZE, MS_SYNC) == 0 && munmap(map, SIZE) == 0);
  forget(fd);
  is_zero(fd, 0, 5);
  is_pattern(fd, 5, SIZE - 10, 4);
  map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  must(map != MAP_FAILED);
  memset(map, 0xff, SIZE);
  is_pattern(fd, 5, SIZE - 10, 4);
  must(munmap(map, SIZE) == 0 && close(fd) == 0 && unlink(path) == 0);
}

/* Without the client's pages: each write is one or more requests at once, each read too. */
static void direct(const char *dir) {
  enum { SIZE = MIB + BLOCK };
  const char *path = at(dir, "direct");
  unsigned char *data;
  must(posix_memalign((void **)&data, BLOCK, SIZE) == 0);
  int fd = opened(path, O_RDWR | O_CREAT | O_DIRECT);
  pattern(data, SIZE, 5, 3 * BLOCK);
  put(fd, data, SIZE, 3 * BLOCK);
  memset(data, 0xff, SIZE);
  get(fd, data, SIZE, 2 * BLOCK);
  for (int n = 0; n < BLOCK; n++) must(data[n] == 0);
  int other = opened(path, O_RDWR);
  is_pattern(other, 3 * BLOCK, SIZE, 5);
  must(close(other) == 0 && close(fd) == 0 && unlink(path) == 0);
  free(data);
}

int contents(const char *dir) {
  pieces(dir);
  holes(dir);
  truncates(dir);
  appends(dir);
  maps(dir);
  direct(dir);
  return 0;
}
