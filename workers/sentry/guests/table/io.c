/* read, write and their relatives; descriptors; pipes. */
#define FAMILY "io"
#include "case.h"

CASE(read_and_write, "read write") {
    char buffer[64] = {0};
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    R(write(fd, "hello world", 11));
    R(read(fd, buffer, 5));
    V(lseek(fd, 0, SEEK_SET));
    R(read(fd, buffer, 5));
    say("[%s]", buffer);
    R(read(fd, buffer, 0));
    R(read(fd, (void *)8, 4));
    R(write(fd, (void *)8, 4));
    R(write(fd, (void *)8, 0));
    R(read(99, buffer, 1));
    R(write(99, buffer, 1));
    int only_read = open("f", O_RDONLY), only_write = open("f", O_WRONLY), path = open("f", O_PATH);
    R(write(only_read, "x", 1));
    R(read(only_write, buffer, 1));
    R(read(path, buffer, 1));
    R(read(open(".", O_RDONLY), buffer, 1));
    R(S(read, fd, buffer, -1L));
    R(read(open("/dev/null", O_RDWR), buffer, 3));
    R(write(open("/dev/full", O_RDWR), "x", 1));
    memset(buffer, 1, sizeof buffer);
    R(read(open("/dev/zero", O_RDWR), buffer, 10));
    V(buffer[9] + buffer[10]);
    int append = open("f", O_WRONLY | O_APPEND);
    R(write(append, "++", 2));
    V(lseek(append, 0, SEEK_CUR));
    show("f");
    /* A buffer that ends in nothing: what is there is taken. */
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    memset(page, 'p', 4096);
    R(write(fd, page + 4090, 100));
    lseek(fd, 0, SEEK_SET);
    R(read(fd, page + 4090, 100));
}

CASE(at_offsets, "pread64 pwrite64 lseek") {
    char buffer[64] = {0};
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    R(pwrite(fd, "abcdef", 6, 2));
    V(lseek(fd, 0, SEEK_CUR));
    R(pread(fd, buffer, 60, 0));
    V(buffer[0] * 1000 + buffer[2]);
    R(pread(fd, buffer, 4, 100));
    R(pread(fd, buffer, 4, -1));
    R(pwrite(fd, buffer, 4, -1));
    R(pwrite(fd, buffer, 4, LONG_MAX));
    R(lseek(fd, -1, SEEK_SET));
    R(lseek(fd, 3, SEEK_END));
    R(lseek(fd, -20, SEEK_CUR));
    R(lseek(fd, 0, 9));
    R(lseek(fd, 65536, SEEK_SET));
    R(write(fd, "end", 3));
    R(lseek(fd, 0, SEEK_DATA));
    R(lseek(fd, 0, SEEK_HOLE));
    R(lseek(fd, 4096, SEEK_DATA));
    R(lseek(fd, 65536, SEEK_HOLE));
    R(lseek(fd, 70000, SEEK_DATA));
    R(lseek(fd, 70000, SEEK_HOLE));
    int pipes[2];
    pipe(pipes);
    R(lseek(pipes[0], 0, SEEK_SET));
    R(pread(pipes[0], buffer, 1, 0));
    R(pwrite(pipes[1], buffer, 1, 0));
    int append = open("f", O_RDWR | O_APPEND);
    R(pwrite(append, "A", 1, 0));
    V(lseek(fd, 0, SEEK_END));
    R(lseek(99, 0, SEEK_SET));
    R(pread(99, buffer, 1, 0));
}

