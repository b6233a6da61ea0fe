/*
 * A load that outlives its server: blocks written, synced, told.
 *
 * Each block is written once, at its own place, as a pattern of seed 1.  A burst is many requests
 * (a client asks for a single one to be stable at once), so most of what a killed server has
 * answered it has not promised yet.  A line "SYNCED n" says that the blocks before n have been
 * acknowledged by fsync; it goes on until a name appears.
 */
#include "check.h"

enum { BURST = 512 };

int load(const char *path, const char *until) {
  static unsigned char data[BLOCK];
  int fd = opened(path, O_RDWR | O_CREAT | O_TRUNC);
  for (uint64_t n = 0; access(until, F_OK) != 0; n += BURST) {
    must(errno == ENOENT);
    for (uint64_t each = n; each < n + BURST; each++) {
      pattern(data, BLOCK, 1, each * BLOCK);
      put(fd, data, BLOCK, (off_t)(each * BLOCK));
    }
    must(fsync(fd) == 0);
    printf("SYNCED %llu\n", (unsigned long long)(n + BURST));
  }
  must(close(fd) == 0);
  return verify(path);
}

/* That a file is what `load` writes, from its first byte to its last. */
int verify(const char *path) {
  int fd = opened(path, O_RDWR);
  off_t size = size_of(fd);
  forget(fd);
  must(size > 0 && size % BLOCK == 0);
  for (off_t offset = 0; offset < size; offset += BLOCK) is_pattern(fd, offset, BLOCK, 1);
  must(close(fd) == 0);
  return 0;
}
