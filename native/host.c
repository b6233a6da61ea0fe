/*
 * What the host file system is asked for, and what Python has no call for: space that is allocated
 * now and written later, whether writing again what was written takes new space, that what is
 * written be on its way to the disk, and whether a descriptor is ready by now.
 */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/vfs.h>
#include <time.h>

#ifdef RMT_FAIL_ALLOC
long rmt_alloc_count, rmt_alloc_fail;
#endif

/* Magic numbers of linux/magic.h, and of those that are not in it. */
#define BTRFS_MAGIC 0x9123683Eu
#define ZFS_MAGIC 0x2FC12FC1u
#define BCACHEFS_MAGIC 0xCA451A4Eu
#define NILFS_MAGIC 0x3434u
#define F2FS_MAGIC 0xF2F52010u

int rmt_allocate(int fd, uint64_t offset, uint64_t length, int keep_size) {
  int mode = keep_size ? FALLOC_FL_KEEP_SIZE : 0;
  while (fallocate(fd, mode, (off_t)offset, (off_t)length)) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

/* Advice only: waits for no disk that is not overloaded, makes nothing durable, and leaves an error
 * to the fdatasync that comes. */
void rmt_begin_write_back(int fd) { (void)sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE); }

int rmt_poll(int fd, int other, int64_t nanoseconds) {
  struct pollfd asked[2] = {{.fd = fd, .events = POLLIN}, {.fd = other, .events = POLLIN}};
  struct timespec begun, now;
  clock_gettime(CLOCK_MONOTONIC, &begun);
  do {
    if (poll(asked, 2, 0)) return (asked[0].revents ? 1 : 0) | (asked[1].revents ? 2 : 0);
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while ((now.tv_sec - begun.tv_sec) * 1000000000 + now.tv_nsec - begun.tv_nsec < nanoseconds);
  return 0;
}

int rmt_overwrites_in_place(int fd) {
  struct statfs host;
  if (fstatfs(fd, &host)) return 0;
  switch ((uint32_t)host.f_type) {
    case BTRFS_MAGIC:
    case ZFS_MAGIC:
    case BCACHEFS_MAGIC:
    case NILFS_MAGIC:
    case F2FS_MAGIC:
      return 0;
    default:
      return 1;
  }
}
