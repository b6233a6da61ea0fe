/*
 * What the checks of a Linux kernel client share.
 *
 * A check says what must be so; the first thing that is not so ends the program with its place,
 * its words and errno, so a check needs no path for failure.  Every byte of a file is a function of
 * a seed and its offset (`pattern`), so that a byte in the wrong place is never a right one by
 * accident of alignment.
 */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { BLOCK = 4096, MIB = 1 << 20 };

/* Ends the program. */
_Noreturn void fail(const char *file, int line, const char *what);

#define must(true_) ((true_) ? (void)0 : fail(__FILE__, __LINE__, #true_))
#define fails(number, call)                    \
  ((call) == -1 && errno == (number) ? (void)0 \
                                     : fail(__FILE__, __LINE__, #call " fails with " #number))

/* DIR/NAME; one of eight buffers, used in turn. */
const char *at(const char *dir, const char *name);

/* An open file, O_RDWR and O_CREAT among the flags if it is to be made. */
int opened(const char *path, int flags);

void pattern(unsigned char *out, size_t size, uint64_t seed, uint64_t offset);

/* pwrite and pread of all of it. */
void put(int fd, const void *data, size_t size, off_t offset);
void get(int fd, void *data, size_t size, off_t offset);

/* A file of `size` bytes of a pattern, synced and closed. */
void make(const char *path, size_t size, uint64_t seed);

/* That [offset, offset + size) of a file is the pattern, or zeros. */
void is_pattern(int fd, off_t offset, size_t size, uint64_t seed);
void is_zero(int fd, off_t offset, size_t size);

/* Flush a file and forget the client's pages of it: the next read asks the server. */
void forget(int fd);

off_t size_of(int fd);

/* Waits for a name, in a directory that other machines change. */
void appears(const char *path);

/* Runs until a child has ended well. */
void wait_for(pid_t child);

/* The groups of checks. */
int names(const char *dir);
int list(const char *dir, long count);
int empty(const char *dir);
int contents(const char *dir);
int opens(const char *dir);
int locks(const char *dir);
int counter(const char *path, long rounds);
int hold(const char *path, const char *until);
int held(const char *path);
int locked(const char *path);
int space(const char *dir);
int cloned(const char *path, const char *to);
int punched(const char *path, off_t offset, off_t length);
int fsx(const char *path, uint64_t seed, long count, const char *version);
int load(const char *path, const char *until);
int verify(const char *path);

#endif
