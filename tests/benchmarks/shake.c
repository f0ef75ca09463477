/* Handshakes for the benchmarks: WebSocket clients in one epoll loop that come, and go again when they are told to.
 *
 *   shake PORT PATH UNDER_WAY SIZE plain|tls CERTIFICATE KEY [HEADER...]
 *
 * It speaks with its driver line by line. `open N` opens N connections, UNDER_WAY of them at a time, each up to its 101
 * and, where SIZE is not 0, to the echo of one binary message of so many bytes (125 at most); then it prints `opened`,
 * and they stay open. `close` has all of them send Close, and prints `closed` when the gateway has ended every one.
 * With `tls` each shakes hands in full: none resumes. CERTIFICATE and KEY are files of the client's own, or `-`.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
static SSL_CTX *context;
#else
typedef void SSL;
#endif

enum {
    EVENTS = 256,
    SOURCES = 8, /* loopback addresses to connect from: one has only 28,232 ports */
    MAX_SIZE = 125,
    PATIENCE_SECONDS = 30, /* for the next event of any of them */
};

enum state { CONNECTING, GREETING, ASKING, ECHOING, OPEN, CLOSING, CLOSED };

struct connection {
    int fd;
    enum state state;
    size_t have; /* of the answer's head, then of the echo */
    char head[4096];
    SSL *ssl;
};

static struct connection *connections;
static int poller, count, begun, ready, closed;
static char request[8192];
static int request_length, size, port, tls;
static unsigned char message[6 + MAX_SIZE];

static void fail(const char *what) {
    fprintf(stderr, "shake: %s: %s\n", what, errno ? strerror(errno) : "unexpected");
    exit(1);
}

static void watch(struct connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event) < 0) fail("epoll_ctl");
}

/* All of it at once: what is sent here fits any socket buffer. */
static void put(struct connection *c, const void *data, int length) {
    int sent;
#ifdef WITH_TLS
    if (c->ssl)
        sent = SSL_write(c->ssl, data, length);
    else
#endif
        sent = send(c->fd, data, length, MSG_NOSIGNAL);
    if (sent != length && c->state != CLOSING) fail("the gateway broke a connection (send)");
}

/* Bytes that have come; 0 at the end, -1 where there is nothing yet. */
static int get(struct connection *c, void *data, int room) {
#ifdef WITH_TLS
    if (c->ssl) {
        int got = SSL_read(c->ssl, data, room);
        if (got > 0) return got;
        int error = SSL_get_error(c->ssl, got);
        return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? -1 : 0;
    }
#endif
    int got = recv(c->fd, data, room, 0);
    return got >= 0 ? got : errno == EAGAIN ? -1 : 0;
}

static void begin(struct connection *c, int index) {
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001 + index % SOURCES)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int yes = 1;
    memset(c, 0, sizeof *c);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) fail("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from) < 0) fail("bind");
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) fail("connect");
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}

static void begin_next(void) {
    if (begun < count) begin(&connections[begun], begun), begun++;
}

static void ask(struct connection *c) {
    c->state = ASKING;
    put(c, request, request_length);
}

static void greet(struct connection *c) {
#ifdef WITH_TLS
    if (!c->ssl) {
        c->ssl = SSL_new(context);
        if (!c->ssl || !SSL_set_fd(c->ssl, c->fd)) errno = 0, fail("SSL_new");
        SSL_set_tlsext_host_name(c->ssl, "localhost");
    }
    int done = SSL_connect(c->ssl);
    if (done == 1) {
        ask(c);
        return;
    }
    int error = SSL_get_error(c->ssl, done);
    if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) errno = 0, fail("no TLS handshake");
#else
    (void)c;
#endif
}

static void are_ready(struct connection *c) {
    c->state = OPEN;
    ready++;
    begin_next();
}

static void read_answer(struct connection *c) {
    int got = get(c, c->head + c->have, sizeof c->head - 1 - c->have);
    if (got < 0) return;
    if (!got) errno = 0, fail("no answer to the handshake");
    c->head[c->have += got] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) return;
    if (strncmp(c->head, "HTTP/1.1 101 ", 13)) {
        fprintf(stderr, "shake: refused: %.*s\n", (int)strcspn(c->head, "\r"), c->head);
        exit(1);
    }
    if (!size) {
        are_ready(c);
        return;
    }
    c->state = ECHOING;
    c->have = 0;
    put(c, message, 6 + size);
}

