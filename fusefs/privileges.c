/*
 * Set-id bits, which a write by anybody but root takes off a file. Unless we do that ourselves, the
 * kernel asks for the attribute security.capability before each write: twice the requests. A file
 * system says that it does with FUSE_HANDLE_KILLPRIV_V2, which libfuse 3.14 does not know; then the
 * kernel asks once for an inode, and takes the bits off neither here nor when a file is truncated
 * or given away (privileges.py does).
 *
 * So libfuse reads and writes the device through the functions below, which do what it would do by
 * itself but for one message: the answer to INIT accepts that flag, if the kernel has offered it.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 35

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <sys/uio.h>
#include <unistd.h>

static uint64_t init_request; /* the number of an INIT that offers the flag, until it is answered */

static ssize_t device_read(int fd, void *buffer, size_t length, void *userdata) {
  (void)userdata;
  ssize_t got = read(fd, buffer, length);
  const struct fuse_in_header *header = buffer;
  const struct fuse_init_in *init = (const void *)(header + 1);
  if (got >= (ssize_t)(sizeof *header + sizeof(uint32_t) * 4) && header->opcode == FUSE_INIT &&
      init->flags & FUSE_HANDLE_KILLPRIV_V2)
    init_request = header->unique;
  return got;
}

static ssize_t device_writev(int fd, struct iovec *vectors, int count, void *userdata) {
  (void)userdata;
  if (init_request && count > 1 && vectors[1].iov_len >= sizeof(uint32_t) * 4) {
    const struct fuse_out_header *header = vectors[0].iov_base;
    struct fuse_init_out *answer = vectors[1].iov_base;
    if (header->unique == init_request && !header->error) {
      answer->flags |= FUSE_HANDLE_KILLPRIV_V2;
      init_request = 0;
    }
  }
  return writev(fd, vectors, count);
}

static ssize_t device_splice(int from, off_t *from_offset, int into, off_t *into_offset,
                             size_t length, unsigned int flags, void *userdata) {
  (void)userdata;
  return splice(from, from_offset, into, into_offset, length, flags);
}

uint32_t ramet_writer; /* who sent the request whose handler begins; pyfuse3 does not say */

static struct fuse_lowlevel_ops known; /* the operations before they were wrapped */

static void on_write(fuse_req_t request, fuse_ino_t inode, struct fuse_bufvec *data, off_t offset,
                     struct fuse_file_info *file) {
  ramet_writer = fuse_req_ctx(request)->uid;
  known.write_buf(request, inode, data, offset, file);
}

static void on_allocate(fuse_req_t request, fuse_ino_t inode, int mode, off_t offset, off_t length,
                        struct fuse_file_info *file) {
  ramet_writer = fuse_req_ctx(request)->uid;
  known.fallocate(request, inode, mode, offset, length, file);
}

static void on_copy(fuse_req_t request, fuse_ino_t inode, off_t offset, struct fuse_file_info *file,
                    fuse_ino_t into, off_t into_offset, struct fuse_file_info *into_file,
                    size_t length, int flags) {
  ramet_writer = fuse_req_ctx(request)->uid;
  known.copy_file_range(request, inode, offset, file, into, into_offset, into_file, length, flags);
}

void ramet_note_writers(struct fuse_lowlevel_ops *operations) {
  known = *operations;
  if (known.write_buf) operations->write_buf = on_write;
  if (known.fallocate) operations->fallocate = on_allocate;
  if (known.copy_file_range) operations->copy_file_range = on_copy;
}

int fuse_session_mount(struct fuse_session *session, const char *mountpoint) {
  static const struct fuse_custom_io device = {
      .writev = device_writev,
      .read = device_read,
      .splice_receive = device_splice,
      .splice_send = device_splice,
  };
  typedef int (*function)(struct fuse_session *, const char *);
  function real = (function)dlvsym(RTLD_NEXT, "fuse_session_mount", "FUSE_3.0");
  if (!real || real(session, mountpoint)) return -1;
  init_request = 0;
  if (!fuse_session_custom_io(session, &device, fuse_session_fd(session))) return 0;
  fuse_session_unmount(session);
  return -1;
}
