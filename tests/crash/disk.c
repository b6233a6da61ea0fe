/*
 * A disk that can lose its power: a FUSE file system with one file, "image", under a loop device.
 *
 *   disk record DIR BYTES LOG                the image starts empty; each WRITE and FSYNC of it is
 *                                            appended to LOG, and so is what is written to "notes"
 *   disk replay DIR BYTES LOG [START:COUNT]  the image is what a power cut would have left; a write
 *                                            of two u64 to "control" (end in LOG, seed) chooses the
 *                                            cut. START:COUNT is a range that one write never tears
 *
 * The loop device turns a flush into an fsync of the image and completes it when the fsync has been
 * answered. Requests are handled one at a time, so the order of LOG is the order in which the disk
 * answered. At a cut all writes before the last FSYNC are there; of each later one the sectors (512
 * bytes) that a coin says, so writes are lost, torn, and overtake each other.
 *
 * LOG is a sequence of records: u32 magic, u32 kind, u64 offset, u64 length, then the bytes.
 *
 * In replay, what is flushed only grows ("base": cuts come in ascending order); what the coin adds
 * and what is written after the cut lies in an overlay of pages that the next cut throws away.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 35

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096, SECTOR = 512, MAGIC = 0x474f4c52, REQUEST_MAX = 1 << 20 };
enum { WRITE = 1, FSYNC = 2, NOTE = 3 };
enum { ROOT = FUSE_ROOT_ID, IMAGE, NOTES, CONTROL, NODES_END };

static const char *const names[NODES_END] = {
    [IMAGE] = "image", [NOTES] = "notes", [CONTROL] = "control"};

typedef struct {
  uint32_t magic, kind;
  uint64_t offset, length;
} record;

typedef struct {
  uint8_t *base;
  uint64_t bytes;
  int log;
  bool replay;
  /* replay only */
  const uint8_t *records;
  uint64_t records_bytes, applied; /* the base has all records before `applied` */
  uint8_t **overlay;               /* one pointer a page; NULL: the base's */
  uint64_t *overlaid, overlaid_count;
  uint64_t whole_start, whole_end; /* the range that no write tears */
} disk;

/* --- the image */

static uint8_t *page_for_write(disk *d, uint64_t page) {
  if (!d->overlay[page]) {
    d->overlay[page] = malloc(PAGE);
    if (!d->overlay[page]) return NULL;
    memcpy(d->overlay[page], d->base + page * PAGE, PAGE);
    d->overlaid[d->overlaid_count++] = page;
  }
  return d->overlay[page];
}

static int overlay_write(disk *d, const uint8_t *data, uint64_t length, uint64_t offset) {
  while (length) {
    uint64_t in = offset % PAGE, part = PAGE - in < length ? PAGE - in : length;
    uint8_t *page = page_for_write(d, offset / PAGE);
    if (!page) return ENOMEM;
    memcpy(page + in, data, part);
    data += part, offset += part, length -= part;
  }
  return 0;
}

static void image_read(const disk *d, uint8_t *out, uint64_t length, uint64_t offset) {
  while (length) {
    uint64_t in = offset % PAGE, part = PAGE - in < length ? PAGE - in : length;
    const uint8_t *page = d->replay ? d->overlay[offset / PAGE] : NULL;
    memcpy(out, page ? page + in : d->base + offset, part);
    out += part, offset += part, length -= part;
  }
}

/* --- the log */

static int append(const disk *d, uint32_t kind, uint64_t offset, const void *data, size_t length) {
  record head = {MAGIC, kind, offset, length};
  struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, length}};
  ssize_t want = (ssize_t)(sizeof head + length);
  return writev(d->log, parts, length ? 2 : 1) == want ? 0 : ENOSPC;
}

static bool record_at(const disk *d, uint64_t at, uint64_t end, record *head) {
  if (end - at < sizeof *head) return false;
  memcpy(head, d->records + at, sizeof *head);
  if (head->magic != MAGIC || head->length > end - at - sizeof *head) return false;
  return head->kind != WRITE ||
         (head->offset <= d->bytes && head->length <= d->bytes - head->offset);
}

