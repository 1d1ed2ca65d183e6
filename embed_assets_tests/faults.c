/* Preloaded into the processes of a test: makes a disk fail as a dying disk or a stale mount does.

   FAULTS_UNDER is the folder that fails. FAULTS names a file of rules, read at each call, one a
   line: `operation error chance prefix`, e.g. `read 5 0.02 /library/Album`. Operations are open,
   read, write, list, stat and any; the error is an errno, or 0 for a call that hangs for as long
   as the rule stands; the chance is taken from FAULTS_SEED. Each fault is a line in FAULTS.log. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST 4096

static char *names[MOST];
static const char *under, *rules;
static size_t length;
static uint64_t seed, calls;

__attribute__((constructor)) static void begin(void) {
    under = getenv("FAULTS_UNDER");
    rules = getenv("FAULTS");
    length = under ? strlen(under) : 0;
    const char *number = getenv("FAULTS_SEED");
    seed = 0xD1B54A32D192ED03u * (uint64_t)(atoll(number ? number : "0") + 1);
}

static int ours(const char *path) {
    return rules && length && path && !strncmp(path, under, length)
        && (path[length] == '/' || !path[length]);
}

/* The same in every process for the same calls on the same names. */
static double chance(const char *path) {
    uint64_t x = seed + 0x9E3779B97F4A7C15u * ++calls;
    for (; *path; path++)
        x = (x ^ (unsigned char)*path) * 0x100000001B3u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (double)((x ^ (x >> 31)) >> 11) / (double)(1ull << 53);
}

/* The error that a rule has for this call, 0 for a hang, -1 for none. */
static int rule(const char *operation, const char *path) {
    char text[8192];
    int fd = syscall(SYS_openat, AT_FDCWD, rules, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : syscall(SYS_read, fd, text, sizeof text - 1);
    if (fd >= 0)
        syscall(SYS_close, fd);
    text[n > 0 ? n : 0] = 0;
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char which[16], where[PATH_MAX];
        int error;
        double part;
        if (sscanf(line, "%15s %d %lf %4095[^\n]", which, &error, &part, where) != 4)
            continue;
        if (strcmp(which, "any") && strcmp(which, operation))
            continue;
        if (strncmp(path, where, strlen(where)))
            continue;
        if (part >= 1.0 || chance(path + length) < part)
            return error;
    }
    return -1;
}

static void note(const char *operation, int error, const char *path) {
    char line[PATH_MAX + 64], log[PATH_MAX];
    snprintf(log, sizeof log, "%s.log", rules);
    int n = snprintf(line, sizeof line, "%s %d %s\n", operation, error, path);
    int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        syscall(SYS_write, fd, line, n);
        syscall(SYS_close, fd);
    }
}

/* Whether this call fails; errno says of what. */
static int fails(const char *operation, const char *path) {
    if (!ours(path))
        return 0;
    int saved = errno, error = rule(operation, path);
    if (error >= 0)
        note(operation, error, path);
    while (error == 0) {
        struct timespec little = {0, 50000000};
        /* Not nanosleep: no signal with a handler ends the wait for a disk either. */
        while (syscall(SYS_nanosleep, &little, &little) && errno == EINTR)
            ;
        error = rule(operation, path) == 0 ? 0 : -1;
    }
    errno = error > 0 ? error : saved;
    return error > 0;
}

static void opened(int fd, const char *path) {
    if (fd < 0 || fd >= MOST)
        return;
    free(names[fd]);
    names[fd] = ours(path) ? strdup(path) : NULL;
}

static const char *name(int fd) {
    return fd >= 0 && fd < MOST ? names[fd] : NULL;
}

#define NEXT(kind, function, ...) \
    static kind (*next)(__VA_ARGS__); \
    if (!next) \
        *(void **)&next = dlsym(RTLD_NEXT, function)

#define OPEN(function) \
    int function(const char *path, int flags, ...) { \
        NEXT(int, #function, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = va_arg(rest, int); \
        va_end(rest); \
        if (fails("open", path)) \
            return -1; \
        int fd = next(path, flags, mode); \
        opened(fd, path); \
        return fd; \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(function) \
    int function(int at, const char *path, int flags, ...) { \
        NEXT(int, #function, int, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = va_arg(rest, int); \
        va_end(rest); \
        if (fails("open", path)) \
            return -1; \
        int fd = next(at, path, flags, mode); \
        opened(fd, path); \
        return fd; \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    NEXT(int, "close", int);
    opened(fd, NULL);
    return next(fd);
}

ssize_t read(int fd, void *into, size_t size) {
    NEXT(ssize_t, "read", int, void *, size_t);
    return fails("read", name(fd)) ? -1 : next(fd, into, size);
}

#define PREAD(function) \
    ssize_t function(int fd, void *into, size_t size, off64_t offset) { \
        NEXT(ssize_t, #function, int, void *, size_t, off64_t); \
        return fails("read", name(fd)) ? -1 : next(fd, into, size, offset); \
    }
PREAD(pread)
PREAD(pread64)

ssize_t write(int fd, const void *from, size_t size) {
    NEXT(ssize_t, "write", int, const void *, size_t);
    return fails("write", name(fd)) ? -1 : next(fd, from, size);
}

#define PWRITE(function) \
    ssize_t function(int fd, const void *from, size_t size, off64_t offset) { \
        NEXT(ssize_t, #function, int, const void *, size_t, off64_t); \
        return fails("write", name(fd)) ? -1 : next(fd, from, size, offset); \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define SYNC(function) \
    int function(int fd) { \
        NEXT(int, #function, int); \
        return fails("write", name(fd)) ? -1 : next(fd); \
    }
SYNC(fsync)
SYNC(fdatasync)

DIR *opendir(const char *path) {
    NEXT(DIR *, "opendir", const char *);
    if (fails("open", path))
        return NULL;
    DIR *folder = next(path);
    if (folder)
        opened(dirfd(folder), path);
    return folder;
}

int closedir(DIR *folder) {
    NEXT(int, "closedir", DIR *);
    opened(dirfd(folder), NULL);
    return next(folder);
}

struct dirent *readdir(DIR *folder) {
    NEXT(struct dirent *, "readdir", DIR *);
    return fails("list", name(dirfd(folder))) ? NULL : next(folder);
}

struct dirent64 *readdir64(DIR *folder) {
    NEXT(struct dirent64 *, "readdir64", DIR *);
    return fails("list", name(dirfd(folder))) ? NULL : next(folder);
}

int fstatat64(int at, const char *path, struct stat64 *into, int flags) {
    NEXT(int, "fstatat64", int, const char *, struct stat64 *, int);
    return fails("stat", path) ? -1 : next(at, path, into, flags);
}

int fstatat(int at, const char *path, struct stat *into, int flags) {
    NEXT(int, "fstatat", int, const char *, struct stat *, int);
    return fails("stat", path) ? -1 : next(at, path, into, flags);
}

#define STAT(function, kind) \
    int function(const char *path, struct kind *into) { \
        NEXT(int, #function, const char *, struct kind *); \
        return fails("stat", path) ? -1 : next(path, into); \
    }
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)

#define FSTAT(function, kind) \
    int function(int fd, struct kind *into) { \
        NEXT(int, #function, int, struct kind *); \
        return fails("stat", name(fd)) ? -1 : next(fd, into); \
    }
FSTAT(fstat, stat)
FSTAT(fstat64, stat64)

ssize_t readlink(const char *path, char *into, size_t size) {
    NEXT(ssize_t, "readlink", const char *, char *, size_t);
    return fails("stat", path) ? -1 : next(path, into, size);
}
