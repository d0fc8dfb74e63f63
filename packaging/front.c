/*
 * The entry point of the program: it runs before there is a dynamic loader or a C library, and finds one.
 *
 * The reference's plugins are static and run on every node. Python is not static, as it loads extension modules; built
 * on one distribution, a usual program does not start where the C library is older or another one. So this program
 * names no loader (freeze.py hides PT_INTERP), and the kernel starts it here. If the call is not handed over, which
 * needs no library, this does what the kernel does otherwise: it maps a dynamic loader, tells it about the program by
 * the auxiliary vector, and jumps there. It takes the node's loader if the C library beside it is as new as the program
 * needs, and otherwise the loader, the C library and its parts that follow the program in its file. The loader finds
 * those by LD_PRELOAD, in memory, as they have the names that the program asks for.
 *
 * What this file is compiled into must be free of relocations: see bare.h.
 */
#define FRONT
#include "versions.h" /* freeze.py writes it */
#include "handoff.c"
#include "bundle.h"

#define INTERPRETER_LENGTH 64
#define HIDDEN_INTERP 0x6e637069 /* PT_INTERP in the file, so that the kernel does not see it; see freeze.py */
#define AFTER_INTERPRETER ':'    /* the build id follows it, as there is no better place at the beginning of a file */
#define MOST_HEADERS 24
#define MOST_LIBRARIES 12
#define LIBRARY_PREFIX "/proc/self/fd/"
#define SCAN (512 << 10) /* bytes of a C library, whose names of versions are in the first quarter */
#define FRAMES (64ul << 10) /* more than all functions here need on the stack */
#define PAGE 4096ul
#define DOWN(address) ((uintptr_t)(address) & ~(PAGE - 1))
#define UP(address) DOWN((uintptr_t)(address) + PAGE - 1)

/* freeze.py writes the newest version of the C library that anything in the program needs over the dots. */
static const volatile char needed[] = "@needs-libc:................";
#define NEEDED 12 /* offset in it */

extern char _start[] __attribute__((visibility("hidden"))); /* of the C runtime, where the loader goes on */

static Elf64_Phdr headers[MOST_HEADERS]; /* the program's own, as the loader is to see them */
static char interpreter[INTERPRETER_LENGTH];

__attribute__((noreturn)) static void refuse(const char *why)
{
    static const char head[] = "{\"cniVersion\":\"1.1.0\",\"code\":5,\"msg\":\"the program cannot start\",\"details\":\"";

    write_all(1, head, sizeof(head) - 1);
    write_all(1, why, strlen(why));
    write_all(1, "\"}\n", 3);
    _exit(1);
}

/* Reads the trailer of our own file. Returns the open file, or -1. */
static int read_trailer(const char *executed, struct trailer *trailer)
{
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0)
        fd = open(executed, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 ||
        pread(fd, trailer, sizeof(*trailer), st.st_size - (off_t)sizeof(*trailer)) != sizeof(*trailer) ||
        strncmp(trailer->magic, TRAILER_MAGIC, sizeof(trailer->magic)))
        refuse("its own file cannot be read");
    return fd;
}

static int contains(const char *data, size_t length, const char *word)
{
    size_t size = strlen(word) + 1, i; /* with the NUL: GLIBC_2.3 is no GLIBC_2.35 */

    for (i = 0; i + size <= length; i++)
        if (data[i] == 'G' && !strcmp(data + i, word))
            return 1;
    return 0;
}

/* Whether the C library in a directory is as new as the program needs. */
static int is_new_enough(const char *directory, size_t length)
{
    char path[256], word[sizeof(needed)];
    struct stat st;
    size_t i, size;
    char *data;
    int fd, found;

    if (length > sizeof(path) - 16)
        return 0;
    memcpy(path, directory, length);
    memcpy(path + length, "/libc.so.6", 11);
    for (i = NEEDED; i < sizeof(needed); i++)
        word[i - NEEDED] = needed[i];
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return 0;
    size = (size_t)st.st_size < SCAN ? (size_t)st.st_size : SCAN;
    data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (data == MAP_FAILED)
        return 0;
    found = contains(data, size, word);
    munmap(data, size);
    return found;
}

/* Opens the node's own loader, if the C library beside it will do. */
static int open_nodes_loader(void)
{
    char link[32] = LIBRARY_PREFIX, path[256];
    int fd = open(interpreter, O_RDONLY | O_CLOEXEC);
    ssize_t length = 0, end;

    if (fd < 0)
        return -1;
    *add_number(link + sizeof(LIBRARY_PREFIX) - 1, (uint64_t)fd, 10) = 0;
    length = readlink(link, path, sizeof(path)); /* the library is beside what the link /lib64/ld-linux… leads to */
    for (end = length; end > 0 && path[end - 1] != '/';)
        end--;
    if (end > 0 && is_new_enough(path, (size_t)end - 1))
        return fd;
    for (end = (ssize_t)strlen(interpreter); end > 0 && interpreter[end - 1] != '/';)
        end--;
    if (is_new_enough(interpreter, (size_t)end - 1) || (length < 0 && is_new_enough("/lib/x86_64-linux-gnu", 21)))
        return fd;
    close(fd);
    return -1;
}

