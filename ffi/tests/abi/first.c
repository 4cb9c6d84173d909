/*
 * A program of the interface's first version: it is compiled with that version's header
 * alone, whose structs are smaller.
 *
 *   first MODEL
 */
#include <stdio.h>
#include <string.h>

#include "v4.h"

#if V4_ABI_MINOR != 0
#error "this is not the header of the first version"
#endif

/* A struct with what lies behind it, which must stay as it was. */
#define GUARDED(type, name)                                                            \
    struct {                                                                           \
        type value;                                                                    \
        unsigned char behind[64];                                                      \
    } name;                                                                            \
    memset(&name, 0, sizeof name.value);                                               \
    memset(name.behind, 0xa5, sizeof name.behind);                                     \
    name.value.size = sizeof name.value

static int intact(const unsigned char *behind) {
    for (int i = 0; i < 64; i++)
        if (behind[i] != 0xa5)
            return 0;
    return 1;
}

static int32_t print(void *user, const v4_token *token) {
    (void)user;
    fwrite(token->text, 1, token->length, stdout);
    return 0;
}

#define NEED(condition)                                                                \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "first.c:%d: %s: %s\n", __LINE__, #condition, v4_last_error()); \
            return 1;                                                                  \
        }                                                                              \
    } while (0)

int main(int argc, char **argv) {
    v4_engine *engine = NULL;
    v4_session *session = NULL;
    v4_sampler *sampler = NULL;
    uint32_t ids[64];
    size_t count = 0;
    GUARDED(v4_engine_options, engine_options);
    GUARDED(v4_facts, facts);
    GUARDED(v4_plan, plan);
    GUARDED(v4_session_options, session_options);
    GUARDED(v4_session_facts, session_facts);
    GUARDED(v4_sampler_options, sampling);
    GUARDED(v4_generate_options, length);
    GUARDED(v4_generate_result, result);

    NEED(argc == 2);
    NEED(v4_abi_version() >> 16 == V4_ABI_MAJOR);
    engine_options.value.threads = 2;
    engine_options.value.context = 128;
    NEED(v4_engine_open(argv[1], &engine_options.value, &engine) == V4_OK);
    NEED(v4_engine_facts(engine, &facts.value) == V4_OK && facts.value.vocab == 4096);
    NEED(v4_engine_plan(engine, &plan.value) == V4_OK && plan.value.context == 128);
    NEED(intact(facts.behind) && intact(plan.behind));
    NEED(v4_tokenizer_encode(engine, "fn main() {", V4_STRLEN, V4_ENCODE_BOS, ids, 64, &count) ==
         V4_OK);
    NEED(v4_session_open(engine, &session_options.value, &session) == V4_OK);
    NEED(v4_session_append(session, ids, count, NULL) == V4_OK);
    sampling.value.temperature = 0.7f;
    sampling.value.seed = 11;
    NEED(v4_sampler_open(&sampling.value, &sampler) == V4_OK);
    /* What lies behind the old options is no stop string. */
    length.value.max_tokens = 24;
    NEED(v4_session_generate(session, sampler, &length.value, print, NULL, &result.value) ==
         V4_OK);
    NEED(result.value.size == sizeof result.value && intact(result.behind));
    NEED(v4_session_facts_of(session, &session_facts.value) == V4_OK);
    NEED(session_facts.value.tokens == count + result.value.tokens);
    NEED(intact(session_facts.behind));
    NEED(v4_sampler_close(sampler) == V4_OK && v4_session_close(session) == V4_OK);
    NEED(v4_engine_close(engine) == V4_OK);
    return 0;
}
