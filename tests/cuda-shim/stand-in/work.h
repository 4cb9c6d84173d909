// What the stand-in is made of: streams and the work in them, events, graphs, memory. See
// libcuda.c, the only file that includes this.

#pragma once

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../shim/shim.h"

enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    LAUNCH_FAILED = 719,
    ALREADY_REGISTERED = 712,
    NOT_REGISTERED = 713,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

typedef uint64_t Address;

// A launch. Its arguments are copied.
struct Launch {
    const struct shim_kernel *kernel;
    uint32_t grid[3], block[3], shared;
    unsigned char *args;
};

enum Kind { COPY, FILL, KERNEL, RECORD, WAIT_EVENT, WAIT_VALUE, REPLAY };

struct Graph;
struct Event {
    uint32_t magic;
    unsigned flags;
    uint64_t recorded, reached;
    int captured;
    double at; // when it was reached, ms
};

struct Work {
    enum Kind kind;
    void *to;
    const void *from;
    size_t bytes;
    uint64_t value;
    struct Event *event;
    struct Graph *graph;
    struct Launch launch;
};

struct Graph {
    uint32_t magic;
    struct Work *work;
    size_t count;
};

struct Stream {
    uint32_t magic;
    struct Work *work;
    size_t first, count;
    int captured;
    struct Stream *next;
};

struct Function {
    uint32_t magic;
    const struct shim_kernel *kernel;
    int most_shared;
};

enum { STREAM = 0x57e4, EVENT = 0xe7e7, GRAPH = 0x94a9, EXEC = 0xe8ec, FUNCTION = 0xf00c, MODULE = 0x30d0 };

struct Module {
    uint32_t magic;
    const unsigned char *image;
    size_t bytes;
};

struct Block {
    char *start;
    size_t bytes;
    char kind; // d device, h host, r registered
    struct Block *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int started, retained, primary_flags = -1;
static int the_context;
static __thread void *current;
static struct Stream *streams;
static struct Block *blocks;
static struct Graph *capture;
static int spoilt;
static int broken; // what every call returns since a kernel failed
static size_t pinned;

static long setting(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value == NULL ? otherwise : atol(value);
}

#define ENTER                                                                                      \
    pthread_mutex_lock(&lock);                                                                     \
    if (!started || current != &the_context || !retained) {                                        \
        pthread_mutex_unlock(&lock);                                                               \
        return started ? INVALID_CONTEXT : NOT_INITIALIZED;                                        \
    }                                                                                              \
    if (broken) {                                                                                  \
        pthread_mutex_unlock(&lock);                                                               \
        return broken;                                                                             \
    }
#define LEAVE(code)                                                                                \
    do {                                                                                           \
        int leave_code = (code);                                                                   \
        pthread_mutex_unlock(&lock);                                                               \
        return leave_code;                                                                         \
    } while (0)
#define NEED(holds, code)                                                                          \
    if (!(holds))                                                                                  \
    LEAVE(code)
#define IS(handle, kind) ((handle) != NULL && (handle)->magic == (kind))

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1e3 * (double)time.tv_sec + 1e-6 * (double)time.tv_nsec;
}

static struct Block *block_at(const void *at, size_t bytes, const char *kinds) {
    for (struct Block *block = blocks; block != NULL; block = block->next) {
        if (strchr(kinds, block->kind) && (const char *)at >= block->start &&
            (const char *)at + bytes <= block->start + block->bytes) {
            return block;
        }
    }
    return NULL;
}

static void add_block(void *start, size_t bytes, char kind) {
    struct Block *block = malloc(sizeof *block);
    *block = (struct Block){start, bytes, kind, blocks};
    blocks = block;
}

static int drop_block(const void *start, char kind) {
    for (struct Block **link = &blocks; *link != NULL; link = &(*link)->next) {
        struct Block *block = *link;
        if (block->start == (const char *)start && block->kind == kind) {
            *link = block->next;
            if (kind != 'r') {
                free(block->start);
            }
            free(block);
            return 1;
        }
    }
    return 0;
}

static void run_kernel(const struct Launch *launch) {
    if (setting("STAND_IN_IDLE", 0)) {
        return;
    }
    struct shim_order forward = {0, 0};
    char error[512] = "";
    if (shim_run(launch->kernel, launch->grid, launch->block, launch->shared, launch->args, &forward,
                 error, sizeof error) != 0) {
        fprintf(stderr, "stand-in: %s\n", error);
        broken = LAUNCH_FAILED;
        return;
    }
    const char *altered = getenv("STAND_IN_ALTERS");
    if (altered != NULL && strcmp(altered, launch->kernel->name) == 0) {
        Address first;
        memcpy(&first, launch->args, sizeof first);
        if (block_at((void *)first, 1, "dhr")) {
            *(unsigned char *)first ^= 4;
        }
    }
}

static int do_work(struct Work *work) {
    switch (work->kind) {
    case COPY:
        memcpy(work->to, work->from, work->bytes);
        return 1;
    case FILL:
        memset(work->to, (int)work->value, work->bytes);
        return 1;
    case KERNEL:
        run_kernel(&work->launch); // a graph may need the arguments again
        return 1;
    case RECORD:
        work->event->reached = work->value;
        work->event->at = now();
        return 1;
    case WAIT_EVENT:
        return work->event->reached >= work->value;
    case WAIT_VALUE:
        return (int32_t)(__atomic_load_n((uint32_t *)work->to, __ATOMIC_ACQUIRE) -
                         (uint32_t)work->value) >= 0;
    case REPLAY:
        for (size_t i = 0; i < work->graph->count; i++) {
            do_work(&work->graph->work[i]);
        }
        return 1;
    }
    return 1;
}

static int go_on(void) {
    int idle = 1;
    for (int progress = 1; progress;) {
        progress = 0;
        idle = 1;
        for (struct Stream *stream = streams; stream != NULL; stream = stream->next) {
            while (stream->first < stream->count && do_work(&stream->work[stream->first])) {
                if (stream->work[stream->first].kind == KERNEL) {
                    free(stream->work[stream->first].launch.args);
                }
                stream->first += 1;
                progress = 1;
            }
            if (stream->first == stream->count) {
                stream->first = stream->count = 0;
            }
            idle &= stream->first == stream->count;
        }
    }
    return idle;
}

static int push(struct Stream *stream, struct Work work) {
    if (!IS(stream, STREAM)) {
        return INVALID_HANDLE;
    }
    if (stream->captured) {
        if (spoilt) {
            return CAPTURE_INVALIDATED;
        }
        // Events only order the streams of a graph, whose work is done in the order of calls.
        if (work.kind == COPY || work.kind == FILL || work.kind == KERNEL) {
            capture->work = realloc(capture->work, (capture->count + 1) * sizeof work);
            capture->work[capture->count++] = work;
        }
        return OK;
    }
    stream->work = realloc(stream->work, (stream->count + 1) * sizeof work);
    stream->work[stream->count++] = work;
    go_on();
    return OK;
}
