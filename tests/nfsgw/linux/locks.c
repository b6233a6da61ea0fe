/*
 * Byte-range locks (fcntl) between processes of one guest, and between guests.
 *
 * A second process does to the file what it is told through a pipe and says what came of it, so
 * that the order of the steps is the test's.
 */
#include <sys/file.h>

#include "check.h"

enum { TRY, WAIT, UNLOCK, ASK, LEAVE };

typedef struct {
  int kind, type;
  off_t start, length;
} step;

typedef struct {
  pid_t pid;
  int to, from;
} other_process;

/* 0, or the errno; ASK: the type of the lock in the way. */
static int done(int fd, step what) {
  struct flock lock = {.l_type = (short)what.type, .l_start = what.start, .l_len = what.length};
  int command = what.kind == ASK ? F_GETLK : what.kind == WAIT ? F_SETLKW : F_SETLK;
  if (what.kind == UNLOCK) lock.l_type = F_UNLCK;
  if (fcntl(fd, command, &lock) != 0) return errno;
  return what.kind == ASK ? lock.l_type : 0;
}

static other_process started(const char *path) {
  int to[2], from[2];
  must(pipe(to) == 0 && pipe(from) == 0);
  pid_t pid = fork();
  must(pid >= 0);
  if (pid == 0) {
    step what;
    must(close(to[1]) == 0 && close(from[0]) == 0);
    int fd = opened(path, O_RDWR);
    while (read(to[0], &what, sizeof what) == sizeof what && what.kind != LEAVE) {
      int result = done(fd, what);
      must(write(from[1], &result, sizeof result) == sizeof result);
    }
    _exit(0);
  }
  must(close(to[0]) == 0 && close(from[1]) == 0);
  return (other_process){pid, to[1], from[0]};
}

static void tell(other_process other, int kind, int type, off_t start, off_t length) {
  step what = {kind, type, start, length};
  must(write(other.to, &what, sizeof what) == sizeof what);
}

static int answer(other_process other) {
  int result;
  must(read(other.from, &result, sizeof result) == sizeof result);
  return result;
}

static int ask(other_process other, int kind, int type, off_t start, off_t length) {
  tell(other, kind, type, start, length);
  return answer(other);
}

static int mine(int fd, int kind, int type, off_t start, off_t length) {
  return done(fd, (step){kind, type, start, length});
}

static void ranges(int fd, other_process other) {
  static const off_t far = (off_t)1 << 40;
  must(mine(fd, TRY, F_WRLCK, 100, 100) == 0);
  must(ask(other, TRY, F_WRLCK, 199, 1) == EAGAIN);
  must(ask(other, TRY, F_RDLCK, 0, 101) == EAGAIN);
  must(ask(other, ASK, F_RDLCK, 150, 1) == F_WRLCK);
  must(ask(other, ASK, F_WRLCK, 200, 0) == F_UNLCK);
  must(ask(other, TRY, F_WRLCK, 0, 100) == 0 && ask(other, TRY, F_WRLCK, 200, 10) == 0);
  /* a hole in the middle of a range */
  must(mine(fd, UNLOCK, 0, 140, 20) == 0);
  must(ask(other, TRY, F_WRLCK, 140, 20) == 0 && ask(other, TRY, F_WRLCK, 139, 1) == EAGAIN);
  must(mine(fd, TRY, F_WRLCK, 140, 1) == EAGAIN && ask(other, UNLOCK, 0, 0, 0) == 0);
  must(mine(fd, UNLOCK, 0, 0, 0) == 0);
  /* readers share; one of them becomes the writer when the other has gone */
  must(mine(fd, TRY, F_RDLCK, 0, 0) == 0 && ask(other, TRY, F_RDLCK, 0, 0) == 0);
  must(mine(fd, TRY, F_WRLCK, 0, 10) == EAGAIN && ask(other, UNLOCK, 0, 0, 0) == 0);
  must(mine(fd, TRY, F_WRLCK, 0, 10) == 0 && ask(other, TRY, F_RDLCK, 0, 10) == EAGAIN);
  must(ask(other, TRY, F_RDLCK, 10, 10) == 0 && ask(other, UNLOCK, 0, 0, 0) == 0);
  must(mine(fd, UNLOCK, 0, 0, 0) == 0);
  must(mine(fd, TRY, F_WRLCK, far, 0) == 0 && ask(other, TRY, F_WRLCK, 0, far) == 0);
  must(ask(other, TRY, F_WRLCK, far + far, 1) == EAGAIN);
  must(mine(fd, UNLOCK, 0, 0, 0) == 0 && ask(other, UNLOCK, 0, 0, 0) == 0);
}

