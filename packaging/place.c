/*
 * Finds a directory for files that must be executable, and removes those that killed processes have left.
 *
 * A container can be root too and have a directory of the host mounted, and with hostIPC it has /dev/shm: what it can
 * write there is not protected by a mode. So root uses only places that are not world-writable, all the way up; without
 * root, and for root of a user namespace, which can do no more than its user, the others come last.
 *
 * The directory is <place>/cni-plugins/_MEI<pid><random>, mode 0700, locked with flock() as long as the process lives.
 * Every search removes unlocked directories there, which killed processes have left. exit() and _exit() remove our own.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "place.h"

#define SWEEP_LIMIT 64      /* entries checked per start: one start must not be slowed by a thousand leftovers */
#define NAME_LENGTH 18      /* "_MEI", eight digits, six letters: PyInstaller's main() refuses any other name */
#define FIRST_SHARED 3      /* among the places: those from here on are world-writable */
#define ROOM (32 << 20)     /* the interpreter now, extension modules as they are imported (importer.py) */

static pid_t owner;   /* the process that created the directory: a forked child must not remove it */
static int base = -1; /* <place>/cni-plugins */
static char name[NAME_LENGTH + 1];

static void each_entry(int at, const char *path, void (*visit)(int, const char *), int limit)
{
    int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;

    while (dir && limit-- > 0 && (entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            visit(fd, entry->d_name);
    if (dir)
        closedir(dir);
}

/* Removes a file or a whole directory; a symbolic link is removed, never followed. */
static void remove_tree(int at, const char *path)
{
    if (unlinkat(at, path, 0) < 0 && errno == EISDIR) {
        each_entry(at, path, remove_tree, 4096);
        unlinkat(at, path, AT_REMOVEDIR);
    }
}

/* Removes a directory if it is not locked, because then its process was killed. */
static void sweep(int at, const char *path)
{
    int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        remove_tree(at, path);
    close(fd);
}

/* In a vfork child these variables are the parent's own: it must not touch them. */
__attribute__((destructor)) static void leave(void)
{
    if (name[0] && getpid() == owner) {
        remove_tree(base, name);
        name[0] = 0;
    }
}

/* Python's os._exit() calls this instead of libc's: finalising the interpreter takes longer than a whole VERSION. */
void _exit(int status)
{
    leave();
    syscall(SYS_exit_group, status);
    __builtin_unreachable();
}

/* Sweeps another place, which earlier starts may have used when the first one was full. */
static void sweep_place(const char *place)
{
    char path[PATH_MAX];
    struct stat st;
    int fd;

    snprintf(path, sizeof(path), "%s/cni-plugins", place);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == geteuid() && !(st.st_mode & 077))
        each_entry(fd, ".", sweep, SWEEP_LIMIT);
    close(fd);
}

static int is_plain(const char *path)
{
    for (; *path; path++)
        if (*path < ' ' || *path > '~' || *path == '"' || *path == '\\')
            return 0;
    return 1;
}

/* Whether this is root of the initial user namespace; without /proc, root is taken for it. */
static int is_host_root(void)
{
    unsigned long inside = 0, outside = 0, count = 0xffffffff;
    FILE *map = fopen("/proc/self/uid_map", "re");

    if (map && fscanf(map, "%lu %lu %lu", &inside, &outside, &count) != 3)
        count = 0;
    if (map)
        fclose(map);
    return geteuid() == 0 && !inside && !outside && count == 0xffffffff;
}

/* Whether others may replace entries of a directory: those who own it or can write there. */
static int is_others(const struct stat *st)
{
    /* 65534 is root as seen from a user namespace, and a user of its own elsewhere. */
    if (st->st_uid != 0 && st->st_uid != geteuid() && (st->st_uid != 65534 || is_host_root()))
        return 1;
    return (st->st_mode & 022) && !(st->st_mode & S_ISVTX);
}

/* Whether others may replace a directory, as they may replace one above it. The path has no links: see realpath(). */
static int is_swappable(const char *path)
{
    char above[PATH_MAX];
    struct stat st;
    char *end;

    strcpy(above, path);
    while ((end = strrchr(above, '/'))) {
        end[end == above] = 0;
        if (stat(above, &st) < 0 || is_others(&st))
            return 1;
        if (end == above)
            return 0;
    }
    return 1;
}

/* Opens <place>/cni-plugins if no other user can write there, and sets home to its path. Returns NULL or the reason. */
static const char *open_base(const char *named, int shared, char *home)
{
    char place[PATH_MAX];
    struct statvfs fs;
    struct stat st;
    int turn;

    if (!is_plain(named))
        return "not a plain path";
    if (named[0] != '/' || !realpath(named, place) || strlen(place) > PATH_MAX / 2 || !is_plain(place) ||
        statvfs(place, &fs) < 0 || stat(place, &st) < 0)
        return "missing";
    if (fs.f_flag & (ST_NOEXEC | ST_RDONLY))
        return fs.f_flag & ST_NOEXEC ? "mounted noexec" : "mounted read-only";
    if ((unsigned long long)fs.f_bavail * fs.f_frsize < ROOM)
        return "no space left";
    if (is_others(&st) || is_swappable(place) || (!shared && (st.st_mode & 022)))
        return "writable by others";
    sprintf(home, "%s/cni-plugins", place);
    for (turn = 0; turn < 2; turn++) {
        mkdir(home, 0700);
        base = open(home, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (base >= 0 && fstat(base, &st) == 0 && st.st_uid == geteuid() && !(st.st_mode & 077))
            return NULL;
        close(base);
        /* Another user has created it. A name with the user and user namespace does not collide by accident. */
        if (stat("/proc/self/ns/user", &st) == 0)
            sprintf(home, "%s/cni-plugins-%lu-%u", place, (unsigned long)st.st_ino, (unsigned)geteuid());
    }
    return "not writable";
}

/* Creates and locks a directory. A concurrent sweep may remove it before it is locked: then another is created. */
static int make_home(char *home)
{
    struct stat mine, found;
    size_t length = strlen(home);
    int tries, lock;

    for (tries = 0; tries < 8; tries++) {
        sprintf(home + length, "/_MEI%08xXXXXXX", (unsigned)getpid());
        if (!mkdtemp(home))
            break;
        lock = open(home, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* stays open until the process ends */
        if (lock >= 0 && flock(lock, LOCK_EX) == 0 && fstat(lock, &mine) == 0 &&
            fstatat(base, home + length + 1, &found, 0) == 0 && mine.st_ino == found.st_ino) {
            memcpy(name, home + length + 1, sizeof(name));
            return 0;
        }
        if (lock < 0) {
            rmdir(home);
            return -1;
        }
        close(lock);
    }
    return -1;
}

int take_place(char *home, int (*fill)(const char *))
{
    const char *places[] = {getenv("TMPDIR"), "/run", "/var/lib", "/tmp", "/var/tmp", "/dev/shm"}, *why;
    size_t i, other, count = sizeof(places) / sizeof(*places);
    int shared = !is_host_root();
    char details[512] = "";

    for (i = 0, owner = getpid(); i < (shared ? count : FIRST_SHARED); i++) {
        if (!places[i] || !*places[i])
            continue;
        if (!(why = open_base(places[i], shared, home))) {
            each_entry(base, ".", sweep, SWEEP_LIMIT);
            if (make_home(home) == 0 && (!fill || fill(home) == 0)) {
                for (other = 1; other < count; other++)
                    if (other != i)
                        sweep_place(places[other]);
                return 0;
            }
            why = strerror(errno);
            leave();
            close(base);
        }
        sprintf(strchr(details, 0), "%s%s: %.40s", *details ? ", " : "", i ? places[i] : "TMPDIR", why);
    }
    printf("{\"cniVersion\":\"1.1.0\",\"code\":5,\"msg\":\"no directory to unpack into\",\"details\":\"%s\"}\n", details);
    fflush(stdout);
    return -1;
}

void open_standard_descriptors(void)
{
    struct stat st;
    int i, null;

    for (i = 0; i < 3; i++) { /* a file opened in place of a closed stdout would receive the Result */
        if (fcntl(i, F_GETFD) < 0)
            open("/dev/null", O_RDWR);
        else if (fstat(i, &st) == 0 && S_ISDIR(st.st_mode) && (null = open("/dev/null", O_RDWR)) >= 0)
            dup2(null, i), close(null); /* Python does not start if one of them is a directory */
    }
}
