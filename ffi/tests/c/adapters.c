/*
 * Low-rank adapters. In the folder there are two for the model, adapter-1 and adapter-2, of
 * which the first is signed by signer.pub, one that is not for it, adapter-3, and
 * signed.gguf as in trust.c.
 */
#include "check.h"

/* The likeliest logit's value after a text. */
static float best(const v4_engine *engine, uint32_t *id) {
    v4_session *session = NULL;
    size_t count = 0, size = 0;
    uint32_t *ids = encode(engine, TEXT, &count);
    SIZED(v4_facts, facts);
    OK(v4_engine_facts(engine, &facts));
    const float *logits = NULL;
    float most = 0;
    OK(v4_session_open(engine, NULL, &session));
    OK(v4_session_append(session, ids, count, NULL));
    OK(v4_session_logits(session, &logits, &size));
    CHECK(size == facts.vocab);
    for (uint32_t i = 0; i < facts.vocab; i++)
        if (i == 0 || logits[i] > most) {
            most = logits[i];
            *id = i;
        }
    OK(v4_session_close(session));
    free(ids);
    return most;
}

void test_adapters(const world *w) {
    char one[4096], two[4096], file[4096], key[4096];
    v4_engine *adapted = NULL, *more = NULL, *engine = NULL;
    v4_session *session = NULL;
    uint32_t id = 0;
    const char *folders[65] = {one, two};
    CHECK(snprintf(one, sizeof one, "%s/adapter-1", w->folder) < (int)sizeof one);
    CHECK(snprintf(two, sizeof two, "%s/adapter-2", w->folder) < (int)sizeof two);

    float plain = best(w->engine, &id);
    OK(v4_engine_with_adapters(w->engine, folders, 1, &adapted));
    float first = best(adapted, &id);
    CHECK(first != plain);
    OK(v4_engine_with_adapters(adapted, folders + 1, 1, &more));
    float second = best(more, &id);
    CHECK(second != plain && second != first);
    OK(v4_engine_close(more));
    OK(v4_engine_with_adapters(w->engine, folders, 2, &more));
    CHECK(best(more, &id) != second);
    /* Each goes on by itself. */
    CHECK(best(w->engine, &id) == plain && best(adapted, &id) == first);

    /* No adapters: the plain model. Sessions hold what they need of the handle. */
    OK(v4_engine_close(more));
    OK(v4_engine_with_adapters(adapted, NULL, 0, &more));
    CHECK(best(more, &id) == plain);
    OK(v4_session_open(adapted, NULL, &session));
    OK(v4_engine_close(adapted));
    OK(v4_session_append(session, &id, 1, NULL));
    OK(v4_session_close(session));
    OK(v4_engine_close(more));

    /* Mistakes. */
    adapted = NULL;
    STATUS(V4_INVALID_ARGUMENT, v4_engine_with_adapters(NULL, folders, 1, &adapted));
    STATUS(V4_INVALID_ARGUMENT, v4_engine_with_adapters(w->engine, NULL, 1, &adapted));
    STATUS(V4_INVALID_ARGUMENT, v4_engine_with_adapters(w->engine, folders, 1, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_engine_with_adapters(w->engine, folders, 3, &adapted));
    STATUS(V4_INVALID_ARGUMENT, v4_engine_with_adapters(w->engine, folders, 65, &adapted));
    folders[0] = "";
    STATUS(V4_INVALID_ARGUMENT, v4_engine_with_adapters(w->engine, folders, 1, &adapted));
    folders[0] = "\xff";
    STATUS(V4_INVALID_UTF8, v4_engine_with_adapters(w->engine, folders, 1, &adapted));
    folders[0] = "/no/such/folder";
    STATUS(V4_IO, v4_engine_with_adapters(w->engine, folders, 1, &adapted));
    CHECK(strstr(v4_last_error(), "/no/such/folder/adapter_config.json") != NULL);
    folders[0] = one;

    /* Of another model. */
    CHECK(snprintf(file, sizeof file, "%s/adapter-3", w->folder) < (int)sizeof file);
    folders[1] = file;
    STATUS(V4_BAD_ADAPTER, v4_engine_with_adapters(w->engine, folders, 2, &adapted));
    CHECK(strstr(v4_last_error(), "v_proj") != NULL && adapted == NULL);
    folders[1] = two;

    /* Where the model must be signed, so must adapters. */
    SIZED(v4_engine_options, options);
    options.threads = 2;
    options.context = 64;
    options.memory = V4_MEMORY_UNBOUNDED;
    CHECK(snprintf(file, sizeof file, "%s/signed.gguf", w->folder) < (int)sizeof file);
    CHECK(snprintf(key, sizeof key, "%s/signer.pub", w->folder) < (int)sizeof key);
    const char *signer = key;
    options.signers = &signer;
    options.signer_count = 1;
    OK(v4_engine_open(file, &options, &engine));
    STATUS(V4_UNTRUSTED, v4_engine_with_adapters(engine, folders + 1, 1, &adapted));
    STATUS(V4_UNTRUSTED, v4_engine_with_adapters(engine, folders, 2, &adapted));
    CHECK(adapted == NULL);
    OK(v4_engine_with_adapters(engine, folders, 1, &adapted));
    CHECK(best(adapted, &id) == first);
    OK(v4_engine_close(adapted));
    OK(v4_engine_close(engine));
}
