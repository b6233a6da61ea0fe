/* Names and attributes: trees, lookups, links, renames, symlinks, attributes, directories. */
#include <dirent.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "check.h"

enum { NFS_MAGIC = 0x6969, DEPTH = 2, FOLDERS = 3, FILES = 4 };

static struct stat seen(const char *path) {
  struct stat found;
  must(lstat(path, &found) == 0);
  return found;
}

static void touch(const char *path) { must(close(opened(path, O_RDWR | O_CREAT | O_EXCL)) == 0); }

/* Entries of a directory without `.` and `..`, which have to be there. */
static long entries(const char *path) {
  long count = 0, dots = 0;
  DIR *dir = opendir(path);
  must(dir != NULL);
  for (struct dirent *each; (errno = 0, each = readdir(dir)) != NULL;)
    if (strcmp(each->d_name, ".") == 0 || strcmp(each->d_name, "..") == 0)
      dots++;
    else
      count++;
  must(errno == 0 && dots == 2 && closedir(dir) == 0);
  return count;
}

static void grow(const char *dir, int depth) {
  char name[PATH_MAX], under[PATH_MAX];
  must(mkdir(dir, 0755) == 0);
  for (int n = 0; n < FILES; n++) {
    snprintf(name, sizeof name, "file-%d", n);
    touch(at(dir, name));
  }
  for (int n = 0; depth > 0 && n < FOLDERS; n++) {
    snprintf(under, sizeof under, "%s/folder-%d", dir, n);
    grow(under, depth - 1);
  }
  must(entries(dir) == FILES + (depth > 0 ? FOLDERS : 0));
  must(seen(dir).st_nlink == (depth > 0 ? 2u + FOLDERS : 2u));
}

static void fell(const char *dir, int depth) {
  char name[PATH_MAX], under[PATH_MAX];
  fails(ENOTEMPTY, rmdir(dir));
  for (int n = 0; n < FILES; n++) {
    snprintf(name, sizeof name, "file-%d", n);
    must(S_ISREG(seen(at(dir, name)).st_mode) && unlink(at(dir, name)) == 0);
    fails(ENOENT, unlink(at(dir, name)));
  }
  for (int n = 0; depth > 0 && n < FOLDERS; n++) {
    snprintf(under, sizeof under, "%s/folder-%d", dir, n);
    fails(EISDIR, unlink(under));
    fell(under, depth - 1);
  }
  must(rmdir(dir) == 0);
  fails(ENOENT, rmdir(dir));
}

static void lookups(const char *dir) {
  char here[PATH_MAX], name[NAME_MAX + 2];
  const char *inner = at(dir, "inner");
  must(mkdir(inner, 0755) == 0 && chdir(inner) == 0);
  must(getcwd(here, sizeof here) != NULL && strcmp(here, inner) == 0);
  must(seen("..").st_ino == seen(dir).st_ino && seen(".").st_ino == seen(inner).st_ino);
  must(chdir("..") == 0 && rmdir(inner) == 0 && chdir("/") == 0);
  fails(ENOENT, access(inner, F_OK));
  memset(name, 'n', sizeof name);
  name[NAME_MAX + 1] = 0;
  fails(ENAMETOOLONG, access(at(dir, name), F_OK));
  name[NAME_MAX] = 0;
  touch(at(dir, name));
  fails(ENOTDIR, access(at(at(dir, name), "below"), F_OK));
  must(unlink(at(dir, name)) == 0);
  touch(at(dir, "\xc3\xa4 \xff\t"));
  must(entries(dir) == 1 && unlink(at(dir, "\xc3\xa4 \xff\t")) == 0);
}

static void attributes(const char *dir) {
  const char *path = at(dir, "attributes");
  struct timespec times[2] = {{1000000001, 123456789}, {1700000000, 987654321}}, now;
  touch(path);
  struct stat before = seen(path);
  for (unsigned mode = 0; mode <= 07777; mode += 0111) {
    must(chmod(path, mode) == 0);
    must((seen(path).st_mode & 07777) == mode);
  }
  must(chown(path, 1234, 4294967000u) == 0);
  must(seen(path).st_uid == 1234 && seen(path).st_gid == 4294967000u);
  must(lchown(path, 0, -1u) == 0 && seen(path).st_gid == 4294967000u);
  must(utimensat(AT_FDCWD, path, times, 0) == 0);
  must(seen(path).st_atim.tv_nsec == 123456789 && seen(path).st_atime == 1000000001);
  must(seen(path).st_mtim.tv_nsec == 987654321 && seen(path).st_mtime == 1700000000);
  must(seen(path).st_ctime >= before.st_ctime);
  must(utimensat(AT_FDCWD, path, NULL, 0) == 0);
  clock_gettime(CLOCK_REALTIME, &now);
  must(llabs((long long)now.tv_sec - seen(path).st_mtime) < 3600);
  must(truncate(path, 10000) == 0 && seen(path).st_size == 10000);
  must(unlink(path) == 0);
  fails(ENOENT, chmod(path, 0));
}

