/*
 * Set-id bits, which a write by anybody but root takes off a file. Unless we do that ourselves, the
 * kernel asks for the attribute security.capability before each write: twice the requests. A file
 * system says that it does with FUSE_HANDLE_KILLPRIV_V2, which libfuse 3.14 does not know; then the
 * kernel asks once for an inode, and takes the bits off neither here nor when a file is truncated
 * or given away (privileges.py does). So the answer to INIT accepts that flag, if the kernel has
 * offered it; device.c shows us both messages.
 */
#define FUSE_USE_VERSION 35

#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <stdint.h>
#include <sys/uio.h>

static uint64_t init_request; /* the number of an INIT that offers the flag, until it is answered */

void ramet_see_request(const struct fuse_in_header *header, ssize_t got) {
  const struct fuse_init_in *init = (const void *)(header + 1);
  if (got >= (ssize_t)(sizeof *header + sizeof(uint32_t) * 4) && header->opcode == FUSE_INIT &&
      init->flags & FUSE_HANDLE_KILLPRIV_V2)
    init_request = header->unique;
}

void ramet_see_answer(struct iovec *vectors, int count) {
  if (!init_request || count < 2 || vectors[1].iov_len < sizeof(uint32_t) * 4) return;
  const struct fuse_out_header *header = vectors[0].iov_base;
  struct fuse_init_out *answer = vectors[1].iov_base;
  if (header->unique == init_request && !header->error) {
    answer->flags |= FUSE_HANDLE_KILLPRIV_V2;
    init_request = 0;
  }
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
