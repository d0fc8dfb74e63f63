/* A directory for files that must be executable: place.c. */

/*
 * Creates a directory of our own in the first suitable place, sets home (of PATH_MAX bytes) to its path, and calls fill
 * with it, if that is not NULL; if fill fails, the next place is tried. Returns -1 after writing a CNI error document.
 */
int take_place(char *home, int (*fill)(const char *home));

/* Makes sure that descriptors 0 to 2 are open, and none of them a directory. */
void open_standard_descriptors(void);
