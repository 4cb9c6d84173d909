/*
 * Drafts: the same tokens, logits and files with them and without, however an answer is
 * interrupted. The folder has
 *
 *   drafts.gguf         a model with a draft module of DSpark
 *   module.gguf         the module alone, for the program's MODEL
 *   signed-module.gguf  the same, signed as signed.gguf is
 *   stranger.gguf       a module of another model
 */
#include "check.h"

/* As many tokens as an answer has at most, and has here. */
enum { LENGTH = 40 };
static uint32_t length = LENGTH;
/* With -t, under valgrind, a token takes a long time: there is less of everything. */
static int slow = 0;

/* A text that repeats itself: what follows can be looked up. */
static const char LIST[] = "let a = 1;\nlet b = 2;\nlet a = 1;\nlet b = 2;\nlet a = 1;\n";

static const char *in_folder(const world *w, const char *name) {
    static struct {
        char name[64], path[4096];
    } all[16];
    size_t i = 0;
    while (all[i].name[0] != 0 && strcmp(all[i].name, name) != 0)
        i++;
    CHECK(i + 1 < sizeof all / sizeof *all);
    snprintf(all[i].name, sizeof all[i].name, "%s", name);
    snprintf(all[i].path, sizeof all[i].path, "%s/%s", w->folder, name);
    return all[i].path;
}

static v4_engine_options small(const world *w) {
    SIZED(v4_engine_options, options);
    options.threads = 2;
    options.context = 256;
    options.chunk = 16;
    options.memory = V4_MEMORY_UNBOUNDED;
    options.reads = w->reads;
    return options;
}

static v4_facts facts_of(const v4_engine *engine) {
    SIZED(v4_facts, facts);
    OK(v4_engine_facts(engine, &facts));
    return facts;
}

static v4_plan plan_of(const v4_engine *engine) {
    SIZED(v4_plan, plan);
    OK(v4_engine_plan(engine, &plan));
    return plan;
}

static v4_sampler *dice(float temperature) {
    SIZED(v4_sampler_options, options);
    v4_sampler *sampler = NULL;
    options.temperature = temperature;
    options.seed = 7;
    OK(v4_sampler_open(&options, &sampler));
    return sampler;
}

/* How an answer is generated. */
typedef struct {
    int32_t draft;
    float temperature;
    /* Tokens of each call; 0 for all in one. */
    uint32_t piece;
    /* Done between calls: nothing, or one of the others. */
    enum { NOTHING, SAVE, MARK, FORK, LOGITS, AGAIN, BACK } between;
} way;

/* What comes of it. */
typedef struct {
    uint32_t ids[LENGTH];
    uint32_t count;
    uint64_t passes, drafts, accepted;
    unsigned char *file;
    size_t bytes;
    float *logits;
} outcome;

typedef struct {
    outcome *o;
    uint32_t stop_at;
    v4_cancel *cancel;
} taker;

static int32_t take(void *user, const v4_token *token) {
    taker *t = user;
    if (token->id == V4_NO_TOKEN)
        return 0;
    CHECK(t->o->count < LENGTH);
    t->o->ids[t->o->count++] = token->id;
    if (t->o->count != t->stop_at)
        return 0;
    if (t->cancel == NULL)
        return 1;
    OK(v4_cancel_request(t->cancel));
    return 0;
}

/* The session holds the prompt and what was handed out, and nothing else. */
static void check_held(v4_session *session, const uint32_t *ids, size_t count,
                       const outcome *o) {
    const uint32_t *tokens = NULL;
    size_t held = 0;
    OK(v4_session_tokens(session, &tokens, &held));
    CHECK(held == count + o->count);
    CHECK(memcmp(tokens, ids, count * sizeof *ids) == 0);
    CHECK(memcmp(tokens + count, o->ids, o->count * sizeof *ids) == 0);
}

static unsigned char *contents(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
    long end = ftell(file);
    CHECK(end > 0 && fseek(file, 0, SEEK_SET) == 0);
    unsigned char *all = malloc((size_t)end);
    CHECK(all != NULL && fread(all, 1, (size_t)end, file) == (size_t)end);
    fclose(file);
    *bytes = (size_t)end;
    return all;
}

