// A file layer with faults, for LD_PRELOAD: counts the operations of a program on the files below a folder and lets the
// n-th one fail. Linux with glibc.
//
//   FAULT_ROOT     the folder; operations elsewhere are neither counted nor touched
//   FAULT_INPUTS   a folder whose files are never read wrong: no program can know better than its input
//   FAULT_LOG      file that gets a line for each counted operation: number, name, path; and one for the fault
//   FAULT_KIND     count | kill | tear | short | flip | flip-read | error | full | interrupt | change | shrink
//   FAULT_ERRNO    number of the error, for `error` and `full`
//   FAULT_AT       number of the operation, from 1 on
//   FAULT_VICTIM   file that `change` overwrites in place with FAULT_DONOR, and that `shrink` cuts in half
//
// `kill` ends the program before the operation, `tear` after half of a write. `error` fails once, `full` from then on
// every operation that takes space. `short` writes half and says so. `flip` changes one bit of what is written,
// `flip-read` one of what is read or mapped. `interrupt` sends SIGINT. Each kind counts only the operations that it can
// change.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OFF, COUNT, KILL, TEAR, SHORT, FLIP, FLIP_READ, ERROR, FULL, INTERRUPT, CHANGE, SHRINK, KINDS };
// What an operation does, as far as kinds differ in it.
enum what { WRITE, SPACE, NAME, SYNC, LOCK, OPEN, READ };

static enum kind kind;
static char root[PATH_MAX], inputs[PATH_MAX];
static int log_fd = -1, fault_errno = EIO;
static long fault_at;
static atomic_long counted;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

__attribute__((constructor)) static void start(void) {
    const char *names[] = {"",          "count", "kill", "tear",      "short",  "flip",
                           "flip-read", "error", "full", "interrupt", "change", "shrink"};
    const char *asked = getenv("FAULT_KIND"), *folder = getenv("FAULT_ROOT"), *of_inputs = getenv("FAULT_INPUTS");
    const char *log = getenv("FAULT_LOG"), *at = getenv("FAULT_AT"), *number = getenv("FAULT_ERRNO");
    if (!asked || !folder) return;
    for (int n = 1; n < KINDS; n++)
        if (!strcmp(asked, names[n])) kind = (enum kind)n;
    snprintf(root, sizeof root, "%s/", folder);
    snprintf(inputs, sizeof inputs, "%s/", of_inputs ? of_inputs : "//");
    fault_at = at ? atol(at) : 0;
    fault_errno = number ? atoi(number) : EIO;
    if (log) log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

// The absolute path of a name; false if it cannot be known.
static int whole_path(int folder, const char *name, char *path) {
    char link[64];
    ssize_t size = 0;
    if (name[0] != '/') {
        if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        size = readlink(link, path, PATH_MAX - 1);
        if (size <= 0) return 0;
        path[size++] = '/';
    }
    snprintf(path + size, PATH_MAX - (size_t)size, "%s", name);
    return 1;
}

static int of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size <= 0) return 0;
    path[size] = 0;
    return 1;
}

static int is_below(const char *folder, const char *path) { return !strncmp(folder, path, strlen(folder)); }

static int is_counted(enum what what, const char *path) {
    if (kind == OFF || !is_below(root, path)) return 0;
    switch (kind) {
    case COUNT: return 1;
    case KILL: case INTERRUPT: return what != READ;
    case TEAR: case SHORT: case FLIP: return what == WRITE;
    case FLIP_READ: return what == READ && !is_below(inputs, path);
    case FULL: return what == WRITE || what == SPACE;
    default: return 1;
    }
}

