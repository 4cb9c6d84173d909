/*
 * Continues a text.
 *
 *   simple MODEL TEXT [TOKENS [TEMPERATURE [SEED]]]
 *
 * prints what `v4-run complete MODEL -p TEXT -n TOKENS --temp TEMPERATURE --seed SEED`
 * prints.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <v4.h>

static int failed(const char *what) {
    fprintf(stderr, "simple: %s: %s\n", what, v4_last_error());
    return 1;
}

static int32_t print(void *user, const v4_token *token) {
    (void)user;
    fwrite(token->text, 1, token->length, stdout);
    /* Stops if nobody reads the output any more. */
    return fflush(stdout) != 0;
}

static int run(v4_engine *engine, const char *text, v4_generate_options length,
               v4_sampler_options sampling) {
    /* There are never more tokens than bytes, plus the one that begins the text. */
    size_t capacity = strlen(text) + 1, count = 0;
    uint32_t *ids = malloc(capacity * sizeof *ids);
    v4_session *session = NULL;
    v4_sampler *sampler = NULL;
    int code = 0;

    if (ids == NULL) {
        fprintf(stderr, "simple: out of memory\n");
        return 1;
    }
    if (v4_tokenizer_encode(engine, text, V4_STRLEN, V4_ENCODE_BOS, ids, capacity, &count))
        code = failed("text");
    else if (v4_session_open(engine, NULL, &session))
        code = failed("session");
    else if (v4_session_append(session, ids, count, NULL))
        code = failed("reading");
    else if (v4_sampler_open(&sampling, &sampler))
        code = failed("sampling");
    else if (v4_session_generate(session, sampler, &length, print, NULL, NULL))
        code = failed("generating");

    v4_sampler_close(sampler);
    v4_session_close(session);
    free(ids);
    return code;
}

int main(int argc, char **argv) {
    v4_generate_options length = {0};
    v4_sampler_options sampling = {0};
    v4_engine *engine = NULL;
    int code;

    if (argc < 3) {
        fprintf(stderr, "usage: simple MODEL TEXT [TOKENS [TEMPERATURE [SEED]]]\n");
        return 2;
    }
    length.size = sizeof length;
    length.max_tokens = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 48;
    sampling.size = sizeof sampling;
    sampling.temperature = argc > 4 ? strtof(argv[4], NULL) : 0;
    sampling.seed = argc > 5 ? strtoull(argv[5], NULL, 10) : 0;

    if (v4_engine_open(argv[1], NULL, &engine))
        return failed("model");
    code = run(engine, argv[2], length, sampling);
    v4_engine_close(engine);
    return code;
}