/* A lock that is waited for comes when the one in its way goes: by unlock, close or exit. */
static void waits(const char *path, int fd) {
  other_process other = started(path), third = started(path);
  must(mine(fd, TRY, F_WRLCK, 0, 10) == 0);
  tell(other, WAIT, F_WRLCK, 5, 10);
  must(mine(fd, UNLOCK, 0, 0, 0) == 0);
  must(answer(other) == 0);
  must(mine(fd, TRY, F_RDLCK, 5, 1) == EAGAIN);
  tell(third, WAIT, F_WRLCK, 14, 1);
  tell(other, LEAVE, 0, 0, 0);
  must(answer(third) == 0);
  wait_for(other.pid);
  must(mine(fd, TRY, F_RDLCK, 5, 1) == 0 && mine(fd, TRY, F_RDLCK, 14, 1) == EAGAIN);
  tell(third, LEAVE, 0, 0, 0);
  wait_for(third.pid);
  /* closing any descriptor of the file gives up the process' locks */
  other = started(path);
  must(ask(other, TRY, F_WRLCK, 5, 1) == EAGAIN);
  must(close(opened(path, O_RDONLY)) == 0);
  must(ask(other, TRY, F_WRLCK, 5, 1) == 0);
  tell(other, LEAVE, 0, 0, 0);
  wait_for(other.pid);
}

static void whole_files(const char *path) {
  int one = opened(path, O_RDWR), two = opened(path, O_RDWR);
  must(flock(one, LOCK_EX | LOCK_NB) == 0);
  fails(EWOULDBLOCK, flock(two, LOCK_EX | LOCK_NB));
  must(flock(one, LOCK_UN) == 0 && flock(two, LOCK_EX | LOCK_NB) == 0);
  must(close(one) == 0 && close(two) == 0);
}

int locks(const char *dir) {
  const char *path = at(dir, "locks");
  int fd = opened(path, O_RDWR | O_CREAT);
  other_process other = started(path);
  ranges(fd, other);
  tell(other, LEAVE, 0, 0, 0);
  wait_for(other.pid);
  waits(path, fd);
  must(close(fd) == 0);
  whole_files(path);
  must(unlink(path) == 0);
  return 0;
}

/* Adds one to the number in a file, `rounds` times, each time under a lock of it. */
int counter(const char *path, long rounds) {
  int fd = opened(path, O_RDWR | O_CREAT);
  for (long n = 0; n < rounds; n++) {
    uint64_t number = 0;
    must(mine(fd, WAIT, F_WRLCK, 0, sizeof number) == 0);
    must(pread(fd, &number, sizeof number, 0) >= 0);
    number++;
    put(fd, &number, sizeof number, 0);
    must(mine(fd, UNLOCK, 0, 0, sizeof number) == 0);
  }
  must(close(fd) == 0);
  return 0;
}

/* Holds the first half of a file until a name appears; what it writes meanwhile arrives. */
int hold(const char *path, const char *until) {
  char sign[PATH_MAX];
  int fd = opened(path, O_RDWR | O_CREAT);
  must(mine(fd, TRY, F_WRLCK, 0, BLOCK) == 0);
  snprintf(sign, sizeof sign, "%s-held", path);
  must(close(opened(sign, O_RDWR | O_CREAT)) == 0);
  appears(until);
  put(fd, "held", 4, 0);
  must(fsync(fd) == 0 && mine(fd, UNLOCK, 0, 0, BLOCK) == 0 && close(fd) == 0);
  return 0;
}

/* Against `hold` of another machine: not its half, but the other; its half when it has gone. */
int held(const char *path) {
  char sign[PATH_MAX], found[4];
  snprintf(sign, sizeof sign, "%s-held", path);
  appears(sign);
  int fd = opened(path, O_RDWR);
  must(mine(fd, TRY, F_WRLCK, 0, 1) == EAGAIN && mine(fd, TRY, F_RDLCK, 10, 0) == EAGAIN);
  must(mine(fd, ASK, F_RDLCK, BLOCK - 1, 1) == F_WRLCK);
  must(mine(fd, TRY, F_WRLCK, BLOCK, 0) == 0);
  snprintf(sign, sizeof sign, "%s-seen", path);
  must(close(opened(sign, O_RDWR | O_CREAT)) == 0);
  must(mine(fd, WAIT, F_WRLCK, 0, BLOCK) == 0);
  get(fd, found, sizeof found, 0);
  must(memcmp(found, "held", 4) == 0 && close(fd) == 0);
  return 0;
}

/* That another machine still holds the half. */
int locked(const char *path) {
  int fd = opened(path, O_RDWR);
  must(mine(fd, TRY, F_RDLCK, 0, BLOCK) == EAGAIN && close(fd) == 0);
  return 0;
}