// Another program writes to the file of an input, or cuts it.
static void meddle(void) {
    const char *victim = getenv("FAULT_VICTIM"), *donor = getenv("FAULT_DONOR");
    char bytes[1 << 16];
    ssize_t size;
    struct stat there;
    int to = (int)syscall(SYS_openat, AT_FDCWD, victim, O_WRONLY | O_CLOEXEC);
    int from = donor ? (int)syscall(SYS_openat, AT_FDCWD, donor, O_RDONLY | O_CLOEXEC) : -1;
    if (to < 0 || fstat(to, &there)) abort();
    if (kind == SHRINK && syscall(SYS_ftruncate, to, there.st_size / 2)) abort();
    while (kind == CHANGE && (size = syscall(SYS_read, from, bytes, sizeof bytes)) > 0)
        if (syscall(SYS_write, to, bytes, size) != size) abort();
    syscall(SYS_close, to);
    if (from >= 0) syscall(SYS_close, from);
}

// True if the fault is to happen at this operation.
static int is_due(enum what what, const char *operation, const char *path) {
    if (!is_counted(what, path)) return 0;
    long n = atomic_fetch_add(&counted, 1) + 1;
    int due = kind != COUNT && (n == fault_at || (kind == FULL && n > fault_at));
    if (log_fd >= 0 && (kind == COUNT || n == fault_at)) {
        char line[PATH_MAX + 128];
        const char *kinds[] = {"write", "space", "name", "sync", "lock", "open", "read"};
        int size = snprintf(line, sizeof line, "%ld %s %s %s\n", n, kinds[what], operation, path + strlen(root));
        syscall(SYS_write, log_fd, line, (size_t)size);
    }
    if (due && kind == KILL) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (due && kind == INTERRUPT) kill(getpid(), SIGINT);
    if (due && (kind == CHANGE || kind == SHRINK)) meddle();
    return due && kind < INTERRUPT;
}

static int fails(enum what what, const char *operation, const char *path) {
    if (!is_due(what, operation, path)) return 0;
    if (kind != ERROR && kind != FULL) return 0;
    errno = fault_errno;
    return 1;
}

static int fd_fails(enum what what, const char *operation, int fd) {
    char path[PATH_MAX];
    return kind != OFF && of_fd(fd, path) && fails(what, operation, path);
}

static int name_fails(enum what what, const char *operation, int folder, const char *name) {
    char path[PATH_MAX];
    return kind != OFF && whole_path(folder, name, path) && fails(what, operation, path);
}

static void flip(void *bytes, size_t size) {
    if (!size) return;
    uint64_t mixed = (uint64_t)fault_at * 0x9e3779b97f4a7c15u + size;
    mixed = (mixed ^ (mixed >> 29)) * 0xbf58476d1ce4e5b9u;
    ((unsigned char *)bytes)[(mixed >> 8) % size] ^= (unsigned char)(1u << (mixed & 7));
}

// ---- writing ----

static ssize_t plain_write(int fd, const void *bytes, size_t size, off64_t at) {
    return at < 0 ? REAL(write)(fd, bytes, size) : REAL(pwrite64)(fd, bytes, size, at);
}

