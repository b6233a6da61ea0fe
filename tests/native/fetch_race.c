/*
 * The fetchers under ThreadSanitizer: the engine thread writes, adds slabs, plans and takes, while
 * threads fetch. What is pinned is not written over, so every answer has the bytes of its begin.
 *
 *   fetch_race DIRECTORY SECONDS
 */
#include "core.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define BLOCKS 512u
#define SLOTS 256u
#define JOBS 32u
#define CHECK(holds)                                      \
  do {                                                    \
    if (!(holds)) {                                       \
      fprintf(stderr, "line %d: %s\n", __LINE__, #holds); \
      exit(1);                                            \
    }                                                     \
  } while (0)

static rmt_core *core;
static rmt_tree tree;
static uint32_t slabs;
static const char *directory;

static void add_slab(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%u", directory, slabs);
  int fd = open(path, O_RDWR | O_CREAT, 0600);
  CHECK(fd >= 0 && !ftruncate(fd, SLOTS * (off_t)RMT_BLOCK));
  CHECK(rmt_add_slab(core, slabs++, fd) == RMT_OK);
}

static void write_block(uint64_t block, uint64_t value) {
  static uint64_t data[RMT_BLOCK / 8];
  rmt_written written;
  rmt_failure failure;
  rmt_source source = {(uint8_t *)data, 1, 0};
  int status;
  for (uint32_t i = 0; i < RMT_BLOCK / 8; i++) data[i] = value;
  while ((status = rmt_write(core, &tree, block, 1, &source, true, true, &written, &failure)) ==
         RMT_NEED_SLAB)
    add_slab();
  CHECK(status == RMT_OK);
}

static void drop_pages(void) {
  for (uint32_t s = 0; s < slabs; s++) {
    fdatasync(core->slabs[s].fd);
    posix_fadvise(core->slabs[s].fd, 0, 0, POSIX_FADV_DONTNEED);
  }
}

/* Nothing is freed for good here, so all slots stay pinned. */
static void run(rmt_fetchers *fetchers, int answers, double seconds) {
  uint64_t tags[16], begun = 0, ended = 0, value = BLOCKS, notes_seen = 0;
  rmt_fetched noted[16];
  uint32_t notes;
  time_t until = time(NULL) + (time_t)seconds;
  while (time(NULL) < until) {
    for (uint32_t i = 0; i < JOBS; i++) {
      uint64_t block = (begun * 7919) % BLOCKS, skip = begun % 3 * 100;
      size_t length = begun % 50 ? RMT_BLOCK - skip : 60 * RMT_BLOCK;
      if (block + 61 > BLOCKS) length = RMT_BLOCK - skip;
      if (rmt_fetch_begin(fetchers, core, &tree, block * RMT_BLOCK + skip, length,
                          (const uint8_t *)"prefix", 6, answers, begun) == RMT_OK)
        begun++;
      if (begun % 16 == 0 && slabs < 200) write_block(value % BLOCKS, value), value++;
    }
    if (begun % 64 < 4) drop_pages();
    uint32_t count = rmt_fetch_take(fetchers, tags, 16, noted, &notes);
    ended += count;
    for (uint32_t n = 0; n < notes; n++) CHECK(noted[n].status == RMT_OK);
    notes_seen += notes;
  }
  rmt_fetchers_stop(fetchers);
  uint32_t count;
  do {
    count = rmt_fetch_take(fetchers, tags, 16, noted, &notes);
    for (uint32_t n = 0; n < notes; n++) CHECK(noted[n].status == RMT_OK);
    ended += count;
  } while (count);
  CHECK(begun == ended && begun > 100);
  printf("%llu jobs, %llu warm, %u slabs\n", (unsigned long long)ended,
         (unsigned long long)notes_seen, slabs);
}

int main(int argc, char **argv) {
  CHECK(argc == 3);
  directory = argv[1];
  core = rmt_new(252, SLOTS, 7, 256, 1024);
  CHECK(core);
  rmt_state(core)->next_id = 1;
  rmt_state(core)->epoch = 1;
  for (uint64_t block = 0; block < BLOCKS; block++) write_block(block, block + 1);
  int wake = eventfd(0, EFD_NONBLOCK), answers = open("/dev/null", O_WRONLY);
  rmt_fetchers *fetchers = rmt_fetchers_new(8, JOBS, wake);
  CHECK(fetchers && answers >= 0);
  run(fetchers, answers, atof(argv[2]));
  rmt_fetchers_free(fetchers);
  rmt_free(core);
  return 0;
}
