/*
 * nfsgw/again.c on what a client may have sent: libFuzzer's target, and (with -DREPLAY) a program
 * that runs the files and directories it is given.
 *
 * An input is how long the beginning of a call is, the limits, and what was received: either as it
 * is, or in a short form, so that a mutation of one byte is a change of one field. Records made of
 * that are right but for what the input says is not.
 *
 * All buffers are blocks of their own, of just the size that the interface promises is enough, so
 * that ASan sees a byte too far. What must hold besides: what was taken lies in what was received,
 * one record after the other, each beginning as the first does; what is answered fits its bound; an
 * answer has the mark and xid that it should, and leaves the data where they are.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "again.h"
#include "replay.h"

#define CALLS_MAX 64u
#define RECEIVED_MAX (1u << 16)
#define READ_ARGUMENTS 12u
#define WRITE_ARGUMENTS 20u
#define LAST (1u << 31)
#define FILLED 0xA5

#define CHECK(what)                                                        \
  do {                                                                     \
    if (!(what)) {                                                         \
      fprintf(stderr, "fuzz_again.c:%d: %s is not so\n", __LINE__, #what); \
      abort();                                                             \
    }                                                                      \
  } while (0)

typedef struct {
  const uint8_t *at, *end;
} input;

typedef struct {
  uint8_t *data;
  size_t length, head_end;
  bool writes;
} received;

static uint8_t take8(input *in) { return in->at < in->end ? *in->at++ : 0; }

static uint64_t take64(input *in) {
  uint64_t value = 0;
  for (int i = 0; i < 8; i++) value = value << 8 | take8(in);
  return value;
}

/* Mostly small, sometimes anything, sometimes next to a limit. */
static uint64_t number(input *in) {
  uint8_t b = take8(in);
  if (b < 0xE0) return b;
  if (b < 0xE8) return take64(in);
  if (b < 0xF0) return (uint64_t)(b & 7) * 4096 + take8(in);
  if (b < 0xF8) return (1ull << (take8(in) & 63)) - (b & 3);
  return (uint64_t)0 - (b & 7);
}

static uint32_t read32(const uint8_t *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint64_t read64(const uint8_t *at) { return (uint64_t)read32(at) << 32 | read32(at + 4); }

static void write32(uint8_t *at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (24 - 8 * i));
}

static size_t padded(size_t count) { return (count + 3) / 4 * 4; }

static void *block(size_t size) {
  void *made = malloc(size + !size);
  CHECK(made);
  memset(made, FILLED, size);
  return made;
}

/* Records of the short form, one after the other; the last may be cut short. */
static size_t make_records(input *in, size_t head_end, bool writes, uint8_t *out) {
  uint64_t next = number(in);
  uint8_t head = take8(in);
  size_t at = 0;
  while (in->at < in->end) {
    uint8_t lies = take8(in);
    uint64_t offset = writes && !(lies & 1) ? next : number(in), size = number(in);
    size_t data = writes ? size % 4099 : 0;
    size_t whole = head_end + (writes ? WRITE_ARGUMENTS + padded(data) : READ_ARGUMENTS);
    if (at + whole > RECEIVED_MAX) break;
    uint8_t *record = out + at;
    memset(record, head, whole);
    write32(record, LAST | (uint32_t)(whole - 4));
    write32(record + 4, (uint32_t)(at * 77));
    uint8_t *arguments = record + head_end;
    write32(arguments, (uint32_t)(offset >> 32));
    write32(arguments + 4, (uint32_t)offset);
    write32(arguments + 8, (uint32_t)(writes ? data : size));
    if (writes) {
      write32(arguments + 12, 0);
      write32(arguments + 16, (uint32_t)data);
    }
    at += whole;
    next = offset + data;
    if (lies & 2) record[take8(in) % whole] = take8(in);
    if (lies & 4) write32(record, (uint32_t)number(in));
    if (lies & 8) write32(arguments + (take8(in) & 28) % (whole - head_end), (uint32_t)number(in));
    if (lies & 16) return at - take8(in) % whole;
  }
  return at;
}

static void receive(received *r, input *in) {
  static uint8_t made[RECEIVED_MAX];
  uint8_t form = take8(in);
  r->writes = form & 1;
  r->head_end = 8 + 4 * (size_t)(take8(in) & 63);
  const uint8_t *from = made;
  if (form & 2) {
    from = in->at;
    r->length = (size_t)(in->end - in->at);
    in->at = in->end;
  } else {
    r->length = make_records(in, r->head_end, r->writes, made);
  }
  if (r->head_end > r->length) r->head_end = r->length & ~(size_t)3;
  r->data = block(r->length);
  memcpy(r->data, from, r->length);
}

/* That a record is there, whole, and begins as the first does. */
static void check_record(const received *r, size_t at, size_t whole) {
  CHECK(whole <= r->length && at <= r->length - whole);
  CHECK(read32(r->data + at) == (LAST | (uint32_t)(whole - 4)));
  CHECK(!memcmp(r->data + 8, r->data + at + 8, r->head_end - 8));
}

static void check_answer(const uint8_t *answer, size_t size, uint32_t xid) {
  static const uint8_t zeroes[20];
  CHECK(read32(answer) == (LAST | (uint32_t)(size - 4)) && read32(answer + 4) == xid);
  CHECK(read32(answer + 8) == 1 && !memcmp(answer + 12, zeroes, sizeof zeroes));
}

