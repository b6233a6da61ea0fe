/*
 * Two threads write parts of a page by the page cache, while a third switches their descriptor to
 * O_DIRECT and back: the kernel decides by the flag at one moment, and tells it at another.
 *
 *   toggle_direct FILE SECONDS
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fd;
static volatile int over;
static long writes;

static void *toggle(void *unused) {
  int flags = fcntl(fd, F_GETFL);
  while (!over) {
    fcntl(fd, F_SETFL, flags | O_DIRECT);
    fcntl(fd, F_SETFL, flags);
  }
  return unused;
}

static void *write_parts(void *unused) {
  static char part[4096] __attribute__((aligned(4096)));
  while (!over) {
    if (pwrite(fd, part, 512, 512) != 512) {
      perror("pwrite");
      exit(1);
    }
    __sync_fetch_and_add(&writes, 1);
  }
  return unused;
}

int main(int argc, char **argv) {
  pthread_t threads[3];
  if (argc != 3 || (fd = open(argv[1], O_CREAT | O_TRUNC | O_RDWR, 0600)) < 0) return 2;
  pthread_create(&threads[0], NULL, toggle, NULL);
  pthread_create(&threads[1], NULL, write_parts, NULL);
  pthread_create(&threads[2], NULL, write_parts, NULL);
  sleep((unsigned)atoi(argv[2]));
  over = 1;
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  printf("%ld\n", writes);
  return 0;
}
