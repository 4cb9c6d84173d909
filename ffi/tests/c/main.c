/*
 * Calls every function of v4.h, in the right way and in wrong ones.
 *
 *   check [-t] MODEL OTHER-MODEL FOLDER [PART...]
 *
 * With -t files are read by threads alone: valgrind does not know io_uring, and waits for
 * ever. What the folder has for the parts `trust`, `adapters` and `drafts` is said in their
 * files.
 */
#include "check.h"

int checks = 0;

uint32_t *encode(const v4_engine *engine, const char *text, size_t *count) {
    size_t capacity = strlen(text) + 1;
    uint32_t *ids = malloc(capacity * sizeof *ids);
    CHECK(ids != NULL);
    OK(v4_tokenizer_encode(engine, text, V4_STRLEN, V4_ENCODE_BOS, ids, capacity, count));
    return ids;
}

static const struct {
    const char *name;
    void (*run)(const world *w);
} parts[] = {
    {"basics", test_basics},   {"engine", test_engine},     {"tokenizer", test_tokenizer},
    {"session", test_session}, {"files", test_files},       {"sampler", test_sampler},
    {"generate", test_generate}, {"chat", test_chat},       {"threads", test_threads},
    {"trust", test_trust},     {"adapters", test_adapters},
    {"drafts", test_drafts},
};

static int wanted(const char *name, int argc, char **argv) {
    if (argc <= 4)
        return 1;
    for (int i = 4; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return 1;
    return 0;
}

int main(int argc, char **argv) {
    world w = {0};
    SIZED(v4_engine_options, options);
    if (argc > 1 && strcmp(argv[1], "-t") == 0) {
        w.reads = V4_READS_THREADS;
        argc--;
        argv++;
    }
    if (argc < 4) {
        fprintf(stderr, "usage: check [-t] MODEL OTHER-MODEL FOLDER [PART...]\n");
        return 2;
    }
    w.model = argv[1];
    w.other = argv[2];
    w.folder = argv[3];
    options.threads = 2;
    options.context = 256;
    options.chunk = 16;
    options.memory = V4_MEMORY_UNBOUNDED;
    OK(v4_engine_open(w.model, &options, &w.engine));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (wanted(parts[i].name, argc, argv)) {
            int before = checks;
            parts[i].run(&w);
            printf("%s: %d checks passed\n", parts[i].name, checks - before);
        }
    }
    OK(v4_engine_close(w.engine));
    return 0;
}
