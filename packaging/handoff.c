/*
 * Hands a call to the resident agent (cnictl agent), before Python starts.
 *
 * Compiled into the bootloader together with launch.c, and run before it. The agent's workers have imported all
 * modules: they answer in a fraction of the time that an interpreter needs to start. If anything fails before a worker
 * has accepted the call and has been sent the go (no socket, another build, another namespace, no progress), this
 * function returns, and the program runs the request itself: stdin was saved, and is restored. After the go there is no
 * fallback: if the worker dies then, a CNI error document is written.
 *
 * The agent's side is cni_plugins/agent/worker.py. One SOCK_SEQPACKET connection per call:
 *   > the call: texts, each terminated by a NUL: protocol, build, places (namespaces and root directory), umask, name,
 *     environment...; with it the descriptors of stdin (a sealed memfd), of this program's file and of the working
 *     directory
 *   < "T"  taken: the worker can serve it, and has not begun
 *   > "G"  go: from here on only the worker acts; with it the descriptor of stderr, which is not sent earlier because
 *     the runtime reads stderr to its end, and a hung agent must not hold it open
 *   < struct answer, then its bytes for stdout and stderr, in any number of packets
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define HANDOFF_PRIORITY 150 /* before launch.c, which unpacks */
#define PROTOCOL "cni-handoff 1"
#define SOCKET "/run/cni-plugins/agent.sock"
#define SOCKET_VARIABLE "CNI_PLUGINS_AGENT" /* another path; empty: no agent */
#define OPERATORS "cnictl"                  /* cnictl has the same bootloader */
#define PATIENCE 5                          /* seconds until a worker must have taken the call... */
#define MOST_PATIENCE 60                    /* ...or, while others are served, until this one must be taken */
#define MOST_DESCRIPTORS 3
#define CALL_LIMIT (64 << 10)
#define STDIN_LIMIT ((1 << 20) + 1)   /* protocol/request.py's limit, plus one byte to detect that it is exceeded */
#define ANSWER_LIMIT (64 << 20)
#define SEALS (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)

struct answer {
    uint32_t code, out, err; /* exit code, bytes for stdout, bytes for stderr */
};

/* freeze.py writes the build's digest over the zeros; volatile, so that the compiler keeps the text in one piece. */
static const volatile char build[] = "@build-id:0000000000000000";

static int write_all(int fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t n = write(fd, data, length);

        if (n < 0 && errno != EINTR)
            return -1;
        if (n > 0)
            data += n, length -= (size_t)n;
    }
    return 0;
}

/* Sets the address of the agent's socket. Returns 0 if there is none. */
static int find_agent(struct sockaddr_un *address)
{
    const char *path = getenv(SOCKET_VARIABLE);

    path = path ? path : SOCKET;
    if (!*path || strlen(path) >= sizeof(address->sun_path) || access(path, F_OK) < 0)
        return 0;
    address->sun_family = AF_UNIX;
    strcpy(address->sun_path, path);
    return 1;
}

/* Connects to the agent. Returns -1 on failure, also if the process that listens runs as another user. */
static int connect_agent(const struct sockaddr_un *address)
{
    struct timeval patience = {.tv_sec = PATIENCE};
    struct ucred peer;
    socklen_t size = sizeof(peer);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) == 0 &&
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0 &&
        connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 &&
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid())
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Reads stdin to its end into a memfd. Nothing is left to read from stdin then: put_back() replaces it by the memfd. */
static int keep_stdin(void)
{
    int fd = memfd_create("stdin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    struct pollfd in = {.fd = 0, .events = POLLIN};
    char buffer[16 << 10];
    size_t total = 0;
    ssize_t n;

    while (fd >= 0 && total < STDIN_LIMIT && (n = read(0, buffer, sizeof(buffer))) != 0) {
        if (n < 0 && (errno == EINTR || (errno == EAGAIN && poll(&in, 1, -1) >= 0)))
            continue;
        if (n < 0 || write_all(fd, buffer, (size_t)n) < 0) {
            if (total > 0)
                break; /* the text is truncated, which its parser will report */
            close(fd);
            return -1;
        }
        total += (size_t)n;
    }
    return fd;
}

static void put_back(int kept)
{
    if (kept >= 0 && lseek(kept, 0, SEEK_SET) == 0)
        dup2(kept, 0);
}

/* Writes the identity of our namespaces and root directory, which must be the worker's too. Returns NULL on failure. */
static char *add_places(char *to, size_t room)
{
    static const char *const places[] = {"/proc/self/ns/net", "/proc/self/ns/mnt", "/proc/self/ns/user", "/"};
    struct stat st;
    size_t i;

    for (i = 0; i < sizeof(places) / sizeof(*places); i++) {
        int n = stat(places[i], &st) < 0 ? -1
                                         : snprintf(to, room, "%llu:%llu ", (unsigned long long)st.st_dev,
                                                    (unsigned long long)st.st_ino);
        if (n < 0 || (size_t)n >= room)
            return NULL;
        to += n, room -= (size_t)n;
    }
    to[-1] = 0;
    return to;
}

static char *add_text(char *to, const char *end, const char *text)
{
    size_t length = strlen(text) + 1;

    return to && length <= (size_t)(end - to) ? (char *)memcpy(to, text, length) + length : NULL;
}

/* Composes the call. Returns its length, 0 if it does not fit. */
static size_t compose(char *call, const char *name, char **environment)
{
    char *const end = call + CALL_LIMIT, *at = add_text(call, end, PROTOCOL);
    mode_t mask = umask(0);
    size_t i;

    umask(mask);

    for (i = 0; i < sizeof(build); i++)
        *at++ = build[i];
    at = add_places(at, 256);
    if (at)
        at += 1 + sprintf(at, "%o", (unsigned)mask);
    at = add_text(at, end, name);
    for (; *environment && at; environment++)
        at = add_text(at, end, *environment);
    return at ? (size_t)(at - call) : 0;
}

/* Sends a text and descriptors in one message. */
static int pass(int agent, char *text, size_t length, const int *fds, size_t count)
{
    char control[CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))] = "";
    struct iovec part = {text, length};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);

    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    return sendmsg(agent, &message, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -1;
}