/* What an answer leaves: its session's file, and its last logits. */
static void keep(const world *w, v4_session *session, outcome *o) {
    const char *path = in_folder(w, "drafted.session");
    const float *logits = NULL;
    size_t vocab = 0;
    remove(path);
    OK(v4_session_save(session, path, NULL));
    o->file = contents(path, &o->bytes);
    OK(v4_session_logits(session, &logits, &vocab));
    o->logits = malloc(vocab * sizeof *logits);
    CHECK(o->logits != NULL);
    memcpy(o->logits, logits, vocab * sizeof *logits);
}

static void forget(outcome *o) {
    free(o->file);
    free(o->logits);
}

/* The same text, and the same after it. */
static void check_text(const outcome *a, const outcome *b) {
    CHECK(a->count == b->count);
    CHECK(memcmp(a->ids, b->ids, a->count * sizeof *a->ids) == 0);
    CHECK(memcmp(a->logits, b->logits, 4096 * sizeof *a->logits) == 0);
}

/* The same file too. It also counts rows of layers that were run, of which there are more
 * if a module is loaded: of two engines, only those that both have one or have none. */
static void check_same(const outcome *a, const outcome *b) {
    check_text(a, b);
    CHECK(a->bytes == b->bytes && memcmp(a->file, b->file, a->bytes) == 0);
}

/* Between two calls; gives the session to go on with. */
static v4_session *between(const world *w, way how, v4_session *session, outcome *o,
                           size_t count) {
    v4_session *other = NULL;
    const float *logits = NULL;
    const uint32_t *ids = NULL;
    size_t vocab = 0, held = 0;
    switch (how.between) {
    case SAVE:
        OK(v4_session_save(session, in_folder(w, "between.session"), NULL));
        break;
    case MARK:
        OK(v4_session_mark(session));
        break;
    case FORK:
        OK(v4_session_fork(session, &other));
        OK(v4_session_close(session));
        return other;
    case LOGITS:
        OK(v4_session_logits(session, &logits, &vocab));
        CHECK(vocab == 4096);
        break;
    case AGAIN: {
        /* The same tokens as a caller has them. */
        uint32_t copy[512];
        OK(v4_session_tokens(session, &ids, &held));
        memcpy(copy, ids, held * sizeof *ids);
        OK(v4_session_sync(session, copy, held, NULL));
        break;
    }
    case BACK:
        /* One token is taken back, and read again. */
        OK(v4_session_rewind(session, count + o->count - 1, NULL));
        OK(v4_session_append(session, o->ids + o->count - 1, 1, NULL));
        break;
    case NOTHING:
        break;
    }
    return session;
}

static outcome run(const world *w, const v4_engine *engine, const char *text, way how) {
    SIZED(v4_generate_options, options);
    SIZED(v4_generate_result, result);
    outcome o = {0};
    taker t = {&o, 0, NULL};
    v4_session *session = NULL;
    v4_sampler *sampler = dice(how.temperature);
    size_t count = 0;
    uint32_t *ids = encode(engine, text, &count);

    OK(v4_session_open(engine, NULL, &session));
    OK(v4_session_append(session, ids, count, NULL));
    options.draft = how.draft;
    remove(in_folder(w, "between.session"));
    while (o.count < length) {
        uint32_t left = length - o.count;
        options.max_tokens = how.piece == 0 || how.piece > left ? left : how.piece;
        OK(v4_session_generate(session, sampler, &options, take, &t, &result));
        o.passes += result.passes;
        o.drafts += result.drafts;
        o.accepted += result.drafts_accepted;
        check_held(session, ids, count, &o);
        if (result.finish != V4_FINISH_LENGTH)
            break;
        if (o.count < length)
            session = between(w, how, session, &o, count);
    }
    CHECK(o.accepted <= o.drafts);
    /* Every token but the last was read, in a pass or as a draft. */
    if (how.between == NOTHING && result.finish == V4_FINISH_LENGTH)
        CHECK(o.passes + o.accepted == o.count - 1);
    keep(w, session, &o);
    OK(v4_session_close(session));
    OK(v4_sampler_close(sampler));
    free(ids);
    return o;
}

