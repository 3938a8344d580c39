/* Sockets. */
#define FAMILY "sockets"
#include "case.h"
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un named(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    return address;
}

#define ADDRESS(a) (struct sockaddr *)&(a), sizeof(a)

CASE(making, "socket socketpair") {
    int s[2];
    R(socket(AF_UNIX, SOCK_STREAM, 0));
    R(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    V(fcntl(4, F_GETFD));
    R(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0));
    V(fcntl(5, F_GETFL));
    R(socket(AF_UNIX, SOCK_RAW, 0));
    R(socket(AF_UNIX, 77, 0));
    R(socket(AF_UNIX, SOCK_STREAM, 5));
    R(socket(99, SOCK_STREAM, 0));
    R(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    say("%d %d", s[0], s[1]);
    R(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s));
    V(fcntl(s[1], F_GETFD));
    R(socketpair(AF_INET, SOCK_STREAM, 0, s));
    R(S(socketpair, AF_UNIX, SOCK_STREAM, 0, 8));
    R(socketpair(AF_UNIX, SOCK_STREAM | 1 << 20, 0, s));
}

CASE(streams, "bind listen connect accept accept4 getsockname getpeername shutdown read write") {
    struct sockaddr_un address = named("sock"), got = {0};
    socklen_t length = sizeof got;
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    R(connect(client, ADDRESS(address)));
    R(bind(server, ADDRESS(address)));
    R(bind(server, ADDRESS(address)));
    R(bind(client, ADDRESS(address)));
    R(connect(client, ADDRESS(address)));
    R(accept(server, NULL, NULL));
    R(listen(server, 5));
    R(connect(client, ADDRESS(address)));
    R(connect(client, ADDRESS(address)));
    R(getsockname(server, (void *)&got, &length));
    say("%d %s", length, got.sun_path);
    length = sizeof got;
    R(getpeername(client, (void *)&got, &length));
    say("%d %s", length, got.sun_path);
    length = sizeof got;
    int peer = accept4(server, (void *)&got, &length, SOCK_CLOEXEC);
    say("%d %d", peer, length);
    V(fcntl(peer, F_GETFD));
    length = 4;
    R(getsockname(server, (void *)&got, &length));
    V(length);
    R(getpeername(server, (void *)&got, &length));
    char buffer[64] = {0};
    R(write(client, "hello", 5));
    R(read(peer, buffer, 3));
    R(read(peer, buffer + 3, 60));
    say("[%s]", buffer);
    R(shutdown(client, SHUT_WR));
    R(read(peer, buffer, 1));
    R(write(peer, "back", 4));
    R(read(client, buffer, 10));
    signal(SIGPIPE, SIG_IGN);
    R(write(client, "x", 1));
    R(shutdown(client, 9));
    R(shutdown(99, SHUT_RD));
    close(client);
    R(write(peer, "x", 1));
    R(read(peer, buffer, 1));
    R(shutdown(socket(AF_UNIX, SOCK_STREAM, 0), SHUT_RD));
    R(accept4(server, NULL, NULL, 1));
    fcntl(server, F_SETFL, O_NONBLOCK);
    R(accept(server, NULL, NULL));
    R(listen(99, 1));
    R(listen(0, 1));
    R(bind(0, ADDRESS(address)));
    R(connect(99, ADDRESS(address)));
    int other = socket(AF_UNIX, SOCK_STREAM, 0);
    R(connect(other, (void *)&address, 1));
    R(bind(other, (void *)&address, 200));
    R(S(bind, other, 8, 20));
    address.sun_family = 77;
    R(connect(other, ADDRESS(address)));
    address = named("none");
    R(connect(other, ADDRESS(address)));
    R(connect(other, ADDRESS(address)));
    put("file", "");
    address = named("file");
    R(connect(other, ADDRESS(address)));
    address = named("sock");
    close(server);
    R(connect(other, ADDRESS(address)));
}

CASE(abstract_names, "bind connect getsockname") {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0name"}, got;
    socklen_t length = sizeof got, size = offsetof(struct sockaddr_un, sun_path) + 5;
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    R(bind(server, (void *)&address, size));
    R(bind(client, (void *)&address, size));
    R(getsockname(server, (void *)&got, &length));
    V(length);
    listen(server, 1);
    R(connect(client, (void *)&address, size - 1));
    R(connect(client, (void *)&address, size));
    int any = socket(AF_UNIX, SOCK_DGRAM, 0);
    R(bind(any, (void *)&address, 2));
    length = sizeof got;
    R(getsockname(any, (void *)&got, &length));
    V(length);
    length = sizeof got;
    R(getsockname(socket(AF_UNIX, SOCK_DGRAM, 0), (void *)&got, &length));
    V(length);
}

