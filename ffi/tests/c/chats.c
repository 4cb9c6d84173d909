/* Chat requests, and what reads their answers. */
#include "check.h"

static const char HI[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
                         "\"thinking\":{\"type\":\"disabled\"},\"seed\":7,\"top_p\":0.5,"
                         "\"temperature\":0.25,\"max_tokens\":9,\"stop\":[\"END\"]}";
static const char THINK[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
                            "\"thinking\":{\"type\":\"enabled\"},\"stream\":true}";
static const char TOOLS[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
    "\"thinking\":{\"type\":\"disabled\"},\"tools\":[{\"type\":\"function\",\"function\":"
    "{\"name\":\"add\",\"description\":\"adds\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"a\":{\"type\":\"string\"}}}}}]}";

static v4_chat *open_chat(const world *w, const char *json) {
    v4_chat *chat = NULL;
    OK(v4_chat_open(w->engine, json, V4_STRLEN, NULL, &chat));
    return chat;
}

static void test_requests(const world *w) {
    v4_chat *chat = NULL;
    SIZED(v4_chat_options, options);
    SIZED(v4_chat_facts, facts);
    const uint32_t *ids = NULL;
    size_t count = 0, expected_count = 0;
    uint32_t expected[64];

    STATUS(V4_INVALID_ARGUMENT, v4_chat_open(NULL, HI, V4_STRLEN, NULL, &chat));
    STATUS(V4_INVALID_ARGUMENT, v4_chat_open(w->engine, NULL, V4_STRLEN, NULL, &chat));
    STATUS(V4_INVALID_ARGUMENT, v4_chat_open(w->engine, HI, V4_STRLEN, NULL, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_chat_open(w->engine, HI, 1u << 30, NULL, &chat));
    STATUS(V4_INVALID_UTF8, v4_chat_open(w->engine, "{\"\xff\":1}", V4_STRLEN, NULL, &chat));
    STATUS(V4_BAD_REQUEST, v4_chat_open(w->engine, "", 0, NULL, &chat));
    STATUS(V4_BAD_REQUEST, v4_chat_open(w->engine, "{", V4_STRLEN, NULL, &chat));
    STATUS(V4_BAD_REQUEST, v4_chat_open(w->engine, "{\"messages\":3}", V4_STRLEN, NULL, &chat));
    STATUS(V4_BAD_REQUEST, v4_chat_open(w->engine, "{\"messages\":[]}", V4_STRLEN, NULL, &chat));
    /* Deeper than any stack. */
    char *deep = malloc(200001);
    CHECK(deep != NULL);
    memset(deep, '[', 200000);
    deep[200000] = 0;
    STATUS(V4_BAD_REQUEST, v4_chat_open(w->engine, deep, V4_STRLEN, NULL, &chat));
    free(deep);
    options.protocol = 3;
    STATUS(V4_INVALID_ARGUMENT, v4_chat_open(w->engine, HI, V4_STRLEN, &options, &chat));
    options.protocol = V4_PROTOCOL_CHAT;
    options.size = 4;
    STATUS(V4_INVALID_ARGUMENT, v4_chat_open(w->engine, HI, V4_STRLEN, &options, &chat));
    CHECK(chat == NULL);
    OK(v4_chat_close(NULL));

    chat = open_chat(w, HI);
    OK(v4_tokenizer_encode(w->engine,
                           "<\xef\xbd\x9c" "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
                           "<\xef\xbd\x9cUser\xef\xbd\x9c>Hi<\xef\xbd\x9c" "Assistant\xef\xbd\x9c>"
                           "</think>",
                           V4_STRLEN, V4_ENCODE_MARKS, expected, 64, &expected_count));
    OK(v4_chat_prompt(chat, NULL, &ids, &count));
    CHECK(count == expected_count && memcmp(ids, expected, count * sizeof *ids) == 0);
    STATUS(V4_INVALID_ARGUMENT, v4_chat_prompt(NULL, NULL, &ids, &count));
    STATUS(V4_INVALID_ARGUMENT, v4_chat_prompt(chat, NULL, NULL, &count));
    STATUS(V4_INVALID_ARGUMENT, v4_chat_prompt(chat, NULL, &ids, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_chat_facts_of(NULL, &facts));
    STATUS(V4_INVALID_ARGUMENT, v4_chat_facts_of(chat, NULL));
    OK(v4_chat_facts_of(chat, &facts));
    CHECK(facts.max_tokens == 9 && facts.has_seed && facts.seed == 7 && !facts.thinking);
    CHECK(facts.temperature == 0.25f && facts.top_p == 0.5f);
    CHECK(!facts.stream && !facts.constrained);
    OK(v4_chat_close(chat));
    chat = open_chat(w, THINK);
    OK(v4_chat_facts_of(chat, &facts));
    CHECK(facts.thinking && facts.stream && !facts.has_seed && facts.max_tokens == 0);
    OK(v4_chat_close(chat));

    options.size = sizeof options;
    options.protocol = V4_PROTOCOL_MESSAGES;
    OK(v4_chat_open(w->engine,
                    "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":5,"
                    "\"thinking\":{\"type\":\"disabled\"}}",
                    V4_STRLEN, &options, &chat));
    OK(v4_chat_prompt(chat, NULL, &ids, &count));
    CHECK(count == expected_count && memcmp(ids, expected, count * sizeof *ids) == 0);
    OK(v4_chat_close(chat));
    options.protocol = V4_PROTOCOL_RESPONSES;
    OK(v4_chat_open(w->engine, "{\"input\":\"Hi\",\"reasoning\":{\"effort\":\"none\"}}",
                    V4_STRLEN, &options, &chat));
    OK(v4_chat_prompt(chat, NULL, &ids, &count));
    CHECK(count == expected_count && memcmp(ids, expected, count * sizeof *ids) == 0);
    OK(v4_chat_close(chat));
}

/* A prompt goes on from what a session holds, however its answer was spelt. */
static void test_continuing(const world *w) {
    v4_session *session = NULL;
    const uint32_t *ids = NULL;
    size_t count = 0, held = 0, n = 0;
    uint32_t odd[3];
    v4_chat *first = open_chat(w, HI);
    v4_chat *second = open_chat(
        w, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},"
           "{\"role\":\"assistant\",\"content\":\"abc\"},"
           "{\"role\":\"user\",\"content\":\"more\"}],\"thinking\":{\"type\":\"disabled\"}}");

    OK(v4_session_open(w->engine, NULL, &session));
    OK(v4_chat_prompt(first, session, &ids, &count));
    held = count;
    OK(v4_session_sync(session, ids, count, NULL));
    for (int i = 0; i < 3; i++) {
        OK(v4_tokenizer_encode(w->engine, &"abc"[i], 1, 0, &odd[i], 1, &n));
        OK(v4_session_append(session, &odd[i], 1, NULL));
    }
    OK(v4_chat_prompt(second, session, &ids, &count));
    CHECK(count > held + 3 && memcmp(ids + held, odd, sizeof odd) == 0);
    OK(v4_session_sync(session, ids, count, NULL));
    OK(v4_session_close(session));
    OK(v4_chat_close(first));
    OK(v4_chat_close(second));
}

typedef struct {
    char text[4096]; /* "kind:text" one after the other */
    int events, stop_at, inside;
    v4_parser *parser;
} said;

static int32_t on_event(void *user, const v4_event *event) {
    static const char *kinds[] = {"?", "reasoning", "content", "tool", "args", "end", "protocol"};
    said *s = user;
    char piece[2048];
    CHECK(event->size == sizeof *event && strlen(event->text) == event->length);
    CHECK(event->kind >= V4_EVENT_REASONING && event->kind <= V4_EVENT_PROTOCOL);
    snprintf(piece, sizeof piece, "%s%s%s:%s|", kinds[event->kind],
             event->name != NULL ? "." : "", event->name != NULL ? event->name : "",
             event->text);
    strncat(s->text, piece, sizeof s->text - strlen(s->text) - 1);
    if (s->parser != NULL)
        s->inside = v4_parser_push(s->parser, NULL, 0, NULL, NULL, NULL);
    return ++s->events == s->stop_at;
}

/* What a parser of `chat` makes of a text, marks in it being meant. */
static said parse(const world *w, v4_chat *chat, const char *text, int32_t finish) {
    said s = {0};
    v4_parser *parser = NULL;
    uint32_t ids[512];
    int32_t ended = 0;
    size_t count = 0;
    OK(v4_parser_open(chat, 0, &parser));
    OK(v4_tokenizer_encode(w->engine, text, V4_STRLEN, V4_ENCODE_MARKS, ids, 512, &count));
    for (size_t i = 0; i < count && !ended; i++)
        OK(v4_parser_push(parser, ids + i, 1, on_event, &s, &ended));
    OK(v4_parser_finish(parser, finish, on_event, &s));
    OK(v4_parser_close(parser));
    return s;
}

/* Joins neighbours of one kind: where pieces are cut is the tokenizer's affair. */
static void join(const char *text, char *out) {
    char last[64] = "";
    *out = 0;
    while (*text != 0) {
        size_t kind = strcspn(text, ":"), end = kind + strcspn(text + kind, "|");
        if (strlen(last) == kind && strncmp(last, text, kind) == 0) {
            strncat(out, text + kind + 1, end - kind - 1);
        } else {
            strcat(out, *out != 0 ? "|" : "");
            strncat(out, text, end);
            snprintf(last, sizeof last, "%.*s", (int)kind, text);
        }
        text += end + 1;
    }
}

static void test_parser(const world *w) {
    char joined[4096];
    v4_chat *chat = open_chat(w, HI), *think = open_chat(w, THINK), *tools = open_chat(w, TOOLS);
    v4_parser *parser = NULL;
    uint32_t id = 100, bad = 4000000;
    int32_t ended = 9;
    const char *json = NULL;
    size_t length = 0;
    said s;

    s = parse(w, chat, "Hello there", V4_FINISH_STOP);
    join(s.text, joined);
    CHECK(strcmp(joined, "content:Hello there|end:stop") == 0);
    s = parse(w, chat, "Hello EN", V4_FINISH_LENGTH);
    join(s.text, joined);
    CHECK(strcmp(joined, "content:Hello EN|end:length") == 0);
    s = parse(w, chat, "Hello END more", V4_FINISH_STOP);
    join(s.text, joined);
    CHECK(strcmp(joined, "content:Hello |end:stop_sequence") == 0);
    s = parse(w, think, "well, hm</think>Yes", V4_FINISH_STOP);
    join(s.text, joined);
    CHECK(strcmp(joined, "reasoning:well, hm|content:Yes|end:stop") == 0);
    s = parse(w, tools,
              "Let me see.\n\n<\xef\xbd\x9c" "DSML\xef\xbd\x9ctool_calls>\n"
              "<\xef\xbd\x9c" "DSML\xef\xbd\x9cinvoke name=\"add\">\n"
              "<\xef\xbd\x9c" "DSML\xef\xbd\x9cparameter name=\"a\" string=\"true\">one"
              "</\xef\xbd\x9c" "DSML\xef\xbd\x9cparameter>\n"
              "</\xef\xbd\x9c" "DSML\xef\xbd\x9cinvoke>\n"
              "</\xef\xbd\x9c" "DSML\xef\xbd\x9ctool_calls>",
              V4_FINISH_STOP);
    join(s.text, joined);
    CHECK(strstr(joined, "content:Let me see.") == joined);
    CHECK(strstr(joined, "|tool:add|args:{\"a\": \"one\"}|end:tool_calls") != NULL ||
          strstr(joined, "|tool:add|args:{\"a\":\"one\"}|end:tool_calls") != NULL);

    STATUS(V4_INVALID_ARGUMENT, v4_parser_open(NULL, 0, &parser));
    STATUS(V4_INVALID_ARGUMENT, v4_parser_open(chat, 0, NULL));
    STATUS(V4_UNSUPPORTED, v4_parser_open(chat, 2, &parser));
    OK(v4_parser_open(chat, 0, &parser));
    STATUS(V4_INVALID_ARGUMENT, v4_parser_push(NULL, &id, 1, NULL, NULL, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_parser_push(parser, NULL, 1, NULL, NULL, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_parser_finish(NULL, V4_FINISH_STOP, NULL, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_parser_finish(parser, 0, NULL, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_parser_response(NULL, &json, &length));
    STATUS(V4_UNSUPPORTED, v4_parser_response(parser, &json, &length));
    OK(v4_parser_push(parser, &id, 1, NULL, NULL, &ended));
    CHECK(ended == 0);
    OK(v4_parser_finish(parser, V4_FINISH_STOP, NULL, NULL));
    STATUS(V4_ENDED, v4_parser_push(parser, &id, 1, NULL, NULL, NULL));
    OK(v4_parser_close(parser));
    OK(v4_parser_close(NULL));
    OK(v4_parser_open(chat, 0, &parser));
    CHECK(v4_parser_push(parser, &bad, 1, NULL, NULL, NULL) != V4_OK);
    OK(v4_parser_close(parser));

    /* A callback that uses its own parser, and one that stops. */
    memset(&s, 0, sizeof s);
    OK(v4_parser_open(chat, 0, &parser));
    s.parser = parser;
    uint32_t ids[64];
    size_t count = 0;
    OK(v4_tokenizer_encode(w->engine, "Hello there", V4_STRLEN, 0, ids, 64, &count));
    OK(v4_parser_push(parser, ids, count, on_event, &s, NULL));
    CHECK(s.events > 0 && s.inside == V4_BUSY);
    s.parser = NULL;
    s.stop_at = s.events + 1;
    STATUS(V4_CANCELLED, v4_parser_finish(parser, V4_FINISH_STOP, on_event, &s));
    OK(v4_parser_close(parser));

    /* Closing the chat first is fine. */
    OK(v4_parser_open(chat, V4_PARSER_PROTOCOL, &parser));
    OK(v4_chat_close(chat));
    memset(&s, 0, sizeof s);
    OK(v4_parser_push(parser, ids, count, on_event, &s, NULL));
    OK(v4_parser_finish(parser, V4_FINISH_STOP, on_event, &s));
    CHECK(strstr(s.text, "protocol:{") != NULL && strstr(s.text, "chat.completion.chunk") != NULL);
    STATUS(V4_INVALID_ARGUMENT, v4_parser_response(parser, NULL, &length));
    STATUS(V4_INVALID_ARGUMENT, v4_parser_response(parser, &json, NULL));
    OK(v4_parser_response(parser, &json, &length));
    CHECK(strlen(json) == length && strstr(json, "Hello there") != NULL);
    OK(v4_parser_close(parser));
    OK(v4_chat_close(think));
    OK(v4_chat_close(tools));
}

void test_chat(const world *w) {
    test_requests(w);
    test_continuing(w);
    test_parser(w);
}
