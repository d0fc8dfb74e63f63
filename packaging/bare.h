/*
 * The system calls of handoff.c and front.c without a C library, by the names that they have there.
 *
 * front.c runs before a dynamic loader and a C library are there, and on nodes that have none: no library function, no
 * thread-local errno, no pointers in initialised data, as nothing is relocated yet. Without FRONT these are the C
 * library's own.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <asm/ioctls.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifdef FRONT

static int bare_errno;

static long bare_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    if (result < 0 && result > -4096)
        return bare_errno = (int)-result, -1;
    return result;
}

#define CALL(number, a, b, c, d, e, f)                                                                                 \
    bare_syscall(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

#undef errno
#define errno bare_errno
#define access(path, mode) CALL(SYS_access, path, mode, 0, 0, 0, 0)
#define bind(fd, address, size) CALL(SYS_bind, fd, address, size, 0, 0, 0)
#define clock_gettime(clock, to) CALL(SYS_clock_gettime, clock, to, 0, 0, 0, 0)
#define close(fd) CALL(SYS_close, fd, 0, 0, 0, 0, 0)
#define connect(fd, address, size) CALL(SYS_connect, fd, address, size, 0, 0, 0)
#define dup2(from, to) CALL(SYS_dup2, from, to, 0, 0, 0, 0)
#define fcntl(fd, command, argument) CALL(SYS_fcntl, fd, command, argument, 0, 0, 0)
#define flock(fd, how) CALL(SYS_flock, fd, how, 0, 0, 0, 0)
#define fstat(fd, to) CALL(SYS_fstat, fd, to, 0, 0, 0, 0)
#define geteuid() CALL(SYS_geteuid, 0, 0, 0, 0, 0, 0)
#define getsockopt(fd, level, name, to, size) CALL(SYS_getsockopt, fd, level, name, to, size, 0)
#define ioctl(fd, request, to) CALL(SYS_ioctl, fd, request, to, 0, 0, 0)
#define listen(fd, backlog) CALL(SYS_listen, fd, backlog, 0, 0, 0, 0)
#define lseek(fd, offset, whence) CALL(SYS_lseek, fd, offset, whence, 0, 0, 0)
#define memfd_create(name, flags) CALL(SYS_memfd_create, name, flags, 0, 0, 0, 0)
#define mkdir(path, mode) CALL(SYS_mkdir, path, mode, 0, 0, 0, 0)
#define mmap(at, length, how, flags, fd, offset) (void *)CALL(SYS_mmap, at, length, how, flags, fd, offset)
#define munmap(at, length) CALL(SYS_munmap, at, length, 0, 0, 0, 0)
#define nanosleep(time, left) CALL(SYS_nanosleep, time, left, 0, 0, 0, 0)
#define open(path, flags) CALL(SYS_open, path, flags, 0, 0, 0, 0)
#define openat(at, path, flags, mode) CALL(SYS_openat, at, path, flags, mode, 0, 0)
#define poll(fds, count, wait) CALL(SYS_poll, fds, count, wait, 0, 0, 0)
#define pread(fd, to, length, offset) CALL(SYS_pread64, fd, to, length, offset, 0, 0)
#define read(fd, to, length) CALL(SYS_read, fd, to, length, 0, 0, 0)
#define readlink(path, to, length) CALL(SYS_readlink, path, to, length, 0, 0, 0)
#define recv(fd, to, length, flags) CALL(SYS_recvfrom, fd, to, length, flags, 0, 0)
#define sendfile(out, in, offset, length) CALL(SYS_sendfile, out, in, offset, length, 0, 0)
#define sendmsg(fd, message, flags) CALL(SYS_sendmsg, fd, message, flags, 0, 0, 0)
#define setsockopt(fd, level, name, from, size) CALL(SYS_setsockopt, fd, level, name, from, size, 0)
#define socket(family, kind, protocol) CALL(SYS_socket, family, kind, protocol, 0, 0, 0)
#define stat(path, to) CALL(SYS_stat, path, to, 0, 0, 0, 0)
#define umask(mask) CALL(SYS_umask, mask, 0, 0, 0, 0, 0)
#define unlink(path) CALL(SYS_unlink, path, 0, 0, 0, 0, 0)
#define unlinkat(at, path, flags) CALL(SYS_unlinkat, at, path, flags, 0, 0, 0)
#define write(fd, from, length) CALL(SYS_write, fd, from, length, 0, 0, 0)

__attribute__((noreturn)) static void bare_exit(int code)
{
    for (;;)
        CALL(SYS_exit_group, code, 0, 0, 0, 0, 0);
}
#define _exit bare_exit

/* SIGPIPE alone, to be ignored: the kernel's own structure, as no handler needs a way back. */
struct bare_action {
    uintptr_t handler, flags, restorer, mask;
};

static void bare_ignore_sigpipe(void)
{
    struct bare_action action = {(uintptr_t)SIG_IGN, 0, 0, 0};

    CALL(SYS_rt_sigaction, SIGPIPE, &action, 0, sizeof(action.mask), 0, 0);
}
#define ignore_sigpipe bare_ignore_sigpipe

static size_t bare_strlen(const char *text)
{
    size_t length = 0;

    while (text[length])
        length++;
    return length;
}

static int bare_strncmp(const char *one, const char *other, size_t length)
{
    for (; length && *one == *other && *one; one++, other++)
        length--;
    return length ? (unsigned char)*one - (unsigned char)*other : 0;
}

static int bare_strcmp(const char *one, const char *other)
{
    return bare_strncmp(one, other, (size_t)-1);
}

static void *bare_memcpy(void *to, const void *from, size_t length)
{
    char *out = to;
    const char *in = from;

    while (length--)
        *out++ = *in++;
    return to;
}

static void *bare_memset(void *to, int value, size_t length)
{
    char *out = to;

    while (length--)
        *out++ = (char)value;
    return to;
}

#define strlen bare_strlen
#define strcmp bare_strcmp
#define strncmp bare_strncmp
#define memcpy bare_memcpy
#define memset bare_memset

#else

static void ignore_sigpipe(void)
{
    signal(SIGPIPE, SIG_IGN);
}

#endif