CASE(datagrams, "sendto recvfrom connect bind") {
    char buffer[64] = {0};
    struct sockaddr_un one = named("one"), two = named("two"), got;
    socklen_t length = sizeof got;
    int a = socket(AF_UNIX, SOCK_DGRAM, 0), b = socket(AF_UNIX, SOCK_DGRAM, 0);
    bind(a, ADDRESS(one));
    bind(b, ADDRESS(two));
    R(sendto(a, "first", 5, 0, ADDRESS(two)));
    R(sendto(a, "", 0, 0, ADDRESS(two)));
    R(sendto(a, "third", 5, 0, ADDRESS(two)));
    R(recvfrom(b, buffer, 3, MSG_TRUNC, (void *)&got, &length));
    say("[%.3s] from %s %d", buffer, got.sun_path, length);
    R(recvfrom(b, buffer, 64, 0, NULL, NULL));
    R(recvfrom(b, buffer, 64, MSG_PEEK, NULL, NULL));
    R(recvfrom(b, buffer, 64, MSG_DONTWAIT, NULL, NULL));
    R(recvfrom(b, buffer, 64, MSG_DONTWAIT, NULL, NULL));
    R(sendto(a, "x", 1, 0, NULL, 0));
    R(connect(a, ADDRESS(two)));
    R(send(a, "x", 1, 0));
    R(sendto(a, "y", 1, 0, ADDRESS(one)));
    R(connect(b, ADDRESS(one)));
    int c = socket(AF_UNIX, SOCK_DGRAM, 0);
    R(sendto(c, "z", 1, 0, ADDRESS(two)));
    struct sockaddr none = {AF_UNSPEC};
    R(connect(b, &none, sizeof none));
    R(sendto(c, "z", 1, 0, ADDRESS(two)));
    close(b);
    R(send(a, "x", 1, 0));
    R(sendto(c, "z", 1, 0, ADDRESS(two)));
    char *large = calloc(1, 1 << 20);
    R(sendto(c, large, 1 << 20, 0, ADDRESS(one)));
    R(sendto(99, "x", 1, 0, NULL, 0));
    R(sendto(0, "x", 1, 0, NULL, 0));
    R(recvfrom(0, buffer, 1, 0, NULL, NULL));
    int s[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    R(sendto(s[0], "x", 1, 0, ADDRESS(one)));
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    send(s[0], "abc", 3, 0);
    pid_t child = fork();
    if (child == 0) {
        pause_ms(30);
        send(s[0], "def", 3, 0);
        _exit(0);
    }
    R(recv(s[1], buffer, 6, MSG_WAITALL));
    await(child);
    close(s[0]);
    R(send(s[1], "x", 1, MSG_NOSIGNAL));
    R(recv(s[1], buffer, 6, MSG_WAITALL));
}

static ssize_t send_with(int socket, int level, int type, const void *data, size_t length) {
    char control[256] = {0};
    struct iovec part = {"m", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control};
    message.msg_controllen = CMSG_SPACE(length);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = level;
    header->cmsg_type = type;
    header->cmsg_len = CMSG_LEN(length);
    memcpy(CMSG_DATA(header), data, length);
    return sendmsg(socket, &message, 0);
}

static void receive_with(int socket, size_t room, int flags) {
    char control[256] = {0}, byte[8];
    struct iovec part = {byte, 8};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room};
    ssize_t got = recvmsg(socket, &message, flags);
    if (got < 0) {
        say("  %s", strerrorname_np(errno));
        return;
    }
    say("  %zd bytes, flags %x, control %zu", got, message.msg_flags, (size_t)message.msg_controllen);
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_type == SCM_RIGHTS) {
            int count = (header->cmsg_len - CMSG_LEN(0)) / 4;
            for (int n = 0; n < count; n++) {
                int fd = ((int *)CMSG_DATA(header))[n];
                say("  descriptor %d, flags %d, at %ld", fd, fcntl(fd, F_GETFD), (long)lseek(fd, 0, SEEK_CUR));
            }
        } else if (header->cmsg_type == SCM_CREDENTIALS) {
            struct ucred *who = (void *)CMSG_DATA(header);
            say("  pid %d uid %d gid %d", who->pid == getpid() ? 1 : who->pid, who->uid, who->gid);
        }
    }
}

