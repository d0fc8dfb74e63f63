/*
 * Hands a call to a process that has Python running already, before Python starts here.
 *
 * That is the resident agent (cnictl agent), or where there is none, what an earlier call has left behind for some
 * minutes. Its workers have imported all modules: they answer in a fraction of the time that an interpreter needs to
 * start. If anything fails before a worker has accepted the call and has been sent the go (no socket, another build,
 * another namespace, no progress), hand_over() returns, and the program runs the request itself: stdin was saved, and
 * is restored. After the go there is no fallback: if the worker dies then, a CNI error document is written.
 *
 * Where no agent is, who comes first is decided here: whoever gets the lock listens at once, and all who come meanwhile
 * wait in its queue instead of starting Python as well. The first one answers itself, and leaves a process behind
 * (agent/linger.py), which holds the lock as long as it lives. Lock and socket are named after the build, so that an
 * upgrade needs no farewell. If the first one is killed before that, the kernel tells those who wait, and one of them
 * is the next first one.
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
#include "bare.h"
#include "handoff.h"

#define HANDOFF_PRIORITY 150 /* before launch.c, which unpacks */
#define PROTOCOL "cni-handoff 1"
#define SOCKET "/run/cni-plugins/agent.sock"
#define SOCKET_VARIABLE "CNI_PLUGINS_AGENT" /* another path; empty: no agent */
#define PLACE "/run/cni-plugins"
#define LINGER_VARIABLE "CNI_PLUGINS_LINGER" /* seconds without a call until nothing is left; 0: leave nothing behind */
#define NO_LINGERING "/etc/cni/no-linger"    /* a file by which an operator says the same for the node */
#define LINGER_SECONDS 300
#define STOPPED_AFTER 4                     /* seconds without a sign of life of the process that stayed */
#define BACKLOG 4096                        /* calls that may wait; the kernel's own limit is net.core.somaxconn */
#ifndef LINGERS
#define LINGERS 0 /* only inside.c can leave a process behind */
#endif
#define OPERATORS "cnictl"                  /* cnictl has the same bootloader */
#define PATIENCE 5                          /* seconds until a worker must have taken the call... */
#define MOST_PATIENCE 60                    /* ...or, while others are served, until this one must be taken */
#define MOST_DESCRIPTORS 3
#define CALL_LIMIT (64 << 10)
#define STDIN_LIMIT ((1 << 20) + 1)   /* protocol/request.py's limit, plus one byte to detect that it is exceeded */
#define ANSWER_LIMIT (64 << 20)
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u /* without it, sysctl vm.memfd_noexec may refuse the file */
#endif
#define SEALS (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)

struct answer {
    uint32_t code, out, err; /* exit code, bytes for stdout, bytes for stderr */
};

/* freeze.py writes the build's digest over the zeros; volatile, so that the compiler keeps the text in one piece. */
static const volatile char build[] = "@build-id:0000000000000000";
#define BUILD_ID 10 /* offset in it */

struct nest nest = {-1, -1, 0};

static char call[CALL_LIMIT];
static char **variables; /* the environment */

