// A stand-in for NVIDIA's library, written from the documentation of the driver API, so that the
// code that calls it, and whole programs, run where there is none. It has one card, whose kernels
// the shim runs (it is linked with them), and does all work in order, as soon as it can.
//
// What it is like can be changed by the environment:
//   STAND_IN_INIT     code that cuInit returns
//   STAND_IN_VERSION  version of CUDA, 12080 for 12.8
//   STAND_IN_PINNED   bytes of host memory that can be pinned
//   STAND_IN_ALTERS   kernel after which a bit of the first value of its first argument is flipped
//
// It checks what the calls hand over: that a context is current on the calling thread, handles,
// flags, the list of a launch's options, and that nothing is called after an end.

#define _GNU_SOURCE
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

static int spoil(void) {
    spoilt = 1;
    return CAPTURE_UNSUPPORTED;
}

int cuInit(unsigned flags) {
    int code = (int)setting("STAND_IN_INIT", OK);
    started = flags == 0 && code == OK;
    return started || code != OK ? code : INVALID_VALUE;
}
int cuDriverGetVersion(int *version) {
    *version = (int)setting("STAND_IN_VERSION", 12080);
    return OK;
}
int cuDeviceGetCount(int *count) {
    *count = 1;
    return started ? OK : NOT_INITIALIZED;
}
int cuDeviceGet(int *device, int ordinal) {
    *device = 40 + ordinal;
    return ordinal == 0 ? OK : INVALID_DEVICE;
}
int cuDeviceGetName(char *name, int len, int device) {
    if (device != 40 || len < 16) {
        return INVALID_VALUE;
    }
    strcpy(name, "Stand-in 4090");
    return OK;
}
int cuDeviceGetPCIBusId(char *name, int len, int device) {
    if (device != 40 || len < 13) {
        return INVALID_VALUE;
    }
    strcpy(name, "0000:41:00.0");
    return OK;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = (size_t)24 << 30;
    return device == 40 ? OK : INVALID_DEVICE;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    static const int known[][2] = {{75, 8},   {76, 9},        {16, 128}, {13, 2520000}, {36, 10501000},
                                   {37, 384}, {38, 72 << 20}, {97, 101376}, {40, 2},     {17, 0},
                                   {99, 1},   {122, 1}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i][0] == attribute) {
            *value = known[i][1];
            return device == 40 ? OK : INVALID_DEVICE;
        }
    }
    return INVALID_VALUE;
}
int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) {
    primary_flags = (int)flags;
    return device == 40 ? OK : INVALID_DEVICE;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    // Waiting threads must sleep, which cannot be changed later.
    if (device != 40 || primary_flags != 4) {
        return INVALID_VALUE;
    }
    retained += 1;
    *context = &the_context;
    return OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    if (device != 40 || retained == 0) {
        return INVALID_CONTEXT;
    }
    retained -= 1;
    return OK;
}
int cuCtxSetCurrent(void *context) {
    current = context;
    return OK;
}

static int wait_for(struct Stream *stream) {
    for (;;) {
        pthread_mutex_lock(&lock);
        int idle = go_on();
        if (stream != NULL) {
            idle = stream->first == stream->count;
        }
        pthread_mutex_unlock(&lock);
        if (idle || broken) {
            return broken;
        }
        usleep(100);
    }
}

int cuCtxSynchronize(void) {
    ENTER;
    NEED(capture == NULL, spoil());
    pthread_mutex_unlock(&lock);
    return wait_for(NULL);
}
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    ENTER;
    *free_bytes = (size_t)23 << 30;
    *total = (size_t)24 << 30;
    LEAVE(OK);
}

