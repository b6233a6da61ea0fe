/*
 * A disk on which one place is slow: preloaded into the daemon, it holds back each pread at the
 * offset SLOW_AT for as long as the file SLOW_GATE is there, makes the file SLOW_HELD when it does,
 * and lets nothing there be warm.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

static int held_back(off_t at) {
  const char *slow = getenv("SLOW_AT"), *gate = getenv("SLOW_GATE");
  return slow && gate && atoll(slow) == at && !access(gate, F_OK);
}

ssize_t pread(int fd, void *data, size_t size, off_t at) {
  static ssize_t (*real)(int, void *, size_t, off_t);
  if (!real) real = (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread");
  while (held_back(at)) {
    close(open(getenv("SLOW_HELD"), O_CREAT | O_WRONLY, 0600));
    usleep(1000);
  }
  return real(fd, data, size, at);
}

ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
  static ssize_t (*real)(int, const struct iovec *, int, off_t, int);
  if (!real)
    real = (ssize_t(*)(int, const struct iovec *, int, off_t, int))dlsym(RTLD_NEXT, "preadv2");
  if (flags & RWF_NOWAIT && held_back(at)) {
    errno = EAGAIN;
    return -1;
  }
  return real(fd, parts, count, at, flags);
}
