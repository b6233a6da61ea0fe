/*
 * READs and WRITEs of NFSv3 that follow each other in what a connection has received and begin with
 * the same bytes - who calls, the procedure, the credential, the handle - so that one look at what
 * these mean does for all (nfs3/again.py). Here their numbers are taken out and their answers put
 * together; nothing is trusted but what was compared with the first record, whose beginning is
 * known.
 *
 * A record, from its mark on: mark, xid, `head` up to head_end, arguments (RFC 5531, 8 and 11;
 * RFC 1813, 3.3.6 and 3.3.7). head_end is a multiple of four and within `in`.
 */
#include "again.h"

#include <string.h>

#define LAST_FRAGMENT (1u << 31)
#define HEAD 8u /* behind the mark and the xid */
#define READ_ARGUMENTS 12u
#define WRITE_ARGUMENTS 20u
#define UNSTABLE 0u
#define REPLY 1u

static uint32_t u32(const uint8_t *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint64_t u64(const uint8_t *at) { return (uint64_t)u32(at) << 32 | u32(at + 4); }

static uint8_t *put32(uint8_t *at, uint32_t value) {
  at[0] = (uint8_t)(value >> 24);
  at[1] = (uint8_t)(value >> 16);
  at[2] = (uint8_t)(value >> 8);
  at[3] = (uint8_t)value;
  return at + 4;
}

static uint8_t *put(uint8_t *at, const uint8_t *bytes, size_t count) {
  memcpy(at, bytes, count);
  return at + count;
}

/* Mark, xid, and the head of an accepted call that has succeeded; then NFS3_OK. */
static uint8_t *put_head(uint8_t *at, uint32_t bytes, uint32_t xid) {
  at = put32(put32(put32(at, LAST_FRAGMENT | (bytes - 4)), xid), REPLY);
  memset(at, 0, 20); /* accepted, no verifier of two words, success, OK */
  return at + 20;
}

static uint32_t padding(uint32_t count) { return -count & 3; }

/* Whether a record with these argument bytes is whole, and begins as the first does. */
static bool follows(const uint8_t *in, const uint8_t *record, size_t left, size_t head_end,
                    size_t arguments) {
  size_t whole = head_end + arguments;
  return left >= whole && u32(record) == (LAST_FRAGMENT | (uint32_t)(whole - 4)) &&
         !memcmp(in + HEAD, record + HEAD, head_end - HEAD);
}

unsigned nfs_reads(const uint8_t *in, size_t length, size_t head_end, uint64_t file_bytes,
                   uint32_t read_most, uint32_t bytes_most, unsigned most, uint32_t *xids,
                   nfs_piece *pieces, uint32_t *total) {
  size_t whole = head_end + READ_ARGUMENTS;
  uint32_t bytes = 0;
  unsigned n = 0;
  for (const uint8_t *record = in; n < most; record += whole, n++) {
    if (!follows(in, record, length - (size_t)(record - in), head_end, READ_ARGUMENTS)) break;
    uint64_t offset = u64(record + head_end);
    uint32_t size = u32(record + head_end + 8);
    if (size > read_most) size = read_most;
    uint64_t left = offset < file_bytes ? file_bytes - offset : 0;
    if (size > left) size = (uint32_t)left;
    if (size > bytes_most || bytes + NFS_READ_HEAD + size + 3 > bytes_most) break;
    xids[n] = u32(record + 4);
    pieces[n] = (nfs_piece){.offset = offset, .size = size, .at = bytes + NFS_READ_HEAD};
    bytes += NFS_READ_HEAD + size + padding(size);
  }
  *total = bytes;
  return n;
}

uint32_t nfs_read_answers(const uint32_t *xids, const nfs_piece *pieces, unsigned count,
                          const uint8_t *attributes, uint64_t file_bytes, uint8_t *out) {
  uint8_t *end = out;
  for (unsigned i = 0; i < count; i++) {
    uint32_t size = pieces[i].size, filled = padding(size);
    uint8_t *at = put_head(end, NFS_READ_HEAD + size + filled, xids[i]);
    at = put(at, attributes, NFS_POST_OP);
    bool last = pieces[i].offset >= file_bytes || size >= file_bytes - pieces[i].offset;
    at = put32(put32(put32(at, size), last), size) + size; /* the data are there */
    memset(at, 0, filled);
    end = at + filled;
  }
  return (uint32_t)(end - out);
}

unsigned nfs_writes(const uint8_t *in, size_t length, size_t head_end, uint32_t write_most,
                    uint32_t bytes_most, unsigned most, uint32_t *xids, nfs_piece *pieces,
                    nfs_piece *records, uint32_t *total) {
  uint32_t bytes = 0;
  unsigned n = 0;
  for (size_t start = 0; n < most; n++) {
    const uint8_t *record = in + start;
    size_t left = length - start;
    if (left < head_end + WRITE_ARGUMENTS) break;
    uint64_t offset = u64(record + head_end);
    uint32_t count = u32(record + head_end + 8);
    if (!count || count > write_most || offset > UINT64_MAX - count || count > bytes_most - bytes ||
        u32(record + head_end + 12) != UNSTABLE || u32(record + head_end + 16) != count)
      break;
    size_t arguments = WRITE_ARGUMENTS + (size_t)count + padding(count);
    if (!follows(in, record, left, head_end, arguments)) break;
    xids[n] = u32(record + 4);
    pieces[n] = (nfs_piece){
        .offset = offset, .size = count, .at = (uint32_t)(start + head_end + WRITE_ARGUMENTS)};
    records[n] = (nfs_piece){
        .offset = offset, .size = (uint32_t)(head_end + arguments - 4), .at = (uint32_t)start + 4};
    bytes += count;
    start += head_end + arguments;
  }
  *total = bytes;
  return n;
}

void nfs_gather(const uint8_t *in, const nfs_piece *pieces, unsigned count, uint8_t *out) {
  for (unsigned i = 0; i < count; i++) out = put(out, in + pieces[i].at, pieces[i].size);
}

void nfs_write_answers(const uint32_t *xids, const nfs_piece *pieces, unsigned count,
                       const uint8_t *before, const uint8_t *between, const uint8_t *after,
                       const uint8_t *verifier, uint8_t *out) {
  for (unsigned i = 0; i < count; i++) {
    uint8_t *at = put_head(out, NFS_WRITE_ANSWER, xids[i]);
    at = put(at, i ? between : before, NFS_PRE_OP);
    at = put(at, after, NFS_POST_OP);
    at = put32(put32(at, pieces[i].size), UNSTABLE);
    out = put(at, verifier, NFS_VERIFIER);
  }
}
