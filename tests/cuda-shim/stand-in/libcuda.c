// A stand-in for NVIDIA's library, written from the documentation of the driver API, so that the
// code that calls it, and whole programs, run where there is none. It has one card, whose kernels
// the shim runs (it is linked with them), and does all work in order, as soon as it can.
//
// What it is like can be changed by the environment:
//   STAND_IN_INIT     code that cuInit returns
//   STAND_IN_VERSION  version of CUDA, 12080 for 12.8
//   STAND_IN_PINNED   bytes of host memory that can be pinned
//   STAND_IN_IDLE     1 where kernels do nothing
//   STAND_IN_ALTERS   kernel after which a bit of the first value of its first argument is flipped
//
// It checks what the calls hand over: that a context is current on the calling thread, handles,
// flags, the list of a launch's options, and that nothing is called after an end.

#define _GNU_SOURCE
#include "work.h"

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
