/*
 * Which free slots take space on the host already: asked when its file system is full, because a
 * write into such a slot needs no more. What a core has punched itself it knows; this tells it of
 * what was punched before it was made, and of slabs that were made sparse.
 *
 * FIEMAP tells extents that are allocated and not written, too, and such as wait for the page cache
 * to be written. Where there is none (tmpfs) SEEK_DATA tells of what was written. A file system
 * that knows neither says that all of a file is data: then a write that fails says better. One that
 * writes again elsewhere (btrfs) needs no more only for what is allocated and not written; all need
 * more for what another file shares.
 */
#include "core.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define EXTENTS 128u

/* The part of a slab that was looked at ends at `done`; [start, end): bytes that take space. */
typedef struct {
  rmt_core *core;
  uint32_t number, done;
  uint64_t start, end;
} look;

static void note_extent(look *l) {
  uint64_t slots = l->core->slab_slots, from = (l->start + RMT_BLOCK - 1) / RMT_BLOCK;
  uint64_t to = l->end / RMT_BLOCK;
  if (to > slots) to = slots;
  if (from >= to || to <= l->done) return;
  slots_know(l->core, l->number, l->done, (uint32_t)from, true);
  slots_know(l->core, l->number, (uint32_t)from, (uint32_t)to, false);
  l->done = (uint32_t)to;
}

/* Extents come in order; those that meet are one. */
static void see(look *l, uint64_t start, uint64_t end) {
  if (start != l->end) {
    note_extent(l);
    l->start = start;
  }
  l->end = end;
}

typedef union {
  struct fiemap map;
  uint8_t bytes[sizeof(struct fiemap) + EXTENTS * sizeof(struct fiemap_extent)];
} extents;

/* Those from `at` on, as many as there is room for; -1: the file system does not tell. */
static int ask(extents *asked, int fd, uint64_t at, uint64_t end) {
  do {
    memset(&asked->map, 0, sizeof asked->map);
    asked->map.fm_start = at;
    asked->map.fm_length = end - at;
    asked->map.fm_extent_count = EXTENTS;
    if (!ioctl(fd, FS_IOC_FIEMAP, &asked->map))
      return asked->map.fm_mapped_extents > EXTENTS ? -1 : (int)asked->map.fm_mapped_extents;
  } while (errno == EINTR);
  return -1;
}

static bool by_map(look *l, int fd, uint64_t size) {
  extents asked;
  bool in_place = rmt_overwrites_in_place(fd);
  for (uint64_t at = 0; at < size;) {
    int count = ask(&asked, fd, at, size);
    if (count <= 0) return !count;
    for (int i = 0; i < count; i++) {
      const struct fiemap_extent *e = &asked.map.fm_extents[i];
      if (e->fe_logical + e->fe_length <= at) return false; /* it would not end */
      at = e->fe_logical + e->fe_length;
      bool own = !(e->fe_flags & FIEMAP_EXTENT_SHARED);
      if (own && (in_place || e->fe_flags & FIEMAP_EXTENT_UNWRITTEN)) see(l, e->fe_logical, at);
      if (e->fe_flags & FIEMAP_EXTENT_LAST) return true;
    }
  }
  return true;
}

uint64_t rmt_backed_end(int fd, uint64_t from) {
  extents asked;
  for (uint64_t at = from;;) {
    int count = ask(&asked, fd, at, INT64_MAX);
    for (int i = 0; i < count; i++) {
      const struct fiemap_extent *e = &asked.map.fm_extents[i];
      uint64_t end = e->fe_logical + e->fe_length;
      if (e->fe_logical > at || end <= at || e->fe_flags & FIEMAP_EXTENT_SHARED) return at;
      at = end;
    }
    if (count < (int)EXTENTS) return at;
  }
}

static bool by_seeking(look *l, int fd, uint64_t size) {
  for (off_t at = 0, start; (uint64_t)at < size;) {
    start = lseek(fd, at, SEEK_DATA);
    if (start < 0) return errno == ENXIO; /* a hole to its end */
    at = lseek(fd, start, SEEK_HOLE);
    if (at <= start) return false;
    see(l, (uint64_t)start, (uint64_t)at);
  }
  return true;
}

/* What is not told stays as it is. */
static void look_at(rmt_core *core, uint32_t number) {
  uint64_t size = (uint64_t)core->slab_slots * RMT_BLOCK;
  int fd = core->slabs[number].fd;
  look l = {.core = core, .number = number};
  bool told = by_map(&l, fd, size);
  if (!told) {
    l = (look){.core = core, .number = number};
    told = by_seeking(&l, fd, size);
  }
  if (!told) return;
  note_extent(&l);
  slots_know(core, number, l.done, core->slab_slots, true);
}

void rmt_learn_holes(rmt_core *core) {
  for (uint32_t number = 0; number < core->slab_count; number++) {
    slab *s = &core->slabs[number];
    if (!s->present || s->known) continue;
    look_at(core, number);
    s->known = true;
  }
}
