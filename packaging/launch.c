/*
 * Makes PyInstaller's bootloader fit for a CNI plugin, where the interpreter is not in the program itself (inside.c).
 *
 * PyInstaller's one-file bootloader unpacks into $TMPDIR or /tmp, forks, and runs Python in the child. For a CNI plugin
 * that is wrong in three ways: /tmp may be mounted noexec; a runtime that times out SIGKILLs the only pid it knows, so
 * the parent dies and the child goes on changing the kernel; and the directory is never removed. This file is compiled
 * into the bootloader (freeze.py copies C files of packaging/ to its sources). Its constructor runs before main(),
 * unpacks by itself and sets the bootloader's own variables so that main() takes this process for the child. There is
 * no parent: signals and the exit code need not be forwarded, SIGKILL leaves no process behind, TMPDIR is unchanged,
 * and a start saves a fork, an exec and LD_LIBRARY_PATH.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>
#include "place.h"
#include "pyi_archive.h"

#define LAUNCH_PRIORITY 200 /* constructors that can answer without Python must run before this one */
#define LAUNCHED "_PYI_LAUNCHED"

static char exe[PATH_MAX]; /* /proc/self/fd/N, or without /proc a path */
static struct ARCHIVE *archive;

/*
 * The running file may be replaced by rename at any moment, so it is opened once, and both main() and importer.py get
 * the path of that descriptor. Otherwise main(), which calls realpath() for /proc/self/exe, would get the new file or
 * none. A program that is read from two builds does not start.
 */
char *realpath(const char *path, char *resolved)
{
    char *(*real)(const char *, char *) = dlsym(RTLD_NEXT, "realpath");
    char own[32];

    sprintf(own, "/proc/%d/exe", (int)getpid());
    if (exe[0] && resolved && (!strcmp(path, "/proc/self/exe") || !strcmp(path, own)))
        return strcpy(resolved, exe);
    return real(path, resolved);
}

/* Called instead of realpath() by a bootloader that was compiled with _FORTIFY_SOURCE. */
char *__realpath_chk(const char *path, char *resolved, size_t size)
{
    return size < PATH_MAX ? NULL : realpath(path, resolved);
}

/* Unpacks the files with sendfile(); the bootloader writes page by page, which takes twice as long. */
static int unpack(const char *home)
{
    int in = open(archive->filename, O_RDONLY | O_CLOEXEC), out, rc = in < 0 ? -1 : 0;
    const struct TOC_ENTRY *entry = archive->toc;
    char path[2 * PATH_MAX], *slash;

    for (; rc == 0 && entry < archive->toc_end; entry = pyi_archive_next_toc_entry(archive, entry)) {
        off_t from = (off_t)(archive->pkg_offset + entry->offset), end = from + entry->length;

        if (entry->typecode != ARCHIVE_ITEM_BINARY && entry->typecode != ARCHIVE_ITEM_DATA)
            continue;
        snprintf(path, sizeof(path), "%s/%s", home, entry->name);
        for (slash = path + strlen(home) + 1; (slash = strchr(slash, '/')); *slash++ = '/')
            *slash = 0, mkdir(path, 0700);
        out = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
        while (out >= 0 && from < end && sendfile(out, in, &from, (size_t)(end - from)) > 0) {}
        rc = out < 0 || from < end ? -1 : 0;
        close(out);
        /* Libraries must be loaded before the extension modules that need them, as LD_LIBRARY_PATH is not set. */
        if (rc == 0 && entry->typecode == ARCHIVE_ITEM_BINARY && strcmp(entry->name, archive->python_libname))
            dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    }
    return close(in) | rc;
}

__attribute__((constructor(LAUNCH_PRIORITY))) static void launch(void)
{
    char home[PATH_MAX];
    int self;

    if (getenv(LAUNCHED))
        return; /* main() has started a child after all, which is this process: do nothing, or it starts another */
    open_standard_descriptors();
    self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC); /* stays open until the process ends */
    if (self >= 0)
        sprintf(exe, "/proc/self/fd/%d", self);
    else if (!realpath((const char *)getauxval(AT_EXECFN), exe))
        exe[0] = 0;
    if (exe[0])
        archive = pyi_archive_open(exe);
    if (!archive)
        return; /* main() has other ways to find its archive, and then starts in PyInstaller's way */
    if (take_place(home, unpack) < 0)
        exit(1);
    setenv(LAUNCHED, "1", 1);
    setenv("_PYI_ARCHIVE_FILE", exe, 1);
    setenv("_PYI_APPLICATION_HOME_DIR", home, 1);
    setenv("_PYI_PARENT_PROCESS_LEVEL", "0", 1); /* means: the parent has unpacked */
    unsetenv("_PYI_LINUX_PROCESS_NAME");
    unsetenv("PYINSTALLER_RESET_ENVIRONMENT");
}