int cuModuleLoadData(struct Module **module, const void *image) {
    ENTER;
    const unsigned char *bytes = image;
    NEED(memcmp(bytes, "\177ELF\002", 5) == 0 && (uintptr_t)image % 16 == 0, INVALID_IMAGE);
    uint64_t sections;
    uint16_t size, count;
    memcpy(&sections, bytes + 0x28, 8);
    memcpy(&size, bytes + 0x3a, 2);
    memcpy(&count, bytes + 0x3c, 2);
    *module = malloc(sizeof **module);
    **module = (struct Module){MODULE, bytes, sections + (size_t)size * count};
    LEAVE(OK);
}
int cuModuleUnload(struct Module *module) {
    ENTER;
    NEED(IS(module, MODULE), INVALID_HANDLE);
    module->magic = 0;
    free(module);
    LEAVE(OK);
}
int cuModuleGetFunction(struct Function **function, struct Module *module, const char *name) {
    ENTER;
    NEED(IS(module, MODULE), INVALID_HANDLE);
    NEED(memmem(module->image, module->bytes, name, strlen(name) + 1) != NULL, NOT_FOUND);
    size_t count;
    const struct shim_kernel *kernels = shim_kernels(&count);
    const struct shim_kernel *kernel = NULL;
    for (size_t i = 0; i < count; i++) {
        kernel = strcmp(kernels[i].name, name) == 0 ? &kernels[i] : kernel;
    }
    NEED(kernel != NULL, NOT_FOUND);
    *function = calloc(1, sizeof **function);
    (*function)->magic = FUNCTION;
    (*function)->kernel = kernel;
    (*function)->most_shared = 48 << 10;
    LEAVE(OK);
}
int cuFuncGetAttribute(int *value, int attribute, struct Function *function) {
    ENTER;
    NEED(IS(function, FUNCTION), INVALID_HANDLE);
    *value = 16;
    LEAVE(attribute == 4 ? OK : INVALID_VALUE);
}
int cuFuncSetAttribute(struct Function *function, int attribute, int value) {
    ENTER;
    NEED(IS(function, FUNCTION), INVALID_HANDLE);
    NEED(attribute == 8 && value <= 101376, INVALID_VALUE);
    function->most_shared = value;
    LEAVE(OK);
}
int cuLaunchKernel(struct Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                   unsigned by, unsigned bz, unsigned shared, struct Stream *stream, void **params,
                   void **extra) {
    ENTER;
    NEED(IS(function, FUNCTION) && IS(stream, STREAM), INVALID_HANDLE);
    NEED(bx >= 1 && bx <= 1024 && by == 1 && bz == 1 && gx >= 1 && gy >= 1 && gz >= 1, INVALID_VALUE);
    NEED((int)shared <= function->most_shared, INVALID_VALUE);
    NEED(params == NULL && extra != NULL, INVALID_VALUE);
    NEED((uintptr_t)extra[0] == 1 && (uintptr_t)extra[2] == 2 && extra[4] == NULL, INVALID_VALUE);
    size_t bytes = *(size_t *)extra[3];
    NEED(bytes == function->kernel->args_size, INVALID_VALUE);
    struct Work work = {.kind = KERNEL,
                        .launch = {.kernel = function->kernel,
                                   .grid = {gx, gy, gz},
                                   .block = {bx, by, bz},
                                   .shared = shared,
                                   .args = malloc(bytes)}};
    memcpy(work.launch.args, extra[1], bytes);
    int code = push(stream, work);
    LEAVE(code == OK ? broken : code);
}

int cuStreamCreate(struct Stream **stream, unsigned flags) {
    ENTER;
    NEED(flags == 1, INVALID_VALUE);
    *stream = calloc(1, sizeof **stream);
    (*stream)->magic = STREAM;
    (*stream)->next = streams;
    streams = *stream;
    LEAVE(OK);
}
int cuStreamDestroy_v2(struct Stream *stream) {
    ENTER;
    NEED(IS(stream, STREAM), INVALID_HANDLE);
    stream->magic = 0;
    LEAVE(OK);
}
int cuStreamSynchronize(struct Stream *stream) {
    ENTER;
    NEED(IS(stream, STREAM), INVALID_HANDLE);
    NEED(!stream->captured, spoil());
    pthread_mutex_unlock(&lock);
    return wait_for(stream);
}
int cuStreamQuery(struct Stream *stream) {
    ENTER;
    NEED(IS(stream, STREAM), INVALID_HANDLE);
    NEED(!stream->captured, spoil());
    go_on();
    LEAVE(stream->first == stream->count ? OK : NOT_READY);
}
int cuStreamWaitEvent(struct Stream *stream, struct Event *event, unsigned flags) {
    ENTER;
    NEED(IS(stream, STREAM) && IS(event, EVENT), INVALID_HANDLE);
    NEED(flags == 0, INVALID_VALUE);
    if (event->captured) {
        NEED(capture != NULL, INVALID_VALUE);
        stream->captured = stream->captured ? stream->captured : 1;
        LEAVE(OK);
    }
    NEED(!stream->captured, spoil());
    LEAVE(push(stream, (struct Work){.kind = WAIT_EVENT, .event = event, .value = event->recorded}));
}
int cuStreamWaitValue32_v2(struct Stream *stream, Address address, uint32_t value, unsigned flags) {
    ENTER;
    NEED(flags == 0 && block_at((void *)address, 4, "dhr"), INVALID_VALUE);
    LEAVE(push(stream, (struct Work){.kind = WAIT_VALUE, .to = (void *)address, .value = value}));
}

