/* Samplers and answers. */
#include "check.h"

void test_sampler(const world *w) {
    v4_sampler *sampler = NULL, *other = NULL;
    v4_session *session = NULL;
    const float logits[5] = {0.5f, 3.0f, -1.0f, 2.9f, 0.0f};
    float odd[2] = {0};
    uint32_t history[1] = {1}, id = 99, first[8];
    uint64_t draws = 99;
    size_t count = 0;
    uint32_t *ids = encode(w->engine, TEXT, &count);

    STATUS(V4_INVALID_ARGUMENT, v4_sampler_open(NULL, NULL));
    OK(v4_sampler_open(NULL, &sampler));
    OK(v4_sampler_sample_logits(sampler, logits, 5, NULL, 0, &id));
    CHECK(id == 1);
    OK(v4_sampler_draws(sampler, &draws));
    CHECK(draws == 0);
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_sample_logits(NULL, logits, 5, NULL, 0, &id));
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_sample_logits(sampler, NULL, 5, NULL, 0, &id));
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_sample_logits(sampler, logits, 0, NULL, 0, &id));
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_sample_logits(sampler, logits, 5, NULL, 1, &id));
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_sample_logits(sampler, logits, 5, NULL, 0, NULL));
    odd[0] = odd[1] / odd[1];
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_sample_logits(sampler, odd, 2, NULL, 0, &id));
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_draws(NULL, &draws));
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_draws(sampler, NULL));
    OK(v4_sampler_close(NULL));

    /* From a session: what its logits say. */
    OK(v4_session_open(w->engine, NULL, &session));
    STATUS(V4_NO_LOGITS, v4_sampler_sample(sampler, session, &id));
    OK(v4_session_append(session, ids, count, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_sample(NULL, session, &id));
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_sample(sampler, NULL, &id));
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_sample(sampler, session, NULL));
    OK(v4_sampler_sample(sampler, session, &id));
    const float *own = NULL;
    size_t vocab = 0;
    OK(v4_session_logits(session, &own, &vocab));
    for (size_t i = 0; i < vocab; i++)
        CHECK(own[i] <= own[id]);
    OK(v4_session_close(session));
    OK(v4_sampler_close(sampler));

    /* Options that are out of range. */
    SIZED(v4_sampler_options, options);
    options.temperature = -1;
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_open(&options, &other));
    options.temperature = 1;
    options.top_p = 2;
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_open(&options, &other));
    options.top_p = 0;
    options.min_p = -1;
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_open(&options, &other));
    options.min_p = 0;
    options.repetition_penalty = -2;
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_open(&options, &other));
    options.repetition_penalty = 0;
    options.reserved = 1;
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_open(&options, &other));
    options.reserved = 0;
    options.size = 4;
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_open(&options, &other));
    options.size = sizeof options;
    CHECK(other == NULL);

    /* The same seed, the same choices; and on from the middle. */
    options.seed = 5;
    OK(v4_sampler_open(&options, &sampler));
    for (int i = 0; i < 8; i++)
        OK(v4_sampler_sample_logits(sampler, logits, 5, NULL, 0, &first[i]));
    OK(v4_sampler_draws(sampler, &draws));
    CHECK(draws == 8);
    OK(v4_sampler_close(sampler));
    options.draws = 3;
    OK(v4_sampler_open(&options, &sampler));
    for (int i = 3; i < 8; i++) {
        OK(v4_sampler_sample_logits(sampler, logits, 5, NULL, 0, &id));
        CHECK(id == first[i]);
    }
    OK(v4_sampler_close(sampler));

    /* A penalty takes the best token's place away. */
    SIZED(v4_sampler_options, penalty);
    penalty.repetition_penalty = 2;
    OK(v4_sampler_open(&penalty, &sampler));
    OK(v4_sampler_sample_logits(sampler, logits, 5, history, 1, &id));
    CHECK(id == 3);
    history[0] = 5;
    STATUS(V4_INVALID_ARGUMENT, v4_sampler_sample_logits(sampler, logits, 5, history, 1, &id));
    OK(v4_sampler_close(sampler));
    free(ids);
}

typedef struct {
    uint32_t ids[64];
    size_t count;
    char text[4096];
    size_t stop_at;
    v4_session *session;
    v4_sampler *sampler;
    v4_cancel *cancel;
    size_t cancel_at;
} answer;

static int32_t on_token(void *user, const v4_token *token) {
    answer *a = user;
    CHECK(token->size == sizeof *token && strlen(token->text) == token->length);
    strncat(a->text, token->text, sizeof a->text - strlen(a->text) - 1);
    if (token->id == V4_NO_TOKEN)
        return 0;
    CHECK(a->count < 64);
    a->ids[a->count++] = token->id;
    if (a->session != NULL) {
        uint32_t id = 0;
        STATUS(V4_BUSY, v4_session_append(a->session, a->ids, 1, NULL));
        STATUS(V4_BUSY, v4_session_close(a->session));
        STATUS(V4_BUSY, v4_sampler_sample(a->sampler, a->session, &id));
        STATUS(V4_BUSY, v4_sampler_close(a->sampler));
    }
    if (a->cancel != NULL && a->count == a->cancel_at)
        OK(v4_cancel_request(a->cancel));
    return a->count == a->stop_at;
}

