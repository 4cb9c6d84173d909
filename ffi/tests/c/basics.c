/* Versions, statuses, the log, cancellation, the model. */
#include "check.h"

void test_basics(const world *w) {
    (void)w;
    CHECK(v4_abi_version() == (V4_ABI_MAJOR << 16 | V4_ABI_MINOR));
    CHECK(strchr(v4_version(), '.') != NULL);

    CHECK(strcmp(v4_status_name(V4_OK), "V4_OK") == 0);
    CHECK(strcmp(v4_status_name(V4_INTERNAL), "V4_INTERNAL") == 0);
    CHECK(strcmp(v4_status_name(-1), "unknown status") == 0);
    CHECK(strcmp(v4_status_name(1 << 20), "unknown status") == 0);
    CHECK(v4_last_error() != NULL);

    v4_cancel *cancel = NULL;
    STATUS(V4_INVALID_ARGUMENT, v4_cancel_open(NULL));
    CHECK(strstr(v4_last_error(), "cancel is NULL") != NULL);
    STATUS(V4_INVALID_ARGUMENT, v4_cancel_request(NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_cancel_reset(NULL));
    OK(v4_cancel_open(&cancel));
    OK(v4_cancel_request(cancel));
    OK(v4_cancel_request(cancel));
    OK(v4_cancel_reset(cancel));
    OK(v4_cancel_close(cancel));
    OK(v4_cancel_close(NULL));
    /* A success leaves the last message alone. */
    CHECK(strstr(v4_last_error(), "cancel is NULL") != NULL);
}

typedef struct {
    int lines, inside;
    char last[1024];
} lines;

static void on_log(void *user, int32_t level, const char *message) {
    lines *l = user;
    CHECK(level >= V4_LOG_ERROR && level <= V4_LOG_DEBUG);
    l->lines++;
    snprintf(l->last, sizeof l->last, "%s", message);
    /* The callback may not replace itself; it is told so and nothing hangs. */
    l->inside = v4_set_log(NULL, NULL, V4_LOG_INFO);
}

static void test_log(const world *w) {
    lines l = {0};
    v4_engine *engine = NULL;
    SIZED(v4_engine_options, options);
    options.threads = 1;
    options.context = 64;

    STATUS(V4_INVALID_ARGUMENT, v4_set_log(on_log, &l, 0));
    STATUS(V4_INVALID_ARGUMENT, v4_set_log(on_log, &l, 5));
    OK(v4_set_log(on_log, &l, V4_LOG_WARN));
    OK(v4_engine_open(w->model, &options, &engine));
    CHECK(l.lines == 0);
    OK(v4_set_log(on_log, &l, V4_LOG_INFO));
    OK(v4_engine_close(engine));
    CHECK(l.lines == 1 && strstr(l.last, w->model) != NULL);
    CHECK(l.inside == V4_BUSY);
    OK(v4_set_log(NULL, NULL, 0));
    OK(v4_engine_open(w->model, &options, &engine));
    CHECK(l.lines == 1);
    OK(v4_engine_close(engine));
}

typedef struct {
    uint64_t done, total;
    int calls, grows, stop_at;
} told;

static int32_t on_progress(void *user, uint64_t done, uint64_t total) {
    told *t = user;
    t->grows = t->calls == 0 || done > t->done;
    t->done = done;
    t->total = total;
    return ++t->calls == t->stop_at;
}

static void test_options(const world *w) {
    v4_engine *engine = NULL;
    union {
        v4_engine_options options;
        unsigned char bytes[sizeof(v4_engine_options) + 64];
    } large;

    /* Sizes that no version has. */
    for (uint32_t size = 0; size < sizeof(v4_engine_options); size += 13) {
        v4_engine_options options = {0};
        options.size = size;
        STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
        CHECK(strstr(v4_last_error(), "v4_engine_options.size") != NULL);
    }
    /* A caller from the future that sets nothing new, and one that does. */
    memset(&large, 0, sizeof large);
    large.options.size = sizeof large;
    large.options.threads = 1;
    large.options.context = 64;
    OK(v4_engine_open(w->model, &large.options, &engine));
    OK(v4_engine_close(engine));
    large.bytes[sizeof large - 1] = 1;
    engine = NULL;
    STATUS(V4_UNSUPPORTED, v4_engine_open(w->model, &large.options, &engine));

    SIZED(v4_engine_options, options);
    options.precision = 2;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    options.precision = V4_PRECISION_EXACT;
    options.kv = 3;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    options.kv = V4_KV_F32;
    options.weights = -1;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    options.weights = V4_WEIGHTS_MAPPED;
    options.threads = 1025;
    STATUS(V4_NO_THREADS, v4_engine_open(w->model, &options, &engine));
    options.threads = 1;
    options.memory = 1 << 20;
    STATUS(V4_NO_MEMORY, v4_engine_open(w->model, &options, &engine));
    CHECK(engine == NULL);
    options.memory = 0;
    options.context = 64;
    OK(v4_engine_open(w->model, &options, &engine));
    OK(v4_engine_close(engine));
}

void test_engine(const world *w) {
    v4_engine *engine = NULL;
    v4_facts facts = {0};
    v4_plan plan = {0}, planned = {0};
    char path[4096];

    test_log(w);
    test_options(w);

    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(NULL, NULL, &engine));
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open("", NULL, &engine));
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, NULL, NULL));
    STATUS(V4_IO, v4_engine_open("/no/such/model.gguf", NULL, &engine));
    CHECK(strstr(v4_last_error(), "/no/such/model.gguf") != NULL);
    snprintf(path, sizeof path, "%s/damaged.gguf", w->folder);
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fputs("GGUF, or not", file) >= 0 && fclose(file) == 0);
    STATUS(V4_BAD_MODEL, v4_engine_open(path, NULL, &engine));
    CHECK(engine == NULL);
    OK(v4_engine_close(NULL));

    STATUS(V4_INVALID_ARGUMENT, v4_engine_facts(NULL, &facts));
    STATUS(V4_INVALID_ARGUMENT, v4_engine_facts(w->engine, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_engine_facts(w->engine, &facts));
    facts.size = sizeof facts;
    OK(v4_engine_facts(w->engine, &facts));
    CHECK(facts.size == sizeof facts);
    CHECK(facts.vocab == 4096 && facts.layers == 6 && facts.threads == 2);
    CHECK(facts.experts_used > 0 && facts.experts_used <= facts.experts);
    CHECK(facts.bos == 0 && facts.eos == 1 && facts.engram_layers == 0);
    CHECK(facts.context >= 256 && facts.embedding > 0);
    CHECK(facts.file_bytes > facts.weight_bytes_per_token);
    CHECK(facts.weight_bytes_per_token > 0);
    CHECK(strcmp(facts.architecture, "deepseek4") == 0);
    CHECK(strcmp(facts.path, w->model) == 0);
    CHECK(facts.name != NULL && facts.isa[0] != 0);
    /* A caller from the future gets zeros for what is not known. */
    union {
        v4_facts facts;
        unsigned char bytes[sizeof(v4_facts) + 8];
    } large;
    memset(&large, 0xff, sizeof large);
    large.facts.size = sizeof large;
    OK(v4_engine_facts(w->engine, &large.facts));
    CHECK(large.facts.vocab == 4096 && large.facts.size == sizeof large);
    for (size_t i = sizeof(v4_facts); i < sizeof large; i++)
        CHECK(large.bytes[i] == 0);

    STATUS(V4_INVALID_ARGUMENT, v4_engine_plan(NULL, &plan));
    STATUS(V4_INVALID_ARGUMENT, v4_engine_plan(w->engine, NULL));
    plan.size = planned.size = sizeof plan;
    OK(v4_engine_plan(w->engine, &plan));
    CHECK(plan.context == 256 && plan.allowed == V4_MEMORY_UNBOUNDED && !plan.streamed);
    CHECK(plan.total > plan.dense && plan.kv > 0 && plan.scratch > 0 && plan.program > 0);
    CHECK(plan.experts == facts.layers * facts.experts && plan.expert_slots == plan.experts);

    SIZED(v4_engine_options, options);
    options.threads = 2;
    options.context = 256;
    options.chunk = 16;
    options.memory = V4_MEMORY_UNBOUNDED;
    STATUS(V4_INVALID_ARGUMENT, v4_plan_file(NULL, &options, &planned));
    STATUS(V4_INVALID_ARGUMENT, v4_plan_file(w->model, &options, NULL));
    STATUS(V4_IO, v4_plan_file("/no/such", &options, &planned));
    OK(v4_plan_file(w->model, &options, &planned));
    CHECK(memcmp(&plan, &planned, sizeof plan) == 0);
    options.memory = 1 << 20;
    STATUS(V4_NO_MEMORY, v4_plan_file(w->model, &options, &planned));
    CHECK(strstr(v4_last_error(), "memory") != NULL);

    /* Copied weights: progress grows to the end. */
    told t = {0};
    options.memory = V4_MEMORY_UNBOUNDED;
    options.weights = V4_WEIGHTS_COPIED;
    options.progress = on_progress;
    options.user = &t;
    OK(v4_engine_open(w->model, &options, &engine));
    CHECK(t.calls > 0 && t.grows && t.done == t.total);
    OK(v4_engine_close(engine));
    /* Stopped, and not told again. */
    memset(&t, 0, sizeof t);
    t.stop_at = 2;
    engine = NULL;
    STATUS(V4_CANCELLED, v4_engine_open(w->model, &options, &engine));
    CHECK(t.calls == 2 && engine == NULL);
}
