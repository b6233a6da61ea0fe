/*
 * Threads that fetch blocks and hand them on, so that a read which has to wait for a disk costs the
 * engine thread no more than its plan.
 *
 * A job is planned on the engine thread (the map is resolved, nothing waits), fetched by a thread
 * into a buffer of the job's, and what is whole is written to a descriptor behind a prefix, by one
 * writev. What is not whole is written nowhere: the engine thread hears of it, and says so to
 * whoever asked. It takes what has ended, many jobs at a time; until then a job keeps its buffer.
 *
 *   free --begin--> queued --> fetching --> done --take--> free
 *                                 |  ^
 *             its slots are cold  v  |  waited for
 *                                started
 *
 * The caller keeps a job's slots from being used again, its core and its descriptor alive, from
 * begin to take. Jobs, buffers and threads are bounded: who finds no free job is told so.
 *
 * To wake a thread, and to put one to sleep, costs more than to read a block. So one thread looks
 * at all that is queued, without waiting, which asks the disk for each; only then it waits, for the
 * one that was asked for first, and finds that others have come meanwhile. Another thread is called
 * when none is awake (asleep: waits for a disk; idle: has nothing to do), or when much is queued.
 * Lest a read that stalls keeps others waiting behind it, a watcher looks each millisecond whether
 * anything was begun or waited for since, and calls one more thread when not.
 *
 * Who takes is woken when there is something to be told (a failure), when MANY have ended, and
 * otherwise by the watcher: what has ended well is in no hurry, and each wake costs a turn of a
 * loop.
 */
#include "core.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 64u
#define STACK_BYTES (256u << 10)
#define BACKLOG 4u /* queued for each thread that is awake, before another is called */
#define MANY 16u
#define TICK_NS 1000000
#define QUIET_TICKS 50u /* after which the watcher sleeps until it is woken */
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
  job *free; /* the one that was used last comes first: its pages are there */
} job_size;

typedef struct {
  job *first, **last;
} job_queue;

struct rmt_fetchers {
  job_size sizes[SIZES];
  job *jobs;
  uint64_t *entries; /* addresses and checksums of all jobs */
  uint8_t *buffers;
  size_t buffers_bytes;
  int wake_fd;
  uint32_t threads_max;

  pthread_mutex_t lock; /* of all that follows; `sizes[].free` is the engine thread's */
  pthread_cond_t work, watch;
  job_queue queued, started;
  job *done;
  uint32_t waiting, fetching, finished;   /* jobs: in `queued`, from there on, in `done` */
  uint32_t threads, idle, called, asleep; /* called: no longer idle, and not yet awake */
  uint64_t turns;                         /* jobs taken from a queue */
  bool watched, watching, stopping;       /* there is a watcher; it looks by itself */
  pthread_t ids[THREADS_MAX], watcher;
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
  f->queued.last = &f->queued.first;
  f->started.last = &f->started.first;
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
  pthread_cond_init(&f->watch, NULL);
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
  pthread_cond_destroy(&f->watch);
  pthread_cond_destroy(&f->work);
  pthread_mutex_destroy(&f->lock);
  free(f);
}

static void push(job_queue *queue, job *j) {
  j->next = NULL;
  *queue->last = j;
  queue->last = &j->next;
}

static job *pop(rmt_fetchers *f, job_queue *queue) {
  job *j = queue->first;
  queue->first = j->next;
  if (!queue->first) queue->last = &queue->first;
  f->turns++;
  return j;
}

/* Returns false when it has to be waited for, and was not; the disk has been asked for it then. */
static bool fetch(job *j, bool wait) {
  rmt_failure failure = {0};
  int status = rmt_fetch(j->core, j->addresses, j->checksums, j->first, j->count, j->skip,
                         j->buffer, j->length, wait, &failure);
  if (status == RMT_COLD) {
    if (j->count > 1) rmt_ask(j->core, j->addresses, j->count);
    return false;
  }
  j->warm = !wait;
  j->result.status = status;
  j->result.failure = failure;
  if (status != RMT_OK) return true;
  struct iovec vectors[2] = {{j->prefix, j->prefix_bytes}, {j->buffer, j->length}};
  ssize_t written = writev(j->fd, vectors, 2);
  (void)written; /* whoever asked has gone, or the descriptor's owner sees the same error */
  return true;
}