CASE(vectors, "readv writev preadv pwritev") {
    char one[8] = {0}, two[8] = {0};
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    struct iovec out[3] = {{"abc", 3}, {NULL, 0}, {"defgh", 5}}, in[2] = {{one, 4}, {two, 7}};
    R(writev(fd, out, 3));
    R(pwritev(fd, out, 1, 10));
    lseek(fd, 0, SEEK_SET);
    R(readv(fd, in, 2));
    say("[%s] [%.4s]", one, two);
    R(preadv(fd, in, 2, 2));
    say("[%.4s] [%.4s]", one, two);
    R(readv(fd, in, 0));
    R(readv(fd, NULL, 0));
    R(readv(fd, in, -1));
    R(S(readv, fd, in, 1025));
    R(S(writev, fd, (void *)8, 1));
    struct iovec negative[2] = {{one, 4}, {two, -1UL}}, bad[2] = {{one, 4}, {(void *)8, 4}};
    R(readv(fd, negative, 2));
    R(S(preadv, fd, in, 2, -1L, 0));
    lseek(fd, 0, SEEK_SET);
    R(readv(fd, bad, 2));
    V(lseek(fd, 0, SEEK_CUR));
    R(writev(fd, &bad[1], 1));
    R(writev(99, out, 1));
    int pipes[2];
    pipe(pipes);
    R(writev(pipes[1], out, 3));
    R(preadv(pipes[0], in, 2, 0));
    R(pwritev(pipes[1], out, 1, 0));
    R(readv(pipes[0], in, 2));
}

CASE(vectors_with_flags, "preadv2 pwritev2") {
    char one[8] = {0};
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    struct iovec out = {"abcdef", 6}, in = {one, 7};
    R(pwritev2(fd, &out, 1, 0, 0));
    R(pwritev2(fd, &out, 1, -1, RWF_SYNC));
    V(lseek(fd, 0, SEEK_CUR));
    R(pwritev2(fd, &out, 1, 2, RWF_DSYNC));
    R(pwritev2(fd, &out, 1, 0, RWF_APPEND));
    V(lseek(fd, 0, SEEK_END));
    R(preadv2(fd, &in, 1, 4, RWF_HIPRI));
    say("[%s]", one);
    R(preadv2(fd, &in, 1, -1, 0));
    R(preadv2(fd, &in, 1, -2, 0));
    R(preadv2(fd, &in, 1, 0, 1 << 20));
    R(pwritev2(fd, &out, 1, 0, 1 << 20));
    int pipes[2];
    pipe(pipes);
    R(preadv2(pipes[0], &in, 1, -1, RWF_NOWAIT));
    R(pwritev2(pipes[1], &out, 1, -1, 0));
    R(preadv2(pipes[0], &in, 1, -1, RWF_NOWAIT));
    R(preadv2(pipes[0], &in, 1, 0, 0));
}

CASE(descriptors, "close dup dup2 dup3") {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    R(dup(fd));
    R(dup2(fd, 20));
    R(write(20, "xyz", 3));
    V(lseek(fd, 0, SEEK_CUR));
    V(fcntl(20, F_GETFD));
    R(dup3(fd, 21, O_CLOEXEC));
    V(fcntl(21, F_GETFD));
    R(dup3(fd, fd, 0));
    R(dup3(fd, 22, 1));
    R(dup2(fd, fd));
    R(dup2(99, 99));
    R(dup2(fd, -1));
    R(dup2(fd, 1024));
    R(dup2(fd, 1023));
    R(close(fd));
    R(close(fd));
    R(close(-1));
    R(read(21, NULL, 0));
    struct rlimit few = {5, 1024};
    setrlimit(RLIMIT_NOFILE, &few);
    R(dup(21));
    R(dup(21));
    R(open("f", O_RDONLY));
    R(dup2(21, 5));
}

CASE(ranges_of_descriptors, "close_range") {
    for (int n = 10; n < 20; n++) dup2(1, n);
    R(S(close_range, 12, 14, 0));
    V(fcntl(11, F_GETFD));
    R(fcntl(12, F_GETFD));
    R(fcntl(14, F_GETFD));
    V(fcntl(15, F_GETFD));
    R(S(close_range, 16, ~0U, CLOSE_RANGE_CLOEXEC));
    V(fcntl(16, F_GETFD));
    V(fcntl(15, F_GETFD));
    R(S(close_range, 5, 4, 0));
    R(S(close_range, 5, 6, 1));
    R(S(close_range, 15, ~0U, CLOSE_RANGE_UNSHARE));
    R(fcntl(16, F_GETFD));
    R(S(close_range, 100, 200, 0));
}

