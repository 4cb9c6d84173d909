/*
 * v4.hpp: v4.h for C++17. Objects close themselves, errors are exceptions, and callbacks
 * are anything that can be called. The rules of v4.h apply and are not repeated here.
 *
 *   v4::engine engine("model.gguf");
 *   v4::session session(engine);
 *   session.append(engine.encode("fn main() {", V4_ENCODE_BOS));
 *   v4::sampler sampler;
 *   session.generate(sampler, [](std::string_view text) { std::cout << text; });
 *
 * Callbacks may throw: the call ends, and the exception propagates from there. Callbacks
 * that return bool continue with true and stop with false; others always continue.
 *
 * Header only: no C++ crosses the library's boundary, so any compiler and standard library
 * will do.
 */
#ifndef V4_HPP
#define V4_HPP

#include "v4.h"

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace v4 {

/* A failed call: what() is v4_last_error(). */
class error : public std::runtime_error {
public:
    error(v4_status status, const char *message)
        : std::runtime_error(message), status_(status) {}
    v4_status status() const noexcept { return status_; }

private:
    v4_status status_;
};

inline void check(v4_status status) {
    if (status != V4_OK)
        throw error(status, v4_last_error());
}

/* A struct of v4.h, all defaults, with its size set. */
template <class T> T sized() {
    T value{};
    value.size = static_cast<std::uint32_t>(sizeof(T));
    return value;
}

namespace detail {

template <class T, v4_status (*Close)(T *)> struct closer {
    void operator()(T *handle) const noexcept { Close(handle); }
};
template <class T, v4_status (*Close)(T *)>
using owned = std::unique_ptr<T, closer<T, Close>>;

/* Calls a C++ function from C, and keeps what it throws. */
template <class F> struct callback {
    F &function;
    std::exception_ptr thrown;

    explicit callback(F &f) : function(f) {}

    /* 0 to continue. */
    template <class... Args> std::int32_t call(Args &&...args) noexcept {
        try {
            if constexpr (std::is_same_v<std::invoke_result_t<F &, Args...>, bool>) {
                return function(std::forward<Args>(args)...) ? 0 : 1;
            } else {
                function(std::forward<Args>(args)...);
                return 0;
            }
        } catch (...) {
            thrown = std::current_exception();
            return 1;
        }
    }

    void rethrow() const {
        if (thrown)
            std::rethrow_exception(thrown);
    }
};

template <class F> callback<F> &self(void *user) {
    return *static_cast<callback<F> *>(user);
}

} // namespace detail

class cancel {
public:
    cancel() {
        v4_cancel *handle = nullptr;
        check(v4_cancel_open(&handle));
        handle_.reset(handle);
    }
    void request() noexcept { v4_cancel_request(get()); }
    void reset() noexcept { v4_cancel_reset(get()); }
    v4_cancel *get() const noexcept { return handle_.get(); }

private:
    detail::owned<v4_cancel, v4_cancel_close> handle_;
};

class engine {
public:
    explicit engine(const std::string &path) { open(path, sized<v4_engine_options>()); }
    engine(const std::string &path, const v4_engine_options &options) {
        open(path, options);
    }
    /* `progress` receives bytes done and total bytes, on any thread. */
    template <class F>
    engine(const std::string &path, v4_engine_options options, F &&progress) {
        using function = std::remove_reference_t<F>;
        detail::callback<function> told(progress);
        options.user = &told;
        options.progress = [](void *user, std::uint64_t done, std::uint64_t total) {
            return detail::self<function>(user).call(done, total);
        };
        v4_engine *handle = nullptr;
        const v4_status status = v4_engine_open(path.c_str(), &options, &handle);
        handle_.reset(handle);
        told.rethrow();
        check(status);
    }

    /* The same model with these low-rank adapters, and no others. */
    engine with_adapters(const std::vector<std::string> &folders) const {
        std::vector<const char *> paths;
        for (const std::string &folder : folders)
            paths.push_back(folder.c_str());
        v4_engine *handle = nullptr;
        check(v4_engine_with_adapters(get(), paths.data(), paths.size(), &handle));
        return engine(handle);
    }

    v4_facts facts() const {
        auto facts = sized<v4_facts>();
        check(v4_engine_facts(get(), &facts));
        return facts;
    }
    v4_plan plan() const {
        auto plan = sized<v4_plan>();
        check(v4_engine_plan(get(), &plan));
        return plan;
    }

    std::vector<std::uint32_t> encode(std::string_view text, std::uint32_t flags = 0) const {
        std::vector<std::uint32_t> ids(text.size() + 1);
        std::size_t count = 0;
        check(v4_tokenizer_encode(get(), text.data(), text.size(), flags, ids.data(),
                                  ids.size(), &count));
        ids.resize(count);
        return ids;
    }
    std::string decode(const std::vector<std::uint32_t> &ids, std::uint32_t flags = 0) const {
        std::string text;
        std::size_t length = 0;
        v4_status status = v4_tokenizer_decode(get(), ids.data(), ids.size(), flags,
                                               nullptr, 0, &length);
        if (status == V4_BUFFER_TOO_SMALL) {
            text.resize(length + 1);
            status = v4_tokenizer_decode(get(), ids.data(), ids.size(), flags, &text[0],
                                         text.size(), &length);
        }
        check(status);
        text.resize(length);
        return text;
    }

    v4_engine *get() const noexcept { return handle_.get(); }

private:
    explicit engine(v4_engine *handle) : handle_(handle) {}

    void open(const std::string &path, const v4_engine_options &options) {
        v4_engine *handle = nullptr;
        check(v4_engine_open(path.c_str(), &options, &handle));
        handle_.reset(handle);
    }

    detail::owned<v4_engine, v4_engine_close> handle_;
};

inline v4_plan plan_file(const std::string &path, const v4_engine_options &options) {
    auto plan = sized<v4_plan>();
    check(v4_plan_file(path.c_str(), &options, &plan));
    return plan;
}

class decoder {
public:
    explicit decoder(const engine &engine) {
        v4_decoder *handle = nullptr;
        check(v4_decoder_open(engine.get(), &handle));
        handle_.reset(handle);
    }
    /* Valid until the next call. */
    std::string_view push(std::uint32_t id) {
        const char *text = nullptr;
        std::size_t length = 0;
        check(v4_decoder_push(handle_.get(), id, &text, &length));
        return {text, length};
    }
    std::string_view finish() {
        const char *text = nullptr;
        std::size_t length = 0;
        check(v4_decoder_finish(handle_.get(), &text, &length));
        return {text, length};
    }

private:
    detail::owned<v4_decoder, v4_decoder_close> handle_;
};

class sampler {
public:
    sampler() : sampler(sized<v4_sampler_options>()) {}
    explicit sampler(const v4_sampler_options &options) {
        v4_sampler *handle = nullptr;
        check(v4_sampler_open(&options, &handle));
        handle_.reset(handle);
    }
    std::uint32_t sample(const std::vector<float> &logits,
                         const std::vector<std::uint32_t> &history = {}) {
        std::uint32_t id = 0;
        check(v4_sampler_sample_logits(get(), logits.data(), logits.size(), history.data(),
                                       history.size(), &id));
        return id;
    }
    std::uint64_t draws() const {
        std::uint64_t draws = 0;
        check(v4_sampler_draws(get(), &draws));
        return draws;
    }
    v4_sampler *get() const noexcept { return handle_.get(); }

private:
    detail::owned<v4_sampler, v4_sampler_close> handle_;
};

class session {
public:
    explicit session(const engine &engine,
                     const v4_session_options &options = sized<v4_session_options>()) {
        v4_session *handle = nullptr;
        check(v4_session_open(engine.get(), &options, &handle));
        handle_.reset(handle);
    }
    static session restore(const engine &engine, const std::string &path,
                           const v4_file_options &file = sized<v4_file_options>(),
                           const v4_session_options &options = sized<v4_session_options>()) {
        v4_session *handle = nullptr;
        check(v4_session_restore(engine.get(), path.c_str(), &file, &options, &handle));
        return session(handle);
    }

    v4_session_facts facts() const {
        auto facts = sized<v4_session_facts>();
        check(v4_session_facts_of(get(), &facts));
        return facts;
    }
    std::vector<std::uint32_t> tokens() const {
        const std::uint32_t *ids = nullptr;
        std::size_t count = 0;
        check(v4_session_tokens(get(), &ids, &count));
        return {ids, ids + count};
    }

    void append(const std::vector<std::uint32_t> &ids, const v4_run_options *options = nullptr) {
        check(v4_session_append(get(), ids.data(), ids.size(), options));
    }
    void sync(const std::vector<std::uint32_t> &ids, const v4_run_options *options = nullptr) {
        check(v4_session_sync(get(), ids.data(), ids.size(), options));
    }
    void rewind(std::size_t length, const v4_run_options *options = nullptr) {
        check(v4_session_rewind(get(), length, options));
    }
    void mark() { check(v4_session_mark(get())); }
    std::vector<float> logits() {
        const float *logits = nullptr;
        std::size_t count = 0;
        check(v4_session_logits(get(), &logits, &count));
        return {logits, logits + count};
    }
    std::uint32_t sample(sampler &sampler) {
        std::uint32_t id = 0;
        check(v4_sampler_sample(sampler.get(), get(), &id));
        return id;
    }

    session fork() {
        v4_session *handle = nullptr;
        check(v4_session_fork(get(), &handle));
        return session(handle);
    }
    void save(const std::string &path, const v4_file_options &file = sized<v4_file_options>()) {
        check(v4_session_save(get(), path.c_str(), &file));
    }

    /* `take` receives each piece of text, or an id (V4_NO_TOKEN for text that was held back
     * at the end) and its text. Cancellation is not an exception here: see `finish`. */
    template <class F>
    v4_generate_result generate(sampler &sampler, const v4_generate_options &options,
                                F &&take) {
        using function = std::remove_reference_t<F>;
        detail::callback<function> told(take);
        auto result = sized<v4_generate_result>();
        const v4_token_fn call = [](void *user, const v4_token *token) -> std::int32_t {
            auto &told = detail::self<function>(user);
            const std::string_view text(token->text, token->length);
            if constexpr (std::is_invocable_v<function &, std::uint32_t, std::string_view>)
                return told.call(std::uint32_t(token->id), text);
            else
                return told.call(text);
        };
        const v4_status status =
            v4_session_generate(get(), sampler.get(), &options, call, &told, &result);
        told.rethrow();
        if (status != V4_CANCELLED)
            check(status);
        return result;
    }
    template <class F> v4_generate_result generate(sampler &sampler, F &&take) {
        return generate(sampler, sized<v4_generate_options>(), std::forward<F>(take));
    }

    v4_session *get() const noexcept { return handle_.get(); }

private:
    explicit session(v4_session *handle) : handle_(handle) {}

    detail::owned<v4_session, v4_session_close> handle_;
};

class chat {
public:
    chat(const engine &engine, std::string_view json, std::int32_t protocol = V4_PROTOCOL_CHAT) {
        auto options = sized<v4_chat_options>();
        options.protocol = protocol;
        v4_chat *handle = nullptr;
        check(v4_chat_open(engine.get(), json.data(), json.size(), &options, &handle));
        handle_.reset(handle);
    }
    std::vector<std::uint32_t> prompt() const { return prompt(nullptr); }
    /* Begins with the session's tokens, as far as they spell the same. */
    std::vector<std::uint32_t> prompt(const session &session) const {
        return prompt(session.get());
    }
    v4_chat_facts facts() const {
        auto facts = sized<v4_chat_facts>();
        check(v4_chat_facts_of(get(), &facts));
        return facts;
    }
    v4_chat *get() const noexcept { return handle_.get(); }

private:
    std::vector<std::uint32_t> prompt(v4_session *session) const {
        const std::uint32_t *ids = nullptr;
        std::size_t count = 0;
        check(v4_chat_prompt(get(), session, &ids, &count));
        return {ids, ids + count};
    }

    detail::owned<v4_chat, v4_chat_close> handle_;
};

class parser {
public:
    explicit parser(const chat &chat, std::uint32_t flags = 0) {
        v4_parser *handle = nullptr;
        check(v4_parser_open(chat.get(), flags, &handle));
        handle_.reset(handle);
    }
    /* `take` receives a const v4_event &. Returns false once a stop sequence was reached. */
    template <class F> bool push(std::uint32_t id, F &&take) {
        using function = std::remove_reference_t<F>;
        detail::callback<function> told(take);
        std::int32_t ended = 0;
        const v4_status status =
            v4_parser_push(handle_.get(), &id, 1, event<function>, &told, &ended);
        told.rethrow();
        check(status);
        return ended == 0;
    }
    template <class F> void finish(std::int32_t finish, F &&take) {
        using function = std::remove_reference_t<F>;
        detail::callback<function> told(take);
        const v4_status status =
            v4_parser_finish(handle_.get(), finish, event<function>, &told);
        told.rethrow();
        check(status);
    }
    std::string response() const {
        const char *json = nullptr;
        std::size_t length = 0;
        check(v4_parser_response(handle_.get(), &json, &length));
        return {json, length};
    }

private:
    template <class F> static std::int32_t event(void *user, const v4_event *event) {
        return detail::self<F>(user).call(*event);
    }

    detail::owned<v4_parser, v4_parser_close> handle_;
};

} // namespace v4

#endif
