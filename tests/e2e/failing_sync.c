/* Preloaded into a service: as long as the file named by MTA_FAIL_SYNC exists, no sync of data.mdb succeeds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fdatasync(int fd)
{
    char link[64], path[PATH_MAX];
    const char *trigger = getenv("MTA_FAIL_SYNC");
    ssize_t length;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path);
    if (trigger && length >= 15 && !memcmp(path + length - 15, "/queue/data.mdb", 15) && !access(trigger, F_OK)) {
        errno = EIO;
        return -1;
    }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