static const char *variable(const char *name)
{
    size_t length = strlen(name);
    char **at;

    for (at = variables; *at; at++)
        if (!strncmp(*at, name, length) && (*at)[length] == '=')
            return *at + length + 1;
    return NULL;
}

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
    const char *path = variable(SOCKET_VARIABLE);

    path = path ? path : SOCKET;
    if (!*path || strlen(path) >= sizeof(address->sun_path) || access(path, F_OK) < 0)
        return 0;
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, strlen(path) + 1);
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
    int fd = memfd_create("stdin", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    struct pollfd in = {.fd = 0, .events = POLLIN};
    char buffer[16 << 10];
    size_t total = 0;
    ssize_t n;

    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("stdin", MFD_CLOEXEC | MFD_ALLOW_SEALING); /* Linux before 6.3 */
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

static char *add_number(char *to, uint64_t number, unsigned base)
{
    char digits[24], *at = digits;

    do
        *at++ = (char)('0' + number % base);
    while (number /= base);
    while (at > digits)
        *to++ = *--at;
    return to;
}

/* The namespaces and the root directory of a process. The first is at offset 0, the others follow. */
#define PLACE_LENGTH 20
static const char own_places[][PLACE_LENGTH] = {"/proc/self/ns/net", "/proc/self/ns/mnt", "/proc/self/ns/user", "/"};
static const char hosts_places[][PLACE_LENGTH] = {"/proc/1/ns/net", "/proc/1/ns/mnt", "/proc/1/ns/user", "/proc/1/root"};
#define PLACES (sizeof(own_places) / sizeof(*own_places))

/* Writes the identity of our namespaces and root directory, which must be the worker's too. Returns NULL on failure. */
static char *add_places(char *to)
{
    struct stat st;
    size_t i;

    for (i = 0; i < PLACES; i++) {
        if (stat(own_places[i], &st) < 0)
            return NULL;
        to = add_number(to, st.st_dev, 10);
        *to++ = ':';
        to = add_number(to, st.st_ino, 10);
        *to++ = i + 1 < PLACES ? ' ' : 0;
    }
    return to;
}

static char *add_text(char *to, const char *end, const char *text)
{
    size_t length = strlen(text) + 1;

    return to && length <= (size_t)(end - to) ? (char *)memcpy(to, text, length) + length : NULL;
}

/* Composes the call. Returns its length, 0 if it does not fit. */
static size_t compose(const char *name)
{
    char *const end = call + CALL_LIMIT, *at = add_text(call, end, PROTOCOL), **each;
    mode_t mask = umask(0);
    size_t i;

    umask(mask);
    for (i = 0; i < sizeof(build); i++)
        *at++ = build[i];
    at = add_places(at);
    if (at) {
        at = add_number(at, mask, 8);
        *at++ = 0;
    }
    at = add_text(at, end, name);
    for (each = variables; *each && at; each++)
        at = add_text(at, end, *each);
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
static int offer(int agent, const struct sockaddr_un *address, int kept, size_t length)
{
    int fds[3] = {kept}, stderr_fd = 2, rc = -1;
    char go[] = {'G'};

    fds[1] = open("/proc/self/exe", O_PATH | O_CLOEXEC);
    fds[2] = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fds[1] >= 0 && fds[2] >= 0 && pass(agent, call, length, fds, 3) == 0 &&
        is_taken(agent, address))
        rc = pass(agent, go, 1, &stderr_fd, 1);
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
    char *data = MAP_FAILED;
    size_t size;

    ignore_sigpipe();
    setsockopt(agent, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof(forever));
    if (receive(agent, (char *)&answer, sizeof(answer)) == 0 && answer.out <= ANSWER_LIMIT && answer.err <= ANSWER_LIMIT) {
        size = (size_t)answer.out + answer.err + 1;
        data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (data == MAP_FAILED || receive(agent, data, (size_t)answer.out + answer.err) < 0) {
        write_all(1, lost, sizeof(lost) - 1);
        _exit(1);
    }
    write_all(2, data + answer.out, answer.err);
    _exit(write_all(1, data, answer.out) < 0 ? 1 : (int)answer.code);
}

/* Whether this process is where the host's first one is: the process that stays must serve the host's other calls. */
static int is_at_home(void)
{
    struct stat own, hosts;
    size_t i;

    for (i = 0; i < PLACES; i++)
        if (stat(own_places[i], &own) < 0 || stat(hosts_places[i], &hosts) < 0 || own.st_ino != hosts.st_ino ||
            own.st_dev != hosts.st_dev)
            return 0;
    return 1;
}

/* Returns for how many seconds a process may stay behind, 0 if none may. */
static unsigned lingering(void)
{
    const char *text = variable(LINGER_VARIABLE);
    unsigned seconds = 0;

    if (!text || !*text)
        seconds = LINGER_SECONDS;
    else
        while (*text >= '0' && *text <= '9' && seconds < 1000000)
            seconds = 10 * seconds + (unsigned)(*text++ - '0');
    if ((text && *text) || !seconds || geteuid() != 0 || access(NO_LINGERING, F_OK) == 0 || !is_at_home())
        return 0;
    return seconds;
}

/* Writes PLACE/<build><suffix>. */
static void name_of(char *to, const char *suffix)
{
    size_t i;

    memcpy(to, PLACE "/", sizeof(PLACE));
    for (to += sizeof(PLACE), i = BUILD_ID; i < sizeof(build) - 1; i++)
        *to++ = build[i];
    memcpy(to, suffix, strlen(suffix) + 1);
}

/* Opens the lock, in a directory where only root can write. */
static int open_lock(void)
{
    char path[64];
    struct stat st;
    int dir, lock = -1;

    mkdir(PLACE, 0700);
    dir = open(PLACE, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir >= 0 && fstat(dir, &st) == 0 && st.st_uid == 0 && !(st.st_mode & 022)) {
        name_of(path, ".first");
        lock = openat(AT_FDCWD, path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    }
    if (dir >= 0)
        close(dir);
    return lock;
}

/* Whether the lock still has its name: callers remove that of one who hangs. */
static int is_current(int lock)
{
    struct stat held, named;
    char path[64];

    name_of(path, ".first");
    return fstat(lock, &held) == 0 && stat(path, &named) == 0 && held.st_ino == named.st_ino;
}

/*
 * Tries to be the first caller. Returns 1 if it is, which listens then; 0 if another is, whose file is `seen`; -1 if
 * there can be none.
 */
static int be_first(struct sockaddr_un *address, ino_t *seen)
{
    int lock = open_lock(), listener = -1, won;
    struct stat st;
    mode_t mask;

    address->sun_family = AF_UNIX;
    name_of(address->sun_path, ".sock");
    if (lock < 0)
        return -1;
    *seen = fstat(lock, &st) == 0 ? st.st_ino : 0;
    if (flock(lock, LOCK_EX | LOCK_NB) < 0 || !is_current(lock))
        return close(lock), 0;
    unlink(address->sun_path);
    mask = umask(0177);
    listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    won = listener >= 0 && bind(listener, (struct sockaddr *)address, sizeof(*address)) == 0 &&
          listen(listener, BACKLOG) == 0;
    umask(mask);
    if (won) {
        nest.lock = lock, nest.listener = listener;
        return 1;
    }
    if (listener >= 0)
        close(listener);
    close(lock);
    return -1;
}

/* Connects to the first caller, which may be between its lock and its socket. */
static int connect_soon(const struct sockaddr_un *address)
{
    struct timespec moment = {0, 500000};
    int tries, fd = -1;

    for (tries = 0; tries < 20 && (fd = connect_agent(address)) < 0 && (errno == ENOENT || errno == ECONNREFUSED); tries++)
        nanosleep(&moment, NULL);
    return fd;
}

/*
 * Has the next call start anew, if the process that stayed is stopped: while it runs, it sets the time of its file every
 * second, however busy its workers are (serve.py). It ends when it sees that its file has gone.
 */
static void abandon_if_stopped(const struct sockaddr_un *address, ino_t seen)
{
    struct timespec now;
    struct stat st;
    char path[64];

    name_of(path, ".first");
    clock_gettime(CLOCK_REALTIME, &now);
    if (stat(path, &st) < 0 || st.st_ino != seen || now.tv_sec - st.st_mtim.tv_sec < STOPPED_AFTER)
        return;
    unlink(address->sun_path); /* first: as long as the other one is there, nobody can be the next first */
    unlink(path);
}

/* Offers the call to the process that an earlier call has left, or becomes the first. Returns only if it is ours. */
static void try_lingering(unsigned seconds, int kept, size_t length)
{
    struct sockaddr_un address = {0};
    struct timespec before, after;
    int tries, fd, first = 0;
    ino_t seen;

    for (tries = 0; tries < 4 && !(first = be_first(&address, &seen)); tries++) {
        fd = connect_soon(&address);
        if (fd < 0)
            continue;
        clock_gettime(CLOCK_MONOTONIC, &before);
        if (offer(fd, &address, kept, length) == 0)
            conclude(fd);
        close(fd);
        clock_gettime(CLOCK_MONOTONIC, &after);
        if (after.tv_sec - before.tv_sec >= PATIENCE - 1) {
            abandon_if_stopped(&address, seen);
            return;
        }
    }
    nest.seconds = first == 1 ? seconds : 0;
}

#ifdef FRONT
/* Answers VERSION if stdin is what libcni sends, or nothing. Other texts are JSON to be parsed (front/main.py). */
static void answer_version(void)
{
    static const char head[] = "{\"cniVersion\":\"", tail[] = "\",\"supportedVersions\":[" VERSIONS_AS_JSON "]}\n";
    static const char versions[][VERSION_LENGTH] = {VERSIONS};
    static char text[VERSION_LENGTH + 32];
    char terminal[64], *end;
    size_t i, found = sizeof(versions) / sizeof(*versions) - 1; /* the newest, if none is asked for */
    int is_terminal = ioctl(0, TCGETS, terminal) == 0, kept = is_terminal ? -1 : keep_stdin(), is_known;
    ssize_t length = kept < 0 ? 0 : pread(kept, text, sizeof(text) - 1, 0);

    if (kept < 0 && !is_terminal)
        return;
    for (i = 0, is_known = !length; !is_known && i <= found; i++) {
        char asked[VERSION_LENGTH + 32];

        end = (char *)memcpy(asked, head, sizeof(head)) + sizeof(head) - 1;
        end = (char *)memcpy(end, versions[i], strlen(versions[i])) + strlen(versions[i]);
        memcpy(end, "\"}", 3);
        if (!strcmp(text, asked) && (size_t)length == strlen(asked))
            is_known = 1, found = i;
    }
    if (is_known) {
        ignore_sigpipe();
        memcpy(call, head, sizeof(head));
        end = (char *)memcpy(call + sizeof(head) - 1, versions[found], strlen(versions[found])) + strlen(versions[found]);
        memcpy(end, tail, sizeof(tail));
        write_all(1, call, strlen(call));
        _exit(0);
    }
    put_back(kept);
    if (kept >= 0)
        close(kept);
}
#endif

void hand_over(int argc, char **argv, char **environment)
{
    const char *command, *name = argc > 0 ? argv[0] : "", *at;
    struct sockaddr_un address = {0};
    int agent = -1, kept, may_linger;
    unsigned seconds = 0;
    size_t length;

    variables = environment;
    for (at = name; *at; at++)
        if (*at == '/')
            name = at + 1;
    command = variable("CNI_COMMAND");
    if (!command || !*command || !strcmp(name, OPERATORS))
        return; /* cnictl is not a plugin */
#ifdef FRONT
    if (!strcmp(command, "VERSION") && fcntl(0, F_GETFD, 0) >= 0 && fcntl(1, F_GETFD, 0) >= 0)
        answer_version();
#endif
    if (!strcmp(command, "VERSION"))
        return; /* it is answered faster without an agent */
    if (fcntl(0, F_GETFD, 0) < 0 || fcntl(1, F_GETFD, 0) < 0 || fcntl(2, F_GETFD, 0) < 0)
        return; /* a file that we open would get the number of a closed stdin, stdout or stderr */
    may_linger = LINGERS && !variable(SOCKET_VARIABLE);
    if (!find_agent(&address) && (!may_linger || !(seconds = lingering())))
        return;
    if (!(length = compose(name)))
        return;
    kept = keep_stdin(); /* before connecting: stdin may be slow, and would block a worker */
    if (kept < 0)
        return;
    if (lseek(kept, 0, SEEK_END) < STDIN_LIMIT && fcntl(kept, F_ADD_SEALS, SEALS) == 0) {
        if (address.sun_path[0] && (agent = connect_agent(&address)) >= 0 && offer(agent, &address, kept, length) == 0)
            conclude(agent);
        if (agent >= 0)
            close(agent);
        else if (seconds || (may_linger && (seconds = lingering())))
            try_lingering(seconds, kept, length);
    }
    put_back(kept);
    close(kept);
}

#ifndef FRONT
__attribute__((constructor(HANDOFF_PRIORITY))) static void hand_over_first(int argc, char **argv, char **environment)
{
    hand_over(argc, argv, environment);
}
#endif
