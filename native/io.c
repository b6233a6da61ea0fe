/*
 * Block reads. A read is resolve (walk the map) and fetch (pread, check every block); the second
 * half touches no cache, so a thread may run it.
 *
 * Without `wait` nothing here waits for a disk to read (RWF_NOWAIT): what is not in the page cache
 * is RMT_COLD, and nothing has changed. The kernel has begun to read it by then. A file system
 * that cannot tell (tmpfs, which is always warm; FUSE) is waited for all the same.
 */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#define FETCH_BLOCKS 512u

static bool in_a_slab(const rmt_core *core, uint64_t address) {
  uint64_t number = address / core->slab_slots;
  return number < RMT_SLABS_MAX && core->slabs[number].present;
}

static ssize_t read_nowait(int fd, uint8_t *out, size_t length, off_t at) {
  struct iovec whole = {out, length};
  return preadv2(fd, &whole, 1, at, RWF_NOWAIT);
}

/* Past the end of any file there is nothing to read, or to begin to read. */
bool io_nowait(int fd) {
  uint8_t byte;
  return read_nowait(fd, &byte, 1, (off_t)1 << 60) == 0;
}

int read_slots(const rmt_core *core, uint64_t address, uint8_t *out, size_t length, bool wait) {
  uint64_t number = address / core->slab_slots;
  if (!in_a_slab(core, address)) return EIO;
  const slab *s = &core->slabs[number];
  off_t at = (off_t)(address % core->slab_slots) * RMT_BLOCK;
  wait |= !s->nowait;
  while (length) {
    ssize_t got = wait ? pread(s->fd, out, length, at) : read_nowait(s->fd, out, length, at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) { /* past the end of a slab file that was cut: the check will fail */
      memset(out, 0, length);
      return 0;
    }
    out += got;
    at += got;
    length -= (size_t)got;
  }
  return 0;
}

static int read_failed(const rmt_failure *failure) {
  return failure->error == EAGAIN ? RMT_COLD : RMT_IO;
}

static int check_block(const rmt_core *core, const uint8_t *data, uint64_t checksum, uint64_t block,
                       uint64_t address, rmt_failure *failure) {
  if (rmt_hash(core, data, RMT_BLOCK) == checksum) return RMT_OK;
  failure->block = block;
  failure->address = address;
  return RMT_CORRUPT_BLOCK;
}

/* One block of which only a part is wanted. */
static int fetch_part(const rmt_core *core, uint64_t address, uint64_t checksum, uint64_t block,
                      size_t skip, uint8_t *out, size_t length, bool wait, rmt_failure *failure) {
  uint8_t scratch[RMT_BLOCK];
  failure->error = read_slots(core, address, scratch, RMT_BLOCK, wait);
  if (failure->error) return read_failed(failure);
  int status = check_block(core, scratch, checksum, block, address, failure);
  if (status == RMT_OK) memcpy(out, scratch + skip, length);
  return status;
}

int rmt_fetch(const rmt_core *core, const uint64_t *addresses, const uint64_t *checksums,
              uint64_t first, uint64_t count, uint64_t skip, uint8_t *buffer, size_t length,
              int wait, rmt_failure *failure) {
  uint64_t i = 0;
  while (length && i < count) {
    size_t part = RMT_BLOCK - skip < length ? RMT_BLOCK - skip : length;
    uint64_t run = 1, size = part;
    int status = RMT_OK;
    if (addresses[i] == RMT_HOLE) {
      while (i + run < count && addresses[i + run] == RMT_HOLE && size < length) {
        size += length - size < RMT_BLOCK ? length - size : RMT_BLOCK;
        run++;
      }
      memset(buffer, 0, size);
    } else if (!in_a_slab(core, addresses[i])) {
      failure->block = first + i;
      failure->address = addresses[i];
      status = RMT_CORRUPT_BLOCK;
    } else if (part < RMT_BLOCK) {
      status = fetch_part(core, addresses[i], checksums[i], first + i, skip, buffer, part, wait,
                          failure);
    } else {
      uint64_t room = core->slab_slots - addresses[i] % core->slab_slots;
      while (i + run < count && run < room && addresses[i + run] == addresses[i] + run &&
             length - size >= RMT_BLOCK) {
        size += RMT_BLOCK;
        run++;
      }
      failure->error = read_slots(core, addresses[i], buffer, size, wait);
      if (failure->error) return read_failed(failure);
      for (uint64_t b = 0; b < run && status == RMT_OK; b++)
        status = check_block(core, buffer + b * RMT_BLOCK, checksums[i + b], first + i + b,
                             addresses[i + b], failure);
    }
    if (status != RMT_OK) return status;
    buffer += size;
    length -= size;
    skip = 0;
    i += run;
  }
  return RMT_OK;
}

