/*
 * Threads that fetch blocks and hand them on, so that a read which has to wait for a disk costs the
 * engine thread no more than its plan.
 *
 * A job is planned on the engine thread (the map is resolved, nothing waits), fetched on one of the
 * threads, into a buffer of its own, and what is whole is written to a descriptor behind a prefix,
 * by one writev. What is not whole is written nowhere: the engine thread hears of it, and says so
 * to whoever asked. It takes what has ended, many jobs at a time; until then a job keeps its
 * buffer.
 *
 *   free --begin--> queued --a thread--> fetching --> done --take--> free
 *
 * The caller keeps a job's slots from being used again, its core and its descriptor alive, from
 * begin to take. Jobs, buffers and threads are bounded: who finds no free job is told so.
 *
 * Who takes is woken when there is something to be told (a failure), when MANY have ended, or when
 * none is under way: what has ended well is in no hurry, and each wake costs a turn of a loop.
 */
#include "core.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define THREADS_MAX 64u
#define STACK_BYTES (256u << 10)
#define MANY 16u
#define SIZES 2u /* what a kernel reads ahead at a time, and all that it asks for in one piece */

typedef struct job {
  struct job *next;
  const rmt_core *core;
  uint64_t first, count, skip;
  uint64_t *addresses, *checksums;
  uint8_t *buffer, prefix[RMT_PREFIX_MAX];
  size_t length, prefix_bytes;
  int fd;
  uint32_t size;      /* which of the sizes */
  bool warm;          /* it had nothing to wait for */
  rmt_fetched result; /* for who takes it */
} job;

typedef struct {
  size_t bytes;
  uint32_t jobs;
  job *free; /* the engine thread's: the one that was used last comes first, its pages are there */
} job_size;

struct rmt_fetchers {
  job_size sizes[SIZES];
  job *jobs;
  uint64_t *entries; /* addresses and checksums of all jobs */
  uint8_t *buffers;
  size_t buffers_bytes;
  int wake_fd;
  uint32_t threads_max;

  pthread_mutex_t lock; /* of all that follows */
  pthread_cond_t work;
  job *first, **last; /* queued */
  job *done;
  uint32_t queued, fetching, finished; /* finished: in `done` */
  uint32_t threads, idle;              /* idle: wait for work, told of it or not */
  bool stopping;
  pthread_t ids[THREADS_MAX];
};

static size_t blocks_of(size_t bytes) { return bytes / RMT_BLOCK + 1; /* begins in one's middle */ }

static void share_out(rmt_fetchers *f) {
  job *j = f->jobs;
  uint64_t *entries = f->entries;
  uint8_t *buffer = f->buffers;
  for (uint32_t s = 0; s < SIZES; s++) {
    job_size *size = &f->sizes[s];
    for (uint32_t i = 0; i < size->jobs; i++, j++) {
      j->size = s;
      j->buffer = buffer;
      j->addresses = entries;
      j->checksums = entries + blocks_of(size->bytes);
      buffer += size->bytes;
      entries += 2 * blocks_of(size->bytes);
      j->next = size->free;
      size->free = j;
    }
  }
}

