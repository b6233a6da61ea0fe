/* Open files: exclusive creates, unlinked and replaced while open, rights of another user. */
#include <dirent.h>
#include <grp.h>
#include <sys/wait.h>

#include "check.h"

enum { RACES = 24 };

/* How many names of a directory the client made for files that are open but unlinked. */
static int hidden(const char *path) {
  int count = 0;
  DIR *dir = opendir(path);
  must(dir != NULL);
  for (struct dirent *each; (errno = 0, each = readdir(dir)) != NULL;)
    count += strncmp(each->d_name, ".nfs", 4) == 0;
  must(errno == 0 && closedir(dir) == 0);
  return count;
}

static void unlinked(const char *dir) {
  const char *path = at(dir, "unlinked");
  make(path, 2 * BLOCK, 1);
  int fd = opened(path, O_RDWR);
  must(unlink(path) == 0 && access(path, F_OK) == -1 && hidden(dir) == 1);
  forget(fd);
  is_pattern(fd, 0, 2 * BLOCK, 1);
  put(fd, "more", 4, 2 * BLOCK);
  must(size_of(fd) == 2 * BLOCK + 4);
  make(path, BLOCK, 2);
  is_pattern(fd, 0, 2 * BLOCK, 1);
  must(close(fd) == 0 && hidden(dir) == 0);
  must(unlink(path) == 0);
}

static void replaced(const char *dir) {
  const char *path = at(dir, "replaced"), *other = at(dir, "other");
  make(path, BLOCK, 1);
  make(other, BLOCK, 2);
  int fd = opened(path, O_RDONLY);
  must(rename(other, path) == 0);
  is_pattern(fd, 0, BLOCK, 1);
  int again = opened(path, O_RDONLY);
  is_pattern(again, 0, BLOCK, 2);
  must(close(fd) == 0 && close(again) == 0);
  must(unlink(path) == 0 && hidden(dir) == 0);
}

/* Makes what it can of the names; the exit code of the process is how many it made. */
static pid_t racer(const char *dir) {
  pid_t child = fork();
  must(child >= 0);
  if (child > 0) return child;
  int made = 0;
  for (int n = 0; n < RACES; n++) {
    char name[32];
    snprintf(name, sizeof name, "race-%d", n);
    int fd = open(at(dir, name), O_RDWR | O_CREAT | O_EXCL, 0640);
    must(fd >= 0 || errno == EEXIST);
    made += fd >= 0;
  }
  _exit(made);
}

static void exclusive(const char *dir) {
  int made = 0, status;
  struct stat found;
  pid_t racers[] = {racer(dir), racer(dir)};
  for (int n = 0; n < 2; n++) {
    must(waitpid(racers[n], &status, 0) == racers[n] && WIFEXITED(status));
    made += WEXITSTATUS(status);
  }
  must(made == RACES);
  for (int n = 0; n < RACES; n++) {
    char name[32];
    snprintf(name, sizeof name, "race-%d", n);
    must(stat(at(dir, name), &found) == 0 && (found.st_mode & 07777) == 0640);
    must(unlink(at(dir, name)) == 0);
  }
}

/* What another user may: the server says no, and a file stays open when its mode has changed. */
static void strangers(const char *dir) {
  const char *secret = at(dir, "secret"), *open_dir = at(dir, "open");
  make(secret, BLOCK, 1);
  must(chmod(secret, 0600) == 0 && mkdir(open_dir, 0) == 0 && chmod(open_dir, 01777) == 0);
  pid_t child = fork();
  must(child >= 0);
  if (child == 0) {
    must(setgroups(0, NULL) == 0 && setgid(1000) == 0 && setuid(1000) == 0);
    fails(EACCES, open(secret, O_RDONLY));
    fails(EACCES, open(at(dir, "new"), O_RDWR | O_CREAT, 0644));
    fails(EACCES, unlink(secret));
    fails(EPERM, chmod(secret, 0666));
    int fd = open(at(open_dir, "mine"), O_RDWR | O_CREAT, 0600);
    must(fd >= 0 && fchmod(fd, 0) == 0);
    put(fd, "still open", 10, 0);
    must(fsync(fd) == 0 && close(fd) == 0);
    fails(EACCES, open(at(open_dir, "mine"), O_RDONLY));
    _exit(0);
  }
  wait_for(child);
  must(unlink(at(open_dir, "mine")) == 0 && rmdir(open_dir) == 0 && unlink(secret) == 0);
}

int opens(const char *dir) {
  unlinked(dir);
  replaced(dir);
  exclusive(dir);
  strangers(dir);
  return 0;
}