/* Maps an ELF file that begins at an offset of another, as the kernel maps a loader. Returns its address, sets entry. */
static uintptr_t map_loader(int fd, off_t begin, uintptr_t *entry)
{
    Elf64_Phdr segments[MOST_HEADERS];
    uintptr_t base, low = -1ul, high = 0, from, to, zero;
    Elf64_Ehdr head;
    size_t i;

    if (pread(fd, &head, sizeof(head), begin) != sizeof(head) || head.e_phnum > MOST_HEADERS || head.e_type != ET_DYN ||
        pread(fd, segments, head.e_phnum * sizeof(*segments), begin + (off_t)head.e_phoff) !=
            (ssize_t)(head.e_phnum * sizeof(*segments)))
        refuse("the dynamic loader is damaged");
    for (i = 0; i < head.e_phnum; i++)
        if (segments[i].p_type == PT_LOAD) {
            low = DOWN(segments[i].p_vaddr) < low ? DOWN(segments[i].p_vaddr) : low;
            high = UP(segments[i].p_vaddr + segments[i].p_memsz);
        }
    base = (uintptr_t)mmap(NULL, high - low, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == (uintptr_t)MAP_FAILED)
        refuse("out of memory");
    base -= low;
    for (i = 0; i < head.e_phnum; i++) {
        const Elf64_Phdr *at = &segments[i];
        int how = (at->p_flags & PF_R ? PROT_READ : 0) | (at->p_flags & PF_W ? PROT_WRITE : 0) |
                  (at->p_flags & PF_X ? PROT_EXEC : 0);

        if (at->p_type != PT_LOAD)
            continue;
        from = base + DOWN(at->p_vaddr);
        zero = base + at->p_vaddr + at->p_filesz;
        to = UP(base + at->p_vaddr + at->p_memsz);
        if (mmap(from, UP(zero) - from, how, MAP_PRIVATE | MAP_FIXED, fd, begin + (off_t)DOWN(at->p_offset)) == MAP_FAILED)
            refuse("the dynamic loader cannot be mapped");
        if (at->p_memsz > at->p_filesz)
            memset((void *)zero, 0, UP(zero) - zero);
        if (to > UP(zero) &&
            mmap(UP(zero), to - UP(zero), how, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
            refuse("out of memory");
    }
    *entry = base + head.e_entry;
    return base;
}

/* Copies a library of the bundle into memory. Returns its descriptor, which is open in the program, and not in others. */
static int in_memory(int fd, const struct library *library)
{
    int memory = memfd_create("libc", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    off_t at = (off_t)library->offset, end = at + (off_t)library->size;

    if (memory < 0 && errno == EINVAL)
        memory = memfd_create("libc", MFD_CLOEXEC); /* Linux before 6.3 */
    while (memory >= 0 && at < end)
        if (sendfile(memory, fd, &at, (size_t)(end - at)) <= 0)
            refuse("the C library cannot be copied into memory");
    if (memory < 0)
        refuse("no memory file can be made");
    return memory;
}

/*
 * Copies the vectors that the kernel has put on the stack, to where one more variable fits in, and returns them.
 * importer.py removes that variable before anything else is run.
 */
static long *with_preload(long *vectors, int fd, const struct trailer *trailer)
{
    static char text[sizeof(PRELOAD) + MOST_LIBRARIES * (sizeof(LIBRARY_PREFIX) + 4)];
    char *at = (char *)memcpy(text, PRELOAD "=", sizeof(PRELOAD)) + sizeof(PRELOAD);
    struct library libraries[MOST_LIBRARIES];
    size_t count = 0, i, gap, kept;
    long *copy;

    if (access(LIBRARY_PREFIX "0", F_OK) < 0 && access("/proc/self/exe", F_OK) < 0)
        refuse("this node has no C library that is new enough, and without /proc ours cannot be loaded");
    if (trailer->count > MOST_LIBRARIES || pread(fd, libraries, sizeof(libraries), (off_t)trailer->libraries) <
                                               (ssize_t)(trailer->count * sizeof(*libraries)))
        refuse("its own file is damaged");
    for (i = 0; i < trailer->count; i++) {
        memcpy(at, LIBRARY_PREFIX, sizeof(LIBRARY_PREFIX));
        at = add_number(at + sizeof(LIBRARY_PREFIX) - 1, (uint64_t)in_memory(fd, &libraries[i]), 10);
        *at++ = i + 1 < trailer->count ? ':' : 0;
    }
    for (gap = (size_t)vectors[0] + 2; vectors[gap]; gap++) {} /* the end of the environment */
    for (count = gap + 1; vectors[count]; count += 2) {} /* the auxiliary vector */
    count += 2;
    /* On the stack, below what this program still needs of it. */
    copy = (long *)(DOWN(__builtin_frame_address(0)) - FRAMES - UP((count + 1) * sizeof(long)));
    for (i = kept = 0; i < gap; i++)
        if (i <= (size_t)vectors[0] + 1 || strncmp((const char *)vectors[i], PRELOAD "=", sizeof(PRELOAD)))
            copy[kept++] = vectors[i]; /* what the caller has preloaded is of another C library */
    copy[kept] = (long)text;
    memcpy(copy + kept + 1, vectors + gap, (count - gap) * sizeof(long));
    return copy;
}

struct auxiliary {
    unsigned long kind, value;
};

static struct auxiliary *auxiliary_of(long *vectors)
{
    long *at = vectors + vectors[0] + 2;

    while (*at++) {}
    return (struct auxiliary *)at;
}

/* Copies the program's headers with PT_INTERP as it was linked, which loaders want to see. Returns where it is loaded. */
static uintptr_t restore_headers(const Elf64_Phdr *own, size_t count)
{
    uintptr_t base = 0;
    size_t i, length;

    if (count > MOST_HEADERS)
        refuse("too many program headers");
    for (i = 0; i < count; i++)
        if (own[i].p_type == PT_PHDR)
            base = (uintptr_t)own - own[i].p_vaddr;
    for (i = 0; i < count; i++) {
        headers[i] = own[i];
        if (own[i].p_type == PT_PHDR)
            headers[i].p_vaddr = headers[i].p_paddr = (uintptr_t)headers - base;
        if (own[i].p_type == HIDDEN_INTERP) {
            const char *text = (const char *)base + own[i].p_vaddr;

            for (length = 0; text[length] && text[length] != AFTER_INTERPRETER && length < sizeof(interpreter) - 1; length++)
                interpreter[length] = text[length];
            headers[i].p_type = PT_INTERP;
            headers[i].p_vaddr = headers[i].p_paddr = (uintptr_t)interpreter - base;
            headers[i].p_filesz = headers[i].p_memsz = length + 1;
        }
    }
    return base;
}

struct jump {
    uintptr_t to;
    long *stack;
};

/* Called by the first instructions of the program with the vectors of the kernel; says where to go on. */
__attribute__((used, visibility("hidden"))) struct jump front_main(long *vectors)
{
    char **arguments = (char **)vectors + 1;
    struct auxiliary *each, *own = NULL, *count = NULL, *base = NULL, *entry = NULL, *name = NULL;
    struct trailer trailer;
    struct jump jump;
    int fd, loader;

    hand_over((int)vectors[0], arguments, arguments + vectors[0] + 1);
    for (each = auxiliary_of(vectors); each->kind; each++)
        if (each->kind == AT_EXECFN)
            name = each;
        else if (each->kind == AT_PHDR)
            own = each;
        else if (each->kind == AT_PHNUM)
            count = each;
    if (!own || !count)
        refuse("the kernel tells nothing about the program");
    restore_headers((const Elf64_Phdr *)own->value, count->value);
    loader = open_nodes_loader();
    jump.stack = vectors;
    if (loader < 0) {
        fd = read_trailer(name ? (const char *)name->value : "", &trailer);
        jump.stack = with_preload(vectors, fd, &trailer);
    } else
        fd = loader, trailer.loader = 0;
    for (each = auxiliary_of(jump.stack); each->kind; each++)
        if (each->kind == AT_BASE)
            base = each;
        else if (each->kind == AT_ENTRY)
            entry = each;
        else if (each->kind == AT_PHDR)
            each->value = (unsigned long)headers;
    if (!base || !entry)
        refuse("the kernel tells nothing about the loader");
    base->value = map_loader(fd, (off_t)trailer.loader, &jump.to);
    entry->value = (unsigned long)_start;
    close(fd);
    return jump;
}

/* rdx is what the loader may register for the end of the process; the stack is as it came from the kernel. */
__asm__(".pushsection .text\n"
        ".globl front\n"
        ".hidden front\n"
        ".type front, @function\n"
        "front:\n"
        "    xor %ebp, %ebp\n"
        "    mov %rsp, %rdi\n"
        "    and $-16, %rsp\n"
        "    call front_main\n"
        "    mov %rdx, %rsp\n"
        "    xor %edx, %edx\n"
        "    jmp *%rax\n"
        ".popsection\n");