rmt_fetchers *rmt_fetchers_new(uint32_t threads_max, uint32_t jobs, int wake_fd) {
  rmt_fetchers *f = calloc(1, sizeof *f);
  if (!f) return NULL;
  f->sizes[0] = (job_size){.bytes = RMT_FETCH_SMALL, .jobs = jobs};
  f->sizes[1] = (job_size){.bytes = RMT_FETCH_LARGE, .jobs = (jobs + 3) / 4};
  f->wake_fd = wake_fd;
  f->threads_max = threads_max < THREADS_MAX ? threads_max : THREADS_MAX;
  f->last = &f->first;
  size_t all = 0, entries = 0;
  for (uint32_t s = 0; s < SIZES; s++) {
    all += f->sizes[s].jobs;
    entries += 2 * f->sizes[s].jobs * blocks_of(f->sizes[s].bytes);
    f->buffers_bytes += f->sizes[s].jobs * f->sizes[s].bytes;
  }
  f->jobs = calloc(all, sizeof *f->jobs);
  f->entries = malloc(entries * sizeof *f->entries);
  f->buffers = mmap(NULL, f->buffers_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (f->buffers == MAP_FAILED) f->buffers = NULL;
  pthread_mutex_init(&f->lock, NULL);
  pthread_cond_init(&f->work, NULL);
  if (!f->jobs || !f->entries || !f->buffers) {
    rmt_fetchers_free(f);
    return NULL;
  }
  share_out(f);
  return f;
}

void rmt_fetchers_free(rmt_fetchers *f) {
  if (f->buffers) munmap(f->buffers, f->buffers_bytes);
  free(f->entries);
  free(f->jobs);
  pthread_cond_destroy(&f->work);
  pthread_mutex_destroy(&f->lock);
  free(f);
}

static int attempt(job *j, bool wait, rmt_failure *failure) {
  if (wait && j->count > 1) rmt_ask(j->core, j->addresses, j->count);
  return rmt_fetch(j->core, j->addresses, j->checksums, j->first, j->count, j->skip, j->buffer,
                   j->length, wait, failure);
}

static void fetch(job *j) {
  rmt_failure failure = {0};
  int status = attempt(j, false, &failure);
  j->warm = status != RMT_COLD;
  if (!j->warm) status = attempt(j, true, &failure);
  j->result.status = status;
  j->result.failure = failure;
  if (status != RMT_OK) return;
  struct iovec vectors[2] = {{j->prefix, j->prefix_bytes}, {j->buffer, j->length}};
  ssize_t written = writev(j->fd, vectors, 2);
  (void)written; /* whoever asked has gone, or the descriptor's owner sees the same error */
}

/* Its result may be taken. Returns whether somebody has to be woken for that. */
static bool finish(rmt_fetchers *f, job *j) {
  j->next = f->done;
  f->done = j;
  f->fetching--;
  f->finished++;
  return j->result.status != RMT_OK || f->finished == MANY || (!f->queued && !f->fetching);
}

static void *fetcher(void *argument) {
  rmt_fetchers *f = argument;
  const uint64_t one = 1;
  pthread_mutex_lock(&f->lock);
  for (;;) {
    f->idle++;
    while (!f->first && !f->stopping) pthread_cond_wait(&f->work, &f->lock);
    f->idle--;
    job *j = f->first;
    if (!j) break;
    f->first = j->next;
    if (!f->first) f->last = &f->first;
    f->queued--;
    f->fetching++;
    pthread_mutex_unlock(&f->lock);
    fetch(j);
    pthread_mutex_lock(&f->lock);
    if (!finish(f, j)) continue;
    pthread_mutex_unlock(&f->lock);
    ssize_t woken = write(f->wake_fd, &one, sizeof one);
    (void)woken; /* EAGAIN: it was woken before */
    pthread_mutex_lock(&f->lock);
  }
  pthread_mutex_unlock(&f->lock);
  return NULL;
}

/* One thread more, which no signal of the process comes to. */
static void start_thread(rmt_fetchers *f) {
  pthread_attr_t attributes;
  sigset_t all, before;
  if (pthread_attr_init(&attributes)) return;
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (!pthread_create(&f->ids[f->threads], &attributes, fetcher, f)) f->threads++;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
}

static int enqueue(rmt_fetchers *f, job *j) {
  pthread_mutex_lock(&f->lock);
  if (!f->stopping && f->queued >= f->idle && f->threads < f->threads_max) start_thread(f);
  int status = f->threads && !f->stopping ? RMT_OK : RMT_DONE;
  if (status == RMT_OK) {
    j->next = NULL;
    *f->last = j;
    f->last = &j->next;
    f->queued++;
  }
  pthread_mutex_unlock(&f->lock);
  if (status == RMT_OK) pthread_cond_signal(&f->work);
  return status;
}

int rmt_fetch_begin(rmt_fetchers *f, rmt_core *core, const rmt_tree *tree, uint64_t offset,
                    size_t length, const uint8_t *prefix, size_t prefix_bytes, int fd,
                    uint64_t tag) {
  job_size *size = &f->sizes[length > f->sizes[0].bytes];
  job *j = size->free;
  if (!j || length > size->bytes || prefix_bytes > RMT_PREFIX_MAX) return RMT_DONE;
  uint64_t first = offset / RMT_BLOCK, skip = offset % RMT_BLOCK;
  uint64_t count = (skip + length + RMT_BLOCK - 1) / RMT_BLOCK;
  int status = rmt_resolve(core, tree, first, count, j->addresses, j->checksums);
  if (status != RMT_OK) return status;
  j->core = core;
  j->first = first;
  j->count = count;
  j->skip = skip;
  j->length = length;
  memcpy(j->prefix, prefix, prefix_bytes);
  j->prefix_bytes = prefix_bytes;
  j->fd = fd;
  j->result = (rmt_fetched){.tag = tag};
  job *following = j->next;
  status = enqueue(f, j);
  if (status == RMT_OK) size->free = following;
  return status;
}

uint32_t rmt_fetch_take(rmt_fetchers *f, uint64_t *tags, uint32_t capacity, rmt_fetched *noted,
                        uint32_t *notes) {
  uint32_t count = 0;
  *notes = 0;
  pthread_mutex_lock(&f->lock);
  while (f->done && count < capacity) {
    job *j = f->done;
    f->done = j->next;
    f->finished--;
    tags[count++] = j->result.tag;
    if (j->result.status != RMT_OK || j->warm) noted[(*notes)++] = j->result;
    job_size *size = &f->sizes[j->size];
    j->next = size->free;
    size->free = j;
  }
  pthread_mutex_unlock(&f->lock);
  return count;
}

void rmt_fetchers_stop(rmt_fetchers *f) {
  pthread_mutex_lock(&f->lock);
  f->stopping = true;
  pthread_mutex_unlock(&f->lock);
  pthread_cond_broadcast(&f->work);
  for (uint32_t i = 0; i < f->threads; i++) pthread_join(f->ids[i], NULL);
  f->threads = 0;
}