/* --- the cut */

static uint64_t random_next(uint64_t *state) { /* splitmix64 */
  uint64_t z = (*state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

static bool coin(uint64_t *state, uint64_t of_eight) { return random_next(state) % 8 < of_eight; }

/* Of an unflushed write: half of them lost or kept whole, half of them torn into sectors. */
static int tear(disk *d, const record *head, const uint8_t *data, uint64_t share,
                uint64_t *random) {
  bool torn = coin(random, 4), all = coin(random, share);
  if (!torn) return all ? overlay_write(d, data, head->length, head->offset) : 0;
  for (uint64_t done = 0; done < head->length; done += SECTOR) {
    uint64_t offset = head->offset + done, left = head->length - done;
    bool whole = offset >= d->whole_start && offset < d->whole_end;
    bool keep = coin(random, share);
    if (whole ? !all : !keep) continue;
    int error = overlay_write(d, data + done, left < SECTOR ? left : SECTOR, offset);
    if (error) return error;
  }
  return 0;
}

static int cut(disk *d, uint64_t end, uint64_t seed) {
  static const uint64_t shares[] = {0, 1, 4, 4, 7, 8};
  uint64_t random = seed, share, flushed = d->applied, at;
  record head;
  while (d->overlaid_count) {
    uint64_t page = d->overlaid[--d->overlaid_count];
    free(d->overlay[page]);
    d->overlay[page] = NULL;
  }
  if (end > d->records_bytes) return EINVAL;
  for (at = d->applied; at < end; at += sizeof head + head.length) {
    if (!record_at(d, at, end, &head)) return EINVAL;
    if (head.kind == FSYNC) flushed = at + sizeof head;
  }
  if (at != end) return EINVAL;
  for (at = d->applied; at < flushed; at += sizeof head + head.length) {
    record_at(d, at, end, &head);
    if (head.kind == WRITE)
      memcpy(d->base + head.offset, d->records + at + sizeof head, head.length);
  }
  d->applied = flushed;
  share = shares[random_next(&random) % (sizeof shares / sizeof *shares)];
  for (; at < end; at += sizeof head + head.length) {
    record_at(d, at, end, &head);
    if (head.kind != WRITE) continue;
    int error = tear(d, &head, d->records + at + sizeof head, share, &random);
    if (error) return error;
  }
  return 0;
}

/* --- FUSE */

static struct stat attributes(const disk *d, fuse_ino_t node) {
  return (struct stat){.st_ino = node,
                       .st_mode = node == ROOT ? S_IFDIR | 0700 : S_IFREG | 0600,
                       .st_nlink = 1,
                       .st_size = node == IMAGE ? (off_t)d->bytes : 0};
}

static void on_init(void *data, struct fuse_conn_info *connection) {
  (void)data;
  connection->max_write = REQUEST_MAX;
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name) {
  const disk *d = fuse_req_userdata(request);
  for (fuse_ino_t node = IMAGE; parent == ROOT && node < NODES_END; node++) {
    if (strcmp(name, names[node]) != 0) continue;
    struct fuse_entry_param entry = {.ino = node, .attr = attributes(d, node)};
    entry.attr_timeout = entry.entry_timeout = 3600;
    fuse_reply_entry(request, &entry);
    return;
  }
  fuse_reply_err(request, ENOENT);
}

static void on_getattr(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file) {
  (void)file;
  struct stat found = attributes(fuse_req_userdata(request), node);
  fuse_reply_attr(request, &found, 3600);
}

static void on_open(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file) {
  (void)node;
  file->direct_io = 1; /* the kernel keeps no copy of an image that changes with each cut */
  fuse_reply_open(request, file);
}

static void on_read(fuse_req_t request, fuse_ino_t node, size_t length, off_t offset,
                    struct fuse_file_info *file) {
  static uint8_t buffer[REQUEST_MAX];
  const disk *d = fuse_req_userdata(request);
  (void)file;
  uint64_t at = (uint64_t)offset;
  if (node != IMAGE || at >= d->bytes) {
    fuse_reply_buf(request, NULL, 0);
    return;
  }
  if (length > sizeof buffer) length = sizeof buffer;
  if (length > d->bytes - at) length = d->bytes - at;
  image_read(d, buffer, length, at);
  fuse_reply_buf(request, (const char *)buffer, length);
}

static int image_write(disk *d, const char *data, size_t length, uint64_t offset) {
  if (offset > d->bytes || length > d->bytes - offset) return ENOSPC;
  if (d->replay) return overlay_write(d, (const uint8_t *)data, length, offset);
  memcpy(d->base + offset, data, length);
  return append(d, WRITE, offset, data, length);
}

static void on_write(fuse_req_t request, fuse_ino_t node, const char *data, size_t length,
                     off_t offset, struct fuse_file_info *file) {
  disk *d = fuse_req_userdata(request);
  int error = EINVAL;
  (void)file;
  if (node == IMAGE) {
    error = image_write(d, data, length, (uint64_t)offset);
  } else if (node == NOTES && !d->replay) {
    error = append(d, NOTE, 0, data, length);
  } else if (node == CONTROL && d->replay && length == 16) {
    uint64_t where[2];
    memcpy(where, data, sizeof where);
    error = cut(d, where[0], where[1]);
  }
  if (error)
    fuse_reply_err(request, error);
  else
    fuse_reply_write(request, length);
}

static void on_fsync(fuse_req_t request, fuse_ino_t node, int datasync,
                     struct fuse_file_info *file) {
  const disk *d = fuse_req_userdata(request);
  (void)datasync, (void)file;
  fuse_reply_err(request, node == IMAGE && !d->replay ? append(d, FSYNC, 0, NULL, 0) : 0);
}

static const struct fuse_lowlevel_ops operations = {
    .init = on_init,
    .lookup = on_lookup,
    .getattr = on_getattr,
    .open = on_open,
    .read = on_read,
    .write = on_write,
    .fsync = on_fsync,
};

static int serve(disk *d, const char *program, const char *directory) {
  char *argv[] = {(char *)program, "-ofsname=crash-disk", NULL};
  struct fuse_args args = FUSE_ARGS_INIT(2, argv);
  struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, d);
  if (!session) return 1;
  int status = fuse_session_mount(session, directory) ? 1 : 0;
  if (!status) {
    puts("ready");
    fflush(stdout);
    fuse_set_signal_handlers(session);
    status = fuse_session_loop(session) < 0;
    fuse_remove_signal_handlers(session);
    fuse_session_unmount(session);
  }
  fuse_session_destroy(session);
  fuse_opt_free_args(&args);
  return status;
}

static bool open_log(disk *d, const char *path) {
  struct stat found;
  if (!d->replay) {
    d->log = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    return d->log >= 0;
  }
  d->log = open(path, O_RDONLY | O_CLOEXEC);
  if (d->log < 0 || fstat(d->log, &found)) return false;
  d->records_bytes = (uint64_t)found.st_size;
  d->records = mmap(NULL, d->records_bytes, PROT_READ, MAP_SHARED, d->log, 0);
  d->overlay = calloc(d->bytes / PAGE, sizeof *d->overlay);
  d->overlaid = calloc(d->bytes / PAGE, sizeof *d->overlaid);
  return d->records != MAP_FAILED && d->overlay && d->overlaid;
}

int main(int argc, char **argv) {
  if (argc < 5) {
    fprintf(stderr, "usage: disk record|replay DIR BYTES LOG [START:COUNT]\n");
    return 2;
  }
  disk d = {.replay = strcmp(argv[1], "replay") == 0, .bytes = strtoull(argv[3], NULL, 10)};
  d.bytes -= d.bytes % PAGE;
  d.base = mmap(NULL, d.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                -1, 0);
  if (argc > 5) {
    char *colon;
    d.whole_start = strtoull(argv[5], &colon, 10);
    d.whole_end = d.whole_start + (*colon == ':' ? strtoull(colon + 1, NULL, 10) : 0);
  }
  if (d.base == MAP_FAILED || !open_log(&d, argv[4])) {
    perror("disk");
    return 1;
  }
  return serve(&d, argv[0], argv[2]);
}
