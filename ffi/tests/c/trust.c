/*
 * Whose the model is, and whether it is what was signed. In the folder there are
 * signed.gguf with its manifest, block hashes and signature, the public key of who signed
 * it, signer.pub, and somebody else's, other.pub.
 */
#include "check.h"

/* A path in the folder; the caller's until it asks for eight more. */
static const char *in_folder(const world *w, const char *name) {
    static char paths[8][4096];
    static int next = 0;
    char *path = paths[next = (next + 1) % 8];
    CHECK(snprintf(path, sizeof *paths, "%s/%s", w->folder, name) < (int)sizeof *paths);
    return path;
}

/* Flips a bit of the file's last byte. */
static void flip(const char *path) {
    FILE *file = fopen(path, "r+b");
    CHECK(file != NULL && fseek(file, -1, SEEK_END) == 0);
    int byte = getc(file);
    CHECK(byte != EOF && fseek(file, -1, SEEK_END) == 0);
    CHECK(putc(byte ^ 1, file) != EOF && fclose(file) == 0);
}

static v4_engine_options small(void) {
    SIZED(v4_engine_options, options);
    options.threads = 2;
    options.context = 64;
    options.memory = V4_MEMORY_UNBOUNDED;
    return options;
}

/* Options that are wrong by themselves, with a model that is fine. */
static void test_options(const world *w) {
    v4_engine *engine = NULL;
    v4_engine_options options = small();
    const char *keys[65] = {0};

    options.verify = 4;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    options.verify = -1;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    options.verify = V4_VERIFY_OFF;
    options.reads = 3;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    options.reads = V4_READS_THREADS;
    options.engram = 2;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    options.engram = V4_ENGRAM_DISK;

    options.signer_count = 1;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    options.signers = keys;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    keys[0] = "";
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    keys[0] = "not a key";
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    CHECK(strstr(v4_last_error(), "not a key") != NULL);
    keys[0] = w->model;
    CHECK(v4_engine_open(w->model, &options, &engine) != V4_OK);
    keys[0] = "\xff";
    STATUS(V4_INVALID_UTF8, v4_engine_open(w->model, &options, &engine));
    keys[0] = "/no/such/key.pub";
    STATUS(V4_IO, v4_engine_open(w->model, &options, &engine));
    options.signer_count = 65;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_open(w->model, &options, &engine));
    CHECK(engine == NULL);
}

static void test_signatures(const world *w) {
    v4_engine *engine = NULL;
    v4_session *session = NULL;
    v4_engine_options options = small();
    SIZED(v4_facts, facts);
    const char *model = in_folder(w, "signed.gguf");
    const char *keys[2] = {in_folder(w, "other.pub"), in_folder(w, "signer.pub")};
    size_t count = 0;
    uint32_t *ids = encode(w->engine, TEXT, &count);

    /* Nothing asked, nothing known. */
    OK(v4_engine_facts(w->engine, &facts));
    CHECK(facts.signer == NULL && strstr(facts.trust, "checked") != NULL);

    /* By the right signer, among others or alone. */
    options.signers = keys;
    options.signer_count = 2;
    OK(v4_engine_open(model, &options, &engine));
    OK(v4_engine_facts(engine, &facts));
    CHECK(strcmp(facts.signer, keys[1]) == 0);
    CHECK(strstr(facts.trust, keys[1]) != NULL && strstr(facts.trust, "each block") != NULL);
    OK(v4_session_open(engine, NULL, &session));
    OK(v4_session_append(session, ids, count, NULL));
    OK(v4_session_close(session));
    OK(v4_engine_close(engine));
    engine = NULL;

    /* By somebody else, by nobody, and with no key to look for. */
    options.signer_count = 1;
    STATUS(V4_UNTRUSTED, v4_engine_open(model, &options, &engine));
    CHECK(strstr(v4_last_error(), "options.signers") != NULL);
    options.signers = keys + 1;
    STATUS(V4_UNTRUSTED, v4_engine_open(w->model, &options, &engine));
    CHECK(strstr(v4_last_error(), w->model) != NULL);
    options.signer_count = 0;
    options.require_signed = 1;
    STATUS(V4_UNTRUSTED, v4_engine_open(model, &options, &engine));
    options.signer_count = 1;
    OK(v4_engine_open(model, &options, &engine));
    OK(v4_engine_close(engine));
    engine = NULL;
    CHECK(rename(in_folder(w, "signed.gguf.manifest.minisig"), in_folder(w, "away")) == 0);
    STATUS(V4_UNTRUSTED, v4_engine_open(model, &options, &engine));
    CHECK(strstr(v4_last_error(), "not signed") != NULL && engine == NULL);
    /* Its bytes can still be compared. */
    options = small();
    options.verify = V4_VERIFY_USE;
    OK(v4_engine_open(model, &options, &engine));
    OK(v4_engine_facts(engine, &facts));
    CHECK(facts.signer == NULL && strstr(facts.trust, "each block") != NULL);
    OK(v4_engine_close(engine));
    CHECK(rename(in_folder(w, "away"), in_folder(w, "signed.gguf.manifest.minisig")) == 0);
    free(ids);
}