CASE(pipes, "pipe pipe2 read write") {
    char buffer[128] = {0};
    int p[2];
    R(pipe(p));
    say("%d %d", p[0], p[1]);
    R(write(p[1], "abc", 3));
    R(read(p[0], buffer, 2));
    R(read(p[0], buffer, 2));
    R(read(p[1], buffer, 1));
    R(write(p[0], buffer, 1));
    R(pipe2(p, O_NONBLOCK | O_CLOEXEC));
    V(fcntl(p[0], F_GETFD));
    V(fcntl(p[1], F_GETFL) & O_NONBLOCK);
    R(read(p[0], buffer, 1));
    V(fcntl(p[1], F_GETPIPE_SZ));
    char block[4096] = {0};
    int count = 0;
    while (write(p[1], block, sizeof block) == sizeof block) count++;
    V(count);
    R(write(p[1], block, 1));
    R(read(p[0], block, 1));
    R(write(p[1], block, 1));
    R(read(p[0], block, 4096));
    R(write(p[1], block, 4096));
    R(fcntl(p[1], F_SETPIPE_SZ, 4096));
    while (read(p[0], block, 4096) > 0) {
    }
    R(fcntl(p[1], F_SETPIPE_SZ, 5000));
    V(fcntl(p[0], F_GETPIPE_SZ));
    R(fcntl(p[1], F_SETPIPE_SZ, 0));
    R(fcntl(0, F_GETPIPE_SZ) > 0);
    R(pipe2(p, 1));
    R(S(pipe, 8));
    /* Packets. */
    R(pipe2(p, O_DIRECT | O_NONBLOCK));
    R(write(p[1], "one", 3));
    R(write(p[1], "three", 5));
    R(read(p[0], buffer, 100));
    R(read(p[0], buffer, 2));
    R(read(p[0], buffer, 100));
    signal(SIGPIPE, SIG_IGN);
    close(p[0]);
    R(write(p[1], "x", 1));
    pipe(p);
    close(p[1]);
    R(read(p[0], buffer, 1));
    signal(SIGPIPE, SIG_DFL);
    pid_t child = fork();
    if (child == 0) {
        pipe(p);
        close(p[0]);
        write(p[1], "x", 1);
        _exit(1);
    }
    await(child);
}

CASE(sending_files, "sendfile") {
    char buffer[64] = {0};
    put("f", "0123456789");
    int from = open("f", O_RDONLY), to = open("g", O_RDWR | O_CREAT, 0600), p[2];
    off_t offset = 3;
    R(sendfile(to, from, &offset, 4));
    V(offset);
    V(lseek(from, 0, SEEK_CUR));
    R(sendfile(to, from, NULL, 100));
    V(lseek(from, 0, SEEK_CUR));
    R(sendfile(to, from, NULL, 100));
    show("g");
    pipe(p);
    offset = 0;
    R(sendfile(p[1], from, &offset, 5));
    R(read(p[0], buffer, 60));
    offset = -1;
    R(sendfile(to, from, &offset, 5));
    R(sendfile(to, p[0], NULL, 5));
    R(sendfile(from, from, NULL, 1));
    R(sendfile(to, to, (off_t *)8, 1));
    int append = open("g", O_WRONLY | O_APPEND);
    lseek(from, 0, SEEK_SET);
    R(sendfile(append, from, NULL, 1));
    R(sendfile(99, from, NULL, 1));
    R(sendfile(to, 99, NULL, 1));
    R(sendfile(to, open(".", O_RDONLY), NULL, 1));
    R(sendfile(to, from, NULL, 0));
}