static void links(const char *dir) {
  const char *one = at(dir, "one"), *two = at(dir, "two"), *inner = at(dir, "inner");
  touch(one);
  must(link(one, two) == 0);
  must(seen(one).st_nlink == 2 && seen(one).st_ino == seen(two).st_ino);
  fails(EEXIST, link(one, two));
  must(rename(one, two) == 0 && seen(one).st_nlink == 2);
  must(unlink(one) == 0 && seen(two).st_nlink == 1);
  must(mkdir(inner, 0755) == 0);
  fails(EPERM, link(inner, one));
  fails(EEXIST, mkdir(two, 0755));
  must(rmdir(inner) == 0 && unlink(two) == 0);
}

static void renames(const char *dir) {
  const char *file = at(dir, "file"), *folder = at(dir, "folder"), *moved = at(dir, "moved");
  const char *inside = at(folder, "inside"), *moved_inside = at(moved, "inside");
  touch(file);
  must(mkdir(folder, 0755) == 0);
  fails(EISDIR, rename(file, folder));
  fails(ENOTDIR, rename(folder, file));
  fails(EINVAL, rename(folder, inside));
  ino_t ino = seen(file).st_ino;
  must(rename(file, inside) == 0 && seen(inside).st_ino == ino);
  fails(ENOENT, rename(file, inside));
  must(mkdir(moved, 0755) == 0);
  must(rename(moved, folder) == -1 && (errno == ENOTEMPTY || errno == EEXIST));
  must(rename(folder, moved) == 0 && seen(moved_inside).st_ino == ino);
  touch(file);
  must(rename(file, moved_inside) == 0 && seen(moved_inside).st_ino != ino);
  must(unlink(moved_inside) == 0 && rmdir(moved) == 0 && entries(dir) == 0);
}

static void symlinks(const char *dir) {
  char target[1001], found[1100];
  const char *path = at(dir, "symlink");
  memset(target, 't', 1000);
  target[1000] = 0;
  must(symlink(target, path) == 0 && S_ISLNK(seen(path).st_mode));
  must(seen(path).st_size == 1000 && readlink(path, found, sizeof found) == 1000);
  must(memcmp(found, target, 1000) == 0);
  fails(EEXIST, symlink("other", path));
  must(unlink(path) == 0 && symlink("symlink", path) == 0);
  fails(ELOOP, open(path, O_RDONLY));
  must(unlink(path) == 0 && symlink("nowhere", path) == 0);
  fails(ENOENT, open(path, O_RDONLY));
  must(unlink(path) == 0);
}

static void others(const char *dir) {
  const char *pipe = at(dir, "pipe"), *device = at(dir, "device");
  struct statfs found;
  must(mkfifo(pipe, 0600) == 0 && S_ISFIFO(seen(pipe).st_mode));
  must(mknod(device, S_IFCHR | 0600, makedev(1, 3)) == 0);
  must(S_ISCHR(seen(device).st_mode) && seen(device).st_rdev == makedev(1, 3));
  must(unlink(pipe) == 0 && unlink(device) == 0);
  must(statfs(dir, &found) == 0 && found.f_type == NFS_MAGIC && found.f_namelen == NAME_MAX);
  must(found.f_blocks >= found.f_bfree && found.f_bfree >= found.f_bavail && found.f_bavail > 0);
  must(found.f_files >= found.f_ffree && found.f_ffree > 0);
}

/* `dir` is empty, before and after. */
int names(const char *dir) {
  char tree[PATH_MAX];
  snprintf(tree, sizeof tree, "%s/tree", dir);
  must(entries(dir) == 0);
  grow(tree, DEPTH);
  fell(tree, DEPTH);
  lookups(dir);
  attributes(dir);
  links(dir);
  renames(dir);
  symlinks(dir);
  others(dir);
  must(entries(dir) == 0);
  return 0;
}

/* That `dir` has the files NUMBER from 0 to `count` - 1, each listed once, and nothing else. */
int list(const char *dir, long count) {
  unsigned char *found = calloc((size_t)count, 1);
  DIR *opened_dir = opendir(dir);
  long seen_count = 0;
  must(found != NULL && opened_dir != NULL);
  for (struct dirent *each; (errno = 0, each = readdir(opened_dir)) != NULL;) {
    char *end;
    if (each->d_name[0] == '.') continue;
    long number = strtol(each->d_name, &end, 10);
    must(*end == 0 && number >= 0 && number < count && !found[number]);
    found[number] = 1;
    seen_count++;
  }
  must(errno == 0 && seen_count == count && closedir(opened_dir) == 0);
  free(found);
  return 0;
}

/* Deletes what it lists while it lists; nothing is left out. */
int empty(const char *dir) {
  DIR *opened_dir = opendir(dir);
  must(opened_dir != NULL);
  for (struct dirent *each; (errno = 0, each = readdir(opened_dir)) != NULL;)
    if (each->d_name[0] != '.') must(unlinkat(dirfd(opened_dir), each->d_name, 0) == 0);
  must(errno == 0 && closedir(opened_dir) == 0 && entries(dir) == 0);
  return 0;
}