typedef struct {
    uint64_t done, total;
    int calls, stop_at;
} told;

static int32_t on_progress(void *user, uint64_t done, uint64_t total) {
    told *t = user;
    t->done = done;
    t->total = total;
    return ++t->calls == t->stop_at;
}

static void test_altered(const world *w) {
    v4_engine *engine = NULL;
    v4_engine_options options = small();
    const char *model = in_folder(w, "signed.gguf");
    const char *key = in_folder(w, "signer.pub");
    told t = {0};

    options.signers = &key;
    options.signer_count = 1;
    options.verify = V4_VERIFY_WHOLE;
    options.progress = on_progress;
    options.user = &t;
    OK(v4_engine_open(model, &options, &engine));
    CHECK(t.calls > 0 && t.done == t.total && t.total > 0);
    OK(v4_engine_close(engine));
    engine = NULL;
    memset(&t, 0, sizeof t);
    t.stop_at = 1;
    STATUS(V4_CANCELLED, v4_engine_open(model, &options, &engine));
    CHECK(t.calls == 1);

    options.progress = NULL;
    flip(model);
    STATUS(V4_ALTERED, v4_engine_open(model, &options, &engine));
    CHECK(strstr(v4_last_error(), model) != NULL && engine == NULL);
    /* Who asks for no comparison gets what is there. */
    options.verify = V4_VERIFY_OFF;
    OK(v4_engine_open(model, &options, &engine));
    OK(v4_engine_close(engine));
    flip(model);
    options.verify = V4_VERIFY_WHOLE;
    OK(v4_engine_open(model, &options, &engine));
    OK(v4_engine_close(engine));

    /* Written to while it is open, compared or not. */
    v4_session *session = NULL;
    SIZED(v4_session_facts, facts);
    v4_engine_options unasked = small();
    const uint32_t ids[3] = {0, 17, 42};
    OK(v4_engine_open(model, &unasked, &engine));
    OK(v4_session_open(engine, NULL, &session));
    OK(v4_session_append(session, ids, 3, NULL));
    flip(model);
    STATUS(V4_ALTERED, v4_session_append(session, ids, 3, NULL));
    OK(v4_session_facts_of(session, &facts));
    CHECK(facts.tokens == 0);
    flip(model);
    STATUS(V4_ALTERED, v4_session_append(session, ids, 3, NULL));
    OK(v4_session_close(session));
    OK(v4_engine_close(engine));

    /* The manifest itself. */
    const char *manifest = in_folder(w, "signed.gguf.manifest");
    engine = NULL;
    flip(manifest);
    STATUS(V4_ALTERED, v4_engine_open(model, &options, &engine));
    CHECK(engine == NULL);
    flip(manifest);
}

void test_trust(const world *w) {
    test_options(w);
    test_signatures(w);
    test_altered(w);
}
