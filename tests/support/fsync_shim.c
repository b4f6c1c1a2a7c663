/* Records how much of the append-only file is known to be on disk.
 *
 * Loaded before libc into a Redis or Valkey server. After each fdatasync or fsync of a file whose name ends in
 * ".incr.aof" it appends "path size\n" to the file named by FLEETLINE_FSYNC_LEDGER. The size is the one from before
 * the call: what was written while it ran is not known to be on disk.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char SUFFIX[] = ".incr.aof";

/* Puts the path of an append-only file into `path`; returns 0 for any other file. */
static int append_only_file(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < (ssize_t)sizeof SUFFIX) return 0;
    path[length] = '\0';
    return strcmp(path + length - (sizeof SUFFIX - 1), SUFFIX) == 0;
}

static void record(const char *path, long long size) {
    const char *ledger = getenv("FLEETLINE_FSYNC_LEDGER");
    if (ledger == NULL) return;
    int fd = open(ledger, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) abort();
    char line[PATH_MAX + 32];
    int length = snprintf(line, sizeof line, "%s %lld\n", path, size);
    if (write(fd, line, (size_t)length) != length) abort();
    close(fd);
}

static int synced(int fd, int (*real)(int)) {
    char path[PATH_MAX];
    struct stat before;
    if (!append_only_file(fd, path, sizeof path) || fstat(fd, &before) != 0) return real(fd);
    int result = real(fd);
    int error = errno;
    if (result == 0) record(path, (long long)before.st_size);
    errno = error;
    return result;
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (real == NULL) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return synced(fd, real);
}

int fsync(int fd) {
    static int (*real)(int);
    if (real == NULL) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return synced(fd, real);
}
