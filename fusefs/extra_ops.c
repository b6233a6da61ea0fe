/*
 * pyfuse3 binds no copy_file_range, fallocate and lseek. This library is loaded before it, with
 * RTLD_GLOBAL, and so stands in front of libfuse's fuse_session_new: it adds the three handlers to
 * the table that pyfuse3 hands over and calls the real function. The handlers run on pyfuse3's own
 * thread, inside one of its tasks that cannot wait. lseek is answered at once if it can be; the two
 * that change something may have to wait for room, so their calls take the request along and answer
 * it later, once, with ramet_answer_*. The callbacks are the one piece of global state: a process
 * has one interposed symbol, whatever number of mounts.
 *
 * Two arguments that pyfuse3 drops are put aside for its handler, which begins in the same step of
 * its thread: which inode a statfs is about, and the flags of a setxattr. (pyfuse3 looks for the
 * attribute itself, before a handler that may wait; with the flags, the engine does in one step.)
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 35

#include <dlfcn.h>
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

/* Each takes file handles. The first two return 0, and answer the request later, or a negative
 * errno; the third returns its result, a negative errno, or RAMET_LATER. */
#define RAMET_LATER INT64_MIN
typedef int64_t (*copy_call)(void *request, uint64_t fh_in, uint64_t off_in, uint64_t fh_out,
                             uint64_t off_out, uint64_t length);
typedef int64_t (*allocate_call)(void *request, uint64_t fh, uint64_t mode, uint64_t offset,
                                 uint64_t length);
typedef int64_t (*seek_call)(void *request, uint64_t fh, uint64_t offset, uint64_t whence);

static struct {
  copy_call copy;
  allocate_call allocate;
  seek_call seek;
} calls;

static struct {
  uint64_t statfs_inode;
  int setxattr_flags;
} aside;

static struct fuse_lowlevel_ops bound; /* what pyfuse3 handed over */

uint64_t ramet_statfs_inode(void) { return aside.statfs_inode; }

int ramet_setxattr_flags(void) { return aside.setxattr_flags; }

void ramet_set_calls(copy_call copy, allocate_call allocate, seek_call seek) {
  calls.copy = copy;
  calls.allocate = allocate;
  calls.seek = seek;
}

/* `done` bytes were copied, or it is a negative errno. */
void ramet_answer_copy(void *request, int64_t done) {
  if (done < 0)
    fuse_reply_err(request, (int)-done);
  else
    fuse_reply_write(request, (size_t)done);
}

/* An offset, or a negative errno. */
void ramet_answer_seek(void *request, int64_t found) {
  if (found < 0)
    fuse_reply_err(request, (int)-found);
  else
    fuse_reply_lseek(request, found);
}

/* Zero, or a negative errno. */
void ramet_answer_allocate(void *request, int64_t result) {
  fuse_reply_err(request, result < 0 ? (int)-result : 0);
}

static void on_copy(fuse_req_t req, fuse_ino_t ino_in, off_t off_in, struct fuse_file_info *fi_in,
                    fuse_ino_t ino_out, off_t off_out, struct fuse_file_info *fi_out, size_t length,
                    int flags) {
  (void)ino_in;
  (void)ino_out;
  if (flags || off_in < 0 || off_out < 0) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  int64_t status =
      calls.copy(req, fi_in->fh, (uint64_t)off_in, fi_out->fh, (uint64_t)off_out, length);
  if (status < 0) fuse_reply_err(req, (int)-status);
}

static void on_allocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                        struct fuse_file_info *fi) {
  (void)ino;
  if (offset < 0 || length <= 0) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  int64_t status = calls.allocate(req, fi->fh, (uint64_t)mode, (uint64_t)offset, (uint64_t)length);
  if (status < 0) fuse_reply_err(req, (int)-status);
}

static void on_seek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                    struct fuse_file_info *fi) {
  (void)ino;
  if (offset < 0) {
    fuse_reply_err(req, ENXIO);
    return;
  }
  int64_t found = calls.seek(req, fi->fh, (uint64_t)offset, (uint64_t)whence);
  if (found != RAMET_LATER) ramet_answer_seek(req, found);
}

static void on_statfs(fuse_req_t req, fuse_ino_t ino) {
  aside.statfs_inode = ino;
  bound.statfs(req, ino);
}

static void on_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t size, int flags) {
  aside.setxattr_flags = flags;
  bound.setxattr(req, ino, name, value, size, 0);
}

void ramet_note_writers(struct fuse_lowlevel_ops *operations); /* privileges.c */

#undef fuse_session_new
struct fuse_session *fuse_session_new(struct fuse_args *args,
                                      const struct fuse_lowlevel_ops *operations, size_t size,
                                      void *userdata) {
  typedef struct fuse_session *(*function)(struct fuse_args *, const struct fuse_lowlevel_ops *,
                                           size_t, void *);
  memset(&bound, 0, sizeof bound);
  memcpy(&bound, operations, size < sizeof bound ? size : sizeof bound);
  struct fuse_lowlevel_ops extended = bound;
  if (calls.copy) {
    extended.statfs = on_statfs;
    extended.setxattr = on_setxattr;
    extended.copy_file_range = on_copy;
    extended.fallocate = on_allocate;
    extended.lseek = on_seek;
  }
  ramet_note_writers(&extended);
  function real = (function)dlvsym(RTLD_NEXT, "fuse_session_new", "FUSE_3.0");
  if (!real) {
    errno = ENOSYS;
    return NULL;
  }
  return real(args, &extended, sizeof extended, userdata);
}
