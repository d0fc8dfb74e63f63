/* Sends datagrams, each from a source port of its own and so the first of its connection, and prints the
 * nanoseconds of CPU time that each took, up to a socket that nobody reads:
 * `chain_packets SENDER RECEIVER PORT ADDRESS FIRST PORTS COUNT`, with the paths of two network namespaces, the
 * receiver's port, and where to send: to PORTS ports from FIRST on. The namespace where it starts forgets its
 * connections first. Between namespaces of one machine the sender's CPU does the whole way. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FIRST_SOURCE 2000
#define STRIDE 7919 /* a prime, so that neighbours in time are not neighbours in a list */

static int forget(void)
{
    struct {
        struct nlmsghdr head;
        struct nfgenmsg of;
    } message = {{sizeof(message), NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, 1, 0}, {0}};
    char answer[4096];
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);

    return fd < 0 || send(fd, &message, sizeof(message), 0) < 0 || recv(fd, answer, sizeof(answer), 0) < 0 || close(fd);
}

static int enter(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    return fd < 0 || setns(fd, CLONE_NEWNET) || close(fd);
}

static int receive(int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    int fd = socket(AF_INET, SOCK_DGRAM, 0), least = 0;

    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &least, sizeof(least));
    return bind(fd, (struct sockaddr *)&at, sizeof(at));
}

static void stay_on_one_cpu(void)
{
    cpu_set_t last;
    int i;

    sched_getaffinity(0, sizeof(last), &last);
    for (i = CPU_SETSIZE - 1; i > 0 && !CPU_ISSET(i, &last); i--)
        ;
    CPU_ZERO(&last);
    CPU_SET(i, &last);
    sched_setaffinity(0, sizeof(last), &last);
}

int main(int argc, char **argv)
{
    struct sockaddr_in to = {.sin_family = AF_INET}, from = {.sin_family = AF_INET};
    struct timespec begun, ended;
    char text[64] = {0};
    long first, ports, count, i;

    if (argc != 8 || inet_pton(AF_INET, argv[4], &to.sin_addr) != 1)
        return 2;
    first = atol(argv[5]);
    ports = atol(argv[6]);
    count = atol(argv[7]);
    if (forget() || enter(argv[2]) || receive(atoi(argv[3])) || enter(argv[1])) {
        perror(argv[0]);
        return 1;
    }
    stay_on_one_cpu();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begun);
    for (i = 0; i < count; i++) {
        int fd = socket(AF_INET, SOCK_DGRAM, 0);

        from.sin_port = htons((unsigned short)(FIRST_SOURCE + i));
        to.sin_port = htons((unsigned short)(first + i * STRIDE % ports));
        if (bind(fd, (struct sockaddr *)&from, sizeof(from)) ||
            sendto(fd, text, sizeof(text), 0, (struct sockaddr *)&to, sizeof(to)) < 0) {
            perror("datagram");
            return 1;
        }
        close(fd);
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ended);
    printf("%.1f\n", ((double)(ended.tv_sec - begun.tv_sec) * 1e9 + (double)(ended.tv_nsec - begun.tv_nsec)) / (double)count);
    return 0;
}