int cuEventCreate(struct Event **event, unsigned flags) {
    ENTER;
    NEED((flags & ~3u) == 0, INVALID_VALUE);
    *event = calloc(1, sizeof **event);
    (*event)->magic = EVENT;
    (*event)->flags = flags;
    LEAVE(OK);
}
int cuEventDestroy_v2(struct Event *event) {
    ENTER;
    NEED(IS(event, EVENT), INVALID_HANDLE);
    event->magic = 0;
    LEAVE(OK);
}
int cuEventRecord(struct Event *event, struct Stream *stream) {
    ENTER;
    NEED(IS(event, EVENT) && IS(stream, STREAM), INVALID_HANDLE);
    event->captured = stream->captured;
    if (stream->captured) {
        LEAVE(OK);
    }
    event->recorded += 1;
    LEAVE(push(stream, (struct Work){.kind = RECORD, .event = event, .value = event->recorded}));
}
int cuEventQuery(struct Event *event) {
    ENTER;
    NEED(IS(event, EVENT), INVALID_HANDLE);
    go_on();
    LEAVE(event->reached == event->recorded ? OK : NOT_READY);
}
int cuEventSynchronize(struct Event *event) {
    for (;;) {
        int code = cuEventQuery(event);
        if (code != NOT_READY) {
            return code;
        }
        usleep(100);
    }
}
int cuEventElapsedTime(float *milliseconds, struct Event *start, struct Event *end) {
    ENTER;
    // 2: made without timing.
    NEED(IS(start, EVENT) && IS(end, EVENT) && !((start->flags | end->flags) & 2), INVALID_HANDLE);
    *milliseconds = (float)(end->at - start->at);
    LEAVE(OK);
}

int cuStreamBeginCapture_v2(struct Stream *stream, int mode) {
    ENTER;
    NEED(IS(stream, STREAM) && mode == 1 && capture == NULL, INVALID_VALUE);
    capture = calloc(1, sizeof *capture);
    capture->magic = GRAPH;
    spoilt = 0;
    stream->captured = 2;
    LEAVE(OK);
}
int cuStreamEndCapture(struct Stream *stream, struct Graph **graph) {
    ENTER;
    NEED(IS(stream, STREAM) && stream->captured == 2, INVALID_VALUE);
    for (struct Stream *any = streams; any != NULL; any = any->next) {
        any->captured = 0;
    }
    *graph = spoilt ? NULL : capture;
    capture = NULL;
    LEAVE(spoilt ? CAPTURE_INVALIDATED : OK);
}
int cuGraphInstantiateWithFlags(struct Graph **exec, struct Graph *graph, unsigned long long flags) {
    ENTER;
    NEED(IS(graph, GRAPH) && flags == 0, INVALID_VALUE);
    *exec = malloc(sizeof **exec);
    **exec = *graph;
    (*exec)->magic = EXEC;
    (*exec)->work = malloc(graph->count * sizeof *graph->work);
    memcpy((*exec)->work, graph->work, graph->count * sizeof *graph->work);
    LEAVE(OK);
}
int cuGraphDestroy(struct Graph *graph) {
    ENTER;
    NEED(IS(graph, GRAPH), INVALID_HANDLE);
    graph->magic = 0;
    LEAVE(OK);
}
int cuGraphExecDestroy(struct Graph *exec) {
    ENTER;
    NEED(IS(exec, EXEC), INVALID_HANDLE);
    exec->magic = 0;
    LEAVE(OK);
}
int cuGraphLaunch(struct Graph *exec, struct Stream *stream) {
    ENTER;
    NEED(IS(exec, EXEC), INVALID_HANDLE);
    LEAVE(push(stream, (struct Work){.kind = REPLAY, .graph = exec}));
}

