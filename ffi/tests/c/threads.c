/* Several threads: sessions beside each other, one session twice, cancelling. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <pthread.h>
#include <time.h>

/* The least that the header asks for. */
#define STACK (256 * 1024)

static pthread_t start(void *(*run)(void *), void *argument) {
    pthread_t thread;
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, STACK) == 0);
    CHECK(pthread_create(&thread, &attributes, run, argument) == 0);
    pthread_attr_destroy(&attributes);
    return thread;
}

typedef struct {
    const world *w;
    uint64_t seed;
    const char *text;
    uint32_t ids[16];
    size_t count;
    int wrong;
    char error[256];
} job;

static int32_t take(void *user, const v4_token *token) {
    job *j = user;
    if (token->id != V4_NO_TOKEN && j->count < 16)
        j->ids[j->count++] = token->id;
    return 0;
}

/* Answers a text by itself. No CHECK in here: it counts without a lock. */
static void *answer(void *argument) {
    job *j = argument;
    v4_session *session = NULL;
    v4_sampler *sampler = NULL;
    uint32_t ids[64];
    size_t count = 0;
    SIZED(v4_sampler_options, sampling);
    SIZED(v4_generate_options, options);
    sampling.temperature = 1;
    sampling.seed = j->seed;
    options.max_tokens = 10;
    j->count = 0;
    j->wrong |= v4_tokenizer_encode(j->w->engine, j->text, V4_STRLEN, V4_ENCODE_BOS, ids, 64,
                                    &count);
    j->wrong |= v4_session_open(j->w->engine, NULL, &session);
    j->wrong |= v4_sampler_open(&sampling, &sampler);
    j->wrong |= v4_session_append(session, ids, count, NULL);
    j->wrong |= v4_session_generate(session, sampler, &options, take, j, NULL);
    j->wrong |= v4_sampler_close(sampler);
    j->wrong |= v4_session_close(session);
    /* Each thread has a message of its own. */
    char path[64];
    v4_engine *none = NULL;
    snprintf(path, sizeof path, "/no/such/%d", (int)j->seed);
    j->wrong |= v4_engine_open(path, NULL, &none) != V4_IO;
    snprintf(j->error, sizeof j->error, "%s", v4_last_error());
    return NULL;
}

static void test_beside(const world *w) {
    job alone[2] = {{.w = w, .seed = 1, .text = "fn main() {"},
                    {.w = w, .seed = 2, .text = "import os\n"}};
    job beside[2] = {alone[0], alone[1]};
    pthread_t threads[2];

    for (int i = 0; i < 2; i++) {
        answer(&alone[i]);
        CHECK(alone[i].wrong == 0 && alone[i].count > 0);
    }
    for (int i = 0; i < 2; i++)
        threads[i] = start(answer, &beside[i]);
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(beside[i].wrong == 0 && beside[i].count == alone[i].count);
        CHECK(memcmp(beside[i].ids, alone[i].ids, sizeof alone[i].ids) == 0);
        char path[64];
        snprintf(path, sizeof path, "/no/such/%d:", i + 1);
        CHECK(strstr(beside[i].error, path) != NULL);
    }
}

/* A gate that one thread waits at until another opens it. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int stage;
} gate;

static void move_to(gate *g, int stage) {
    pthread_mutex_lock(&g->lock);
    g->stage = stage;
    pthread_cond_broadcast(&g->moved);
    pthread_mutex_unlock(&g->lock);
}

static void wait_for(gate *g, int stage) {
    pthread_mutex_lock(&g->lock);
    while (g->stage < stage)
        pthread_cond_wait(&g->moved, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

typedef struct {
    gate gate;
    v4_session *session;
    v4_sampler *sampler;
    v4_cancel *cancel;
    int hold, tokens;
    v4_status status;
    v4_generate_result result;
} shared;

static int32_t on_token(void *user, const v4_token *token) {
    shared *s = user;
    s->tokens += token->id != V4_NO_TOKEN;
    if (s->tokens == 2) {
        move_to(&s->gate, 1);
        /* Holds the session until the other thread has tried to use it. */
        if (s->hold)
            wait_for(&s->gate, 2);
    }
    return s->hold && s->tokens == 2;
}

static void *generate(void *argument) {
    shared *s = argument;
    SIZED(v4_generate_options, options);
    options.cancel = s->cancel;
    s->result.size = sizeof s->result;
    s->status = v4_session_generate(s->session, s->sampler, &options, on_token, s, &s->result);
    return NULL;
}

static void test_one_session_twice(const world *w, uint32_t *ids, size_t count) {
    shared s = {.gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0}, .hold = 1};
    v4_session *fork = NULL;
    uint32_t id = 0;

    OK(v4_session_open(w->engine, NULL, &s.session));
    OK(v4_sampler_open(NULL, &s.sampler));
    OK(v4_session_append(s.session, ids, count, NULL));
    pthread_t thread = start(generate, &s);
    wait_for(&s.gate, 1);
    STATUS(V4_BUSY, v4_session_append(s.session, ids, 1, NULL));
    STATUS(V4_BUSY, v4_session_fork(s.session, &fork));
    STATUS(V4_BUSY, v4_sampler_sample(s.sampler, s.session, &id));
    STATUS(V4_BUSY, v4_session_close(s.session));
    move_to(&s.gate, 2);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(s.status == V4_OK && s.result.finish == V4_FINISH_CALLBACK);
    OK(v4_session_append(s.session, ids, 1, NULL));
    OK(v4_session_close(s.session));
    OK(v4_sampler_close(s.sampler));
}

static void test_cancel_from_outside(const world *w, uint32_t *ids, size_t count) {
    shared s = {.gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0}};
    SIZED(v4_sampler_options, sampling);
    sampling.temperature = 1;

    OK(v4_session_open(w->engine, NULL, &s.session));
    OK(v4_sampler_open(&sampling, &s.sampler));
    OK(v4_cancel_open(&s.cancel));
    OK(v4_session_append(s.session, ids, count, NULL));
    pthread_t thread = start(generate, &s);
    wait_for(&s.gate, 1);
    OK(v4_cancel_request(s.cancel));
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(s.status == V4_CANCELLED && s.result.finish == V4_FINISH_CANCELLED);
    CHECK((int)s.result.tokens == s.tokens && s.tokens >= 2);
    OK(v4_cancel_close(s.cancel));
    OK(v4_session_close(s.session));
    OK(v4_sampler_close(s.sampler));
}

void test_threads(const world *w) {
    size_t count = 0;
    uint32_t *ids = encode(w->engine, TEXT, &count);
    test_beside(w);
    test_one_session_twice(w, ids, count);
    test_cancel_from_outside(w, ids, count);
    free(ids);
}
