/*
 * A run: a file of sorted entries, and its filter, which is in memory whole. The filter gives the
 * rank of an entry, so a lookup that it does not refuse reads the one page that has the entry.
 *
 * A file's bytes are believed as far as their checksums go, and no checksum keeps a rank or a count
 * from pointing anywhere: all of them are compared with what there is before they are used.
 */
#include "index.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static const uint64_t MAGIC_RUN = 0x32304E5552544D52u; /* 'RMTRUN02' */
static const uint64_t MAGIC_OLD = 0x31304E5552544D52u; /* 'RMTRUN01' */
#define OLD_TAG_BITS 10u

/* The last page of a file. An old one has no keys' ends, and its checksum in their place. */
typedef struct {
  uint64_t magic, part, low, high, entries, groups, filter_checksum, ends_checksum, checksum;
} footer;

int read_whole(int fd, uint8_t *out, size_t length, uint64_t at) {
  while (length) {
    ssize_t got = pread(fd, out, length, (off_t)at);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got ? errno : EIO;
    out += got;
    at += (uint64_t)got;
    length -= (size_t)got;
  }
  return 0;
}

int write_whole(int fd, const uint8_t *data, size_t length, uint64_t at) {
  while (length) {
    ssize_t done = pwrite(fd, data, length, (off_t)at);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return errno;
    data += done;
    at += (uint64_t)done;
    length -= (size_t)done;
  }
  return 0;
}

