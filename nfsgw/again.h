/* What again.c does; nfsgw/build.py makes declarations for Python of it. */
#ifndef NFS_AGAIN_H
#define NFS_AGAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NFS_PRE_OP 28u        /* pre_op_attr, with attributes */
#define NFS_POST_OP 88u       /* post_op_attr, with attributes */
#define NFS_VERIFIER 8u       /* of a WRITE */
#define NFS_READ_HEAD 132u    /* an answer to a READ, before its data */
#define NFS_WRITE_ANSWER 164u /* an answer to a WRITE */

/* A READ: the file's bytes that it gets, and where in the answers they go. A WRITE: those that it
 * brings, and where in the records they are. As rmt_piece. */
typedef struct {
  uint64_t offset;
  uint32_t size, at;
} nfs_piece;

/* Both take records from the start of `in` on, as many as are whole and alike, at most `most`, and
 * return how many. `bytes_most` bounds what is answered, or written. */
unsigned nfs_reads(const uint8_t *in, size_t length, size_t head_end, uint64_t file_bytes,
                   uint32_t read_most, uint32_t bytes_most, unsigned most, uint32_t *xids,
                   nfs_piece *pieces, uint32_t *total);
/* WRITEs that are UNSTABLE. `records`: where each is, behind its mark. */
unsigned nfs_writes(const uint8_t *in, size_t length, size_t head_end, uint32_t write_most,
                    uint32_t bytes_most, unsigned most, uint32_t *xids, nfs_piece *pieces,
                    nfs_piece *records, uint32_t *total);

/* Around data that are in `out` already; returns how long all is. */
uint32_t nfs_read_answers(const uint32_t *xids, const nfs_piece *pieces, unsigned count,
                          const uint8_t *attributes, uint64_t file_bytes, uint8_t *out);
/* `between`: the attributes before each but the first. */
void nfs_write_answers(const uint32_t *xids, const nfs_piece *pieces, unsigned count,
                       const uint8_t *before, const uint8_t *between, const uint8_t *after,
                       const uint8_t *verifier, uint8_t *out);
/* The data of WRITEs, one after the other. */
void nfs_gather(const uint8_t *in, const nfs_piece *pieces, unsigned count, uint8_t *out);

#endif
