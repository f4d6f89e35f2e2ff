/* Records what is written to data.mdb, and when it was synced: preloaded into a process that works on a queue.

   Each record is one write to the file named by MTA_RECORD, opened for appending, so that records of all threads and
   the process' own lines stand in the order of what they tell.  A record is a byte, then numbers in the machine's order:
     1 offset(8) length(8) octets   a write is about to be made
     2 offset(8) length(8)          it was made through a descriptor that syncs each write, and is on disk
     3                              the whole file was synced
     4 length(8)                    the file was given this length */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int record = -1;

static int recorded(int fd)
{
    char link[64], path[PATH_MAX];
    ssize_t length;

    if (record < 0) {
        const char *name = getenv("MTA_RECORD");
        if (!name)
            return 0;
        record = open(name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path);
    return length >= 9 && !memcmp(path + length - 9, "/data.mdb", 9);
}

static void put(char kind, uint64_t one, uint64_t two, int numbers, const struct iovec *parts, int count)
{
    struct iovec all[1024];
    char head[17];

    head[0] = kind;
    memcpy(head + 1, &one, 8);
    memcpy(head + 9, &two, 8);
    all[0].iov_base = head;
    all[0].iov_len = 1 + 8 * numbers;
    if (count > 1023) /* IOV_MAX is 1024; LMDB gathers 64 */
        abort();
    for (int n = 0; n < count; n++)
        all[n + 1] = parts[n];
    ssize_t total = 0;
    for (int n = 0; n <= count; n++)
        total += all[n].iov_len;
    if (syscall(SYS_writev, record, all, count + 1) != total)
        abort();
}

static void before(const struct iovec *parts, int count, off_t offset)
{
    uint64_t length = 0;

    for (int n = 0; n < count; n++)
        length += parts[n].iov_len;
    put(1, offset, length, 2, parts, count);
}

static void after(int fd, ssize_t written, off_t offset)
{
    if (written > 0 && (fcntl(fd, F_GETFL) & O_DSYNC))
        put(2, offset, written, 2, NULL, 0);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    int ours = recorded(fd);
    struct iovec part = {(void *)data, length};

    if (ours)
        before(&part, 1, offset);
    ssize_t written = REAL(pwrite64)(fd, data, length, offset);
    if (ours)
        after(fd, written, offset);
    return written;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    return pwrite64(fd, data, length, offset);
}

ssize_t write(int fd, const void *data, size_t length)
{
    int ours = recorded(fd);
    off_t offset = ours ? lseek(fd, 0, SEEK_CUR) : 0;
    struct iovec part = {(void *)data, length};

    if (ours)
        before(&part, 1, offset);
    ssize_t written = REAL(write)(fd, data, length);
    if (ours)
        after(fd, written, offset);
    return written;
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    int ours = recorded(fd);
    off_t offset = ours ? lseek(fd, 0, SEEK_CUR) : 0;

    if (ours)
        before(parts, count, offset);
    ssize_t written = REAL(writev)(fd, parts, count);
    if (ours)
        after(fd, written, offset);
    return written;
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    int ours = recorded(fd);

    if (ours)
        before(parts, count, offset);
    ssize_t written = REAL(pwritev64)(fd, parts, count, offset);
    if (ours)
        after(fd, written, offset);
    return written;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    return pwritev64(fd, parts, count, offset);
}

int fdatasync(int fd)
{
    int ours = recorded(fd), result = REAL(fdatasync)(fd);

    if (ours && !result)
        put(3, 0, 0, 0, NULL, 0);
    return result;
}

int fsync(int fd)
{
    int ours = recorded(fd), result = REAL(fsync)(fd);

    if (ours && !result)
        put(3, 0, 0, 0, NULL, 0);
    return result;
}

int msync(void *address, size_t length, int flags)
{
    abort(); /* the file is mapped for reading only: nobody calls this */
}

int ftruncate64(int fd, off64_t length)
{
    int ours = recorded(fd), result = REAL(ftruncate64)(fd, length);

    if (ours && !result)
        put(4, length, 0, 1, NULL, 0);
    return result;
}

int ftruncate(int fd, off_t length)
{
    return ftruncate64(fd, length);
}