/* A session that has read the text, and an answer of `count` tokens at most. */
static v4_session *ready(const world *w, const uint32_t *ids, size_t count) {
    v4_session *session = NULL;
    OK(v4_session_open(w->engine, NULL, &session));
    OK(v4_session_append(session, ids, count, NULL));
    return session;
}

/* What the session holds is the prompt and the answer. */
static void check_holds(v4_session *session, const uint32_t *ids, size_t count,
                        const answer *a) {
    const uint32_t *tokens = NULL;
    size_t held = 0;
    OK(v4_session_tokens(session, &tokens, &held));
    CHECK(held == count + a->count);
    CHECK(memcmp(tokens, ids, count * sizeof *ids) == 0);
    CHECK(memcmp(tokens + count, a->ids, a->count * sizeof *ids) == 0);
}

static void test_ends(const world *w, const uint32_t *ids, size_t count) {
    SIZED(v4_generate_options, options);
    SIZED(v4_generate_result, result);
    v4_sampler *sampler = NULL;
    v4_session *session, *whole = NULL;
    answer a = {0}, b = {0};
    char text[4096];
    size_t length = 0, vocab = 0;

    /* A number of tokens, in one go or in two: the same. */
    OK(v4_sampler_open(NULL, &sampler));
    session = ready(w, ids, count);
    options.max_tokens = 12;
    OK(v4_session_generate(session, sampler, &options, on_token, &a, &result));
    CHECK(result.finish == V4_FINISH_LENGTH && result.tokens == 12 && a.count == 12);
    check_holds(session, ids, count, &a);
    OK(v4_tokenizer_decode(w->engine, a.ids, a.count, V4_DECODE_UTF8, text, sizeof text,
                           &length));
    CHECK(strcmp(text, a.text) == 0);
    OK(v4_session_close(session));
    session = ready(w, ids, count);
    options.max_tokens = 5;
    OK(v4_session_generate(session, sampler, &options, on_token, &b, NULL));
    check_holds(session, ids, count, &b);
    options.max_tokens = 7;
    b.session = session;
    b.sampler = sampler;
    OK(v4_session_generate(session, sampler, &options, on_token, &b, NULL));
    CHECK(memcmp(a.ids, b.ids, sizeof a.ids) == 0);
    check_holds(session, ids, count, &b);

    /* The logits after the answer are those of a session that read it all. */
    const float *after = NULL, *read = NULL;
    OK(v4_session_open(w->engine, NULL, &whole));
    OK(v4_session_append(whole, ids, count, NULL));
    OK(v4_session_append(whole, a.ids, a.count, NULL));
    OK(v4_session_logits(session, &after, &vocab));
    OK(v4_session_logits(whole, &read, &vocab));
    CHECK(memcmp(after, read, vocab * sizeof *read) == 0);
    OK(v4_session_close(whole));

    /* The callback stops. */
    memset(&b, 0, sizeof b);
    b.stop_at = 4;
    options.max_tokens = 0;
    OK(v4_session_generate(session, sampler, &options, on_token, &b, &result));
    CHECK(result.finish == V4_FINISH_CALLBACK && result.tokens == 4 && b.count == 4);
    OK(v4_session_close(session));

    /* Cancelled in the middle, and before anything was done. */
    memset(&b, 0, sizeof b);
    session = ready(w, ids, count);
    OK(v4_cancel_open(&b.cancel));
    b.cancel_at = 3;
    options.cancel = b.cancel;
    result.tokens = 0;
    STATUS(V4_CANCELLED, v4_session_generate(session, sampler, &options, on_token, &b, &result));
    CHECK(result.finish == V4_FINISH_CANCELLED && result.tokens == 3 && b.count == 3);
    check_holds(session, ids, count, &b);
    STATUS(V4_CANCELLED, v4_session_generate(session, sampler, &options, on_token, &b, &result));
    CHECK(result.tokens == 0 && b.count == 3);
    OK(v4_cancel_reset(b.cancel));
    options.max_tokens = 1;
    OK(v4_session_generate(session, sampler, &options, on_token, &b, &result));
    CHECK(b.count == 4 && memcmp(a.ids, b.ids, 4 * sizeof *b.ids) == 0);
    OK(v4_cancel_close(b.cancel));
    OK(v4_session_close(session));
    OK(v4_sampler_close(sampler));
}

