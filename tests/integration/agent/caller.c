/* A plugin whose cold road shows what was left for it: handoff.c goes first, as in the executables. */
#include <unistd.h>

int main(void)
{
    char data[1 << 16] = "COLD\n";
    ssize_t n = 5;

    do
        if (write(1, data, (size_t)n) != n)
            return 1;
    while ((n = read(0, data, sizeof(data))) > 0);
    return 42;
}