int cuMemAlloc_v2(Address *address, size_t bytes) {
    ENTER;
    NEED(capture == NULL, spoil());
    NEED(bytes > 0, INVALID_VALUE);
    NEED(bytes < (size_t)1 << 32, OUT_OF_MEMORY);
    void *start = NULL;
    NEED(posix_memalign(&start, 256, bytes) == 0, OUT_OF_MEMORY);
    add_block(start, bytes, 'd');
    *address = (Address)start;
    LEAVE(OK);
}
int cuMemFree_v2(Address address) {
    ENTER;
    NEED(capture == NULL, spoil());
    LEAVE(drop_block((void *)address, 'd') ? OK : INVALID_VALUE);
}
int cuMemHostAlloc(void **start, size_t bytes, unsigned flags) {
    ENTER;
    NEED(flags == 3 && capture == NULL, INVALID_VALUE);
    NEED(pinned + bytes <= (size_t)setting("STAND_IN_PINNED", 1L << 40), OUT_OF_MEMORY);
    NEED(posix_memalign(start, 4096, bytes) == 0, OUT_OF_MEMORY);
    add_block(*start, bytes, 'h');
    pinned += bytes;
    LEAVE(OK);
}
int cuMemFreeHost(void *start) {
    ENTER;
    struct Block *block = block_at(start, 1, "h");
    pinned -= block == NULL ? 0 : block->bytes;
    LEAVE(drop_block(start, 'h') ? OK : INVALID_VALUE);
}
int cuMemHostRegister_v2(void *start, size_t bytes, unsigned flags) {
    ENTER;
    NEED(flags == 3, INVALID_VALUE);
    NEED(!block_at(start, 1, "hr"), ALREADY_REGISTERED);
    add_block(start, bytes, 'r');
    LEAVE(OK);
}
int cuMemHostUnregister(void *start) {
    ENTER;
    LEAVE(drop_block(start, 'r') ? OK : NOT_REGISTERED);
}
int cuMemHostGetDevicePointer_v2(Address *address, void *start, unsigned flags) {
    ENTER;
    NEED(flags == 0 && block_at(start, 1, "hr"), INVALID_VALUE);
    *address = (Address)start;
    LEAVE(OK);
}
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, struct Stream *stream) {
    ENTER;
    NEED(block_at((void *)to, bytes, "dhr"), INVALID_VALUE);
    LEAVE(push(stream, (struct Work){.kind = COPY, .to = (void *)to, .from = from, .bytes = bytes}));
}
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, struct Stream *stream) {
    ENTER;
    NEED(block_at((void *)from, bytes, "dhr"), INVALID_VALUE);
    LEAVE(push(stream, (struct Work){.kind = COPY, .to = to, .from = (void *)from, .bytes = bytes}));
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, struct Stream *stream) {
    ENTER;
    NEED(block_at((void *)to, bytes, "d") && block_at((void *)from, bytes, "d"), INVALID_VALUE);
    LEAVE(push(stream,
               (struct Work){.kind = COPY, .to = (void *)to, .from = (void *)from, .bytes = bytes}));
}
int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, struct Stream *stream) {
    ENTER;
    NEED(block_at((void *)to, bytes, "d"), INVALID_VALUE);
    LEAVE(push(stream, (struct Work){.kind = FILL, .to = (void *)to, .value = value, .bytes = bytes}));
}

int cuGetErrorName(int code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_STAND_IN";
    return OK;
}
int cuGetErrorString(int code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "out of memory" : "as documented";
    return OK;
}