static ssize_t write_at(const char *operation, int fd, const void *bytes, size_t size, off64_t at) {
    char path[PATH_MAX];
    if (kind == OFF || !of_fd(fd, path) || !is_due(WRITE, operation, path)) return plain_write(fd, bytes, size, at);
    if (kind == ERROR || kind == FULL) {
        errno = fault_errno;
        return -1;
    }
    if (kind == SHORT || kind == TEAR) {
        ssize_t done = plain_write(fd, bytes, size < 2 ? size : size / 2, at);
        if (kind == SHORT) return done;
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    void *copy = malloc(size ? size : 1);
    if (!copy) abort();
    memcpy(copy, bytes, size);
    flip(copy, size);
    ssize_t done = plain_write(fd, copy, size, at);
    free(copy);
    return done;
}

ssize_t write(int fd, const void *bytes, size_t size) { return write_at("write", fd, bytes, size, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) { return write_at("pwrite", fd, bytes, size, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) { return write_at("pwrite", fd, bytes, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    if (kind == OFF || count < 1 || !of_fd(fd, path) || !is_below(root, path)) return REAL(writev)(fd, parts, count);
    return write_at("writev", fd, parts[0].iov_base, parts[0].iov_len, -1); // a short one, which is allowed
}

// Both fall back to reading and writing, which is counted.
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags) {
    char path[PATH_MAX];
    if (kind == OFF || !of_fd(to, path) || !is_below(root, path))
        return REAL(copy_file_range)(from, from_at, to, to_at, size, flags);
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    char path[PATH_MAX];
    ssize_t (*next)(int, int, off64_t *, size_t) = (ssize_t(*)(int, int, off64_t *, size_t))real("sendfile64");
    if (kind == OFF || !of_fd(to, path) || !is_below(root, path)) return next(to, from, at, size);
    errno = ENOSYS;
    return -1;
}
ssize_t splice(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags) {
    char path[PATH_MAX];
    if (kind == OFF || !of_fd(to, path) || !is_below(root, path))
        return REAL(splice)(from, from_at, to, to_at, size, flags);
    errno = EINVAL;
    return -1;
}

int ftruncate(int fd, off_t size) { return fd_fails(SPACE, "ftruncate", fd) ? -1 : REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { return fd_fails(SPACE, "ftruncate", fd) ? -1 : REAL(ftruncate64)(fd, size); }
int fallocate64(int fd, int mode, off64_t at, off64_t size) {
    return fd_fails(SPACE, "fallocate", fd) ? -1 : REAL(fallocate64)(fd, mode, at, size);
}
int fallocate(int fd, int mode, off_t at, off_t size) {
    return fd_fails(SPACE, "fallocate", fd) ? -1 : REAL(fallocate)(fd, mode, at, size);
}
int posix_fallocate64(int fd, off64_t at, off64_t size) {
    return fd_fails(SPACE, "fallocate", fd) ? errno : REAL(posix_fallocate64)(fd, at, size);
}
int posix_fallocate(int fd, off_t at, off_t size) {
    return fd_fails(SPACE, "fallocate", fd) ? errno : REAL(posix_fallocate)(fd, at, size);
}
int fsync(int fd) { return fd_fails(SYNC, "fsync", fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return fd_fails(SYNC, "fdatasync", fd) ? -1 : REAL(fdatasync)(fd); }
int flock(int fd, int operation) {
    return (operation & LOCK_UN) == 0 && fd_fails(LOCK, "flock", fd) ? -1 : REAL(flock)(fd, operation);
}

// ---- names ----

#define MODE(last)                                \
    mode_t mode = 0;                              \
    if (flags & (O_CREAT | __O_TMPFILE)) {        \
        va_list more;                             \
        va_start(more, last);                     \
        mode = va_arg(more, mode_t);              \
        va_end(more);                             \
    }

static int open_fails(int folder, const char *name, int flags) {
    return flags & O_CREAT ? name_fails(SPACE, "create", folder, name) : name_fails(OPEN, "open", folder, name);
}

int open(const char *name, int flags, ...) {
    MODE(flags)
    return open_fails(AT_FDCWD, name, flags) ? -1 : REAL(open)(name, flags, mode);
}
int open64(const char *name, int flags, ...) {
    MODE(flags)
    return open_fails(AT_FDCWD, name, flags) ? -1 : REAL(open64)(name, flags, mode);
}
int openat(int folder, const char *name, int flags, ...) {
    MODE(flags)
    return open_fails(folder, name, flags) ? -1 : REAL(openat)(folder, name, flags, mode);
}
int openat64(int folder, const char *name, int flags, ...) {
    MODE(flags)
    return open_fails(folder, name, flags) ? -1 : REAL(openat64)(folder, name, flags, mode);
}
int creat(const char *name, mode_t mode) {
    return name_fails(SPACE, "create", AT_FDCWD, name) ? -1 : REAL(creat)(name, mode);
}
int mkdir(const char *name, mode_t mode) {
    return name_fails(SPACE, "mkdir", AT_FDCWD, name) ? -1 : REAL(mkdir)(name, mode);
}
int mkdirat(int folder, const char *name, mode_t mode) {
    return name_fails(SPACE, "mkdir", folder, name) ? -1 : REAL(mkdirat)(folder, name, mode);
}
int rename(const char *from, const char *to) {
    return name_fails(NAME, "rename", AT_FDCWD, from) ? -1 : REAL(rename)(from, to);
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return name_fails(NAME, "rename", from_folder, from) ? -1 : REAL(renameat)(from_folder, from, to_folder, to);
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    if (name_fails(NAME, "rename", from_folder, from)) return -1;
    return REAL(renameat2)(from_folder, from, to_folder, to, flags);
}
int unlink(const char *name) { return name_fails(NAME, "unlink", AT_FDCWD, name) ? -1 : REAL(unlink)(name); }
int unlinkat(int folder, const char *name, int flags) {
    return name_fails(NAME, "unlink", folder, name) ? -1 : REAL(unlinkat)(folder, name, flags);
}
int rmdir(const char *name) { return name_fails(NAME, "rmdir", AT_FDCWD, name) ? -1 : REAL(rmdir)(name); }
int link(const char *from, const char *to) {
    return name_fails(NAME, "link", AT_FDCWD, to) ? -1 : REAL(link)(from, to);
}
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    return name_fails(NAME, "link", to_folder, to) ? -1 : REAL(linkat)(from_folder, from, to_folder, to, flags);
}
int symlink(const char *target, const char *name) {
    return name_fails(NAME, "symlink", AT_FDCWD, name) ? -1 : REAL(symlink)(target, name);
}

// What programs call where their library has no function for it.
long syscall(long number, ...) {
    va_list more;
    va_start(more, number);
    long a[6];
    for (int n = 0; n < 6; n++) a[n] = va_arg(more, long);
    va_end(more);
    long (*next)(long, ...) = (long (*)(long, ...))real("syscall");
    if (kind != OFF && number == SYS_renameat2 && name_fails(NAME, "rename", (int)a[0], (const char *)a[1])) return -1;
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

// ---- reading ----

static ssize_t read_done(const char *operation, int fd, void *bytes, ssize_t done) {
    char path[PATH_MAX];
    if (kind != FLIP_READ || done <= 0 || !of_fd(fd, path) || !is_due(READ, operation, path)) return done;
    flip(bytes, (size_t)done);
    return done;
}

ssize_t read(int fd, void *bytes, size_t size) {
    if (kind != FLIP_READ && fd_fails(READ, "read", fd)) return -1;
    return read_done("read", fd, bytes, REAL(read)(fd, bytes, size));
}
ssize_t pread64(int fd, void *bytes, size_t size, off64_t at) {
    if (kind != FLIP_READ && fd_fails(READ, "pread", fd)) return -1;
    return read_done("pread", fd, bytes, REAL(pread64)(fd, bytes, size, at));
}
ssize_t pread(int fd, void *bytes, size_t size, off_t at) { return pread64(fd, bytes, size, at); }

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t at) {
    void *(*next)(void *, size_t, int, int, int, off64_t) =
        (void *(*)(void *, size_t, int, int, int, off64_t))real("mmap64");
    char path[PATH_MAX];
    if (kind == OFF || fd < 0 || !of_fd(fd, path) || !is_due(READ, "mmap", path))
        return next(address, size, protection, flags, fd, at);
    if (kind == ERROR) {
        errno = fault_errno;
        return MAP_FAILED;
    }
    if (kind != FLIP_READ || protection != PROT_READ) return next(address, size, protection, flags, fd, at);
    struct stat there;
    void *mapped = next(address, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, at);
    if (mapped == MAP_FAILED || fstat(fd, &there)) return mapped;
    size_t left = there.st_size > at ? (size_t)(there.st_size - at) : 0;
    flip(mapped, left < size ? left : size);
    mprotect(mapped, size, PROT_READ);
    return mapped;
}
void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t at) {
    return mmap64(address, size, protection, flags, fd, at);
}