static void test_tokens(const world *w, const v4_engine *engine, const char *text) {
    const int32_t all[] = {1, 3, 5, V4_DRAFT_MOST, V4_DRAFT_AUTO, V4_DRAFT_DEFAULT};
    const way off = {V4_DRAFT_OFF, 0, 0, NOTHING};

    for (int hot = 0; hot < (slow ? 1 : 2); hot++) {
        way plain = off;
        plain.temperature = hot ? 1.0f : 0.0f;
        outcome expected = run(w, engine, text, plain);
        CHECK(expected.drafts == 0 && expected.count > length / 2);
        for (size_t i = slow ? 2 : 0; i < sizeof all / sizeof *all; i += slow ? 9 : 1) {
            way how = {all[i], plain.temperature, 0, NOTHING};
            outcome o = run(w, engine, text, how);
            check_same(&expected, &o);
            if (all[i] > 0 && !hot)
                CHECK(o.accepted > 0);
            forget(&o);
            /* Token by token what was read ahead is still there in the next call. */
            how.piece = 1;
            o = run(w, engine, text, how);
            CHECK(o.count == expected.count &&
                  memcmp(o.ids, expected.ids, o.count * sizeof *o.ids) == 0);
            if (all[i] > 0 && !hot)
                CHECK(o.accepted > 0 && o.passes < o.count - 1);
            forget(&o);
        }
        /* Whatever is done between calls. */
        for (int what = SAVE; what <= BACK; what += slow ? 5 : 1) {
            way pieces = plain, drafted = plain;
            pieces.piece = drafted.piece = 3;
            pieces.between = drafted.between = what;
            drafted.draft = 5;
            outcome a = run(w, engine, text, pieces), b = run(w, engine, text, drafted);
            CHECK(a.drafts == 0 && b.drafts > 0);
            CHECK(memcmp(a.ids, expected.ids, a.count * sizeof *a.ids) == 0);
            check_same(&a, &b);
            forget(&a);
            forget(&b);
        }
        forget(&expected);
    }
}

/* Stopped at any token, by the callback or by a v4_cancel: the session holds what was handed
 * out, and the answer goes on as if nothing had been. */
static void test_interruptions(const world *w, const v4_engine *engine) {
    const way off = {V4_DRAFT_OFF, 0, 0, NOTHING};
    outcome expected = run(w, engine, LIST, off);
    size_t count = 0;
    uint32_t *ids = encode(engine, LIST, &count);
    v4_sampler *sampler = dice(0);
    v4_cancel *cancel = NULL;

    OK(v4_cancel_open(&cancel));
    for (uint32_t at = 1; at < length; at += slow ? 99 : 1) {
        for (int cancelled = 0; cancelled < 2; cancelled++) {
            SIZED(v4_generate_options, options);
            SIZED(v4_generate_result, result);
            outcome o = {0};
            taker t = {&o, at, cancelled ? cancel : NULL};
            v4_session *session = NULL;
            OK(v4_session_open(engine, NULL, &session));
            OK(v4_session_append(session, ids, count, NULL));
            options.draft = 5;
            options.max_tokens = length;
            options.cancel = cancel;
            v4_status status =
                v4_session_generate(session, sampler, &options, take, &t, &result);
            CHECK(status == (cancelled ? V4_CANCELLED : V4_OK) && o.count == at);
            CHECK(result.finish == (cancelled ? V4_FINISH_CANCELLED : V4_FINISH_CALLBACK));
            check_held(session, ids, count, &o);
            OK(v4_cancel_reset(cancel));
            options.max_tokens = length - at;
            t.stop_at = 0;
            OK(v4_session_generate(session, sampler, &options, take, &t, NULL));
            check_held(session, ids, count, &o);
            keep(w, session, &o);
            check_same(&expected, &o);
            forget(&o);
            OK(v4_session_close(session));
        }
    }
    OK(v4_cancel_close(cancel));
    OK(v4_sampler_close(sampler));
    forget(&expected);
    free(ids);
}

/* The context ends in the middle of what could be read ahead. */
static void test_room(const v4_engine *engine) {
    for (uint32_t room = 1; room < 8; room++) {
        SIZED(v4_session_options, sizes);
        SIZED(v4_generate_options, options);
        SIZED(v4_generate_result, result);
        outcome o[2];
        memset(o, 0, sizeof o);
        size_t count = 0;
        uint32_t *ids = encode(engine, LIST, &count);
        v4_sampler *sampler = dice(0);
        sizes.context = (uint32_t)count + room;
        for (int drafted = 0; drafted < 2; drafted++) {
            taker t = {&o[drafted], 0, NULL};
            v4_session *session = NULL;
            OK(v4_session_open(engine, &sizes, &session));
            OK(v4_session_append(session, ids, count, NULL));
            options.draft = drafted ? 15 : V4_DRAFT_OFF;
            OK(v4_session_generate(session, sampler, &options, take, &t, &result));
            CHECK(result.finish == V4_FINISH_CONTEXT_FULL && t.o->count == room + 1);
            OK(v4_session_close(session));
        }
        CHECK(memcmp(o[0].ids, o[1].ids, sizeof o[0].ids) == 0);
        OK(v4_sampler_close(sampler));
        free(ids);
    }
}

