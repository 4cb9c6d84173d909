/* Text to ids and back. */
#include "check.h"

static void test_encode(const world *w) {
    uint32_t ids[64], again[64];
    size_t count = 77, plain = 0, length = 0;
    char text[64];

    OK(v4_tokenizer_encode(w->engine, "fn main", V4_STRLEN, 0, ids, 64, &count));
    CHECK(count > 0 && count <= 7);
    OK(v4_tokenizer_encode(w->engine, "fn main() {", 7, 0, again, 64, &plain));
    CHECK(plain == count && memcmp(ids, again, count * sizeof *ids) == 0);
    OK(v4_tokenizer_encode(w->engine, "fn main", V4_STRLEN, V4_ENCODE_BOS, again, 64, &plain));
    CHECK(plain == count + 1 && again[0] == 0);
    CHECK(memcmp(ids, again + 1, count * sizeof *ids) == 0);
    /* A mark, and text that spells it. */
    OK(v4_tokenizer_encode(w->engine, "<think>", V4_STRLEN, V4_ENCODE_MARKS, again, 64, &plain));
    CHECK(plain == 1);
    OK(v4_tokenizer_encode(w->engine, "<think>", V4_STRLEN, 0, again, 64, &plain));
    CHECK(plain > 1);
    /* No text. */
    OK(v4_tokenizer_encode(w->engine, NULL, 0, 0, NULL, 0, &plain));
    CHECK(plain == 0);
    OK(v4_tokenizer_encode(w->engine, "", V4_STRLEN, 0, NULL, 0, &plain));
    CHECK(plain == 0);

    /* Too small: nothing is written, the number is told. */
    memset(again, 0xee, sizeof again);
    STATUS(V4_BUFFER_TOO_SMALL,
           v4_tokenizer_encode(w->engine, "fn main", V4_STRLEN, 0, again, count - 1, &plain));
    CHECK(plain == count && again[0] == 0xeeeeeeee);
    STATUS(V4_BUFFER_TOO_SMALL,
           v4_tokenizer_encode(w->engine, "fn main", V4_STRLEN, 0, NULL, 0, &plain));
    STATUS(V4_INVALID_ARGUMENT,
           v4_tokenizer_encode(w->engine, "fn main", V4_STRLEN, 0, NULL, 64, &plain));
    STATUS(V4_INVALID_ARGUMENT,
           v4_tokenizer_encode(NULL, "a", 1, 0, ids, 64, &plain));
    STATUS(V4_INVALID_ARGUMENT,
           v4_tokenizer_encode(w->engine, NULL, 1, 0, ids, 64, &plain));
    STATUS(V4_INVALID_ARGUMENT,
           v4_tokenizer_encode(w->engine, NULL, V4_STRLEN, 0, ids, 64, &plain));
    STATUS(V4_INVALID_ARGUMENT, v4_tokenizer_encode(w->engine, "a", 1, 0, ids, 64, NULL));
    STATUS(V4_INVALID_ARGUMENT,
           v4_tokenizer_encode(w->engine, "a", SIZE_MAX - 1, 0, ids, 64, &plain));
    STATUS(V4_UNSUPPORTED, v4_tokenizer_encode(w->engine, "a", 1, 4, ids, 64, &plain));
    STATUS(V4_INVALID_UTF8, v4_tokenizer_encode(w->engine, "a\xff", 2, 0, ids, 64, &plain));
    STATUS(V4_INVALID_UTF8, v4_tokenizer_encode(w->engine, "caf\xc3", 4, 0, ids, 64, &plain));
    CHECK(strstr(v4_last_error(), "byte 3") != NULL);

    OK(v4_tokenizer_encode(w->engine, "caf\xc3\xa9", V4_STRLEN, 0, ids, 64, &count));
    OK(v4_tokenizer_decode(w->engine, ids, count, 0, text, sizeof text, &length));
    CHECK(length == 5 && strcmp(text, "caf\xc3\xa9") == 0);
    STATUS(V4_BUFFER_TOO_SMALL,
           v4_tokenizer_decode(w->engine, ids, count, 0, text, 5, &length));
    CHECK(length == 5);
    OK(v4_tokenizer_decode(w->engine, ids, count, 0, text, 6, &length));
    STATUS(V4_BUFFER_TOO_SMALL,
           v4_tokenizer_decode(w->engine, ids, count, 0, NULL, 0, &length));
    OK(v4_tokenizer_decode(w->engine, NULL, 0, 0, text, 1, &length));
    CHECK(length == 0 && text[0] == 0);
    STATUS(V4_INVALID_ARGUMENT,
           v4_tokenizer_decode(NULL, ids, count, 0, text, sizeof text, &length));
    STATUS(V4_INVALID_ARGUMENT,
           v4_tokenizer_decode(w->engine, NULL, 1, 0, text, sizeof text, &length));
    STATUS(V4_INVALID_ARGUMENT,
           v4_tokenizer_decode(w->engine, ids, SIZE_MAX / 2, 0, text, sizeof text, &length));
    STATUS(V4_INVALID_ARGUMENT,
           v4_tokenizer_decode(w->engine, ids, count, 0, text, sizeof text, NULL));
    STATUS(V4_INVALID_ARGUMENT,
           v4_tokenizer_decode(w->engine, ids, count, 0, NULL, sizeof text, &length));
    STATUS(V4_UNSUPPORTED,
           v4_tokenizer_decode(w->engine, ids, count, 2, text, sizeof text, &length));
    /* Not aligned as ids are. */
    STATUS(V4_INVALID_ARGUMENT,
           v4_tokenizer_decode(w->engine, (const uint32_t *)(const void *)((const char *)ids + 1),
                               1, 0, text, sizeof text, &length));
    ids[0] = 4000000;
    STATUS(V4_BAD_TOKEN,
           v4_tokenizer_decode(w->engine, ids, 1, 0, text, sizeof text, &length));
    CHECK(strstr(v4_last_error(), "4000000") != NULL);
}

