/* Echo backend of the benchmarks: `echo tcp` or `echo ws`, on a free loopback port that it prints.
 *
 * It shares one core with the load generator, so it is one epoll loop that does as little as it can. A connection whose
 * peer does not read is not read from either: at most one chunk waits per connection.
 * `ws` speaks just enough WebSocket for the load generator's fixed key, behind proxies that pass WebSocket through:
 * frames come back unmasked, in the pieces they arrive in.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 256 * 1024, MAX_FD = 65536, EVENTS = 512 };

static const char SWITCHING[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct connection {
    char *waiting; /* what the socket did not take; NULL when nothing waits */
    size_t waiting_at, waiting_end;
    int upgraded;
    size_t head_matched;     /* bytes of the blank line that ends the request head */
    unsigned char header[14]; /* the frame header being gathered */
    int header_have;
    uint64_t payload_left;
    unsigned char mask[4];
    unsigned mask_at;
};

static struct connection *connections[MAX_FD];
static unsigned char input[CHUNK], output[CHUNK + 64];
static int poller, websocket;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, operation, fd, &event) < 0) fail("epoll_ctl");
}

static void drop(int fd) {
    free(connections[fd]->waiting);
    free(connections[fd]);
    connections[fd] = NULL;
    close(fd);
}

/* Sends now what the socket takes and keeps the rest, pausing the reader. */
static int put(int fd, const unsigned char *data, size_t size) {
    struct connection *c = connections[fd];
    ssize_t sent = size ? send(fd, data, size, MSG_NOSIGNAL) : 0;
    if (sent < 0 && errno != EAGAIN) return -1;
    if (sent < 0) sent = 0;
    if ((size_t)sent < size) {
        c->waiting_end = size - sent;
        c->waiting_at = 0;
        c->waiting = malloc(c->waiting_end);
        if (!c->waiting) fail("malloc");
        memcpy(c->waiting, data + sent, c->waiting_end);
        watch(fd, EPOLL_CTL_MOD, EPOLLOUT);
    }
    return 0;
}

static int flush_waiting(int fd) {
    struct connection *c = connections[fd];
    ssize_t sent = send(fd, c->waiting + c->waiting_at, c->waiting_end - c->waiting_at, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN ? 0 : -1;
    c->waiting_at += sent;
    if (c->waiting_at == c->waiting_end) {
        free(c->waiting);
        c->waiting = NULL;
        watch(fd, EPOLL_CTL_MOD, EPOLLIN);
    }
    return 0;
}

static int header_size(const unsigned char *header) {
    int length = header[1] & 127;
    return 2 + (length == 126 ? 2 : length == 127 ? 8 : 0) + (header[1] & 128 ? 4 : 0);
}

/* Turns masked frames into unmasked ones; returns the number of bytes in `output`. */
static size_t translate(struct connection *c, const unsigned char *data, size_t size) {
    size_t out = 0;
    while (size) {
        if (c->payload_left) {
            size_t n = size < c->payload_left ? size : c->payload_left;
            for (size_t i = 0; i < n; i++) output[out + i] = data[i] ^ c->mask[(c->mask_at + i) & 3];
            c->mask_at = (c->mask_at + n) & 3;
            c->payload_left -= n;
            out += n, data += n, size -= n;
            continue;
        }
        c->header[c->header_have++] = *data++;
        size--;
        if (c->header_have < 2 || c->header_have < header_size(c->header)) continue;
        int whole = c->header_have, unmasked = whole - 4, length = c->header[1] & 127;
        memcpy(c->mask, c->header + unmasked, 4);
        memcpy(output + out, c->header, unmasked);
        output[out + 1] &= 127;
        out += unmasked;
        c->payload_left = length;
        if (length >= 126) {
            c->payload_left = 0;
            for (int i = 2; i < unmasked; i++) c->payload_left = c->payload_left << 8 | c->header[i];
        }
        c->mask_at = 0;
        c->header_have = 0;
    }
    return out;
}

static int receive(int fd) {
    struct connection *c = connections[fd];
    ssize_t got = recv(fd, input, CHUNK, 0);
    if (got < 0) return errno == EAGAIN ? 0 : -1;
    if (got == 0) return -1;
    if (!websocket) return put(fd, input, got);
    size_t at = 0;
    while (!c->upgraded && at < (size_t)got) {
        c->head_matched = input[at] == "\r\n\r\n"[c->head_matched] ? c->head_matched + 1 : input[at] == '\r';
        at++;
        if (c->head_matched == 4) {
            c->upgraded = 1;
            if (put(fd, (const unsigned char *)SWITCHING, sizeof SWITCHING - 1) < 0) return -1;
        }
    }
    return put(fd, output, translate(c, input + at, got - at));
}

int main(int argc, char **argv) {
    websocket = argc > 1 && !strcmp(argv[1], "ws");
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, size) < 0) fail("bind");
    if (listen(listener, 4096) < 0) fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    poller = epoll_create1(0);
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int peer;
                while ((peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (peer >= MAX_FD || !(connections[peer] = calloc(1, sizeof(struct connection)))) fail("accept");
                    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                    watch(peer, EPOLL_CTL_ADD, EPOLLIN);
                }
            } else if ((connections[fd]->waiting ? flush_waiting(fd) : receive(fd)) < 0) {
                drop(fd);
            }
        }
    }
}
