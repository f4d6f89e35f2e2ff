/* A disk that fails on demand: preloaded into a service.

   As long as the file named by MTA_FAULTS exists, calls on files whose path has a certain text in it fail.  The file has
   one line, "ERRNO TEXT CALLS FIRST COUNT": the error's number, or a signal's with a minus sign, which the process then
   sends itself before the call is made; the text; "w" for calls that write, "s" for those that
   sync, "ws" for both; how many such calls succeed before the first that fails, and how many fail then (0: all).  Calls
   are counted by each process, from when the file was last written. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct timespec written;
static long calls;

static int fails(int fd, char call)
{
    const char *name = getenv("MTA_FAULTS");
    struct stat status;
    char link[64], path[PATH_MAX], text[256], which[8];
    int number, failing = 0;
    long first, count;
    ssize_t length;

    if (!name || stat(name, &status))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0 || path[0] != '/')
        return 0;
    path[length] = 0;
    FILE *file = fopen(name, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%d %255s %7s %ld %ld", &number, text, which, &first, &count) == 5 && strchr(which, call)
        && strstr(path, text)) {
        pthread_mutex_lock(&lock);
        if (memcmp(&written, &status.st_mtim, sizeof written)) {
            written = status.st_mtim;
            calls = 0;
        }
        failing = calls >= first && (!count || calls < first + count);
        calls++;
        pthread_mutex_unlock(&lock);
    }
    fclose(file);
    if (failing && number < 0) {
        kill(getpid(), -number);
        return 0;
    }
    if (failing)
        errno = number;
    return failing;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t length)
{
    return fails(fd, 'w') ? -1 : REAL(write)(fd, data, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return fails(fd, 'w') ? -1 : REAL(writev)(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    return fails(fd, 'w') ? -1 : REAL(pwrite64)(fd, data, length, offset);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    return pwrite64(fd, data, length, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    return fails(fd, 'w') ? -1 : REAL(pwritev64)(fd, parts, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    return pwritev64(fd, parts, count, offset);
}

int ftruncate64(int fd, off64_t length)
{
    return fails(fd, 'w') ? -1 : REAL(ftruncate64)(fd, length);
}

int ftruncate(int fd, off_t length)
{
    return ftruncate64(fd, length);
}

int fdatasync(int fd)
{
    return fails(fd, 's') ? -1 : REAL(fdatasync)(fd);
}

int fsync(int fd)
{
    return fails(fd, 's') ? -1 : REAL(fsync)(fd);
}