static void reads(const received *r, uint64_t file_bytes, uint32_t read_most, uint32_t bytes_most,
                  unsigned most, unsigned given_up) {
  uint32_t *xids = block(most * sizeof *xids), total = ~0u;
  nfs_piece *pieces = block(most * sizeof *pieces);
  unsigned count = nfs_reads(r->data, r->length, r->head_end, file_bytes, read_most, bytes_most,
                             most, xids, pieces, &total);
  CHECK(count <= most && total <= bytes_most);
  uint8_t *out = block(total), *attributes = block(NFS_POST_OP);
  size_t end = 0;
  for (unsigned i = 0; i < count; i++) {
    size_t at = i * (r->head_end + READ_ARGUMENTS);
    check_record(r, at, r->head_end + READ_ARGUMENTS);
    nfs_piece p = pieces[i];
    CHECK(p.offset == read64(r->data + at + r->head_end) && xids[i] == read32(r->data + at + 4));
    CHECK(p.at == end + NFS_READ_HEAD && p.size <= read_most);
    CHECK(p.size <= read32(r->data + at + r->head_end + 8));
    CHECK(!p.size || (p.offset < file_bytes && p.size <= file_bytes - p.offset));
    end = p.at + padded(p.size);
    CHECK(end <= total);
    memset(out + p.at, (int)i, p.size);
  }
  CHECK(end == total);
  count -= count ? given_up % count : 0; /* the engine may have read fewer */
  uint32_t length = nfs_read_answers(xids, pieces, count, attributes, file_bytes, out);
  end = 0;
  for (unsigned i = 0; i < count; i++) {
    size_t size = NFS_READ_HEAD + padded(pieces[i].size);
    const uint8_t *answer = out + end;
    check_answer(answer, size, xids[i]);
    CHECK(!memcmp(answer + 32, attributes, NFS_POST_OP));
    CHECK(read32(answer + 120) == pieces[i].size && read32(answer + 128) == pieces[i].size);
    CHECK(read32(answer + 124) ==
          (pieces[i].offset >= file_bytes || pieces[i].offset + pieces[i].size == file_bytes));
    for (size_t k = 0; k < size - NFS_READ_HEAD; k++)
      CHECK(answer[NFS_READ_HEAD + k] == (k < pieces[i].size ? (uint8_t)i : 0));
    end += size;
  }
  CHECK(length == end);
  free(xids), free(pieces), free(out), free(attributes);
}

static void writes(const received *r, uint32_t write_most, uint32_t bytes_most, unsigned most) {
  uint32_t *xids = block(most * sizeof *xids), total = ~0u;
  nfs_piece *pieces = block(most * sizeof *pieces), *records = block(most * sizeof *records);
  unsigned count = nfs_writes(r->data, r->length, r->head_end, write_most, bytes_most, most, xids,
                              pieces, records, &total);
  CHECK(count <= most && total <= bytes_most);
  size_t at = 0, bytes = 0;
  for (unsigned i = 0; i < count; i++) {
    nfs_piece p = pieces[i];
    size_t arguments = at + r->head_end, whole = r->head_end + WRITE_ARGUMENTS + padded(p.size);
    check_record(r, at, whole);
    CHECK(p.size && p.size <= write_most && p.at == arguments + WRITE_ARGUMENTS);
    CHECK(p.offset == read64(r->data + arguments));
    CHECK(p.size == read32(r->data + arguments + 8) && p.size == read32(r->data + arguments + 16));
    CHECK(records[i].at == at + 4 && records[i].size == whole - 4);
    CHECK(!read32(r->data + arguments + 12) && xids[i] == read32(r->data + at + 4));
    at += whole;
    bytes += p.size;
  }
  CHECK(bytes == total);
  uint8_t *data = block(total), *out = block(count * NFS_WRITE_ANSWER);
  uint8_t *before = block(NFS_PRE_OP), *between = block(NFS_PRE_OP);
  uint8_t *after = block(NFS_POST_OP), *verifier = block(NFS_VERIFIER);
  before[0] = 1, between[0] = 2, after[0] = 3, verifier[0] = 4;
  nfs_gather(r->data, pieces, count, data);
  nfs_write_answers(xids, pieces, count, before, between, after, verifier, out);
  bytes = 0;
  for (unsigned i = 0; i < count; i++) {
    CHECK(!memcmp(data + bytes, r->data + pieces[i].at, pieces[i].size));
    bytes += pieces[i].size;
    const uint8_t *answer = out + (size_t)i * NFS_WRITE_ANSWER;
    check_answer(answer, NFS_WRITE_ANSWER, xids[i]);
    CHECK(!memcmp(answer + 32, i ? between : before, NFS_PRE_OP));
    CHECK(!memcmp(answer + 32 + NFS_PRE_OP, after, NFS_POST_OP));
    CHECK(read32(answer + 148) == pieces[i].size && !read32(answer + 152));
    CHECK(!memcmp(answer + 156, verifier, NFS_VERIFIER));
  }
  free(xids), free(pieces), free(records), free(data), free(out);
  free(before), free(between), free(after), free(verifier);
}

int LLVMFuzzerTestOneInput(const uint8_t *given, size_t size) {
  input in = {given, given + size};
  uint8_t limits = take8(&in);
  unsigned most = take8(&in) % (CALLS_MAX + 1), given_up = take8(&in);
  uint64_t file_bytes = number(&in);
  uint32_t bytes_most = limits & 1 ? 1u << 14 : (uint32_t)(number(&in) % (1u << 15));
  uint32_t single_most = limits & 2 ? 1u << 20 : (uint32_t)number(&in);
  received r;
  receive(&r, &in);
  if (r.head_end >= 8) {
    if (r.writes)
      writes(&r, single_most, bytes_most, most);
    else
      reads(&r, file_bytes, single_most, bytes_most, most, given_up);
  }
  free(r.data);
  return 0;
}
