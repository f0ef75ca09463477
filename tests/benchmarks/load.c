/* Load generator of the benchmarks: WebSocket clients in one epoll loop, with frames masked beforehand.
 *
 *   load PORT PATH CONNECTIONS WINDOW SIZE WARMUP_SECONDS SECONDS
 *
 * Each connection keeps WINDOW binary messages of SIZE bytes under way and counts the payload that is echoed: a gateway
 * over a byte stream may cut or join messages, so SIZE echoed bytes are one message. It speaks with its driver line by
 * line: prints `connected`, waits for a line, warms up, prints `measuring`, measures, prints one line of JSON, and goes
 * on until the next line, so that the gateway is under load as long as its driver looks at it.
 * With SECONDS 0 each connection sends one message after that line, and `messages` says how many came back; with a
 * negative number it measures until the next line comes.
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
#include <time.h>
#include <unistd.h>

enum {
    CHUNK = 256 * 1024,
    EVENTS = 512,
    BLOCK = 64 * 1024,       /* small frames are sent from a block of many */
    SOURCES = 8,             /* loopback addresses to connect from: one has only 28,232 ports */
    HANDSHAKE_SECONDS = 30,
    ANSWER_SECONDS = 60,     /* for the one message of SECONDS 0 */
    STEPS = 16,              /* latency buckets per power of two: 6 % wide */
    BUCKETS = 64 * STEPS,
};

struct connection {
    int fd;
    int writing;              /* EPOLLOUT is armed */
    uint64_t owed;            /* bytes of frames still to be written */
    size_t frame_at;          /* how far into a frame the writer stands */
    unsigned char header[10]; /* frame header being gathered */
    int header_have, opcode;
    uint64_t payload_left, echoed; /* of the frame; of the message */
    unsigned char pong[131];
    int pong_size, pong_at, ping_have;
    uint32_t oldest;
    uint64_t *sent_at; /* ring of WINDOW: when each message under way was handed over */
};

static struct connection *connections;
static unsigned char input[CHUNK], *block;
static size_t frame_size, block_size;
static uint64_t size, messages, latencies[BUCKETS], latency_max;
static uint32_t window;
static int poller, once, stopped;

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "unexpected");
    exit(1);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void note_latency(uint64_t nanoseconds) {
    int power = 63 - __builtin_clzll(nanoseconds | 1);
    int step = power >= 4 ? (nanoseconds >> (power - 4)) & (STEPS - 1) : 0;
    latencies[power * STEPS + step]++;
    if (nanoseconds > latency_max) latency_max = nanoseconds;
}

/* Microseconds below which `share` of the latencies lie. */
static double quantile(double share) {
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++) total += latencies[i];
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += latencies[i]) >= share * total && total)
            return (double)(1ull << (i / STEPS)) * (1 + (i % STEPS + 0.5) / STEPS) / 1000;
    return 0;
}

static int put(struct connection *c, const void *data, size_t length) {
    ssize_t sent = send(c->fd, data, length, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) fail("the gateway broke a connection (send)");
    return sent < 0 ? 0 : sent;
}

/* Writes what is owed; a pong goes between two frames. */
static void flush_owed(struct connection *c) {
    int blocked = 0;
    while (!blocked && (c->owed || c->pong_size)) {
        size_t sent, wanted;
        if (c->pong_size && !c->frame_at) {
            wanted = c->pong_size - c->pong_at;
            sent = put(c, c->pong + c->pong_at, wanted);
            c->pong_at += sent;
            if (c->pong_at == c->pong_size) c->pong_at = c->pong_size = 0;
        } else {
            wanted = c->pong_size ? frame_size - c->frame_at : block_size - c->frame_at;
            if (wanted > c->owed) wanted = c->owed;
            sent = put(c, block + c->frame_at, wanted);
            c->owed -= sent;
            c->frame_at = (c->frame_at + sent) % frame_size;
        }
        blocked = sent < wanted;
    }
    if (blocked != c->writing) {
        struct epoll_event event = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
        c->writing = blocked;
    }
}

static void handle_payload(struct connection *c, const unsigned char *data, uint64_t length, uint64_t at) {
    if (c->opcode == 8) errno = 0, fail("the gateway closed a connection");
    if (c->opcode == 9) {
        for (uint64_t i = 0; i < length; i++) c->pong[6 + c->ping_have++] = data[i]; /* masked with zeros */
        return;
    }
    if (c->opcode > 2) return;
    c->echoed += length;
    while (c->echoed >= size) {
        c->echoed -= size;
        messages++;
        note_latency(at - c->sent_at[c->oldest]);
        c->sent_at[c->oldest] = at;
        c->oldest = (c->oldest + 1) % window;
        if (!once) c->owed += frame_size;
    }
}

static void end_frame(struct connection *c) {
    if (c->opcode != 9) return;
    if (c->pong_size) errno = 0, fail("a second ping before the pong was written");
    memcpy(c->pong, (unsigned char[]){0x8a, 0x80 | c->ping_have, 0, 0, 0, 0}, 6);
    c->pong_size = 6 + c->ping_have;
    c->ping_have = 0;
}

