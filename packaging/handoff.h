/* A call is handed to a process that has Python running already: handoff.c. */

/* What the first of several callers leaves to the process that stays; set if seconds is not 0. */
struct nest {
    int lock, listener;
    unsigned seconds; /* without a call, until that process ends */
};
extern struct nest nest;

/* Hands the call over and ends the process. Returns if the call is to be run here. */
void hand_over(int argc, char **argv, char **environment);
