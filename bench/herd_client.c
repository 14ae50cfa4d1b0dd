/* Viewers for bench/herd.py: one thread, one epoll, one connection each, precomputed requests.
 *
 *   herd_client PORT VIEWERS SECONDS ARRIVE_S PARTS_PER_SEGMENT RETURN_AT_S
 *
 * A viewer asks for index.m3u8, v/media.m3u8 (whose first bytes, "#AT:<part>", say where the stream is), and then
 * in turn for a part and for the playlist that tells of the next. An answer that is no 200 sends it back to the
 * media playlist after half a second to a second, as a player does. RETURN_AT_S seconds after all have come (0: never)
 * every second viewer leaves and comes back at once. On stdout one JSON line per blocked playlist
 * {"part", "count", "first_s", "p50_s", "p99_s", "last_s"} (seconds on the Unix clock), and at the end a summary. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* The end is put off so long, if someone still waits for a first part. */
#define LATE_S 10
enum { INDEX, MEDIA, PART, BLOCKED };
struct viewer { int fd, step, part, have, again; long left, length; double began, retry_at; char head[2048]; };
static struct viewer *viewers;
static int port, count, parts_per_segment, epoll_fd, alive;
static long requests, errors, refused;
static double *first_part, *again, *seen_at[4096];
static int first_parts, agains, returned, seen[4096];

