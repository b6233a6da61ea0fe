/*
 * The other baseline: libfuse's low-level interface to one flat file, one thread, nothing kept.
 * What is between this and bench/passthrough.py is Python; what is between this and the file is
 * FUSE itself.
 *
 * passthrough FLATFILE MOUNTPOINT: the file is `flat` there; says "ready", ends on SIGTERM.
 */
#define FUSE_USE_VERSION 312

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FLAT (FUSE_ROOT_ID + 1)
#define READ_MAX (1u << 20)

static int flat_fd;
static char buffer[READ_MAX]; /* one thread: one request at a time */

static struct stat attributes(fuse_ino_t ino) {
  struct stat st = {.st_ino = ino, .st_nlink = 1, .st_mode = S_IFDIR | 0755};
  if (ino == FLAT && !fstat(flat_fd, &st)) {
    st.st_ino = FLAT;
    st.st_mode = S_IFREG | 0644;
  }
  return st;
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
  if (parent != FUSE_ROOT_ID || strcmp(name, "flat")) {
    fuse_reply_err(req, ENOENT);
    return;
  }
  struct fuse_entry_param entry = {.ino = FLAT, .attr_timeout = 1, .entry_timeout = 1};
  entry.attr = attributes(FLAT);
  fuse_reply_entry(req, &entry);
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file) {
  (void)file;
  struct stat st = attributes(ino);
  fuse_reply_attr(req, &st, 1);
}

static void on_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *wanted, int fields,
                       struct fuse_file_info *file) {
  (void)wanted, (void)fields;
  on_getattr(req, ino, file);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file) {
  if (ino == FLAT)
    fuse_reply_open(req, file);
  else
    fuse_reply_err(req, EISDIR);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *file) {
  (void)ino, (void)file;
  ssize_t got = pread(flat_fd, buffer, size < READ_MAX ? size : READ_MAX, offset);
  if (got < 0)
    fuse_reply_err(req, errno);
  else
    fuse_reply_buf(req, buffer, (size_t)got);
}

static void on_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *file) {
  (void)ino, (void)file;
  ssize_t done = pwrite(flat_fd, data, size, offset);
  if (done < 0)
    fuse_reply_err(req, errno);
  else
    fuse_reply_write(req, (size_t)done);
}

static void on_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *file) {
  (void)ino, (void)data_only, (void)file;
  fuse_reply_err(req, fdatasync(flat_fd) ? errno : 0);
}

static const struct fuse_lowlevel_ops OPERATIONS = {
    .lookup = on_lookup,
    .getattr = on_getattr,
    .setattr = on_setattr,
    .open = on_open,
    .read = on_read,
    .write = on_write,
    .fsync = on_fsync,
};

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: passthrough FLATFILE MOUNTPOINT\n");
    return 2;
  }
  flat_fd = open(argv[1], O_RDWR | O_CLOEXEC);
  if (flat_fd < 0) {
    perror(argv[1]);
    return 1;
  }
  char *words[] = {argv[0], "-o", "fsname=passthrough,default_permissions"};
  struct fuse_args args = FUSE_ARGS_INIT(3, words);
  struct fuse_session *session = fuse_session_new(&args, &OPERATIONS, sizeof OPERATIONS, NULL);
  if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, argv[2])) {
    return 1;
  }
  puts("ready");
  fflush(stdout);
  fuse_session_loop(session);
  fuse_session_unmount(session);
  fuse_remove_signal_handlers(session);
  fuse_session_destroy(session);
  return 0;
}
