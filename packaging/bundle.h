/* What follows the program in its file: the modules, and a loader with a C library for nodes without their own. */
#include <stdint.h>

#define TRAILER_MAGIC "CNIFROZE"
#define PRELOAD "LD_PRELOAD"

struct library {
    uint64_t offset, size;
};

struct trailer { /* at the end of the file; suite.spec writes it */
    uint64_t modules;   /* offset of what importer.py reads */
    uint64_t loader;    /* offset of the dynamic loader, on a page */
    uint64_t libraries; /* offset of a table of libraries */
    uint64_t count;     /* of them */
    char magic[8];
};
