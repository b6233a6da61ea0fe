/*
 * How libfuse reads requests from the device and writes answers to it: as it would by itself, but
 * that INIT is shown to privileges.c, and that reads and writes of files are answered here, at
 * once, when they need not wait. Such a request costs neither a task of pyfuse3 nor a turn of the
 * loop, and as many as the kernel has ready are answered in one turn.
 *
 * at_once.py answers them; one that it puts off goes on to libfuse as if nobody had looked. The
 * data of a write are read into a buffer that begins on a page: the kernel copies in half the time.
 * A write past the kernel's pages may have to wait for them to go (pages.py): then the thread that
 * drops them answers it. A read that has to wait for a disk is answered by the thread that fetches
 * it (cold_answers.py).
 * No splice: it takes two calls more a request, and copies as often.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 35

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define TURN_REQUESTS_MAX 32 /* answered before others on the loop have their turn */
#define TURN_BYTES_MAX (1u << 20)
#define HEAD_BYTES (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))

/* Both return how many bytes were read or written, a negative errno, RAMET_LATER, or RAMET_TAKEN
 * when a thread answers: of a write ramet_drop_pages. `direct` is 0 when the kernel keeps the bytes
 * in its pages, otherwise the number of the request. */
#define RAMET_LATER INT64_MIN
#define RAMET_TAKEN (INT64_MIN + 1)
typedef int64_t (*read_call)(uint64_t fh, uint64_t offset, uint64_t size, uint64_t direct,
                             uint64_t request);
typedef int64_t (*write_call)(uint64_t fh, uint64_t offset, uint64_t size, uint64_t direct,
                              uint32_t uid);

static struct {
  read_call read; /* NULL: nothing is answered at once */
  write_call write;
  uint8_t *output, *input; /* what was read, and what is to be written */
  size_t input_bytes;
} calls;

static struct fuse_session *mounted; /* the last one */

uint64_t ramet_direct; /* `direct` of the request that libfuse gets; pyfuse3 does not say */

void ramet_see_request(const struct fuse_in_header *header, ssize_t got); /* privileges.c */
void ramet_see_answer(struct iovec *vectors, int count);

void ramet_answer_at_once(read_call read, write_call write, uint8_t *output, uint8_t *input,
                          size_t input_bytes) {
  calls.read = read;
  calls.write = write;
  calls.output = output;
  calls.input = input;
  calls.input_bytes = input_bytes;
}

static void answer(int fd, uint64_t unique, int64_t result, const void *data, size_t length) {
  if (result < 0) length = 0;
  struct fuse_out_header header = {
      .len = (uint32_t)(sizeof header + length),
      .error = result < 0 ? (int32_t)result : 0,
      .unique = unique,
  };
  struct iovec vectors[2] = {{&header, sizeof header}, {(void *)data, length}};
  ssize_t sent = writev(fd, vectors, length ? 2 : 1);
  (void)sent; /* ENOENT: whoever asked has gone; ENODEV: the next read says it as well */
}

/* The kernel drops its pages of a range, and then a write of `done` bytes is answered. Blocks while
 * the kernel reads one of these pages, so never on the thread that answers requests. */
void ramet_drop_pages(uint64_t inode, uint64_t offset, uint64_t length, uint64_t direct,
                      uint64_t done) {
  if (length) fuse_lowlevel_notify_inval_inode(mounted, inode, (off_t)offset, (off_t)length);
  struct fuse_write_out out = {.size = (uint32_t)done};
  if (direct) answer(fuse_session_fd(mounted), direct, (int64_t)done, &out, sizeof out);
}

int ramet_device(void) { return fuse_session_fd(mounted); }

void ramet_answer_error(uint64_t request, int error) {
  answer(fuse_session_fd(mounted), request, -error, NULL, 0);
}

/* The kernel names a lock owner when it goes past its pages, and only then. What it tells of
 * O_DIRECT is the descriptor's flag as it is now, which a thread may have changed since the kernel
 * went by it: a write by a page that waits for the page to be dropped would wait for ever. */
