/* Sessions: tokens in, logits out, forks, files. */
#include "check.h"

/* Copies the logits of a session. */
static float *logits_of(v4_session *session, size_t *count) {
    const float *logits = NULL;
    OK(v4_session_logits(session, &logits, count));
    float *copy = malloc(*count * sizeof *copy);
    CHECK(copy != NULL);
    memcpy(copy, logits, *count * sizeof *copy);
    return copy;
}

static int same(const float *a, const float *b, size_t count) {
    return memcmp(a, b, count * sizeof *a) == 0;
}

static uint32_t held(v4_session *session) {
    SIZED(v4_session_facts, facts);
    OK(v4_session_facts_of(session, &facts));
    return facts.tokens;
}

typedef struct {
    uint32_t next;
    int stop_at;
    size_t vocab;
    float *last;
} rows;

static int32_t on_logits(void *user, const v4_logits *logits) {
    rows *r = user;
    CHECK(logits->size == sizeof *logits && logits->position == r->next);
    CHECK(logits->count == r->vocab);
    memcpy(r->last, logits->logits, logits->count * sizeof *r->last);
    r->next++;
    return (int)r->next == r->stop_at;
}

typedef struct {
    v4_session *session;
    v4_cancel *cancel;
    uint64_t done;
    int calls, stop_at;
    v4_status inside, closing;
} seen;

static int32_t on_progress(void *user, uint64_t done, uint64_t total) {
    seen *s = user;
    CHECK(done > s->done && done < total);
    s->done = done;
    s->calls++;
    /* The session is in use: by the call that this is a part of. */
    s->inside = v4_session_append(s->session, NULL, 0, NULL);
    s->closing = v4_session_close(s->session);
    if (s->cancel != NULL)
        OK(v4_cancel_request(s->cancel));
    return s->calls == s->stop_at;
}