static double now(void) { struct timespec t; clock_gettime(CLOCK_REALTIME, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static int order(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return (x > y) - (x < y); }

static void drop(struct viewer *v, int bad) {
    if (v->fd >= 0) { close(v->fd); alive--; }
    v->fd = -1;
    errors += bad;
}

static void ask(struct viewer *v) {
    char target[160], text[512];
    if (v->step == INDEX) strcpy(target, "index.m3u8");
    else if (v->step == MEDIA) strcpy(target, "v/media.m3u8");
    else if (v->step == PART) snprintf(target, sizeof target, "v/part%d.m4s", v->part);
    else snprintf(target, sizeof target, "v/media.m3u8?_HLS_msn=%d&_HLS_part=%d", v->part / parts_per_segment, v->part % parts_per_segment);
    int size = snprintf(text, sizeof text, "GET /live/x/%s HTTP/1.1\r\nHost: edge\r\nUser-Agent: herd/%d\r\nAccept: */*\r\n\r\n", target, (int)(v - viewers) % 20);
    v->have = 0;
    v->left = -1;
    if (send(v->fd, text, size, MSG_NOSIGNAL) != size) drop(v, 1);
}

static void answered(struct viewer *v) {
    requests++;
    if (strncmp(v->head + 9, "200", 3)) {
        refused++;
        v->step = MEDIA;
        v->retry_at = now() + 0.5 + 0.5 * rand() / RAND_MAX;
        return;
    }
    if (v->step == INDEX) v->step = MEDIA;
    else if (v->step == MEDIA) v->step = PART;
    else if (v->step == PART) {
        if (v->began && !v->again) first_part[first_parts++] = now() - v->began;
        if (v->began && v->again) again[agains++] = now() - v->began;
        v->began = 0;
        v->part++;
        v->step = BLOCKED;
    } else {
        int at = v->part & 4095;
        if (!seen_at[at]) seen_at[at] = malloc(count * sizeof(double));
        if (seen[at] < count) seen_at[at][seen[at]++] = now();
        v->step = PART;
    }
    ask(v);
}

static void readable(struct viewer *v) {
    static char buffer[1 << 18];
    long got = recv(v->fd, buffer, sizeof buffer, 0);
    if (got <= 0) { if (got == 0 || errno != EAGAIN) drop(v, 1); return; }
    char *at = buffer;
    if (v->left < 0) {
        int room = (int)sizeof v->head - 1 - v->have, size = got < room ? (int)got : room;
        memcpy(v->head + v->have, buffer, size);
        v->head[v->have + size] = 0;
        char *end = strstr(v->head, "\r\n\r\n"), *length = strcasestr(v->head, "content-length: ");
        if (!end) { v->have += size; if (v->have >= (int)sizeof v->head - 1) drop(v, 1); return; }
        long head = end + 4 - v->head - v->have;
        v->left = v->length = length && length < end ? atol(length + 16) : 0;
        at += head;
        got -= head;
    }
    if (v->step == MEDIA && v->left == v->length && got > 4 && !strncmp(at, "#AT:", 4)) v->part = atoi(at + 4);
    v->left -= got;
    if (v->left < 0) { drop(v, 1); return; }
    if (v->left == 0) answered(v);
}

static void arrive(struct viewer *v) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    /* More than one address, since one has only some 28,000 ports. */
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    v->fd = socket(AF_INET, SOCK_STREAM, 0);
    int one = 1;
    alive++;
    v->began = now();
    v->retry_at = 0;
    if (v->fd < 0 || connect(v->fd, (struct sockaddr *)&to, sizeof to)) { drop(v, 1); return; }
    setsockopt(v->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(v->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = v};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, v->fd, &event);
    v->step = INDEX;
    ask(v);
}

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    port = atoi(argv[1]);
    count = atoi(argv[2]);
    double seconds = atof(argv[3]), arrive_s = atof(argv[4]), return_at = atof(argv[6]), start = now(), looked = 0;
    parts_per_segment = atoi(argv[5]);
    viewers = calloc(count, sizeof *viewers);
    first_part = calloc(count, sizeof *first_part);
    again = calloc(count, sizeof *again);
    epoll_fd = epoll_create1(0);
    struct epoll_event events[512];
    int there = 0, came = 0;
    double t;
    while ((t = now()) < start + arrive_s + seconds || (first_parts + agains < came && t < start + arrive_s + seconds + LATE_S)) {
        for (int due = (int)((t - start) / arrive_s * count), batch = 0; there < count && there < due && batch < 64; batch++)
            arrive(&viewers[there++]), came++;
        if (return_at && !returned && t >= start + arrive_s + return_at) {
            returned = 1;
            for (int i = 0; i < count; i += 2, came++) { drop(&viewers[i], 0); viewers[i].again = 1; arrive(&viewers[i]); }
        }
        if (t - looked > 0.02) {
            looked = t;
            for (int i = 0; i < there; i++)
                if (viewers[i].fd >= 0 && viewers[i].retry_at && t >= viewers[i].retry_at) { viewers[i].retry_at = 0; ask(&viewers[i]); }
        }
        int found = epoll_wait(epoll_fd, events, 512, there < count ? 1 : 20);
        for (int i = 0; i < found; i++) {
            struct viewer *v = events[i].data.ptr;
            if (v->fd >= 0) readable(v);
        }
    }
    for (int i = 0; i < 4096; i++) {
        if (!seen[i]) continue;
        qsort(seen_at[i], seen[i], sizeof(double), order);
        printf("{\"part\": %d, \"count\": %d, \"first_s\": %.6f, \"p50_s\": %.6f, \"p99_s\": %.6f, \"last_s\": %.6f}\n", i, seen[i],
               seen_at[i][0], seen_at[i][seen[i] / 2], seen_at[i][seen[i] * 99 / 100], seen_at[i][seen[i] - 1]);
    }
    qsort(first_part, first_parts, sizeof(double), order);
    qsort(again, agains, sizeof(double), order);
    printf("{\"requests\": %ld, \"errors\": %ld, \"refused\": %ld, \"alive\": %d, \"came\": %d, \"first_parts\": %d, \"first_part_p50_s\": %.4f, \"first_part_p99_s\": %.4f, \"first_part_last_s\": %.4f, "
           "\"returned\": %d, \"return_part_p50_s\": %.4f, \"return_part_p99_s\": %.4f, \"return_part_last_s\": %.4f}\n",
           requests, errors, refused, alive, came, first_parts, first_parts ? first_part[first_parts / 2] : -1, first_parts ? first_part[first_parts * 99 / 100] : -1, first_parts ? first_part[first_parts - 1] : -1,
           agains, agains ? again[agains / 2] : -1, agains ? again[agains * 99 / 100] : -1, agains ? again[agains - 1] : -1);
    return 0;
}