CASE(control_messages, "sendmsg recvmsg setsockopt") {
    int s[2], on = 1, fds[3];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    put("f", "0123456789");
    fds[0] = open("f", O_RDONLY);
    lseek(fds[0], 4, SEEK_SET);
    fds[1] = fds[2] = fds[0];
    R(send_with(s[0], SOL_SOCKET, SCM_RIGHTS, fds, 4));
    receive_with(s[1], 64, 0);
    R(send_with(s[0], SOL_SOCKET, SCM_RIGHTS, fds, 12));
    receive_with(s[1], 64, MSG_CMSG_CLOEXEC);
    R(send_with(s[0], SOL_SOCKET, SCM_RIGHTS, fds, 12));
    receive_with(s[1], CMSG_LEN(4), 0);
    R(send_with(s[0], SOL_SOCKET, SCM_RIGHTS, fds, 4));
    receive_with(s[1], 0, 0);
    fds[0] = 99;
    R(send_with(s[0], SOL_SOCKET, SCM_RIGHTS, fds, 4));
    R(send_with(s[0], SOL_SOCKET, 99, fds, 4));
    R(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, 4));
    R(write(s[0], "x", 1));
    receive_with(s[1], 64, 0);
    struct ucred who = {getpid(), 0, 0};
    R(send_with(s[0], SOL_SOCKET, SCM_CREDENTIALS, &who, sizeof who));
    receive_with(s[1], 64, 0);
    who = (struct ucred){getpid(), 5, 6};
    R(send_with(s[0], SOL_SOCKET, SCM_CREDENTIALS, &who, sizeof who));
    receive_with(s[1], 64, 0);
    who.pid = 1;
    R(send_with(s[0], SOL_SOCKET, SCM_CREDENTIALS, &who, sizeof who));
    R(send_with(s[0], SOL_SOCKET, SCM_CREDENTIALS, &who, 4));
    struct msghdr bad = {.msg_iov = (void *)8, .msg_iovlen = 1};
    R(sendmsg(s[0], &bad, 0));
    R(S(sendmsg, s[0], 8, 0));
    bad.msg_iovlen = 1025;
    R(sendmsg(s[0], &bad, 0));
    R(recvmsg(99, &bad, 0));
    receive_with(s[1], 64, MSG_DONTWAIT);
}

CASE(batches, "sendmmsg recvmmsg") {
    int s[2];
    socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
    char in[4][8];
    struct iovec out[3] = {{"one", 3}, {"three", 5}, {"four", 4}}, room[4];
    struct mmsghdr sends[3], receives[4];
    memset(sends, 0, sizeof sends);
    memset(receives, 0, sizeof receives);
    for (int n = 0; n < 3; n++) sends[n].msg_hdr = (struct msghdr){.msg_iov = &out[n], .msg_iovlen = 1};
    for (int n = 0; n < 4; n++) {
        room[n] = (struct iovec){in[n], 4};
        receives[n].msg_hdr = (struct msghdr){.msg_iov = &room[n], .msg_iovlen = 1};
    }
    R(sendmmsg(s[0], sends, 3, 0));
    say("%u %u %u", sends[0].msg_len, sends[1].msg_len, sends[2].msg_len);
    struct timespec time = {0, 50000000};
    R(recvmmsg(s[1], receives, 2, 0, &time));
    say("%u %u %x", receives[0].msg_len, receives[1].msg_len, receives[1].msg_hdr.msg_flags);
    R(recvmmsg(s[1], receives, 4, MSG_WAITFORONE, NULL));
    R(recvmmsg(s[1], receives, 4, MSG_DONTWAIT, NULL));
    R(sendmmsg(s[0], sends, 0, 0));
    R(sendmmsg(99, sends, 1, 0));
    R(S(sendmmsg, s[0], 8, 1, 0));
    time.tv_nsec = -1;
    R(recvmmsg(s[1], receives, 4, 0, &time));
    pid_t child = fork();
    if (child == 0) {
        for (int n = 0; n < 3; n++) {
            pause_ms(20);
            send(s[0], "late", 4, 0);
        }
        _exit(0);
    }
    R(recvmmsg(s[1], receives, 3, 0, NULL));
    await(child);
}