static size_t whole_pages(size_t bytes) {
  return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

/* Groups and tags as they are in memory and in the file. */
size_t filter_bytes(uint64_t groups, uint64_t entries) {
  return whole_pages((groups + 1) * sizeof(group) + entries);
}

static size_t old_filter_bytes(uint64_t groups, uint64_t entries) {
  return whole_pages((groups + 1) * sizeof(group) + (entries * OLD_TAG_BITS + 7) / 8 + 4);
}

uint64_t ends_bytes(uint64_t entries) { return whole_pages(entries); }

uint64_t run_pages(uint64_t entries) { return (entries + PAGE_ENTRIES - 1) / PAGE_ENTRIES; }

uint64_t page_checksum(uint64_t seed, uint64_t number, const uint8_t *page) {
  return XXH3_64bits_withSeed(page + PAGE_HEADER, PAGE_BYTES - PAGE_HEADER,
                              seed ^ (number + 1) * 0x9E3779B97F4A7C15ull);
}

void run_free(run *r) {
  if (!r) return;
  free(r->filter);
  if (r->fd >= 0) close(r->fd);
  free(r);
}

static bool footer_is_sound(uint64_t seed, const footer *f, uint64_t length) {
  bool old = f->magic == MAGIC_OLD;
  size_t summed = old ? offsetof(footer, ends_checksum) : offsetof(footer, checksum);
  if ((!old && f->magic != MAGIC_RUN) ||
      XXH3_64bits_withSeed(f, summed, seed) != (old ? f->ends_checksum : f->checksum))
    return false;
  if (!f->entries || f->entries > UINT32_MAX || !f->groups || f->groups > length / sizeof(group) ||
      f->part >= PARTS || f->low > f->high)
    return false;
  uint64_t filter = old ? old_filter_bytes(f->groups, f->entries)
                        : filter_bytes(f->groups, f->entries) + ends_bytes(f->entries);
  return length == (run_pages(f->entries) + 1) * PAGE_BYTES + filter;
}

/* Tags of an old file to those of now, which are the first bits of them, in their place. */
static void shorten_tags(uint8_t *tags, uint64_t entries) {
  for (uint64_t i = 0; i < entries; i++) {
    uint64_t bit = i * OLD_TAG_BITS;
    uint32_t two = tags[bit / 8] | (uint32_t)tags[bit / 8 + 1] << 8;
    tags[i] = (uint8_t)(two >> ((bit & 7) + OLD_TAG_BITS - TAG_BITS));
  }
}

static int load_filter(uint64_t seed, run *r, const footer *f) {
  bool old = f->magic == MAGIC_OLD;
  size_t now = filter_bytes(f->groups, f->entries);
  size_t bytes = old ? old_filter_bytes(f->groups, f->entries) : now;
  r->filter = malloc(bytes + FILTER_SLACK);
  if (!r->filter) return RMT_NOMEM;
  r->tags = (uint8_t *)(r->filter + f->groups + 1);
  if (read_whole(r->fd, (uint8_t *)r->filter, bytes, run_pages(f->entries) * PAGE_BYTES) ||
      XXH3_64bits_withSeed(r->filter, bytes, seed) != f->filter_checksum ||
      r->filter[f->groups].rank != f->entries)
    return RMT_RANGE;
  for (uint64_t g = 0; g < f->groups; g++)
    if (r->filter[g].rank > r->filter[g + 1].rank) return RMT_RANGE;
  if (old) {
    shorten_tags(r->tags, f->entries);
    group *less = realloc(r->filter, now + FILTER_SLACK);
    if (less) r->filter = less;
    r->tags = (uint8_t *)(r->filter + f->groups + 1);
  } else {
    r->ends_at = run_pages(f->entries) * PAGE_BYTES + bytes;
    r->ends_checksum = f->ends_checksum;
  }
  memset((uint8_t *)r->filter + now, 0, FILTER_SLACK);
  return RMT_OK;
}

run *run_load(uint64_t seed, int fd, int *status) {
  struct stat file;
  footer f;
  run *r = calloc(1, sizeof *r);
  *status = r ? RMT_RANGE : RMT_NOMEM;
  if (!r) {
    close(fd);
    return NULL;
  }
  r->fd = fd;
  if (fstat(fd, &file) || file.st_size < (off_t)PAGE_BYTES ||
      read_whole(fd, (uint8_t *)&f, sizeof f, (uint64_t)file.st_size - PAGE_BYTES) ||
      !footer_is_sound(seed, &f, (uint64_t)file.st_size)) {
    run_free(r);
    return NULL;
  }
  r->part = (uint32_t)f.part;
  r->low = f.low;
  r->high = f.high;
  r->entries = f.entries;
  r->groups = f.groups;
  r->file_bytes = (uint64_t)file.st_size;
  *status = load_filter(seed, r, &f);
  if (*status != RMT_OK) {
    run_free(r);
    return NULL;
  }
  posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  return r;
}

int run_write_tail(uint64_t seed, run *r, const uint8_t *ends, uint64_t *written) {
  _Alignas(8) uint8_t page[PAGE_BYTES] = {0};
  uint64_t at = run_pages(r->entries) * PAGE_BYTES, rest = ends_bytes(r->entries);
  size_t bytes = filter_bytes(r->groups, r->entries);
  r->ends_at = at + bytes;
  r->ends_checksum = XXH3_64bits_withSeed(ends, rest, seed);
  r->file_bytes = at + bytes + rest + PAGE_BYTES;
  footer f = {MAGIC_RUN,
              r->part,
              r->low,
              r->high,
              r->entries,
              r->groups,
              XXH3_64bits_withSeed(r->filter, bytes, seed),
              r->ends_checksum,
              0};
  f.checksum = XXH3_64bits_withSeed(&f, offsetof(footer, checksum), seed);
  memcpy(page, &f, sizeof f);
  int error = write_whole(r->fd, (const uint8_t *)r->filter, bytes, at);
  if (!error) error = write_whole(r->fd, ends, rest, r->ends_at);
  if (!error) error = write_whole(r->fd, page, sizeof page, r->ends_at + rest);
  *written += r->file_bytes - at;
  return error;
}

static bool page_is_sound(const uint8_t *page, const uint8_t *ends, uint64_t entries,
                          uint64_t slots, fingerprint *last, uint64_t *past) {
  bool sound = true;
  for (uint64_t i = 0; i < entries; i++) {
    fingerprint f = entry_get(page + PAGE_HEADER + i * ENTRY_BYTES);
    sound &= f.address && (f.key > last->key || !last->address);
    sound &= !ends || ends[i] == (uint8_t)f.key;
    *past += f.address > slots;
    *last = f;
  }
  return sound;
}

int rmt_index_check(uint64_t seed, int fd, uint64_t slots, uint64_t *past, uint64_t *damaged) {
  uint8_t page[PAGE_BYTES], *ends = NULL;
  fingerprint last = {0, 0};
  int status, own = dup(fd);
  if (own < 0) return RMT_IO;
  run *r = run_load(seed, own, &status);
  if (!r) return status;
  if (r->ends_at) {
    uint64_t bytes = ends_bytes(r->entries);
    ends = malloc(bytes);
    if (!ends) {
      run_free(r);
      return RMT_NOMEM;
    }
    if (read_whole(fd, ends, bytes, r->ends_at) ||
        XXH3_64bits_withSeed(ends, bytes, seed) != r->ends_checksum) {
      ++*damaged;
      free(ends);
      ends = NULL;
    }
  }
  for (uint64_t n = 0; n < run_pages(r->entries); n++) {
    uint64_t left = r->entries - n * PAGE_ENTRIES,
             count = left < PAGE_ENTRIES ? left : PAGE_ENTRIES;
    bool sound =
        !read_whole(fd, page, sizeof page, n * PAGE_BYTES) &&
        page_checksum(seed, r->high ^ n << 32, page) == entry_get(page).key &&
        page_is_sound(page, ends ? ends + n * PAGE_ENTRIES : NULL, count, slots, &last, past);
    *damaged += !sound;
  }
  free(ends);
  run_free(r);
  return RMT_OK;
}
