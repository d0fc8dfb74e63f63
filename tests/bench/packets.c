/* Sends datagrams of 64 bytes from one CPU and prints the nanoseconds that each took: `packets ADDRESS PORT COUNT`.
 * Between namespaces of one machine the sender's CPU does the whole way to the receiver's socket. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#define AT_ONCE 64

int main(int argc, char **argv)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    struct mmsghdr messages[AT_ONCE] = {0};
    char text[64] = {0};
    struct iovec part = {text, sizeof(text)};
    struct timespec begun, ended;
    cpu_set_t last;
    long count, sent = 0;
    int fd = socket(AF_INET, SOCK_DGRAM, 0), i;

    if (argc != 4 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
        return 2;
    to.sin_port = htons((unsigned short)atoi(argv[2]));
    count = atol(argv[3]);
    sched_getaffinity(0, sizeof(last), &last);
    for (i = CPU_SETSIZE - 1; i > 0 && !CPU_ISSET(i, &last); i--)
        ;
    CPU_ZERO(&last);
    CPU_SET(i, &last);
    sched_setaffinity(0, sizeof(last), &last);
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        return 1;
    for (i = 0; i < AT_ONCE; i++)
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    clock_gettime(CLOCK_MONOTONIC, &begun);
    while (sent < count) {
        int n = sendmmsg(fd, messages, AT_ONCE, 0);

        sent += n > 0 ? n : 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    printf("%.1f\n", ((double)(ended.tv_sec - begun.tv_sec) * 1e9 + (double)(ended.tv_nsec - begun.tv_nsec)) / (double)sent);
    return 0;
}