static void test_misuse(const world *w) {
    v4_engine *engine = NULL;
    v4_session *session = NULL;
    v4_sampler *sampler = dice(0);
    v4_engine_options options = small(w);
    SIZED(v4_generate_options, asked);
    SIZED(v4_plan, plan);
    const int32_t wrong[] = {V4_DRAFT_MOST + 1, -3, INT32_MAX, INT32_MIN};
    size_t count = 0;
    uint32_t *ids = encode(w->engine, TEXT, &count);

    OK(v4_session_open(w->engine, NULL, &session));
    OK(v4_session_append(session, ids, count, NULL));
    asked.max_tokens = 2;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        options.draft = asked.draft = wrong[i];
        STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
        STATUS(V4_INVALID_ARGUMENT, v4_plan_file(w->model, &options, &plan));
        STATUS(V4_INVALID_ARGUMENT,
               v4_session_generate(session, sampler, &asked, NULL, NULL, NULL));
        CHECK(strstr(v4_last_error(), "V4_DRAFT_OFF") != NULL);
    }
    options.draft = asked.draft = 0;
    options.reserved = asked.reserved = 1;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    STATUS(V4_INVALID_ARGUMENT,
           v4_session_generate(session, sampler, &asked, NULL, NULL, NULL));
    options.reserved = asked.reserved = 0;
    OK(v4_session_generate(session, sampler, &asked, NULL, NULL, NULL));
    OK(v4_session_close(session));
    OK(v4_sampler_close(sampler));

    options.drafts = "";
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    options.drafts = "/no/such/module.gguf";
    STATUS(V4_IO, v4_engine_open(w->model, &options, &engine));
    STATUS(V4_IO, v4_plan_file(w->model, &options, &plan));
    CHECK(strstr(v4_last_error(), options.drafts) != NULL);
    /* No module, and one of another model. */
    options.drafts = w->model;
    STATUS(V4_BAD_MODEL, v4_engine_open(w->model, &options, &engine));
    options.drafts = in_folder(w, "stranger.gguf");
    STATUS(V4_BAD_MODEL, v4_engine_open(w->model, &options, &engine));
    options.drafts = in_folder(w, "module.gguf");
    options.draft = V4_DRAFT_OFF;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    CHECK(engine == NULL);
    free(ids);
}

/* A module in a file of its own, of which is asked what is of the model. */
static void test_files_of_modules(const world *w) {
    v4_engine *engine = NULL;
    v4_engine_options options = small(w);
    const char *key = in_folder(w, "signer.pub"), *signed_model = in_folder(w, "signed.gguf");
    const way off = {V4_DRAFT_OFF, 0, 0, NOTHING}, five = {5, 0, 0, NOTHING};

    CHECK(facts_of(w->engine).draft == NULL && plan_of(w->engine).draft == 0);
    options.drafts = in_folder(w, "module.gguf");
    OK(v4_engine_open(w->model, &options, &engine));
    CHECK(strcmp(facts_of(engine).draft, "DSpark") == 0 && plan_of(engine).draft > 0);
    outcome a = run(w, w->engine, TEXT, off), b = run(w, engine, TEXT, five);
    CHECK(b.accepted > 0);
    check_text(&a, &b);
    forget(&a);
    forget(&b);
    OK(v4_engine_close(engine));

    engine = NULL;
    options.signers = &key;
    options.signer_count = 1;
    STATUS(V4_UNTRUSTED, v4_engine_open(signed_model, &options, &engine));
    CHECK(strstr(v4_last_error(), options.drafts) != NULL && engine == NULL);
    options.drafts = in_folder(w, "signed-module.gguf");
    OK(v4_engine_open(signed_model, &options, &engine));
    CHECK(facts_of(engine).draft_blocks == 3);
    OK(v4_engine_close(engine));
}

typedef struct {
    int lines;
    char last[1024];
} told;

static void on_log(void *user, int32_t level, const char *message) {
    told *t = user;
    CHECK(level == V4_LOG_WARN);
    t->lines++;
    snprintf(t->last, sizeof t->last, "%s", message);
}