static void option(int socket, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    long result = getsockopt(socket, SOL_SOCKET, name, &value, &length);
    if (result)
        say("  option %d: %s", name, strerrorname_np(errno));
    else
        say("  option %d: %d, %d bytes", name, value, length);
}

CASE(options, "setsockopt getsockopt") {
    int s[2], on = 1, value = 50000;
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s);
    static const int names[] = {SO_TYPE, SO_ERROR, SO_DOMAIN, SO_PROTOCOL, SO_ACCEPTCONN, SO_PASSCRED, SO_KEEPALIVE,
                                SO_REUSEADDR, SO_BROADCAST, SO_SNDBUF, SO_RCVBUF, SO_RCVLOWAT, SO_PRIORITY, SO_DEBUG,
                                SO_OOBINLINE, SO_DONTROUTE, SO_TIMESTAMP, 9999};
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) option(s[0], names[n]);
    R(setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &value, 4));
    option(s[0], SO_SNDBUF);
    value = 1;
    R(setsockopt(s[0], SOL_SOCKET, SO_RCVBUF, &value, 4));
    option(s[0], SO_RCVBUF);
    R(setsockopt(s[0], SOL_SOCKET, SO_REUSEADDR, &on, 4));
    option(s[0], SO_REUSEADDR);
    R(setsockopt(s[0], SOL_SOCKET, SO_KEEPALIVE, &on, 4));
    option(s[0], SO_KEEPALIVE);
    R(setsockopt(s[0], SOL_SOCKET, SO_PASSCRED, &on, 4));
    option(s[0], SO_PASSCRED);
    R(setsockopt(s[0], SOL_SOCKET, SO_TYPE, &on, 4));
    R(setsockopt(s[0], SOL_SOCKET, 9999, &on, 4));
    R(setsockopt(s[0], SOL_SOCKET, SO_REUSEADDR, &on, 2));
    R(S(setsockopt, s[0], SOL_SOCKET, SO_REUSEADDR, 8, 4));
    R(setsockopt(s[0], 99, 1, &on, 4));
    R(setsockopt(99, SOL_SOCKET, SO_REUSEADDR, &on, 4));
    R(setsockopt(0, SOL_SOCKET, SO_REUSEADDR, &on, 4));
    struct ucred who;
    socklen_t length = sizeof who;
    R(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &who, &length));
    say("%d %d %d %d", who.pid == getpid(), who.uid, who.gid, length);
    struct timeval time = {0, 30000}, got;
    R(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
    length = sizeof got;
    R(getsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &got, &length));
    V(got.tv_sec == 0 && got.tv_usec >= 30000 && got.tv_usec < 40000);
    char byte;
    long begin = now_ms();
    R(recv(s[0], &byte, 1, 0));
    V(now_ms() - begin >= 30);
    time.tv_usec = 1000000;
    R(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
    struct linger linger = {1, 5};
    R(setsockopt(s[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    length = sizeof linger;
    R(getsockopt(s[0], SOL_SOCKET, SO_LINGER, &linger, &length));
    say("%d %d", linger.l_onoff, linger.l_linger);
    length = 2;
    R(getsockopt(s[0], SOL_SOCKET, SO_TYPE, &value, &length));
    V(length);
    R(S(getsockopt, s[0], SOL_SOCKET, SO_TYPE, &value, 8));
    length = -1;
    R(getsockopt(s[0], SOL_SOCKET, SO_TYPE, &value, &length));
}

CASE(packets, "socketpair sendto recvmsg poll") {
    int s[2];
    char buffer[16];
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s);
    R(send(s[0], "one", 3, 0));
    R(send(s[0], "two and more", 12, 0));
    R(recv(s[1], buffer, 16, 0));
    receive_with(s[1], 0, 0);
    struct pollfd fd = {s[1], POLLIN | POLLOUT | POLLRDHUP, 0};
    R(poll(&fd, 1, 0));
    V(fd.revents);
    close(s[0]);
    R(poll(&fd, 1, 0));
    V(fd.revents);
    R(recv(s[1], buffer, 16, 0));
}

CASE(the_internet, "socket connect bind") {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
    address.sin_addr.s_addr = htonl(0x08080808);
    int s = socket(AF_INET, SOCK_STREAM, 0), d = socket(AF_INET, SOCK_DGRAM, 0);
    R(s);
    R(connect(s, ADDRESS(address)));
    R(connect(d, ADDRESS(address)));
    address.sin_addr.s_addr = 0;
    address.sin_port = 0;
    R(bind(s, ADDRESS(address)));
}
