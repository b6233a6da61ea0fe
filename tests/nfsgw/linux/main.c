/*
 * The checks that run inside a guest: `linux_client CHECK ARGUMENTS`, one static program.
 *
 * It mounts too: busybox and nfs-utils rewrite the options of a mount, and here the kernel has to
 * get those that the test says.
 */
#include "check.h"

#include <sys/mount.h>

static int mounted(const char *source, const char *dir, const char *options) {
  const char *type = strstr(options, "vers=4") != NULL ? "nfs4" : "nfs";
  must(mount(source, dir, type, MS_NOATIME, options) == 0);
  return 0;
}

static int chosen(int words, char **word) {
  const char *check = words > 2 ? word[1] : "";
  const char *first = words > 2 ? word[2] : "";
  if (strcmp(check, "mount") == 0 && words == 5) return mounted(first, word[3], word[4]);
  if (strcmp(check, "names") == 0 && words == 3) return names(first);
  if (strcmp(check, "list") == 0 && words == 4) return list(first, atol(word[3]));
  if (strcmp(check, "empty") == 0 && words == 3) return empty(first);
  if (strcmp(check, "contents") == 0 && words == 3) return contents(first);
  if (strcmp(check, "opens") == 0 && words == 3) return opens(first);
  if (strcmp(check, "locks") == 0 && words == 3) return locks(first);
  if (strcmp(check, "counter") == 0 && words == 4) return counter(first, atol(word[3]));
  if (strcmp(check, "hold") == 0 && words == 4) return hold(first, word[3]);
  if (strcmp(check, "held") == 0 && words == 3) return held(first);
  if (strcmp(check, "locked") == 0 && words == 3) return locked(first);
  if (strcmp(check, "space") == 0 && words == 3) return space(first);
  if (strcmp(check, "clone") == 0 && words == 4) return cloned(first, word[3]);
  if (strcmp(check, "punch") == 0 && words == 5)
    return punched(first, atol(word[3]), atol(word[4]));
  if (strcmp(check, "fsx") == 0 && words == 6)
    return fsx(first, strtoull(word[3], NULL, 10), atol(word[4]), word[5]);
  if (strcmp(check, "load") == 0 && words == 4) return load(first, word[3]);
  if (strcmp(check, "verify") == 0 && words == 3) return verify(first);
  printf("FAILED: no such check: %s with %d arguments\n", check, words - 2);
  return 2;
}

int main(int words, char **word) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  int result = chosen(words, word);
  if (result == 0) printf("PASSED %s %s\n", word[1], word[2]);
  return result;
}
