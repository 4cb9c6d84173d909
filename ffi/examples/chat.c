/*
 * Talks with the model: reads a line, prints the answer, and so on. Ctrl-C stops an
 * answer.
 *
 *   chat MODEL [TOKENS [TEMPERATURE [SEED]]]
 *
 * prints what `v4-run chat MODEL -n TOKENS --temp TEMPERATURE --seed SEED` prints for
 * the same lines on standard input.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <v4.h>

/* A text that grows. */
typedef struct {
    char *bytes;
    size_t length, capacity;
} buffer;

static void add(buffer *b, const char *bytes, size_t length) {
    if (length > b->capacity - b->length) {
        size_t capacity = 2 * (b->length + length) + 256;
        char *larger = realloc(b->bytes, capacity);
        if (larger == NULL) {
            fprintf(stderr, "chat: out of memory\n");
            exit(1);
        }
        b->bytes = larger;
        b->capacity = capacity;
    }
    if (length > 0)
        memcpy(b->bytes + b->length, bytes, length);
    b->length += length;
}

static void add_text(buffer *b, const char *text) { add(b, text, strlen(text)); }

/* A message of the request: {"role": ..., "content": ...}. */
static void add_message(buffer *b, const char *role, const char *content, size_t length) {
    add_text(b, b->length > 0 ? ",{\"role\":\"" : "{\"role\":\"");
    add_text(b, role);
    add_text(b, "\",\"content\":\"");
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)content[i];
        if (c == '"' || c == '\\') {
            char escaped[2] = {'\\', (char)c};
            add(b, escaped, 2);
        } else if (c < 0x20) {
            char escaped[8];
            snprintf(escaped, sizeof escaped, "\\u%04x", c);
            add_text(b, escaped);
        } else {
            add(b, content + i, 1);
        }
    }
    add_text(b, "\"}");
}

/* Everything that a turn needs. */
typedef struct {
    v4_engine *engine;
    v4_session *session;
    v4_sampler *sampler;
    v4_generate_options length;
} model;

/* An answer in progress. */
typedef struct {
    v4_parser *parser;
    buffer text;
} answer;

static int32_t on_event(void *user, const v4_event *event) {
    answer *a = user;
    if (event->kind == V4_EVENT_CONTENT) {
        add(&a->text, event->text, event->length);
        fwrite(event->text, 1, event->length, stdout);
        fflush(stdout);
    }
    return 0;
}

static int32_t on_token(void *user, const v4_token *token) {
    answer *a = user;
    int32_t ended = 0;
    /* The parser reports text without a token: it decodes by itself. */
    if (token->id == V4_NO_TOKEN)
        return 0;
    if (v4_parser_push(a->parser, &token->id, 1, on_event, a, &ended))
        return 1;
    return ended;
}

/* Answers the JSON `messages`, into `a`. */
static v4_status turn(model *m, const buffer *messages, answer *a) {
    buffer request = {0};
    v4_chat *chat = NULL;
    v4_generate_result result = {0};
    const uint32_t *ids = NULL;
    size_t count = 0;
    v4_status status;

    result.size = sizeof result;
    add_text(&request, "{\"thinking\":{\"type\":\"disabled\"},\"messages\":[");
    add(&request, messages->bytes, messages->length);
    add_text(&request, "]}");

    status = v4_chat_open(m->engine, request.bytes, request.length, NULL, &chat);
    if (status == V4_OK)
        status = v4_parser_open(chat, 0, &a->parser);
    if (status == V4_OK)
        status = v4_chat_prompt(chat, m->session, &ids, &count);
    /* Reads only what is new: the session holds the earlier turns. */
    if (status == V4_OK)
        status = v4_session_sync(m->session, ids, count, NULL);
    if (status == V4_OK)
        status = v4_session_generate(m->session, m->sampler, &m->length, on_token, a, &result);
    if (status == V4_OK || (status == V4_CANCELLED && result.finish != 0))
        status = v4_parser_finish(a->parser, result.finish, on_event, a);

    v4_parser_close(a->parser);
    v4_chat_close(chat);
    free(request.bytes);
    return status;
}

static v4_cancel *stop;

static void on_interrupt(int signal) {
    (void)signal;
    v4_cancel_request(stop);
}

static int talk(model *m) {
    static char line[1 << 16];
    buffer messages = {0};
    int code = 0;

    while (code == 0 && fgets(line, sizeof line, stdin) != NULL) {
        size_t before = messages.length;
        answer a = {0};
        line[strcspn(line, "\n")] = '\0';
        if (line[0] == '\0')
            continue;
        add_message(&messages, "user", line, strlen(line));
        v4_cancel_reset(stop);
        if (turn(m, &messages, &a) != V4_OK) {
            fprintf(stderr, "chat: %s\n", v4_last_error());
            code = 1;
        } else if (a.text.length == 0) {
            /* No answer: the question is removed. */
            messages.length = before;
        } else {
            add_message(&messages, "assistant", a.text.bytes, a.text.length);
            if (a.text.bytes[a.text.length - 1] != '\n')
                putchar('\n');
        }
        free(a.text.bytes);
    }
    free(messages.bytes);
    return code;
}

int main(int argc, char **argv) {
    model m = {0};
    v4_sampler_options sampling = {0};
    int code;

    if (argc < 2) {
        fprintf(stderr, "usage: chat MODEL [TOKENS [TEMPERATURE [SEED]]]\n");
        return 2;
    }
    m.length.size = sizeof m.length;
    m.length.max_tokens = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    sampling.size = sizeof sampling;
    sampling.temperature = argc > 3 ? strtof(argv[3], NULL) : 1;
    sampling.seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;

    if (v4_cancel_open(&stop) || v4_engine_open(argv[1], NULL, &m.engine) ||
        v4_session_open(m.engine, NULL, &m.session) ||
        v4_sampler_open(&sampling, &m.sampler)) {
        fprintf(stderr, "chat: %s\n", v4_last_error());
        code = 1;
    } else {
        m.length.cancel = stop;
        signal(SIGINT, on_interrupt);
        code = talk(&m);
        signal(SIGINT, SIG_DFL);
    }
    v4_sampler_close(m.sampler);
    v4_session_close(m.session);
    v4_engine_close(m.engine);
    v4_cancel_close(stop);
    return code;
}