static uint64_t direct_of(const struct fuse_in_header *header, size_t got) {
  const struct fuse_read_in *read = (const void *)(header + 1);
  const struct fuse_write_in *write = (const void *)(header + 1);
  if (header->opcode == FUSE_READ && got >= sizeof *header + sizeof *read)
    return read->read_flags & FUSE_READ_LOCKOWNER ? header->unique : 0;
  if (header->opcode == FUSE_WRITE && got >= HEAD_BYTES)
    return write->write_flags & FUSE_WRITE_LOCKOWNER ? header->unique : 0;
  return 0;
}

/* Returns the bytes that went through, or -1: not answered. */
static int64_t answered(int fd, const struct fuse_in_header *header, size_t got) {
  const struct fuse_read_in *read = (const void *)(header + 1);
  const struct fuse_write_in *write = (const void *)(header + 1);
  if (header->opcode == FUSE_READ && got >= sizeof *header + sizeof *read) {
    int64_t done =
        calls.read(read->fh, read->offset, read->size, direct_of(header, got), header->unique);
    if (done == RAMET_LATER) return -1;
    if (done == RAMET_TAKEN) return read->size;
    answer(fd, header->unique, done, calls.output, (size_t)done);
    return read->size;
  }
  if (header->opcode == FUSE_WRITE && got == HEAD_BYTES + write->size) {
    int64_t done =
        calls.write(write->fh, write->offset, write->size, direct_of(header, got), header->uid);
    if (done == RAMET_LATER) return -1;
    if (done == RAMET_TAKEN) return write->size;
    struct fuse_write_out out = {.size = (uint32_t)done};
    answer(fd, header->unique, done, &out, sizeof out);
    return write->size;
  }
  return -1;
}

/* The next request for libfuse; EINTR when there is none, upon which pyfuse3 comes again. */
static ssize_t device_read(int fd, void *buffer, size_t length, void *userdata) {
  (void)userdata;
  if (!calls.read || length < HEAD_BYTES || length - HEAD_BYTES > calls.input_bytes) {
    ssize_t got = read(fd, buffer, length);
    ramet_see_request(buffer, got);
    if (got < 0 && errno == EAGAIN) errno = EINTR;
    return got;
  }
  size_t bytes = 0;
  for (unsigned turn = 0; turn < TURN_REQUESTS_MAX && bytes < TURN_BYTES_MAX; turn++) {
    struct iovec vectors[2] = {{buffer, HEAD_BYTES}, {calls.input, length - HEAD_BYTES}};
    ssize_t got = readv(fd, vectors, 2);
    if (got < 0 && errno == EAGAIN) break;
    if (got < (ssize_t)sizeof(struct fuse_in_header)) return got;
    int64_t done = answered(fd, buffer, (size_t)got);
    if (done < 0) {
      if ((size_t)got > HEAD_BYTES)
        memcpy((uint8_t *)buffer + HEAD_BYTES, calls.input, (size_t)got - HEAD_BYTES);
      ramet_direct = direct_of(buffer, (size_t)got);
      ramet_see_request(buffer, got);
      return got;
    }
    bytes += (size_t)done;
  }
  errno = EINTR;
  return -1;
}

static ssize_t device_writev(int fd, struct iovec *vectors, int count, void *userdata) {
  (void)userdata;
  ramet_see_answer(vectors, count);
  return writev(fd, vectors, count);
}

int fuse_session_mount(struct fuse_session *session, const char *mountpoint) {
  static const struct fuse_custom_io device = {.writev = device_writev, .read = device_read};
  typedef int (*function)(struct fuse_session *, const char *);
  function real = (function)dlvsym(RTLD_NEXT, "fuse_session_mount", "FUSE_3.0");
  if (!real || real(session, mountpoint)) return -1;
  mounted = session;
  int fd = fuse_session_fd(session), flags = fcntl(fd, F_GETFL);
  if (flags >= 0 && !fcntl(fd, F_SETFL, flags | O_NONBLOCK) &&
      !fuse_session_custom_io(session, &device, fd))
    return 0;
  fuse_session_unmount(session);
  return -1;
}