static void test_decoder(const world *w) {
    v4_decoder *decoder = NULL;
    uint32_t ids[64];
    size_t count = 0, length = 0, half = 0;
    const char *piece = NULL;
    char text[64], whole[64] = "";

    STATUS(V4_INVALID_ARGUMENT, v4_decoder_open(NULL, &decoder));
    STATUS(V4_INVALID_ARGUMENT, v4_decoder_open(w->engine, NULL));
    OK(v4_decoder_open(w->engine, &decoder));
    OK(v4_decoder_close(NULL));

    /* An emoji takes several tokens of this vocabulary: none shows half of it. */
    OK(v4_tokenizer_encode(w->engine, "a\xf0\x9f\xa6\x80z", V4_STRLEN, 0, ids, 64, &count));
    for (size_t i = 0; i < count; i++) {
        OK(v4_decoder_push(decoder, ids[i], &piece, &length));
        CHECK(strlen(piece) == length);
        CHECK(length == 0 || (piece[0] & 0xc0) != 0x80);
        strcat(whole, piece);
        half = length == 0 && half == 0 ? i : half;
    }
    CHECK(strcmp(whole, "a\xf0\x9f\xa6\x80z") == 0 && half > 0);
    OK(v4_decoder_finish(decoder, &piece, &length));
    CHECK(length == 0 && piece[0] == 0);
    /* Cut inside of it, and as new afterwards. */
    OK(v4_decoder_push(decoder, ids[half], &piece, &length));
    OK(v4_decoder_finish(decoder, &piece, &length));
    CHECK(length == 3 && strcmp(piece, "\xef\xbf\xbd") == 0);
    OK(v4_tokenizer_decode(w->engine, &ids[half], 1, V4_DECODE_UTF8, text, sizeof text, &length));
    CHECK(strcmp(text, "\xef\xbf\xbd") == 0);
    OK(v4_decoder_push(decoder, ids[0], &piece, &length));
    CHECK(strcmp(piece, "a") == 0);
    STATUS(V4_BAD_TOKEN, v4_decoder_push(decoder, V4_NO_TOKEN, &piece, &length));
    OK(v4_decoder_push(decoder, ids[0], &piece, &length));
    STATUS(V4_INVALID_ARGUMENT, v4_decoder_push(NULL, 1, &piece, &length));
    STATUS(V4_INVALID_ARGUMENT, v4_decoder_push(decoder, 1, NULL, &length));
    STATUS(V4_INVALID_ARGUMENT, v4_decoder_push(decoder, 1, &piece, NULL));
    STATUS(V4_INVALID_ARGUMENT, v4_decoder_finish(NULL, &piece, &length));
    STATUS(V4_INVALID_ARGUMENT, v4_decoder_finish(decoder, NULL, &length));
    OK(v4_decoder_close(decoder));
}

void test_tokenizer(const world *w) {
    test_encode(w);
    test_decoder(w);
}