/* The least memory with which a plan can be made. */
static uint64_t least_memory(const char *model, v4_engine_options options) {
    uint64_t low = 1, high = (uint64_t)1 << 33;
    SIZED(v4_plan, plan);
    while (low + 1 < high) {
        options.memory = low + (high - low) / 2;
        v4_status status = v4_plan_file(model, &options, &plan);
        CHECK(status == V4_OK || status == V4_NO_MEMORY);
        if (status == V4_OK)
            high = options.memory;
        else
            low = options.memory;
    }
    return high;
}

/* A module that does not fit is left out, unless it was asked for. */
static void test_memory(const world *w) {
    const char *model = in_folder(w, "drafts.gguf");
    v4_engine *engine = NULL;
    v4_engine_options options = small(w);
    SIZED(v4_plan, plan);
    told t = {0};
    const way off = {V4_DRAFT_OFF, 0, 0, NOTHING}, usual = {V4_DRAFT_DEFAULT, 0, 0, NOTHING};

    options.draft = V4_DRAFT_OFF;
    options.memory = least_memory(model, options);
    OK(v4_plan_file(model, &options, &plan));
    CHECK(plan.draft == 0 && plan.ahead == 0 && plan.draft_needed == 0);
    OK(v4_engine_open(model, &options, &engine));
    CHECK(facts_of(engine).draft == NULL);
    outcome expected = run(w, engine, TEXT, off);
    OK(v4_engine_close(engine));

    options.draft = 3;
    engine = NULL;
    STATUS(V4_NO_MEMORY, v4_plan_file(model, &options, &plan));
    STATUS(V4_NO_MEMORY, v4_engine_open(model, &options, &engine));
    CHECK(strstr(v4_last_error(), "V4_DRAFT_OFF") != NULL && engine == NULL);
    CHECK(strstr(v4_last_error(), "options.memory") != NULL);

    options.draft = V4_DRAFT_DEFAULT;
    OK(v4_set_log(on_log, &t, V4_LOG_WARN));
    OK(v4_engine_open(model, &options, &engine));
    CHECK(t.lines == 1 && strstr(t.last, "V4_DRAFT_OFF") != NULL);
    OK(v4_set_log(NULL, NULL, 0));
    plan = plan_of(engine);
    CHECK(facts_of(engine).draft == NULL && facts_of(engine).draft_blocks == 0);
    CHECK(plan.draft == 0 && plan.draft_needed > options.memory);
    /* Nor is there room to read ahead of the text; that is not refused either. */
    CHECK(plan.ahead == 0 && plan.total <= options.memory);
    outcome o = run(w, engine, TEXT, usual);
    check_same(&expected, &o);
    forget(&o);
    OK(v4_engine_close(engine));

    /* What it says would do does, to the byte, for one with a number too. */
    options.memory = plan.draft_needed - 1;
    OK(v4_plan_file(model, &options, &plan));
    CHECK(plan.draft_needed == options.memory + 1 && plan.total <= options.memory);
    options.memory = plan.draft_needed;
    OK(v4_engine_open(model, &options, &engine));
    plan = plan_of(engine);
    CHECK(facts_of(engine).draft != NULL && plan.draft_needed == 0);
    CHECK(plan.draft > 0 && plan.ahead > 0 && plan.total <= options.memory);
    way five = {5, 0, 0, NOTHING};
    o = run(w, engine, TEXT, five);
    CHECK(o.accepted > 0);
    check_text(&expected, &o);
    forget(&o);
    forget(&expected);
    OK(v4_engine_close(engine));
}

void test_drafts(const world *w) {
    v4_engine *engine = NULL;
    v4_engine_options options = small(w);

    if (w->reads == V4_READS_THREADS) {
        slow = 1;
        length = 10;
    }
    test_misuse(w);
    OK(v4_engine_open(in_folder(w, "drafts.gguf"), &options, &engine));
    v4_facts facts = facts_of(engine);
    CHECK(strcmp(facts.draft, "DSpark") == 0);
    CHECK(facts.draft_blocks == 3 && facts.draft_tokens == 5);
    CHECK(plan_of(engine).ahead > 0 && plan_of(engine).draft > 0);
    test_tokens(w, engine, TEXT);
    test_interruptions(w, engine);
    OK(v4_engine_close(engine));
    test_files_of_modules(w);
    if (!slow) {
        /* From the text alone. */
        test_tokens(w, w->engine, LIST);
        test_room(w->engine);
        test_memory(w);
    }
}