static void read_echo(struct connection *c) {
    int got = get(c, c->head, sizeof c->head);
    if (got < 0) return;
    if (!got) errno = 0, fail("the gateway broke a connection");
    c->have += got;
    if (c->have >= (size_t)(2 + size)) are_ready(c);
}

static void read_end(struct connection *c) {
    int got;
    while ((got = get(c, c->head, sizeof c->head)) > 0) continue;
    if (got < 0) return;
    if (c->state == OPEN) errno = 0, fail("the gateway ended a connection");
#ifdef WITH_TLS
    if (c->ssl) SSL_free(c->ssl);
#endif
    close(c->fd);
    c->state = CLOSED;
    closed++;
}

static void serve(struct connection *c) {
    switch (c->state) {
    case CONNECTING: {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error) errno = error, fail("connect");
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
        c->state = tls ? GREETING : ASKING;
        tls ? greet(c) : ask(c);
        break;
    }
    case GREETING: greet(c); break;
    case ASKING: read_answer(c); break;
    case ECHOING: read_echo(c); break;
    case OPEN:
    case CLOSING: read_end(c); break;
    case CLOSED: break;
    }
}

static void serve_until(int *done) {
    struct epoll_event events[EVENTS];
    while (*done < count) {
        int got = epoll_wait(poller, events, EVENTS, PATIENCE_SECONDS * 1000);
        if (!got) errno = 0, fail("the gateway does not go on");
        for (int i = 0; i < got; i++) serve(events[i].data.ptr);
    }
}

static void open_all(int wanted, int under_way) {
    count = wanted;
    begun = ready = closed = 0;
    connections = realloc(connections, wanted * sizeof *connections);
    if (!connections) fail("realloc");
    for (int i = 0; i < under_way; i++) begin_next();
    serve_until(&ready);
}

static void close_all(void) {
    static const unsigned char goodbye[] = {0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8};
    for (int i = 0; i < count; i++) {
        connections[i].state = CLOSING;
        put(&connections[i], goodbye, sizeof goodbye);
#ifdef WITH_TLS
        if (tls) SSL_shutdown(connections[i].ssl);
#endif
        shutdown(connections[i].fd, SHUT_WR);
    }
    serve_until(&closed);
}

static void prepare_request(const char *path, char **headers, int how_many) {
    request_length = snprintf(request, sizeof request,
                              "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
                              path, port);
    for (int i = 0; i < how_many; i++)
        request_length += snprintf(request + request_length, sizeof request - request_length, "%s\r\n", headers[i]);
    request_length += snprintf(request + request_length, sizeof request - request_length, "\r\n");
    if (request_length >= (int)sizeof request) errno = 0, fail("the request is too long");
}

static void prepare_tls(const char *certificate, const char *key) {
#ifdef WITH_TLS
    context = SSL_CTX_new(TLS_client_method());
    if (!context) errno = 0, fail("SSL_CTX_new");
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    if (strcmp(certificate, "-") && (SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
                                     SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1))
        errno = 0, fail("the client's certificate or key cannot be used");
#else
    (void)certificate, (void)key;
    errno = 0, fail("built without TLS");
#endif
}

int main(int argc, char **argv) {
    char line[64];
    int wanted;
    if (argc < 8) {
        fprintf(stderr, "usage: shake PORT PATH UNDER_WAY SIZE plain|tls CERTIFICATE KEY [HEADER...]\n");
        return 2;
    }
    port = atoi(argv[1]);
    size = atoi(argv[4]);
    tls = !strcmp(argv[5], "tls");
    if (size < 0 || size > MAX_SIZE) errno = 0, fail("SIZE");
    memcpy(message, (unsigned char[]){0x82, 0x80 | size, 0, 0, 0, 0}, 6);
    memset(message + 6, 'k', size);
    prepare_request(argv[2], argv + 8, argc - 8);
    if (tls) prepare_tls(argv[6], argv[7]);
    poller = epoll_create1(0);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "open %d", &wanted) == 1 && wanted > 0) {
            open_all(wanted, atoi(argv[3]));
            puts("opened");
        } else if (!strcmp(line, "close\n")) {
            close_all();
            puts("closed");
        } else {
            errno = 0, fail("what the driver says");
        }
        fflush(stdout);
    }
    return 0;
}
