"""A library that kills the process it is loaded into after so many changes of the kernel's state."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* SIGKILL for who has changed something as often as CNIK_CHANGES says, if that is CNIK_PROGRAM. */
static void changed(void)
{
    static int changes;
    const char *last = getenv("CNIK_CHANGES"), *only = getenv("CNIK_PROGRAM");

    if (only && strcmp(only, program_invocation_short_name))
        return;
    if (last && ++changes == atoi(last))
        kill(getpid(), SIGKILL);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length)
{
    ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    const struct nlmsghdr *head = data;
    ssize_t done;

    *(void **)&real = dlsym(RTLD_NEXT, "sendto");
    done = real(fd, data, size, flags, to, length);
    if (!to || to->sa_family != AF_NETLINK || size < sizeof *head)
        return done;
    if (head->nlmsg_type < 256 ? head->nlmsg_type % 4 == 2 : head->nlmsg_type >> 8 == 10)
        return done; /* a question of rtnetlink, or one of nf_tables: its changes begin with a batch */
    changed();
    return done;
}

/* With CNIK_FILES: settings, and files below the directory of that name. */
static int counts(const char *path)
{
    const char *directory = getenv("CNIK_FILES");

    return directory && (!strncmp(path, "/proc/sys/", 10) || !strncmp(path, directory, strlen(directory)));
}

ssize_t write(int fd, const void *data, size_t size)
{
    ssize_t (*real)(int, const void *, size_t);
    char link[32], path[256];
    ssize_t length, done;

    *(void **)&real = dlsym(RTLD_NEXT, "write");
    done = real(fd, data, size);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    if (counts(path))
        changed();
    return done;
}

int renameat(int old, const char *from, int new, const char *to)
{
    int (*real)(int, const char *, int, const char *), done;

    *(void **)&real = dlsym(RTLD_NEXT, "renameat");
    done = real(old, from, new, to);
    if (getenv("CNIK_FILES"))
        changed();
    return done;
}

int rename(const char *from, const char *to)
{
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int unlinkat(int directory, const char *path, int flags)
{
    int (*real)(int, const char *, int), done;

    *(void **)&real = dlsym(RTLD_NEXT, "unlinkat");
    done = real(directory, path, flags);
    if (getenv("CNIK_FILES"))
        changed();
    return done;
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}
"""


def build(directory: Path) -> str:
    """Compile the library; its path."""
    source, library = directory / "killer.c", directory / "killer.so"
    source.write_text(SOURCE)
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return str(library)


def killed_after(library: str, changes: int, files_below: str = "", program: str = "") -> dict[str, str]:
    """
    Return the variables of a process that is to be killed.

    :param files_below: a directory whose files count, and then settings do too
    :param program: the one that is killed; otherwise also one that it starts
    """
    counted = {"CNIK_FILES": files_below} if files_below else {}
    named = {"CNIK_PROGRAM": program} if program else {}
    return {"LD_PRELOAD": library, "CNIK_CHANGES": str(changes), **counted, **named}
