/* What the parts of the test program share. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <v4.h>

extern int checks;

/* Fails with the place and the library's message. */
#define CHECK(condition)                                                               \
    do {                                                                               \
        checks++;                                                                      \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: %s\nlast error: %s\n", __FILE__, __LINE__,         \
                    #condition, v4_last_error());                                      \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

#define OK(call) STATUS(V4_OK, call)

/* A call returns this status, and with an error a message. */
#define STATUS(expected, call)                                                         \
    do {                                                                               \
        v4_status status_ = (call);                                                    \
        checks++;                                                                      \
        if (status_ != (expected) || (status_ != V4_OK && v4_last_error()[0] == 0)) {  \
            fprintf(stderr, "%s:%d: %s\nis %s, not %s\nlast error: %s\n", __FILE__,    \
                    __LINE__, #call, v4_status_name(status_),                          \
                    v4_status_name(expected), v4_last_error());                        \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

/* A struct with its size, all else default. */
#define SIZED(type, name)                                                              \
    type name = {0};                                                                   \
    name.size = sizeof name

/* What every part is given. */
typedef struct {
    const char *model;   /* a GGUF file */
    const char *other;   /* another one */
    const char *folder;  /* for files */
    int32_t reads;       /* V4_READS_... of engines that read from the disk */
    v4_engine *engine;   /* of `model` */
} world;

void test_basics(const world *w);
void test_engine(const world *w);
void test_tokenizer(const world *w);
void test_session(const world *w);
void test_files(const world *w);
void test_sampler(const world *w);
void test_generate(const world *w);
void test_chat(const world *w);
void test_threads(const world *w);
void test_trust(const world *w);
void test_adapters(const world *w);
void test_drafts(const world *w);

/* The ids of a text with the token that begins one; to be freed. */
uint32_t *encode(const v4_engine *engine, const char *text, size_t *count);

static const char TEXT[] = "fn main() {\n    let mut line = String::new();\n";

#endif
