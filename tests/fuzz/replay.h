/* With -DREPLAY: a program that runs a harness on the files and directories it is given. */
#ifdef REPLAY
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *path, int *done) {
  static uint8_t data[1 << 20];
  FILE *file = fopen(path, "rb");
  if (!file) return 1;
  size_t size = fread(data, 1, sizeof data, file);
  fclose(file);
  uint8_t *exact = malloc(size + !size); /* so that ASan sees a read past the end */
  if (!exact) return 1;
  memcpy(exact, data, size);
  LLVMFuzzerTestOneInput(exact, size);
  free(exact);
  ++*done;
  return 0;
}

int main(int count, char **paths) {
  int done = 0;
  for (int i = 1; i < count; i++) {
    DIR *directory = opendir(paths[i]);
    if (!directory) {
      if (replay(paths[i], &done)) return 2;
      continue;
    }
    for (struct dirent *e; (e = readdir(directory));) {
      char path[4096];
      snprintf(path, sizeof path, "%s/%s", paths[i], e->d_name);
      if (e->d_name[0] == '.') continue;
      fprintf(stderr, "%s\n", path); /* the last line before a crash names its input */
      if (replay(path, &done)) return 2;
    }
    closedir(directory);
  }
  printf("%d inputs\n", done);
  return 0;
}
#endif
