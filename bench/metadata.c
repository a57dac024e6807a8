/* What one operation on names costs: `metadata DIR COUNT FORGET` prints "NAME MICROSECONDS" a line.
   It sleeps FORGET seconds where the kernel is to ask a FUSE server again instead of believing what it was told. */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char block[4096], name[64], other[64];
static int count;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void must(int done) {
    if (done < 0) {
        perror(name);
        exit(1);
    }
}

static void put(const char *path, int flags, int size) {
    int file = open(path, O_WRONLY | flags, 0644);
    must(file);
    must(write(file, block, size));
    must(close(file));
}

#define EACH(what, letter, work)                                                                                       \
    do {                                                                                                               \
        double begun = now();                                                                                          \
        for (int i = 0; i < count; i++) {                                                                              \
            sprintf(name, letter "%d", i);                                                                             \
            work;                                                                                                      \
        }                                                                                                              \
        printf("%s %.3f\n", what, (now() - begun) / count);                                                            \
    } while (0)

int main(int argc, char **argv) {
    struct stat s;
    if (argc != 4)
        return 2;
    must(chdir(argv[1]));
    count = atoi(argv[2]);
    unsigned forget = atof(argv[3]) * 1e6;

    EACH("create+write 4K", "f", put(name, O_CREAT, 4096));
    usleep(forget);
    EACH("open+read", "f", int f = open(name, O_RDONLY); must(f); must(read(f, block, 4096)); must(close(f)));
    EACH("stat, known", "f", must(stat(name, &s)));
    usleep(forget);
    EACH("stat", "f", must(stat(name, &s)));
    EACH("stat, missing", "n", stat(name, &s));
    EACH("tmp+rename", "t", put(name, O_CREAT, 4096); sprintf(other, "f%d", i); must(rename(name, other)));
    double begun = now();
    DIR *directory = opendir(".");
    for (struct dirent *e; (e = readdir(directory));)
        must(lstat(e->d_name, &s));
    closedir(directory);
    printf("readdir+lstat %.3f\n", (now() - begun) / count);
    usleep(forget);
    EACH("open+append", "f", put(name, O_APPEND, 200));
    EACH("mkdir", "d", must(mkdir(name, 0755)));
    EACH("rmdir", "d", must(rmdir(name)));
    EACH("unlink", "f", must(unlink(name)));
    return 0;
}
