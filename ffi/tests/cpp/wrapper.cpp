/*
 * Uses every class of v4.hpp: what it gives is what v4.h gives, errors and callbacks that
 * throw are exceptions, and handles close themselves.
 *
 *   wrapper SIGNED-MODEL ITS-KEY FOLDER
 */
#include <cstring>
#include <iostream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <v4.hpp>

static int checks = 0;

#define CHECK(condition)                                                               \
    do {                                                                               \
        checks++;                                                                      \
        if (!(condition))                                                              \
            throw std::logic_error(std::string("wrapper.cpp:") +                       \
                                   std::to_string(__LINE__) + ": " #condition);        \
    } while (0)

/* The status of the exception that `call` throws, V4_OK if it throws none. */
template <class F> static v4_status status_of(F &&call) {
    try {
        call();
    } catch (const v4::error &error) {
        CHECK(std::strlen(error.what()) > 0);
        return error.status();
    }
    return V4_OK;
}

/* Whether an exception of a callback comes out of the call that called it. */
template <class F> static bool thrown_through(F &&call) {
    try {
        call();
    } catch (const std::out_of_range &) {
        return true;
    }
    return false;
}

struct thrower {
    template <class... Args> void operator()(Args &&...) const {
        throw std::out_of_range("of a callback");
    }
};

static v4_engine_options options() {
    auto options = v4::sized<v4_engine_options>();
    options.threads = 2;
    options.context = 128;
    options.memory = V4_MEMORY_UNBOUNDED;
    return options;
}

static void check_engine(const std::string &model, const char *key) {
    auto asked = options();
    CHECK(v4::plan_file(model, asked).context == 128);
    CHECK(status_of([] { v4::engine engine("/no/such.gguf"); }) == V4_IO);
    asked.signers = &key;
    asked.signer_count = 1;
    asked.verify = V4_VERIFY_WHOLE;
    std::uint64_t last = 0, all = 1;
    v4::engine engine(model, asked, [&](std::uint64_t done, std::uint64_t total) {
        last = done;
        all = total;
    });
    CHECK(last == all && all > 1);
    CHECK(engine.facts().signer == std::string(key));
    CHECK(engine.plan().context == 128);
    CHECK(thrown_through([&] { v4::engine other(model, asked, thrower()); }));
    CHECK(status_of([&] {
              v4::engine other(model, asked, [](std::uint64_t, std::uint64_t) { return false; });
          }) == V4_CANCELLED);
}

static void check_sessions(const v4::engine &engine, const std::string &folder) {
    const auto ids = engine.encode("fn main() {", V4_ENCODE_BOS);
    CHECK(ids.size() > 2 && engine.encode("").empty());
    CHECK(engine.decode({ids.begin() + 1, ids.end()}) == "fn main() {");
    CHECK(engine.decode({}).empty());
    CHECK(status_of([&] { engine.decode({4000000}); }) == V4_BAD_TOKEN);
    v4::decoder decoder(engine);
    std::string text;
    for (std::size_t i = 1; i < ids.size(); i++)
        text += decoder.push(ids[i]);
    text += decoder.finish();
    CHECK(text == "fn main() {");

    v4::session session(engine);
    CHECK(status_of([&] { session.logits(); }) == V4_NO_LOGITS);
    session.append(ids);
    session.mark();
    CHECK(session.tokens() == ids && session.facts().tokens == ids.size());
    const auto logits = session.logits();
    v4::session fork = session.fork();
    fork.rewind(2);
    fork.sync(ids);
    CHECK(fork.logits() == logits);
    const auto path = folder + "/wrapper.session";
    session.save(path);
    v4::session restored = v4::session::restore(engine, path);
    CHECK(restored.tokens() == ids);

    v4::sampler likeliest;
    CHECK(session.sample(likeliest) == likeliest.sample(logits) && likeliest.draws() == 0);

    /* Text, ids with text, a callback that stops, one that throws, cancelling. */
    auto length = v4::sized<v4_generate_options>();
    length.max_tokens = 6;
    std::string pieces;
    std::vector<std::uint32_t> answer;
    auto result = fork.generate(likeliest, length, [&](std::string_view s) { pieces += s; });
    CHECK(result.finish == V4_FINISH_LENGTH && result.tokens == 6);
    fork.rewind(ids.size());
    length.draft = V4_DRAFT_MOST;
    std::string drafted;
    result = fork.generate(likeliest, length, [&](std::string_view s) { drafted += s; });
    CHECK(drafted == pieces && result.passes + result.drafts_accepted == 5);
    length.draft = V4_DRAFT_OFF;
    fork.rewind(ids.size());
    std::string again;
    fork.generate(likeliest, length, [&](std::uint32_t id, std::string_view s) {
        if (id != V4_NO_TOKEN)
            answer.push_back(id);
        again += s;
    });
    CHECK(answer.size() == 6 && again == pieces);
    CHECK(engine.decode(answer, V4_DECODE_UTF8) == pieces);
    result = session.generate(likeliest, [](std::string_view) { return false; });
    CHECK(result.finish == V4_FINISH_CALLBACK && result.tokens == 1);
    CHECK(thrown_through([&] { session.generate(likeliest, thrower()); }));
    v4::cancel cancel;
    cancel.request();
    length.cancel = cancel.get();
    result = session.generate(likeliest, length, [](std::string_view) {});
    CHECK(result.finish == V4_FINISH_CANCELLED && result.tokens == 0);
    cancel.reset();
    result = session.generate(likeliest, length, [](std::string_view) {});
    CHECK(result.tokens == 6);

    /* Handles move. */
    v4::session moved = std::move(session);
    CHECK(session.get() == nullptr && moved.facts().tokens > ids.size());
    CHECK(status_of([&] { session.facts(); }) == V4_INVALID_ARGUMENT);
    static_assert(!std::is_copy_constructible<v4::session>::value, "one owner");
}

static void check_chat(const v4::engine &engine) {
    const std::string json = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
                             "\"thinking\":{\"type\":\"disabled\"},\"stop\":[\"END\"],\"seed\":7}";
    CHECK(status_of([&] { v4::chat chat(engine, "{"); }) == V4_BAD_REQUEST);
    v4::chat chat(engine, json);
    CHECK(chat.facts().seed == 7);
    v4::session session(engine);
    const auto prompt = chat.prompt();
    session.append(prompt);
    CHECK(chat.prompt(session) == prompt);

    const auto ids = engine.encode("Hello END");
    std::string content, end;
    const auto take = [&](const v4_event &event) {
        (event.kind == V4_EVENT_CONTENT ? content : end) += std::string(event.text, event.length);
    };
    v4::parser parser(chat);
    bool on = true;
    for (std::size_t i = 0; on && i < ids.size(); i++)
        on = parser.push(ids[i], take);
    CHECK(!on);
    parser.finish(V4_FINISH_STOP, take);
    CHECK(content == "Hello " && end == "stop_sequence");
    CHECK(status_of([&] { parser.response(); }) == V4_UNSUPPORTED);

    v4::parser protocol(chat, V4_PARSER_PROTOCOL);
    protocol.push(ids[0], [](const v4_event &) {});
    protocol.finish(V4_FINISH_STOP, [](const v4_event &) {});
    CHECK(protocol.response().find("chat.completion") != std::string::npos);
    v4::parser throwing(chat);
    CHECK(thrown_through([&] {
        throwing.push(ids[0], thrower());
        throwing.finish(V4_FINISH_STOP, thrower());
    }));
}

int main(int argc, char **argv) {
    if (argc != 4) {
        std::cerr << "usage: wrapper SIGNED-MODEL ITS-KEY FOLDER\n";
        return 2;
    }
    try {
        check_engine(argv[1], argv[2]);
        const v4::engine engine(argv[1], options());
        check_sessions(engine, argv[3]);
        check_chat(engine);
    } catch (const std::exception &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
    std::cout << "wrapper: " << checks << " checks passed\n";
    return 0;
}