void note_cold(rmt_core *core, uint64_t address) {
  if (address != RMT_HOLE) core->cold[core->state.cold++] = address;
}

void rmt_cold(const rmt_core *core, uint64_t *out) {
  memcpy(out, core->cold, core->state.cold * sizeof *out);
}

static uint64_t run_of_slots(const rmt_core *core, const uint64_t *addresses, uint64_t count) {
  uint64_t room = core->slab_slots - addresses[0] % core->slab_slots, run = 1;
  while (run < count && run < room && addresses[run] == addresses[0] + run) run++;
  return run;
}

void rmt_ask(const rmt_core *core, const uint64_t *addresses, uint64_t count) {
  for (uint64_t i = 0, run = 1; i < count; i += run, run = 1) {
    if (addresses[i] == RMT_HOLE || !in_a_slab(core, addresses[i])) continue;
    run = run_of_slots(core, addresses + i, count - i);
    int fd = core->slabs[addresses[i] / core->slab_slots].fd;
    off_t at = (off_t)(addresses[i] % core->slab_slots) * RMT_BLOCK;
    (void)posix_fadvise(fd, at, (off_t)run * RMT_BLOCK, POSIX_FADV_WILLNEED); /* advice only */
  }
}

/* What fails, or is another block's by now, is no matter: nobody looks at what is read here. */
void rmt_warm(const rmt_core *core, const uint64_t *addresses, uint64_t count) {
  uint8_t scratch[RMT_BLOCK];
  rmt_ask(core, addresses, count);
  for (uint64_t i = 0; i < count; i++)
    if (addresses[i] != RMT_HOLE) (void)read_slots(core, addresses[i], scratch, RMT_BLOCK, true);
}

int rmt_read(rmt_core *core, const rmt_tree *tree, uint64_t offset, uint8_t *buffer, size_t length,
             int wait, rmt_failure *failure) {
  uint64_t addresses[FETCH_BLOCKS], checksums[FETCH_BLOCKS];
  while (length) {
    uint64_t first = offset / RMT_BLOCK, skip = offset % RMT_BLOCK;
    uint64_t count = (skip + length + RMT_BLOCK - 1) / RMT_BLOCK;
    if (count > FETCH_BLOCKS) count = FETCH_BLOCKS;
    size_t size = count * RMT_BLOCK - skip < length ? count * RMT_BLOCK - skip : length;
    int status = rmt_resolve(core, tree, first, count, addresses, checksums);
    if (status == RMT_OK)
      status =
          rmt_fetch(core, addresses, checksums, first, count, skip, buffer, size, wait, failure);
    if (status == RMT_COLD) {
      core->state.cold = 0;
      for (uint64_t i = 0; i < count; i++) note_cold(core, addresses[i]);
    }
    if (status != RMT_OK) return status;
    offset += size;
    buffer += size;
    length -= size;
  }
  return RMT_OK;
}

unsigned rmt_read_pieces(rmt_core *core, const rmt_tree *tree, const rmt_piece *pieces,
                         unsigned count, uint8_t *buffer, rmt_failure *failure) {
  for (unsigned i = 0; i < count; i++)
    if (rmt_read(core, tree, pieces[i].offset, buffer + pieces[i].at, pieces[i].size, 0, failure))
      return i;
  return count;
}