/* Stop strings: from the answer without them, so that they are sure to come. */
static void test_stops(const world *w, const uint32_t *ids, size_t count) {
    SIZED(v4_generate_options, options);
    SIZED(v4_generate_result, result);
    v4_sampler *sampler = NULL;
    v4_session *session = ready(w, ids, count);
    answer a = {0}, b = {0};
    char stop[8] = "", longer[1026];
    const char *stops[2] = {"\x01 never said", stop};

    OK(v4_sampler_open(NULL, &sampler));
    options.max_tokens = 16;
    OK(v4_session_generate(session, sampler, &options, on_token, &a, &result));
    CHECK(result.seconds > 0);
    OK(v4_session_close(session));
    /* Two ASCII characters from the middle. */
    size_t at = strlen(a.text) / 2;
    while (at > 0 && ((a.text[at] | a.text[at + 1]) & 0x80))
        at--;
    memcpy(stop, a.text + at, 2);
    const char *first = strstr(a.text, stop);
    CHECK(first != NULL);

    session = ready(w, ids, count);
    options.stop = stops;
    options.stop_count = 2;
    OK(v4_session_generate(session, sampler, &options, on_token, &b, &result));
    CHECK(result.finish == V4_FINISH_STOP_STRING);
    CHECK(strlen(b.text) == (size_t)(first - a.text) &&
          strncmp(a.text, b.text, strlen(b.text)) == 0);
    check_holds(session, ids, count, &b);

    /* One that does not come: what was held back is told in the end. */
    OK(v4_session_rewind(session, count, NULL));
    snprintf(stop, sizeof stop, "%.2s\x02", a.text + strlen(a.text) - 2);
    memset(&b, 0, sizeof b);
    OK(v4_session_generate(session, sampler, &options, on_token, &b, &result));
    CHECK(strcmp(a.text, b.text) == 0 && result.finish == V4_FINISH_LENGTH);

    stops[0] = "";
    STATUS(V4_INVALID_ARGUMENT, v4_session_generate(session, sampler, &options, NULL, NULL, NULL));
    stops[0] = NULL;
    STATUS(V4_INVALID_ARGUMENT, v4_session_generate(session, sampler, &options, NULL, NULL, NULL));
    stops[0] = "\xff";
    STATUS(V4_INVALID_UTF8, v4_session_generate(session, sampler, &options, NULL, NULL, NULL));
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    stops[0] = longer;
    STATUS(V4_INVALID_ARGUMENT, v4_session_generate(session, sampler, &options, NULL, NULL, NULL));
    options.stop_count = 65;
    STATUS(V4_INVALID_ARGUMENT, v4_session_generate(session, sampler, &options, NULL, NULL, NULL));
    options.stop = NULL;
    STATUS(V4_INVALID_ARGUMENT, v4_session_generate(session, sampler, &options, NULL, NULL, NULL));
    OK(v4_session_close(session));
    OK(v4_sampler_close(sampler));
}

static void test_full(const world *w, const uint32_t *ids, size_t count) {
    SIZED(v4_session_options, small);
    SIZED(v4_generate_result, result);
    v4_sampler *sampler = NULL;
    v4_session *session = NULL;
    answer a = {0};

    OK(v4_sampler_open(NULL, &sampler));
    small.context = (uint32_t)count + 6;
    OK(v4_session_open(w->engine, &small, &session));
    OK(v4_session_append(session, ids, count, NULL));
    OK(v4_session_generate(session, sampler, NULL, on_token, &a, &result));
    CHECK(result.finish == V4_FINISH_CONTEXT_FULL && a.count == 7);
    a.count--;
    check_holds(session, ids, count, &a);
    OK(v4_session_close(session));
    OK(v4_sampler_close(sampler));
}

static void test_misuse(const world *w, const uint32_t *ids, size_t count) {
    SIZED(v4_generate_options, options);
    SIZED(v4_generate_result, result);
    v4_sampler *sampler = NULL;
    v4_session *session = NULL;

    OK(v4_sampler_open(NULL, &sampler));
    OK(v4_session_open(w->engine, NULL, &session));
    STATUS(V4_NO_LOGITS, v4_session_generate(session, sampler, NULL, NULL, NULL, NULL));
    OK(v4_session_append(session, ids, count, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_session_generate(NULL, sampler, NULL, NULL, NULL, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_session_generate(session, NULL, NULL, NULL, NULL, NULL));
    options.size = 15;
    STATUS(V4_INVALID_ARGUMENT,
           v4_session_generate(session, sampler, &options, NULL, NULL, NULL));
    options.size = sizeof options;
    result.size = 4;
    STATUS(V4_INVALID_ARGUMENT,
           v4_session_generate(session, sampler, &options, NULL, NULL, &result));
    /* Nobody needs to listen. */
    options.max_tokens = 2;
    OK(v4_session_generate(session, sampler, &options, NULL, NULL, NULL));
    OK(v4_session_close(session));
    OK(v4_sampler_close(sampler));
}

void test_generate(const world *w) {
    size_t count = 0;
    uint32_t *ids = encode(w->engine, TEXT, &count);
    test_ends(w, ids, count);
    test_stops(w, ids, count);
    test_full(w, ids, count);
    test_misuse(w, ids, count);
    free(ids);
}