/* Its result may be taken. Returns whether somebody has to be woken for that. */
static bool finish(rmt_fetchers *f, job *j) {
  j->next = f->done;
  f->done = j;
  f->fetching--;
  f->finished++;
  return j->result.status != RMT_OK || f->finished == MANY;
}

static void tell(rmt_fetchers *f) {
  const uint64_t one = 1;
  ssize_t woken = write(f->wake_fd, &one, sizeof one);
  (void)woken; /* EAGAIN: it was woken before */
}

static void *fetcher(void *argument) {
  rmt_fetchers *f = argument;
  pthread_mutex_lock(&f->lock);
  for (;;) {
    if (!f->queued.first && !f->started.first) {
      if (f->stopping) break;
      f->idle++;
      while (!f->called && !f->stopping) pthread_cond_wait(&f->work, &f->lock);
      if (f->called)
        f->called--;
      else
        f->idle--;
      continue;
    }
    bool wait = !f->queued.first;
    job *j = pop(f, wait ? &f->started : &f->queued);
    f->asleep += wait;
    f->waiting -= !wait;
    f->fetching += !wait;
    pthread_mutex_unlock(&f->lock);
    bool ended = fetch(j, wait);
    pthread_mutex_lock(&f->lock);
    f->asleep -= wait;
    if (!ended) {
      push(&f->started, j);
    } else if (finish(f, j)) {
      pthread_mutex_unlock(&f->lock);
      tell(f);
      pthread_mutex_lock(&f->lock);
    }
  }
  pthread_mutex_unlock(&f->lock);
  return NULL;
}

/* A thread to which no signal of the process comes. */
static bool start_thread(rmt_fetchers *f, pthread_t *id, void *(*what)(void *)) {
  pthread_attr_t attributes;
  sigset_t all, before;
  if (pthread_attr_init(&attributes)) return false;
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool started = !pthread_create(id, &attributes, what, f);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return started;
}

/* One thread more, if there is one to be had. */
static void call(rmt_fetchers *f) {
  if (f->idle) {
    f->idle--;
    f->called++;
    pthread_cond_signal(&f->work);
  } else if (f->threads < f->threads_max) {
    f->threads += start_thread(f, &f->ids[f->threads], fetcher);
  }
}

static void *watcher(void *argument) {
  rmt_fetchers *f = argument;
  const struct timespec tick = {.tv_nsec = TICK_NS};
  uint32_t quiet = 0;
  pthread_mutex_lock(&f->lock);
  while (!f->stopping) {
    if (quiet > QUIET_TICKS) {
      f->watching = false;
      while (!f->watching && !f->stopping) pthread_cond_wait(&f->watch, &f->lock);
      quiet = 0;
    }
    uint64_t turns = f->turns;
    pthread_mutex_unlock(&f->lock);
    nanosleep(&tick, NULL);
    pthread_mutex_lock(&f->lock);
    bool idle = !f->waiting && !f->fetching;
    quiet = idle ? quiet + 1 : 0;
    if (f->finished) tell(f);
    if ((f->queued.first || f->started.first) && f->turns == turns && !f->stopping) call(f);
  }
  pthread_mutex_unlock(&f->lock);
  return NULL;
}

static int enqueue(rmt_fetchers *f, job *j) {
  int status = RMT_DONE;
  pthread_mutex_lock(&f->lock);
  if (f->stopping) goto unlock;
  if (!f->watched) f->watched = f->watching = start_thread(f, &f->watcher, watcher);
  if (f->waiting >= BACKLOG * (f->threads - f->idle - f->asleep)) call(f);
  if (!f->watched || !f->threads) goto unlock;
  push(&f->queued, j);
  f->waiting++;
  status = RMT_OK;
  if (!f->watching) {
    f->watching = true;
    pthread_cond_signal(&f->watch);
  }
unlock:
  pthread_mutex_unlock(&f->lock);
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
  size->free = j->next;
  status = enqueue(f, j);
  if (status != RMT_OK) {
    j->next = size->free;
    size->free = j;
  }
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
  uint32_t threads = f->threads;
  bool watched = f->watched;
  pthread_cond_broadcast(&f->work);
  pthread_cond_signal(&f->watch);
  pthread_mutex_unlock(&f->lock);
  for (uint32_t i = 0; i < threads; i++) pthread_join(f->ids[i], NULL);
  if (watched) pthread_join(f->watcher, NULL);
  f->threads = 0;
  f->watched = false;
}
