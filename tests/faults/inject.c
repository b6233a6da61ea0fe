/*
 * Faults on demand: preloaded into the process under test, it stands in front of the calls that
 * write, sync and allocate, and makes the N-th of them fail. Nothing is simulated: the engine and
 * LMDB meet the errno (or the short write) where the kernel would have returned it.
 *
 * A call counts when its kind is in the armed mask and the path of its file contains the armed
 * text. The process arms it through ctypes, or the environment does (INJECT_KINDS, INJECT_PATH,
 * INJECT_NTH, INJECT_ERROR, INJECT_STICKY) for one that is out of reach.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, ALLOCATE = 4, NAME = 8, SHORT = -1 };

static _Atomic int kinds, fired, error_now, sticky;
static _Atomic long count, target;
static char wanted[256];

void inject_arm(int mask, const char *path, long nth, int error, int stays) {
  kinds = 0;
  snprintf(wanted, sizeof wanted, "%s", path);
  count = 0;
  fired = 0;
  target = nth;
  error_now = error;
  sticky = stays;
  kinds = mask;
}

void inject_disarm(void) { kinds = 0; }
int inject_fired(void) { return fired; }
long inject_count(void) { return count; }

__attribute__((constructor)) static void from_environment(void) {
  const char *mask = getenv("INJECT_KINDS"), *path = getenv("INJECT_PATH");
  const char *nth = getenv("INJECT_NTH"), *error = getenv("INJECT_ERROR");
  if (mask && path && nth && error)
    inject_arm(atoi(mask), path, atol(nth), atoi(error), getenv("INJECT_STICKY") != NULL);
}

/* 0: let the call through; otherwise the errno to fail with, or SHORT. */
static int fault(int kind, const char *path) {
  if (!(kinds & kind) || !strstr(path, wanted)) return 0;
  long n = ++count;
  if (n != target && !(sticky && fired && n > target)) return 0;
  fired = 1;
  return error_now;
}

static int fault_fd(int kind, int fd) {
  if (!(kinds & kind)) return 0;
  char link[32], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fault(kind, path);
}

#define REAL(name)               \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define FAIL_OR(kind, fd, call)   \
  int error = fault_fd(kind, fd); \
  if (error > 0) {                \
    errno = error;                \
    return -1;                    \
  }                               \
  return call

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  FAIL_OR(WRITE, fd, real(fd, data, error == SHORT ? size / 2 : size));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  REAL(pwrite);
  FAIL_OR(WRITE, fd, real(fd, data, error == SHORT ? size / 2 : size, at));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  REAL(pwrite64);
  FAIL_OR(WRITE, fd, real(fd, data, error == SHORT ? size / 2 : size, at));
}

ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t at) {
  REAL(pwritev);
  FAIL_OR(WRITE, fd,
          error == SHORT ? pwrite(fd, parts->iov_base, parts->iov_len / 2, at)
                         : real(fd, parts, n, at));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int n, off64_t at) {
  REAL(pwritev64);
  FAIL_OR(WRITE, fd,
          error == SHORT ? pwrite64(fd, parts->iov_base, parts->iov_len / 2, at)
                         : real(fd, parts, n, at));
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
  REAL(writev);
  FAIL_OR(WRITE, fd,
          error == SHORT ? write(fd, parts->iov_base, parts->iov_len / 2) : real(fd, parts, n));
}

int fsync(int fd) {
  REAL(fsync);
  FAIL_OR(SYNC, fd, real(fd));
}

int fdatasync(int fd) {
  REAL(fdatasync);
  FAIL_OR(SYNC, fd, real(fd));
}

int ftruncate(int fd, off_t length) {
  REAL(ftruncate);
  FAIL_OR(ALLOCATE, fd, real(fd, length));
}

int ftruncate64(int fd, off64_t length) {
  REAL(ftruncate64);
  FAIL_OR(ALLOCATE, fd, real(fd, length));
}

int fallocate(int fd, int mode, off_t at, off_t length) {
  REAL(fallocate);
  FAIL_OR(ALLOCATE, fd, real(fd, mode, at, length));
}

int fallocate64(int fd, int mode, off64_t at, off64_t length) {
  REAL(fallocate64);
  FAIL_OR(ALLOCATE, fd, real(fd, mode, at, length));
}

/* These two return the errno. */
int posix_fallocate(int fd, off_t at, off_t length) {
  REAL(posix_fallocate);
  int error = fault_fd(ALLOCATE, fd);
  return error > 0 ? error : real(fd, at, length);
}

int posix_fallocate64(int fd, off64_t at, off64_t length) {
  REAL(posix_fallocate64);
  int error = fault_fd(ALLOCATE, fd);
  return error > 0 ? error : real(fd, at, length);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  int error = fault(NAME, to);
  if (error > 0) {
    errno = error;
    return -1;
  }
  return real(from, to);
}

int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  int error = fault(NAME, path);
  if (error > 0) {
    errno = error;
    return -1;
  }
  return real(path, mode);
}
