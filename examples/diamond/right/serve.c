/* A web server with one page: answers every request with the files named on its command line, in
 * order. */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { PORT = 8080, PAGE_MAX = 65536, REQUEST_MAX = 4096 };

static size_t append(char *page, size_t length, const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file) {
        perror(path);
        exit(1);
    }
    length += fread(page + length, 1, PAGE_MAX - length, file);
    fclose(file);
    return length;
}

/* Writes the whole buffer, or gives up when the peer has closed the connection. */
static void send_all(int peer, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = write(peer, bytes, length);
        if (sent <= 0)
            return;
        bytes += sent;
        length -= (size_t)sent;
    }
}

static void stop(int signal_number)
{
    (void)signal_number;
    _exit(0);
}

int main(int argc, char **argv)
{
    static char page[PAGE_MAX];
    size_t length = 0;
    for (int i = 1; i < argc; i++)
        length = append(page, length, argv[i]);

    /* Process 1 has no default action for these two signals: without this, nothing could stop
     * it. */
    signal(SIGTERM, stop);
    signal(SIGPIPE, SIG_IGN);

    int door = socket(AF_INET, SOCK_STREAM, 0);
    int yes = 1;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(INADDR_ANY)};
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (door < 0 || bind(door, (struct sockaddr *)&here, sizeof here) < 0 || listen(door, 64) < 0) {
        perror("listen");
        return 1;
    }

    for (;;) {
        int peer = accept(door, NULL, NULL);
        if (peer < 0)
            continue;
        /* A peer that sends nothing can block the server for at most two seconds. */
        struct timeval patience = {.tv_sec = 2};
        setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(peer, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        char request[REQUEST_MAX];
        if (read(peer, request, sizeof request) > 0) {
            char head[128];
            int size = snprintf(head, sizeof head,
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
                length);
            send_all(peer, head, (size_t)size);
            send_all(peer, page, length);
        }
        close(peer);
    }
}