/* Tells whether the agent has served calls since then: it sets the time of its socket (serve.py). */
static int has_served_since(const struct sockaddr_un *address, const struct timespec *then)
{
    struct stat st;

    return stat(address->sun_path, &st) == 0 &&
           (st.st_mtim.tv_sec > then->tv_sec ||
            (st.st_mtim.tv_sec == then->tv_sec && st.st_mtim.tv_nsec > then->tv_nsec));
}

/* Waits until a worker has taken the call, as long as others are served: starting Python as well would make a loaded
 * machine slower still. */
static int is_taken(int agent, const struct sockaddr_un *address)
{
    struct timespec begun;
    char taken = 0;
    int waited;

    for (waited = 0; waited < MOST_PATIENCE; waited += PATIENCE) {
        ssize_t n;

        clock_gettime(CLOCK_REALTIME, &begun);
        n = recv(agent, &taken, 1, 0);
        if (n >= 0)
            return n == 1 && taken == 'T';
        if ((errno != EAGAIN && errno != EWOULDBLOCK) || !has_served_since(address, &begun))
            return 0;
    }
    return 0;
}

/* Sends the call and waits until a worker has taken it. Returns 0 if so; otherwise no worker will serve it. */
static int offer(int agent, const struct sockaddr_un *address, int kept, char *call, size_t length)
{
    const int fds[] = {kept, open("/proc/self/exe", O_PATH | O_CLOEXEC), open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)};
    const int stderr_fd = 2;
    int rc = -1;

    if (fcntl(kept, F_ADD_SEALS, SEALS) == 0 && fds[1] >= 0 && fds[2] >= 0 && pass(agent, call, length, fds, 3) == 0 &&
        is_taken(agent, address))
        rc = pass(agent, (char[]){'G'}, 1, &stderr_fd, 1);
    close(fds[1]);
    close(fds[2]);
    return rc;
}

/* Receives exactly this many bytes, in any number of packets. */
static int receive(int agent, char *data, size_t length)
{
    while (length > 0) {
        ssize_t n = recv(agent, data, length, 0);

        if (n == 0 || (n < 0 && errno != EINTR))
            return -1;
        if (n > 0)
            data += n, length -= (size_t)n;
    }
    return 0;
}

/* Waits for the answer without a timeout, as the runtime has its own, and exits. */
static void conclude(int agent)
{
    static const char lost[] = "{\"cniVersion\":\"1.1.0\",\"code\":11,\"msg\":\"the agent ended in the middle of this "
                               "request\",\"details\":\"a worker of cnictl agent took it and gave no answer\"}\n";
    struct timeval forever = {0};
    struct answer answer;
    char *data = NULL;

    signal(SIGPIPE, SIG_IGN);
    setsockopt(agent, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof(forever));
    if (receive(agent, (char *)&answer, sizeof(answer)) < 0 || answer.out > ANSWER_LIMIT || answer.err > ANSWER_LIMIT ||
        !(data = malloc((size_t)answer.out + answer.err + 1)) ||
        receive(agent, data, (size_t)answer.out + answer.err) < 0) {
        write_all(1, lost, sizeof(lost) - 1);
        _exit(1);
    }
    write_all(2, data + answer.out, answer.err);
    _exit(write_all(1, data, answer.out) < 0 ? 1 : (int)answer.code);
}

__attribute__((constructor(HANDOFF_PRIORITY))) static void hand_over(int argc, char **argv, char **environment)
{
    const char *command = getenv("CNI_COMMAND"), *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *name = slash ? slash + 1 : argc > 0 ? argv[0] : "";
    struct sockaddr_un address = {0};
    int agent = -1, kept;
    size_t length;
    char *call;

    if (!command || !*command || !strcmp(command, "VERSION") || !strcmp(name, OPERATORS))
        return; /* VERSION is answered faster without the agent; cnictl is not a plugin */
    if (fcntl(0, F_GETFD) < 0 || fcntl(1, F_GETFD) < 0 || fcntl(2, F_GETFD) < 0)
        return; /* a file that we open would get the number of a closed stdin, stdout or stderr */
    if (!find_agent(&address) || !(call = malloc(CALL_LIMIT)) || !(length = compose(call, name, environment)))
        return;
    kept = keep_stdin(); /* before connecting: stdin may be slow, and would block a worker */
    if (kept >= 0 && lseek(kept, 0, SEEK_END) < STDIN_LIMIT && (agent = connect_agent(&address)) >= 0 && offer(agent, &address, kept, call, length) == 0)
        conclude(agent);
    put_back(kept);
    close(kept);
    close(agent);
    free(call);
}