CASE(splicing, "splice tee vmsplice") {
    char buffer[64] = {0};
    int p[2], q[2];
    pipe(p);
    pipe(q);
    put("f", "0123456789");
    int from = open("f", O_RDONLY), to = open("g", O_RDWR | O_CREAT, 0600);
    loff_t offset = 2;
    R(splice(from, &offset, p[1], NULL, 5, 0));
    V(offset);
    R(tee(p[0], q[1], 3, 0));
    R(read(q[0], buffer, 60));
    say("[%s]", buffer);
    R(splice(p[0], NULL, to, NULL, 100, SPLICE_F_MOVE | SPLICE_F_MORE));
    show("g");
    offset = 1;
    R(write(p[1], "ABC", 3));
    R(splice(p[0], NULL, to, &offset, 2, 0));
    show("g");
    R(splice(p[0], NULL, q[1], NULL, 10, SPLICE_F_NONBLOCK));
    R(splice(p[0], NULL, q[1], NULL, 10, SPLICE_F_NONBLOCK));
    R(splice(from, NULL, to, NULL, 1, 0));
    R(splice(p[0], NULL, p[1], NULL, 1, 0));
    R(splice(p[0], &offset, to, NULL, 1, 0));
    R(splice(p[0], NULL, to, NULL, 1, 64));
    R(splice(p[0], NULL, to, NULL, 0, 0));
    R(splice(99, NULL, to, NULL, 1, 0));
    R(tee(p[0], p[1], 1, 0));
    R(tee(from, p[1], 1, 0));
    R(tee(p[0], q[1], 1, SPLICE_F_NONBLOCK));
    struct iovec parts[2] = {{"vm", 2}, {"splice", 6}};
    R(vmsplice(p[1], parts, 2, 0));
    memset(buffer, 0, sizeof buffer);
    R(read(p[0], buffer, 60));
    say("[%s]", buffer);
    write(p[1], "back", 4);
    struct iovec in = {buffer, 10};
    R(vmsplice(p[0], &in, 1, 0));
    R(vmsplice(from, parts, 1, 0));
    R(vmsplice(p[1], parts, 1, 64));
    R(vmsplice(99, parts, 1, 0));
    close(p[1]);
    R(splice(p[0], NULL, to, NULL, 1, 0));
    R(tee(p[0], q[1], 1, 0));
}

CASE(copying_ranges, "copy_file_range") {
    put("f", "0123456789");
    int from = open("f", O_RDWR), to = open("g", O_RDWR | O_CREAT, 0600);
    loff_t in = 2, out = 1;
    R(copy_file_range(from, &in, to, &out, 4, 0));
    V(in * 10 + out);
    V(lseek(to, 0, SEEK_END));
    R(copy_file_range(from, NULL, to, NULL, 100, 0));
    V(lseek(from, 0, SEEK_CUR));
    R(copy_file_range(from, NULL, to, NULL, 100, 0));
    in = 0, out = 5;
    R(copy_file_range(from, &in, from, &out, 3, 0));
    show("f");
    in = 0, out = 2;
    R(copy_file_range(from, &in, from, &out, 5, 0));
    R(copy_file_range(from, &in, to, &out, 1, 1));
    int p[2], only_read = open("f", O_RDONLY), append = open("g", O_WRONLY | O_APPEND);
    pipe(p);
    R(copy_file_range(p[0], NULL, to, NULL, 1, 0));
    R(copy_file_range(from, &in, only_read, NULL, 1, 0));
    R(copy_file_range(from, &in, append, NULL, 1, 0));
    R(copy_file_range(open(".", O_RDONLY), NULL, to, NULL, 1, 0));
    R(copy_file_range(99, NULL, to, NULL, 1, 0));
    in = -1;
    R(copy_file_range(from, &in, to, NULL, 1, 0));
    in = 100;
    R(copy_file_range(from, &in, to, NULL, 1, 0));
}