static void parse(struct connection *c, const unsigned char *data, size_t length) {
    uint64_t at = now();
    while (length) {
        if (c->payload_left) {
            uint64_t n = length < c->payload_left ? length : c->payload_left;
            handle_payload(c, data, n, at);
            data += n, length -= n, c->payload_left -= n;
            if (!c->payload_left) end_frame(c);
            continue;
        }
        c->header[c->header_have++] = *data++;
        length--;
        if (c->header_have < 2) continue;
        int short_length = c->header[1], whole = short_length == 126 ? 4 : short_length == 127 ? 10 : 2;
        if (short_length > 127) errno = 0, fail("a masked frame from the gateway");
        if (c->header_have < whole) continue;
        c->header_have = 0;
        c->opcode = c->header[0] & 15 ? c->header[0] & 15 : 2;
        c->payload_left = short_length;
        if (whole > 2) c->payload_left = 0;
        for (int i = 2; i < whole; i++) c->payload_left = c->payload_left << 8 | c->header[i];
        if (!c->payload_left) handle_payload(c, data, 0, at), end_frame(c);
    }
}

static void receive(struct connection *c) {
    ssize_t got = recv(c->fd, input, CHUNK, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        if (!got) errno = 0;
        fail("the gateway broke a connection");
    }
    parse(c, input, got);
}

static void connect_and_upgrade(struct connection *c, int index, int port, const char *path) {
    struct timeval patience = {.tv_sec = HANDSHAKE_SECONDS};
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001 + index % SOURCES)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    char head[4096];
    int yes = 1, have = 0, length;
    char *end;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) fail("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from) < 0) fail("bind");
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0) fail("connect");
    length = snprintf(head, sizeof head,
                      "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                      path, port);
    if (send(c->fd, head, length, MSG_NOSIGNAL) != length) fail("send");
    do {
        ssize_t got = recv(c->fd, head + have, sizeof head - 1 - have, 0);
        if (got <= 0) fail("no answer to the handshake");
        head[have += got] = 0;
    } while (!(end = strstr(head, "\r\n\r\n")));
    if (strncmp(head, "HTTP/1.1 101 ", 13)) {
        fprintf(stderr, "load: refused: %.*s\n", (int)strcspn(head, "\r"), head);
        exit(1);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event) < 0) fail("epoll_ctl");
    parse(c, (unsigned char *)end + 4, head + have - end - 4);
}

static void make_frames(void) {
    unsigned char header[14] = {0x82};
    const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    int length = 2;
    if (size < 126) {
        header[1] = 0x80 | size;
    } else {
        int extra = size < 65536 ? 2 : 8;
        header[1] = extra == 2 ? 0xfe : 0xff;
        for (int i = extra - 1; i >= 0; i--) header[length++] = size >> (8 * i);
    }
    memcpy(header + length, mask, 4);
    length += 4;
    frame_size = length + size;
    block_size = frame_size * (frame_size < BLOCK ? BLOCK / frame_size : 1);
    block = malloc(block_size);
    if (!block) fail("malloc");
    for (size_t at = 0; at < block_size; at += frame_size) {
        memcpy(block + at, header, length);
        for (uint64_t i = 0; i < size; i++) block[at + length + i] = (unsigned char)(i * 31) ^ mask[i & 3];
    }
}

static void serve_events(int wait_milliseconds) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(poller, events, EVENTS, wait_milliseconds);
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        if (!c) {
            stopped = 1;
            break;
        }
        if (events[i].events & ~EPOLLOUT) receive(c);
        if (c->owed || c->pong_size) flush_owed(c);
    }
}

static void run(uint64_t until, uint64_t enough) {
    while (!stopped && now() < until && messages < enough) serve_events(20);
}

int main(int argc, char **argv) {
    char line[16];
    if (argc != 8) {
        fprintf(stderr, "usage: load PORT PATH CONNECTIONS WINDOW SIZE WARMUP_SECONDS SECONDS\n");
        return 2;
    }
    int port = atoi(argv[1]), count = atoi(argv[3]);
    window = atoi(argv[4]);
    size = strtoull(argv[5], NULL, 10);
    double warmup = atof(argv[6]), seconds = atof(argv[7]);
    once = seconds == 0;
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    make_frames();
    poller = epoll_create1(0);
    connections = calloc(count, sizeof *connections);
    if (!connections) fail("malloc");
    for (int i = 0; i < count; i++) {
        connections[i].sent_at = calloc(window, sizeof(uint64_t));
        if (!connections[i].sent_at) fail("malloc");
        connect_and_upgrade(&connections[i], i, port, argv[2]);
        serve_events(0); /* pings of connections that wait for the others */
    }
    puts("connected");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 0;
    uint64_t start = now();
    for (int i = 0; i < count; i++) {
        for (uint32_t k = 0; k < window; k++) connections[i].sent_at[k] = now();
        connections[i].owed = (once ? 1 : window) * frame_size;
        flush_owed(&connections[i]);
    }
    if (!once) {
        run(start + (uint64_t)(warmup * 1e9), UINT64_MAX);
        messages = latency_max = 0;
        memset(latencies, 0, sizeof latencies);
        start = now();
    }
    puts("measuring");
    fflush(stdout);
    if (once) {
        run(start + ANSWER_SECONDS * 1000000000ull, count);
    } else if (seconds < 0) {
        if (epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &input) < 0) fail("standard input must be a pipe");
        run(UINT64_MAX, UINT64_MAX);
        if (!fgets(line, sizeof line, stdin)) return 0;
        stopped = 0;
    } else {
        run(start + (uint64_t)(seconds * 1e9), UINT64_MAX);
    }
    printf("{\"messages\": %llu, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
           (unsigned long long)messages, (now() - start) / 1e9, quantile(0.5), quantile(0.99), latency_max / 1e3);
    fflush(stdout);
    if (seconds >= 0 && epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &input) < 0) fail("standard input must be a pipe");
    run(UINT64_MAX, UINT64_MAX);
    return 0;
}
