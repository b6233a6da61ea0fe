#include "check.h"

#include <sys/wait.h>
#include <time.h>

_Noreturn void fail(const char *file, int line, const char *what) {
  printf("FAILED %s:%d: %s (errno %d: %s)\n", file, line, what, errno, strerror(errno));
  fflush(stdout);
  _exit(1);
}

const char *at(const char *dir, const char *name) {
  static char paths[8][PATH_MAX];
  static int turn;
  char *path = paths[turn++ % 8];
  must(snprintf(path, PATH_MAX, "%s/%s", dir, name) < PATH_MAX);
  return path;
}

int opened(const char *path, int flags) {
  int fd = open(path, flags, 0644);
  must(fd >= 0);
  return fd;
}

void pattern(unsigned char *out, size_t size, uint64_t seed, uint64_t offset) {
  for (size_t n = 0; n < size; n++) {
    uint64_t word = (seed << 40) + (offset + n) / 8;
    word *= 0x9e3779b97f4a7c15u;
    word ^= word >> 29;
    word *= 0xbf58476d1ce4e5b9u;
    out[n] = (unsigned char)(word >> (8 * ((offset + n) % 8)));
  }
}

void put(int fd, const void *data, size_t size, off_t offset) {
  must(pwrite(fd, data, size, offset) == (ssize_t)size);
}

void get(int fd, void *data, size_t size, off_t offset) {
  must(pread(fd, data, size, offset) == (ssize_t)size);
}

void make(const char *path, size_t size, uint64_t seed) {
  unsigned char *data = malloc(size);
  int fd = opened(path, O_RDWR | O_CREAT | O_TRUNC);
  must(data != NULL);
  pattern(data, size, seed, 0);
  put(fd, data, size, 0);
  must(fsync(fd) == 0 && close(fd) == 0);
  free(data);
}

void is_pattern(int fd, off_t offset, size_t size, uint64_t seed) {
  unsigned char *found = malloc(size), *wanted = malloc(size);
  must(found != NULL && wanted != NULL);
  get(fd, found, size, offset);
  pattern(wanted, size, seed, (uint64_t)offset);
  must(memcmp(found, wanted, size) == 0);
  free(found);
  free(wanted);
}

void is_zero(int fd, off_t offset, size_t size) {
  unsigned char *found = malloc(size), *wanted = calloc(1, size);
  must(found != NULL && wanted != NULL);
  get(fd, found, size, offset);
  must(memcmp(found, wanted, size) == 0);
  free(found);
  free(wanted);
}

void forget(int fd) {
  must(fsync(fd) == 0);
  must(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
}

off_t size_of(int fd) {
  struct stat found;
  must(fstat(fd, &found) == 0);
  return found.st_size;
}

void wait_for(pid_t child) {
  int status;
  must(waitpid(child, &status, 0) == child);
  must(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void appears(const char *path) {
  while (access(path, F_OK) != 0) {
    must(errno == ENOENT);
    nanosleep(&(struct timespec){0, 200000000}, NULL);
  }
}
