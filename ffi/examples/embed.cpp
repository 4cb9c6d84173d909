/*
 * Several continuations of one text at once: the text is read once, its session is
 * forked, and each fork goes on in a thread of its own with another seed.
 *
 *   embed MODEL TEXT [COUNT [TOKENS [TEMPERATURE]]]
 *
 * prints for each seed from 1 to COUNT what `v4-run complete MODEL -p TEXT -n TOKENS
 * --temp TEMPERATURE --seed SEED` prints, after a line that names the seed.
 */
#include <cstdlib>
#include <exception>
#include <future>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include <v4.hpp>

static std::string go_on(v4::session session, unsigned seed, float temperature,
                         unsigned tokens) {
    auto sampling = v4::sized<v4_sampler_options>();
    sampling.temperature = temperature;
    sampling.seed = seed;
    v4::sampler sampler(sampling);

    auto length = v4::sized<v4_generate_options>();
    length.max_tokens = tokens;
    std::string text;
    session.generate(sampler, length, [&](std::string_view piece) { text += piece; });
    return text;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        std::cerr << "usage: embed MODEL TEXT [COUNT [TOKENS [TEMPERATURE]]]\n";
        return 2;
    }
    const auto number = [&](int i, unsigned otherwise) {
        return argc > i ? static_cast<unsigned>(std::strtoul(argv[i], nullptr, 10)) : otherwise;
    };
    const unsigned count = number(3, 2), tokens = number(4, 32);
    const float temperature = argc > 5 ? std::strtof(argv[5], nullptr) : 1.0f;
    try {
        v4::engine engine(argv[1]);
        v4::session read(engine);
        read.append(engine.encode(argv[2], V4_ENCODE_BOS));

        std::vector<std::future<std::string>> texts;
        for (unsigned seed = 1; seed <= count; seed++)
            texts.push_back(std::async(std::launch::async, go_on, read.fork(), seed,
                                       temperature, tokens));
        for (unsigned seed = 1; seed <= count; seed++)
            std::cout << "--- seed " << seed << "\n" << texts[seed - 1].get() << "\n";
    } catch (const std::exception &error) {
        std::cerr << "embed: " << error.what() << "\n";
        return 1;
    }
    return 0;
}