static void test_open(const world *w) {
    v4_session *session = NULL;
    SIZED(v4_session_options, options);
    SIZED(v4_session_facts, facts);
    const uint32_t *ids = NULL;
    const float *logits = NULL;
    size_t count = 0;

    STATUS(V4_INVALID_ARGUMENT, v4_session_open(NULL, &options, &session));
    STATUS(V4_INVALID_ARGUMENT, v4_session_open(w->engine, &options, NULL));
    options.size = 8;
    STATUS(V4_INVALID_ARGUMENT, v4_session_open(w->engine, &options, &session));
    options.size = sizeof options;
    options.context = UINT32_MAX;
    STATUS(V4_CONTEXT_FULL, v4_session_open(w->engine, &options, &session));
    CHECK(session == NULL);
    options.context = 40;
    options.chunk = UINT32_MAX;
    OK(v4_session_open(w->engine, &options, &session));
    OK(v4_session_facts_of(session, &facts));
    CHECK(facts.tokens == 0 && facts.context == 40 && facts.chunk == 40);
    OK(v4_session_tokens(session, &ids, &count));
    CHECK(count == 0);
    STATUS(V4_NO_LOGITS, v4_session_logits(session, &logits, &count));
    OK(v4_session_append(session, NULL, 0, NULL));
    OK(v4_session_close(session));
    OK(v4_session_close(NULL));

    session = NULL;
    OK(v4_session_open(w->engine, NULL, &session));
    OK(v4_session_facts_of(session, &facts));
    CHECK(facts.context == 256 && facts.chunk == 16);
    STATUS(V4_INVALID_ARGUMENT, v4_session_facts_of(NULL, &facts));
    STATUS(V4_INVALID_ARGUMENT, v4_session_facts_of(session, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_session_tokens(NULL, &ids, &count));
    STATUS(V4_INVALID_ARGUMENT, v4_session_tokens(session, NULL, &count));
    STATUS(V4_INVALID_ARGUMENT, v4_session_tokens(session, &ids, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_session_logits(NULL, &logits, &count));
    STATUS(V4_INVALID_ARGUMENT, v4_session_logits(session, NULL, &count));
    STATUS(V4_INVALID_ARGUMENT, v4_session_logits(session, &logits, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_session_fork(NULL, &session));
    STATUS(V4_INVALID_ARGUMENT, v4_session_fork(session, NULL));
    OK(v4_session_close(session));
}

static void test_append(const world *w) {
    size_t count = 0, vocab = 0, held_count = 0;
    uint32_t *ids = encode(w->engine, TEXT, &count);
    const uint32_t *tokens = NULL;
    v4_session *session = NULL, *other = NULL, *fork = NULL;
    SIZED(v4_session_facts, facts);
    SIZED(v4_run_options, run);
    uint32_t bad = 4096;

    CHECK(count > 4);
    OK(v4_session_open(w->engine, NULL, &session));
    OK(v4_session_append(session, ids, count, NULL));
    float *logits = logits_of(session, &vocab);
    CHECK(vocab == 4096);
    OK(v4_session_tokens(session, &tokens, &held_count));
    CHECK(held_count == count && memcmp(tokens, ids, count * sizeof *ids) == 0);
    OK(v4_session_facts_of(session, &facts));
    CHECK(facts.tokens == count && facts.kv_bytes > 0);

    /* One by one gives the same bits; so does a fork in the middle. */
    OK(v4_session_open(w->engine, NULL, &other));
    for (size_t i = 0; i < count; i++) {
        if (i == count / 2)
            OK(v4_session_fork(other, &fork));
        OK(v4_session_append(other, ids + i, 1, NULL));
    }
    float *again = logits_of(other, &vocab);
    CHECK(same(logits, again, vocab));
    free(again);
    CHECK(held(fork) == count / 2);
    OK(v4_session_append(fork, ids + count / 2, count - count / 2, NULL));
    again = logits_of(fork, &vocab);
    CHECK(same(logits, again, vocab));
    free(again);
    OK(v4_session_close(fork));

    /* Of a fork at the end the logits are there at once. */
    OK(v4_session_fork(other, &fork));
    OK(v4_session_close(other));
    again = logits_of(fork, &vocab);
    CHECK(same(logits, again, vocab));
    free(again);

    /* What fails leaves the session as it was. */
    STATUS(V4_INVALID_ARGUMENT, v4_session_append(NULL, ids, 1, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_session_append(session, NULL, 1, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_session_append(session, ids, SIZE_MAX, NULL));
    STATUS(V4_BAD_TOKEN, v4_session_append(session, &bad, 1, NULL));
    CHECK(strstr(v4_last_error(), "4096") != NULL);
    uint32_t *many = calloc(300, sizeof *many);
    CHECK(many != NULL);
    STATUS(V4_CONTEXT_FULL, v4_session_append(session, many, 300, NULL));
    free(many);
    run.reserved = 1;
    STATUS(V4_INVALID_ARGUMENT, v4_session_append(session, ids, 1, &run));
    run.size = 3;
    STATUS(V4_INVALID_ARGUMENT, v4_session_append(session, ids, 1, &run));
    again = logits_of(session, &vocab);
    CHECK(held(session) == count && same(logits, again, vocab));
    free(again);

    OK(v4_session_close(fork));
    OK(v4_session_close(session));
    free(logits);
    free(ids);
}

static void test_sync(const world *w) {
    size_t count = 0, vocab = 0;
    uint32_t *ids = encode(w->engine, TEXT, &count);
    v4_session *session = NULL, *other = NULL;

    OK(v4_session_open(w->engine, NULL, &session));
    STATUS(V4_INVALID_ARGUMENT, v4_session_sync(NULL, ids, count, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_session_sync(session, NULL, 1, NULL));
    OK(v4_session_sync(session, ids, count - 2, NULL));
    OK(v4_session_sync(session, ids, count, NULL));
    CHECK(held(session) == count);
    float *logits = logits_of(session, &vocab);
    OK(v4_session_sync(session, ids, count, NULL));
    float *again = logits_of(session, &vocab);
    CHECK(same(logits, again, vocab));
    free(again);
    /* Another way. */
    OK(v4_session_sync(session, ids, 3, NULL));
    CHECK(held(session) == 3);
    OK(v4_session_open(w->engine, NULL, &other));
    OK(v4_session_append(other, ids, 3, NULL));
    free(logits);
    logits = logits_of(session, &vocab);
    again = logits_of(other, &vocab);
    CHECK(same(logits, again, vocab));
    OK(v4_session_sync(session, NULL, 0, NULL));
    CHECK(held(session) == 0);
    free(again);
    free(logits);
    OK(v4_session_close(other));
    OK(v4_session_close(session));
    free(ids);
}

/* Tokens of a prompt of several chunks of 16, and a part of one. */
#define LONG 56

static void test_hooks(const world *w) {
    size_t vocab = 0;
    uint32_t ids[LONG] = {0};
    v4_session *session = NULL, *other = NULL;
    SIZED(v4_run_options, run);
    rows r = {0};
    seen s = {0};

    for (uint32_t i = 1; i < LONG; i++)
        ids[i] = 10 + i * 37 % 1000;
    OK(v4_session_open(w->engine, NULL, &session));
    OK(v4_session_append(session, ids, LONG, NULL));
    float *logits = logits_of(session, &vocab);
    OK(v4_session_sync(session, NULL, 0, NULL));

    /* Every position's logits, the last of which are the session's. */
    r.vocab = vocab;
    r.last = malloc(vocab * sizeof *r.last);
    CHECK(r.last != NULL);
    run.logits = on_logits;
    run.user = &r;
    OK(v4_session_append(session, ids, LONG, &run));
    CHECK(r.next == LONG && same(logits, r.last, vocab));
    /* Stopped: at the end of the second chunk of 16. */
    OK(v4_session_sync(session, NULL, 0, NULL));
    r.next = 0;
    r.stop_at = 20;
    STATUS(V4_CANCELLED, v4_session_append(session, ids, LONG, &run));
    CHECK(held(session) == 32);
    free(r.last);

    /* Progress, and what may not be done meanwhile. */
    OK(v4_session_sync(session, NULL, 0, NULL));
    run.logits = NULL;
    run.progress = on_progress;
    run.user = &s;
    s.session = session;
    OK(v4_session_append(session, ids, LONG, &run));
    CHECK(s.calls == 3 && s.done == 48);
    CHECK(s.inside == V4_BUSY && s.closing == V4_BUSY);
    OK(v4_session_sync(session, NULL, 0, NULL));
    s.calls = 0;
    s.done = 0;
    s.stop_at = 2;
    STATUS(V4_CANCELLED, v4_session_append(session, ids, LONG, &run));
    CHECK(held(session) == 32);
    /* What was done is good to go on from. */
    OK(v4_session_append(session, ids + 32, LONG - 32, NULL));
    float *again = logits_of(session, &vocab);
    CHECK(same(logits, again, vocab));
    free(again);

    /* Cancelled from the progress callback, as another thread would. */
    OK(v4_session_open(w->engine, NULL, &other));
    memset(&s, 0, sizeof s);
    s.session = other;
    OK(v4_cancel_open(&s.cancel));
    run.cancel = s.cancel;
    STATUS(V4_CANCELLED, v4_session_append(other, ids, LONG, &run));
    CHECK(held(other) == 16);
    OK(v4_cancel_close(s.cancel));

    free(logits);
    OK(v4_session_close(other));
    OK(v4_session_close(session));
}

static void test_rewind(const world *w) {
    size_t count = 0, vocab = 0;
    uint32_t *ids = encode(w->engine, TEXT, &count);
    v4_session *session = NULL;
    SIZED(v4_run_options, run);

    STATUS(V4_INVALID_ARGUMENT, v4_session_rewind(NULL, 0, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_session_mark(NULL));
    OK(v4_session_open(w->engine, NULL, &session));
    OK(v4_session_mark(session));
    OK(v4_session_rewind(session, 0, NULL));
    OK(v4_session_append(session, ids, 5, NULL));
    OK(v4_session_mark(session));
    OK(v4_session_append(session, ids + 5, 2, NULL));
    float *logits = logits_of(session, &vocab);
    OK(v4_session_append(session, ids + 7, count - 7, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_session_rewind(session, count + 1, NULL));
    run.size = 5;
    STATUS(V4_INVALID_ARGUMENT, v4_session_rewind(session, 7, &run));
    OK(v4_session_rewind(session, 7, NULL));
    CHECK(held(session) == 7);
    float *again = logits_of(session, &vocab);
    CHECK(same(logits, again, vocab));
    free(again);
    /* Before the mark as well, and to where it is. */
    OK(v4_session_rewind(session, 3, NULL));
    CHECK(held(session) == 3);
    OK(v4_session_append(session, ids + 3, 4, NULL));
    OK(v4_session_rewind(session, 7, NULL));
    again = logits_of(session, &vocab);
    CHECK(same(logits, again, vocab));
    free(again);
    OK(v4_session_rewind(session, 0, NULL));
    CHECK(held(session) == 0);
    free(logits);
    OK(v4_session_close(session));
    free(ids);
}

/* The logits after a text of a model that is opened like this. */
static float *logits_with(const char *model, const v4_engine_options *options) {
    v4_engine *engine = NULL;
    v4_session *session = NULL;
    size_t count = 0, vocab = 0;
    OK(v4_engine_open(model, options, &engine));
    uint32_t *ids = encode(engine, "fn main() {", &count);
    OK(v4_session_open(engine, NULL, &session));
    OK(v4_session_append(session, ids, count, NULL));
    float *logits = logits_of(session, &vocab);
    CHECK(vocab == 4096);
    OK(v4_session_close(session));
    OK(v4_engine_close(engine));
    free(ids);
    return logits;
}

/* Experts and Engram rows from the disk or from memory, read in either way: the same. */
static void test_reads(const world *w) {
    SIZED(v4_engine_options, options);
    SIZED(v4_plan, whole);
    SIZED(v4_plan, plan);

    options.threads = 2;
    options.context = 64;
    options.chunk = 16;
    options.memory = V4_MEMORY_UNBOUNDED;
    options.engram = V4_ENGRAM_MEMORY;
    OK(v4_plan_file(w->other, &options, &whole));
    CHECK(whole.engram_tables > 0 && whole.engram_memory == whole.engram_tables);
    CHECK(!whole.streamed);
    float *expected = logits_with(w->other, &options);

    options.engram = V4_ENGRAM_DISK;
    OK(v4_plan_file(w->other, &options, &plan));
    CHECK(plan.engram_memory != plan.engram_tables);
    options.memory = plan.total - plan.expert_bytes / 2;
    OK(v4_plan_file(w->other, &options, &plan));
    CHECK(plan.streamed && plan.expert_slots < plan.experts);
    for (int i = 0; i < 2; i++) {
        options.reads = i == 0 ? w->reads : V4_READS_THREADS;
        float *logits = logits_with(w->other, &options);
        CHECK(same(expected, logits, 4096));
        free(logits);
    }
    free(expected);
}

void test_session(const world *w) {
    test_open(w);
    test_append(w);
    test_sync(w);
    test_hooks(w);
    test_rewind(w);
    test_reads(w);
}

void test_files(const world *w) {
    size_t count = 0, vocab = 0;
    uint32_t *ids = encode(w->engine, TEXT, &count);
    char path[4096], damaged[4096];
    v4_session *session = NULL, *restored = NULL;
    v4_engine *other = NULL;
    SIZED(v4_engine_options, options);
    const float *none = NULL;

    snprintf(path, sizeof path, "%s/a.session", w->folder);
    snprintf(damaged, sizeof damaged, "%s/b.session", w->folder);
    remove(path);
    STATUS(V4_IO, v4_session_restore(w->engine, path, NULL, NULL, &restored));
    CHECK(restored == NULL);
    /* Looking for one does not make it. */
    CHECK(fopen(path, "rb") == NULL);

    OK(v4_session_open(w->engine, NULL, &session));
    OK(v4_session_append(session, ids, count - 3, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_session_save(NULL, path, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_session_save(session, NULL, NULL));
    STATUS(V4_IO, v4_session_save(session, "/no/such/folder/a.session", NULL));
    OK(v4_session_save(session, path, NULL));
    OK(v4_session_append(session, ids + count - 3, 2, NULL));
    OK(v4_session_save(session, path, NULL));
    OK(v4_session_save(session, path, NULL));

    STATUS(V4_INVALID_ARGUMENT, v4_session_restore(NULL, path, NULL, NULL, &restored));
    STATUS(V4_INVALID_ARGUMENT, v4_session_restore(w->engine, NULL, NULL, NULL, &restored));
    STATUS(V4_INVALID_ARGUMENT, v4_session_restore(w->engine, path, NULL, NULL, NULL));
    OK(v4_session_restore(w->engine, path, NULL, NULL, &restored));
    CHECK(held(restored) == count - 1);
    STATUS(V4_NO_LOGITS, v4_session_logits(restored, &none, &vocab));
    OK(v4_session_rewind(restored, count - 1, NULL));
    OK(v4_session_logits(restored, &none, &vocab));
    OK(v4_session_append(session, ids + count - 1, 1, NULL));
    OK(v4_session_append(restored, ids + count - 1, 1, NULL));
    float *a = logits_of(session, &vocab), *b = logits_of(restored, &vocab);
    CHECK(same(a, b, vocab));
    free(a);
    free(b);
    OK(v4_session_close(restored));

    /* Too small a context, another model, damage. */
    SIZED(v4_session_options, small);
    small.context = 2;
    restored = NULL;
    STATUS(V4_CONTEXT_FULL, v4_session_restore(w->engine, path, NULL, &small, &restored));
    options.threads = 1;
    options.context = 64;
    options.reads = w->reads;
    OK(v4_engine_open(w->other, &options, &other));
    STATUS(V4_BAD_SESSION_FILE, v4_session_restore(other, path, NULL, NULL, &restored));
    OK(v4_engine_close(other));
    FILE *from = fopen(path, "rb"), *to = fopen(damaged, "wb");
    CHECK(from != NULL && to != NULL);
    for (int c, i = 0; (c = getc(from)) != EOF; i++)
        putc(i == 4200 ? c ^ 1 : c, to);
    CHECK(fclose(from) == 0 && fclose(to) == 0);
    STATUS(V4_BAD_SESSION_FILE, v4_session_restore(w->engine, damaged, NULL, NULL, &restored));
    CHECK(strstr(v4_last_error(), "damaged") != NULL);
    STATUS(V4_BAD_SESSION_FILE, v4_session_restore(w->engine, w->model, NULL, NULL, &restored));
    CHECK(restored == NULL);

    /* Encrypted: with its key alone, and not readable without. */
    static const uint8_t key[32] = "a key of a test, never of a user";
    SIZED(v4_file_options, sealed);
    snprintf(path, sizeof path, "%s/c.session", w->folder);
    sealed.key = key;
    sealed.key_length = 31;
    STATUS(V4_INVALID_ARGUMENT, v4_session_save(session, path, &sealed));
    sealed.key_length = 32;
    sealed.size = 4;
    STATUS(V4_INVALID_ARGUMENT, v4_session_save(session, path, &sealed));
    sealed.size = sizeof sealed;
    sealed.key = NULL;
    STATUS(V4_INVALID_ARGUMENT, v4_session_save(session, path, &sealed));
    sealed.key = key;
    OK(v4_session_save(session, path, &sealed));
    STATUS(V4_BAD_SESSION_FILE, v4_session_restore(w->engine, path, NULL, NULL, &restored));
    OK(v4_session_restore(w->engine, path, &sealed, NULL, &restored));
    CHECK(held(restored) == count);
    OK(v4_session_close(restored));

    OK(v4_session_close(session));
    free(ids);
}
