/* Preloaded into the processes of a test: a file system whose inode numbers or ctimes mean nothing,
   as FUSE, CIFS and some NFS servers have them.

   STATS_UNDER is the folder that it holds. STATS_INODES=n: a file has another inode number every n
   seconds, 0: at each call. STATS_CTIMES: the same for its ctime, which is then the present moment.
   STATS_NAMES: only where a file is asked for by its name, and not where it is open.
   STATS_WRITTEN: an open file has another mtime at each call, as while somebody writes to it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int ours(int fd, const char *path) {
    const char *under = getenv("STATS_UNDER");
    char name[PATH_MAX], link[64];
    if (!under)
        return 0;
    if (!path || (path[0] != '/' && fd != AT_FDCWD)) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, name, sizeof name - 1);
        if (n < 0)
            return 0;
        name[n] = 0;
        path = name;
    }
    return !strncmp(path, under, strlen(under));
}

static void made_up(struct stat *into, int open) {
    static unsigned long calls;
    const char *inodes = getenv("STATS_INODES"), *ctimes = getenv("STATS_CTIMES");
    if (!S_ISREG(into->st_mode) || (open && getenv("STATS_NAMES")))
        return;
    if (open && getenv("STATS_WRITTEN"))
        into->st_mtim.tv_sec += ++calls;
    if (inodes)
        into->st_ino += 1000000 * (atol(inodes) ? time(NULL) / atol(inodes) : (long)++calls);
    if (ctimes) {
        clock_gettime(CLOCK_REALTIME, &into->st_ctim);
        if (atol(ctimes)) {
            into->st_ctim.tv_sec -= into->st_ctim.tv_sec % atol(ctimes);
            into->st_ctim.tv_nsec = 0;
        }
    }
}

#define WRAP(name, kind, parameters, arguments, fd, path, open) \
    int name parameters { \
        static int (*next) parameters; \
        if (!next) \
            *(void **)&next = dlsym(RTLD_NEXT, #name); \
        int failed = next arguments; \
        if (!failed && ours(fd, path)) \
            made_up((struct stat *)into, open); \
        return failed; \
    }

#define ALL(suffix, kind) \
    WRAP(stat##suffix, kind, (const char *path, struct kind *into), (path, into), AT_FDCWD, path, 0) \
    WRAP(lstat##suffix, kind, (const char *path, struct kind *into), (path, into), AT_FDCWD, path, 0) \
    WRAP(fstat##suffix, kind, (int fd, struct kind *into), (fd, into), fd, NULL, 1) \
    WRAP(fstatat##suffix, kind, (int fd, const char *path, struct kind *into, int flags), \
         (fd, path, into, flags), fd, path, 0)

ALL(, stat)
ALL(64, stat64)
