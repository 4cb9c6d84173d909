/*
 * v4.h: runs DeepSeek-V4 models from one GGUF file inside your own program.
 * Offline: the library opens no sockets. For C11 and C++; v4.hpp wraps it for C++17.
 *
 *   v4_engine *engine = NULL;
 *   if (v4_engine_open("model.gguf", NULL, &engine) != V4_OK)
 *       fprintf(stderr, "%s\n", v4_last_error());
 *
 * Then v4_tokenizer_encode converts text to ids, v4_session_append makes a session read
 * them, and v4_session_generate continues with a v4_sampler and returns text.
 * v4_chat_open converts a conversation to ids, and a v4_parser reads the answer. simple.c
 * and chat.c in share/v4/examples are complete programs. Compile with the output of
 * `pkg-config --cflags --libs v4`.
 *
 * RULES, which apply to every function unless it says otherwise
 *
 * Errors. Calls return V4_OK (0) or a status that says what to do; v4_last_error()
 *   returns a message for people. After an error, outputs are as they were before the
 *   call (no handle is created), unless stated otherwise. No call ends the process or
 *   unwinds into yours: a bug inside the library becomes V4_INTERNAL, and after that
 *   the affected object returns V4_INTERNAL for everything except its close. Two things
 *   cannot become a status: memory that the system refuses (sizes are checked first,
 *   and v4_engine_options.memory is the limit to set), and your callbacks if they throw
 *   or longjmp out, which they must not do.
 *
 * Handles. v4_engine, v4_session, ... are opaque. Whoever opens one closes it. Closing
 *   NULL is V4_OK. Objects may be closed in any order: a session keeps what it needs
 *   of its engine. A closed handle must not be used again.
 *
 * Pointers. No pointer may be NULL unless it says "or NULL"; otherwise NULL is
 *   V4_INVALID_ARGUMENT. A pointer to no elements (its count is 0) may be NULL.
 *   Inputs are read only during the call. Pointers that the library returns are owned
 *   by the handle that they come from, and are valid until that handle's next call or
 *   as stated. They must not be freed or written to.
 *
 * Structs begin with `size`, which you set to sizeof of the struct, for inputs and
 *   outputs. Zero in every other field is valid and means the default:
 *       v4_engine_options options = {0};
 *       options.size = sizeof options;
 *   Later versions add fields at the end and never change others. A program compiled
 *   with an older header keeps working. One compiled with a newer header works too, as
 *   long as the fields that the library does not know are zero (V4_UNSUPPORTED
 *   otherwise); in outputs they are returned as zero.
 *
 * Text is UTF-8 with its length in bytes; V4_STRLEN as a length means a NUL-terminated
 *   text. Returned text also has a NUL after its end. Paths are the system's bytes and
 *   NUL-terminated.
 *
 * Units. Sizes and lengths of texts are in bytes, times in seconds, and all other counts
 *   in tokens or elements.
 *
 * Threads. Any number of threads may use an engine or a v4_cancel at once. Every other
 *   object serves one thread at a time, but any thread: a second one gets V4_BUSY and
 *   changes nothing, and so does a callback that uses the object whose call it comes
 *   from. Sessions of one engine run concurrently and share its worker threads. Calling
 *   threads need 256 KiB of stack. After fork(), a child must not use objects that its
 *   parent opened.
 *
 * Callbacks run on the thread of the call that they were given to, unless stated
 *   otherwise, and never after it has returned. `user` is passed through unchanged.
 *   What a callback receives is valid until it returns.
 *
 * The process. Opening the first engine installs a handler for SIGBUS, which the
 *   system raises if a mapped model file is truncated or its disk fails: the engine
 *   then fails with V4_FILE_LOST instead of ending the process. Faults at any other
 *   address go to the previous handler. Install yours first; if you install one later,
 *   pass on what is not yours. The library does not touch anything else of the process:
 *   no standard streams, environment, locale or exit handlers. The shared library stays
 *   loaded after dlclose().
 *
 * Results are the same bits for any number of threads, any grouping of tokens into
 * calls, with drafts and without, and sessions that were saved, restored, forked or
 * rewound.
 *
 * Linux on 64-bit little-endian machines.
 */
#ifndef V4_H
#define V4_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the interface: the first number changes when programs would break, and
 * so does the library's file name (libv4.so.1); the second one changes with additions. */
#define V4_ABI_MAJOR 1
#define V4_ABI_MINOR 3

/* Length of a NUL-terminated text. */
#define V4_STRLEN SIZE_MAX
/* Stands for a missing token id. */
#define V4_NO_TOKEN UINT32_MAX
/* v4_engine_options.memory: no limit. */
#define V4_MEMORY_UNBOUNDED UINT64_MAX

/* ---- Status ---------------------------------------------------------------- */

typedef int32_t v4_status;

enum {
    V4_OK = 0,
    /* A v4_cancel or a callback stopped the call. What was done by then is kept. */
    V4_CANCELLED = 1,
    /* NULL, or a size, number or flag that is not allowed: a mistake of the caller. */
    V4_INVALID_ARGUMENT = 2,
    /* A text is not UTF-8. */
    V4_INVALID_UTF8 = 3,
    /* The object is in use by another thread, or by the call that runs this callback. */
    V4_BUSY = 4,
    /* The buffer is too small; the call returned how large it must be. */
    V4_BUFFER_TOO_SMALL = 5,
    /* An option or a request that this version of the library does not know. */
    V4_UNSUPPORTED = 6,
    /* A file cannot be opened, read or written: missing file, no permission, full disk. */
    V4_IO = 7,
    /* The model file is damaged, or of an unsupported kind. */
    V4_BAD_MODEL = 8,
    /* The model file was truncated or its disk failed while it was open. */
    V4_FILE_LOST = 9,
    /* It does not fit into the allowed memory. */
    V4_NO_MEMORY = 10,
    /* The tokens do not fit into the session's context, or the context exceeds the
     * model's limit. */
    V4_CONTEXT_FULL = 11,
    /* A token id that the model does not have or cannot read. */
    V4_BAD_TOKEN = 12,
    /* The session has no logits: append a token first. */
    V4_NO_LOGITS = 13,
    /* A session file that is damaged, of another model, or open elsewhere. */
    V4_BAD_SESSION_FILE = 14,
    /* A chat request that its protocol refuses. */
    V4_BAD_REQUEST = 15,
    /* The parser's output has ended: nothing more can be pushed. */
    V4_ENDED = 16,
    /* The system refused to start threads. */
    V4_NO_THREADS = 17,
    /* The model computed values that are not numbers: damaged weights. */
    V4_NOT_FINITE = 18,
    /* A bug in the library. Please report it. */
    V4_INTERNAL = 19,
    /* Since 1.2: a signature is required, but none of the signers made one. */
    V4_UNTRUSTED = 20,
    /* Since 1.2: the model file does not match its manifest, or somebody wrote to it while
     * it was open. */
    V4_ALTERED = 21,
    /* Since 1.2: an adapter that is damaged, not for this model, or needs something that
     * cannot be done at run time. */
    V4_BAD_ADAPTER = 22
};

/* The name of a status, such as "V4_IO"; never NULL, never freed. */
const char *v4_status_name(v4_status status);

/* The error of this thread's last failed call: one line in English that names the
 * file, the item and the remedy; empty if no call has failed. Never NULL; valid until
 * this thread's next call into the library. */
const char *v4_last_error(void);

/* ---- Version and log ------------------------------------------------------- */

/* The library's version of the interface: V4_ABI_MAJOR << 16 | V4_ABI_MINOR. */
uint32_t v4_abi_version(void);

/* The engine's version, such as "0.1.0"; never freed. */
const char *v4_version(void);

enum {
    V4_LOG_ERROR = 1, /* a bug in the library */
    V4_LOG_WARN = 2,  /* something was lost: a session was emptied by an error, a draft
                       * module failed or does not fit into the memory */
    V4_LOG_INFO = 3,  /* a model was opened or closed */
    V4_LOG_DEBUG = 4  /* sessions saved, restored, prompts read */
};

/* Receives one line. May be called on any thread, on several at once, and while
 * objects are in use. It must not call this library. */
typedef void (*v4_log_fn)(void *user, int32_t level, const char *message);

/* Sends the library's messages up to `level` to `log`, or to nobody if NULL, which is
 * the default. For the whole process. The previous callback is not called any more once
 * this returns. Users' texts are never logged. */
v4_status v4_set_log(v4_log_fn log, void *user, int32_t level);

/* ---- Cancellation ---------------------------------------------------------- */

/* A request to stop. Calls that were given one check it after every token and, while they
 * read a prompt, between the model's layers. A chunk (v4_session_options.chunk) that is
 * stopped leaves no trace in the session. */
typedef struct v4_cancel v4_cancel;

v4_status v4_cancel_open(v4_cancel **cancel);
/* Stops the calls that have it, and those that get it later. May be called from any
 * thread, and from signal handlers. */
v4_status v4_cancel_request(v4_cancel *cancel);
/* Resets it to its initial state. */
v4_status v4_cancel_reset(v4_cancel *cancel);
/* Calls that already have it continue. */
v4_status v4_cancel_close(v4_cancel *cancel);

/* ---- Engine: a loaded model ------------------------------------------------ */

typedef struct v4_engine v4_engine;

/* Receives progress. A result other than 0 stops the call with V4_CANCELLED. */
typedef int32_t (*v4_progress_fn)(void *user, uint64_t done, uint64_t total);

enum {
    V4_PRECISION_FAST = 0, /* integer products */
    V4_PRECISION_EXACT = 1 /* float products, several times slower */
};

enum {
    V4_KV_DEFAULT = 0,   /* published with fast, f32 with exact */
    V4_KV_PUBLISHED = 1, /* with the roundings that the model was trained with */
    V4_KV_F32 = 2
};

/* Since 1.2: how experts and Engram rows that are not in memory are read. */
enum {
    V4_READS_AUTO = 0,     /* io_uring if the system allows it, threads otherwise */
    V4_READS_IO_URING = 1, /* io_uring, or an error */
    V4_READS_THREADS = 2   /* a pool of threads */
};

/* Since 1.2: where the Engram tables of V4.1 are. */
enum {
    V4_ENGRAM_DISK = 0,  /* in the file: rows are read when tokens need them */
    V4_ENGRAM_MEMORY = 1 /* in memory, read when the model is opened */
};

/* Since 1.2: when the model's bytes are compared with its manifest, which is next to it
 * (model.gguf.manifest and model.gguf.hashes, written by v4-convert). */
enum {
    V4_VERIFY_DEFAULT = 0, /* USE if a signature is required, OFF otherwise */
    V4_VERIFY_OFF = 1,
    V4_VERIFY_USE = 2,  /* what every token needs when opening, the rest before use */
    V4_VERIFY_WHOLE = 3 /* the whole file before it is opened, and again as with USE */
};

enum {
    V4_WEIGHTS_MAPPED = 0, /* read from the file when needed, shared */
    V4_WEIGHTS_LOCKED = 1, /* the same, read when opened and locked in memory */
    V4_WEIGHTS_COPIED = 2  /* in the process's own memory, in huge pages */
};

/* Since 1.3: how many tokens are drafted: tokens that the model's draft module or the text
 * itself foresees are read together with the next one, and taken back if others come. That
 * changes how fast an answer comes, and no token of it. 1 to V4_DRAFT_MOST: so many at
 * once, if as many are foreseen. */
enum {
    V4_DRAFT_DEFAULT = 0, /* AUTO; in v4_generate_options, what the engine's options say */
    V4_DRAFT_AUTO = -1,   /* as many as make the answer faster, as measured; also none */
    V4_DRAFT_OFF = -2,
    V4_DRAFT_MOST = 15
};

typedef struct v4_engine_options {
    uint32_t size;
    /* Worker threads; 0 for one per core that the process may use. At most 1024. */
    uint32_t threads;
    int32_t precision; /* V4_PRECISION_... */
    int32_t kv;        /* V4_KV_... */
    int32_t weights;   /* V4_WEIGHTS_... */
    /* Not 0: each worker is pinned to its own core. */
    uint32_t pin;
    /* Bytes that the engine and its sessions may use together; experts that do not
     * fit are streamed from the file. 0 for what is free now minus a margin. */
    uint64_t memory;
    /* Context in tokens to plan memory for; 0 for 32768 or the model's limit. */
    uint32_t context;
    /* Tokens of a prompt to run at once; 0 for 2048, or fewer where memory is short, down
     * to 512. */
    uint32_t chunk;
    /* Or NULL. Receives how many bytes of weights were read, if they are copied. With
     * V4_VERIFY_WHOLE, first how many of each file were compared, each time from 0 again.
     * Called on any thread, one call at a time. */
    v4_progress_fn progress;
    void *user;
    /* Since 1.2: everything that follows. */
    int32_t reads;  /* V4_READS_... */
    int32_t engram; /* V4_ENGRAM_... */
    /* Not 0: the model's manifest must be signed by one of the signers or, if none are
     * given, by one of the keys in /etc/v4-run/keys. */
    uint32_t require_signed;
    int32_t verify; /* V4_VERIFY_... */
    /* Public keys that may have signed the model, at most 64: each is the key itself or
     * the path of a minisign key file, NUL-terminated. Giving one requires a signature. */
    const char *const *signers;
    size_t signer_count;
    /* Since 1.3: everything that follows. V4_DRAFT_... or a number, for sessions whose calls
     * do not say. Unless it is V4_DRAFT_OFF, the draft module in the model's file is loaded,
     * if it has one. If `memory` does not suffice for it, it is left out, and the log and
     * v4_plan.draft_needed say so; with a number, that is V4_NO_MEMORY. */
    int32_t draft;
    /* Must be 0. */
    uint32_t reserved;
    /* A draft module in another file, or NULL: written by v4-convert --drafts only, by
     * llama.cpp or ds4. It must fit the model and into the memory, and be signed if the
     * model must be. Not with V4_DRAFT_OFF. */
    const char *drafts;
} v4_engine_options;

/* Opens a GGUF file. `options` or NULL. Takes seconds, or as long as reading the file if
 * weights are locked or copied or the whole file is verified. Returns V4_UNTRUSTED if a
 * required signature is missing, and V4_ALTERED if bytes differ. Calls of sessions return
 * V4_ALTERED too: with V4_VERIFY_USE, and whenever the file is written to while it is
 * open. After that, all calls that run the model do; close it, and open a good copy. */
v4_status v4_engine_open(const char *path, const v4_engine_options *options,
                         v4_engine **engine);

/* Releases the caller's share of the model. Its memory is freed when the last of its
 * sessions, decoders, chats and parsers is closed too. */
v4_status v4_engine_close(v4_engine *engine);

/* Since 1.2: the same model with these low-rank adapters, and no others: folders saved by
 * PEFT (adapter_config.json, adapter_model.safetensors), at most 64, with NUL-terminated
 * paths. Adapters are applied in this order. The result is a separate handle that must be
 * closed. It shares the weights, threads and memory of `engine`, which does not change,
 * and has its own sessions. Adapters use memory that sessions share. If the model had to
 * be signed, the adapters must be signed as well. An adapter that is damaged or not for
 * this model is V4_BAD_ADAPTER. */
v4_status v4_engine_with_adapters(const v4_engine *engine, const char *const *folders,
                                  size_t count, v4_engine **adapted);

/* Facts about a model. Strings are owned by the engine and valid until it is closed. */
typedef struct v4_facts {
    uint32_t size;
    /* Special ids, V4_NO_TOKEN if the model has none: begin of a prompt, end of an
     * answer, padding. */
    uint32_t bos;
    uint32_t eos;
    uint32_t pad;
    /* Number of ids, and of logits. */
    uint32_t vocab;
    /* The longest context. */
    uint32_t context;
    uint32_t layers;
    uint32_t embedding;
    uint32_t experts;
    uint32_t experts_used;
    /* Layers with an Engram table in use. */
    uint32_t engram_layers;
    /* Worker threads. */
    uint32_t threads;
    uint64_t file_bytes;
    /* Bytes of weights that one token's computation reads. */
    uint64_t weight_bytes_per_token;
    /* "deepseek4" or "deepseek41". */
    const char *architecture;
    /* The model's name, empty if the file has none. */
    const char *name;
    /* The path, as given. */
    const char *path;
    /* Instruction set of the kernels, such as "avx2". */
    const char *isa;
    /* Since 1.2: the signer's key, as given or the path of its file; NULL if no signature
     * was required. */
    const char *signer;
    /* Since 1.2: what is known about the file's origin and content, one line for people. */
    const char *trust;
    /* Since 1.3: the kind of the draft module that is loaded, "MTP" or "DSpark"; NULL if none
     * is. Its blocks, and how many tokens it drafts at once. */
    const char *draft;
    uint32_t draft_blocks;
    uint32_t draft_tokens;
} v4_facts;

v4_status v4_engine_facts(const v4_engine *engine, v4_facts *facts);

/* Where memory goes, for one session of `context` tokens. */
typedef struct v4_plan {
    uint32_t size;
    uint32_t context;
    /* Whether routed experts are read from the file when tokens need them. */
    uint32_t streamed;
    /* Routed experts in the file, of all layers, and those that fit in memory with a full
     * session. */
    uint32_t experts;
    uint32_t expert_slots;
    uint32_t threads;
    /* Everything in memory with one full session. */
    uint64_t total;
    /* The limit; V4_MEMORY_UNBOUNDED without one. */
    uint64_t allowed;
    /* Weights that every token reads. */
    uint64_t dense;
    /* Token embeddings: mapped, not counted in the total. */
    uint64_t embedding;
    /* Routed experts in the file, and one of them in memory. */
    uint64_t expert_bytes;
    uint64_t expert_slot_bytes;
    /* Engram tables in the file, and tables or rows in memory. */
    uint64_t engram_tables;
    uint64_t engram_memory;
    /* Caches of a full session, and buffers while it reads a prompt. */
    uint64_t kv;
    uint64_t scratch;
    /* The program itself, with the tokenizer. */
    uint64_t program;
    /* Since 1.3: the draft module without routed experts that are read like the model's,
     * with what a session keeps for it. */
    uint64_t draft;
    /* Since 1.3: what a session takes to read ahead; 0 without room for it or drafts. */
    uint64_t ahead;
    /* Since 1.3: what `memory` must be for the draft module in the model's file, which was
     * left out; 0 if none was. */
    uint64_t draft_needed;
} v4_plan;

/* The plan that the engine was opened with. */
v4_status v4_engine_plan(const v4_engine *engine, v4_plan *plan);

/* The plan for a file without opening it: only its header is read, and no signature is
 * checked. V4_NO_MEMORY if it would not fit; v4_last_error() says what would. `options`
 * or NULL. */
v4_status v4_plan_file(const char *path, const v4_engine_options *options, v4_plan *plan);

/* ---- Tokenizer ------------------------------------------------------------- */

enum {
    /* Marks in the text, such as <think>, become their tokens. Leave this out for text by
     * users, who could otherwise end their own turn. */
    V4_ENCODE_MARKS = 1,
    /* Begins with the model's begin-of-sentence token. */
    V4_ENCODE_BOS = 2
};

/* Converts a text of up to 1 GiB to ids. Writes all of them to `ids` if `capacity`
 * suffices, or none, and their number to `count`, also with V4_BUFFER_TOO_SMALL. There
 * are never more ids than bytes in the text, plus one with V4_ENCODE_BOS. */
v4_status v4_tokenizer_encode(const v4_engine *engine, const char *text, size_t length,
                              uint32_t flags, uint32_t *ids, size_t capacity,
                              size_t *count);

enum {
    /* Bytes that are not UTF-8 become U+FFFD. */
    V4_DECODE_UTF8 = 1
};

/* Converts ids to bytes, followed by a NUL. They may be invalid UTF-8 and may contain
 * NULs. Writes them if `capacity` is larger than their number, which is written to
 * `length`, also with V4_BUFFER_TOO_SMALL. */
v4_status v4_tokenizer_decode(const v4_engine *engine, const uint32_t *ids, size_t count,
                              uint32_t flags, char *buffer, size_t capacity,
                              size_t *length);

/* Decodes ids that arrive one by one, and holds back an incomplete character until its
 * last byte arrives. */
typedef struct v4_decoder v4_decoder;

v4_status v4_decoder_open(const v4_engine *engine, v4_decoder **decoder);
/* The text that `id` completes, often empty: whole characters, and U+FFFD for invalid
 * bytes. */
v4_status v4_decoder_push(v4_decoder *decoder, uint32_t id, const char **text,
                          size_t *length);
/* The end: an incomplete character becomes U+FFFD. Then the decoder can be reused. */
v4_status v4_decoder_finish(v4_decoder *decoder, const char **text, size_t *length);
v4_status v4_decoder_close(v4_decoder *decoder);

/* ---- Session: a sequence of tokens, and the model's caches for it ------------ */

typedef struct v4_session v4_session;

typedef struct v4_session_options {
    uint32_t size;
    /* Tokens it can hold; 0 for the engine's value. Memory is allocated as it grows. */
    uint32_t context;
    /* Tokens of a prompt to run at once; 0 for the engine's value. Fewer are slower and
     * take less memory. */
    uint32_t chunk;
} v4_session_options;

/* An empty session. `options` or NULL. */
v4_status v4_session_open(const v4_engine *engine, const v4_session_options *options,
                          v4_session **session);
v4_status v4_session_close(v4_session *session);

typedef struct v4_session_facts {
    uint32_t size;
    /* Tokens it holds. */
    uint32_t tokens;
    /* Tokens it can hold. */
    uint32_t context;
    uint32_t chunk;
    /* Bytes of its caches now. */
    uint64_t kv_bytes;
} v4_session_facts;

v4_status v4_session_facts_of(v4_session *session, v4_session_facts *facts);

/* The tokens it holds; `ids` are valid until the session's next call. */
v4_status v4_session_tokens(v4_session *session, const uint32_t **ids, size_t *count);

/* Logits of one position. */
typedef struct v4_logits {
    uint32_t size;
    /* The position, from 0. */
    uint32_t position;
    /* One per id, for the token at position + 1. */
    const float *logits;
    size_t count;
} v4_logits;

/* Receives one position's logits. A result other than 0 stops at the end of the chunk. */
typedef int32_t (*v4_logits_fn)(void *user, const v4_logits *logits);

typedef struct v4_run_options {
    uint32_t size;
    /* Must be 0. */
    uint32_t reserved;
    /* Receives how many of this call's tokens are done, after every chunk but the last;
     * or NULL. */
    v4_progress_fn progress;
    /* Receives the logits of every position, or NULL: only the last one's are kept. */
    v4_logits_fn logits;
    /* For both. */
    void *user;
    /* Or NULL. */
    v4_cancel *cancel;
} v4_run_options;

/* Appends tokens. `options` or NULL.
 * After V4_BAD_TOKEN, V4_CONTEXT_FULL and V4_NO_MEMORY, nothing was appended; after
 * V4_CANCELLED, whole chunks were; after V4_IO, V4_FILE_LOST, V4_ALTERED and
 * V4_NOT_FINITE, the session is empty. */
v4_status v4_session_append(v4_session *session, const uint32_t *ids, size_t count,
                            const v4_run_options *options);

/* Makes the session hold exactly these tokens: keeps the beginning that it shares with
 * them, as far as it can go back, and runs the rest. This suits a chat, which sends its
 * whole prompt each time. Errors as above; a session that was shortened stays shortened. */
v4_status v4_session_sync(v4_session *session, const uint32_t *ids, size_t count,
                          const v4_run_options *options);

/* Logits for the token after the last, one per id, valid until the session's next call.
 * V4_NO_LOGITS for a session that is empty or was restored: append a token, or rewind it
 * to its own length. After v4_session_generate, this may run the model for the answer's
 * last token. */
v4_status v4_session_logits(v4_session *session, const float **logits, size_t *count);

/* Since 1.1: returns the session to its first `length` tokens, with the logits after
 * them. The tokens from the preceding mark, or from the beginning, are run again; marks
 * are set at the end of prompts and by v4_session_mark. `options` or NULL. Errors as
 * above, and V4_INVALID_ARGUMENT if the session holds fewer tokens. */
v4_status v4_session_rewind(v4_session *session, size_t length,
                            const v4_run_options *options);

/* Since 1.1: saves the state here, so that rewinding to this place or a little after it is
 * fast. At most 16 marks are kept, closer together towards the end, and none if memory is
 * short. */
v4_status v4_session_mark(v4_session *session);

/* A copy of the session. The two are independent. */
v4_status v4_session_fork(v4_session *session, v4_session **fork);

/* How a session's file is stored. */
typedef struct v4_file_options {
    uint32_t size;
    /* 32: the file is encrypted (XChaCha20-Poly1305) with this key, which should be
     * random bytes; 0: it is not encrypted. */
    uint32_t key_length;
    const uint8_t *key;
} v4_file_options;

/* Writes the session to a file: only what the file lacks, so saving again is fast. Only
 * the owner can read the file. What it has beyond the shared beginning is dropped. A crash
 * at any moment leaves what was saved before. `file` or NULL. */
v4_status v4_session_save(v4_session *session, const char *path,
                          const v4_file_options *file);

/* Restores a session from a file saved with the same model, precision, kv and key. `file`
 * and `options` or NULL. */
v4_status v4_session_restore(const v4_engine *engine, const char *path,
                             const v4_file_options *file, const v4_session_options *options,
                             v4_session **session);

/* ---- Sampler: chooses the next token --------------------------------------- */

typedef struct v4_sampler v4_sampler;

typedef struct v4_sampler_options {
    uint32_t size;
    /* Divides the logits. 0 always picks the most likely token; the model card
     * recommends 1. */
    float temperature;
    /* Keeps the most likely tokens whose probabilities add up to this, above 0 and at most
     * 1; 0 keeps all, like 1. */
    float top_p;
    /* Keeps tokens at least this fraction as likely as the most likely one. */
    float min_p;
    /* For tokens in the last `repeat_last_n`; 0 means none, like 1. */
    float repetition_penalty;
    /* Keeps this many of the most likely tokens; 0 keeps all. */
    uint32_t top_k;
    /* 0 for 64, UINT32_MAX for all. */
    uint32_t repeat_last_n;
    /* Must be 0. */
    uint32_t reserved;
    /* The same seed gives the same tokens. */
    uint64_t seed;
    /* Random numbers to skip, to continue where another sampler stopped. */
    uint64_t draws;
} v4_sampler_options;

/* `options` or NULL, which always picks the most likely token. */
v4_status v4_sampler_open(const v4_sampler_options *options, v4_sampler **sampler);
/* Chooses the token after the session's last. It is not appended. */
v4_status v4_sampler_sample(v4_sampler *sampler, v4_session *session, uint32_t *id);
/* The same with your own logits; minus infinity forbids a token. `history` has the ids so
 * far, for the repetition penalty. */
v4_status v4_sampler_sample_logits(v4_sampler *sampler, const float *logits, size_t count,
                                   const uint32_t *history, size_t history_count,
                                   uint32_t *id);
/* Random numbers used so far. */
v4_status v4_sampler_draws(v4_sampler *sampler, uint64_t *draws);
v4_status v4_sampler_close(v4_sampler *sampler);

/* ---- Generation ------------------------------------------------------------ */

/* A token of an answer. */
typedef struct v4_token {
    uint32_t size;
    /* Its id; V4_NO_TOKEN at the end, for text that was held back. */
    uint32_t id;
    /* The text that it completes: whole characters, often none. */
    const char *text;
    size_t length;
} v4_token;

/* Receives a token. A result other than 0 stops with V4_OK and V4_FINISH_CALLBACK. */
typedef int32_t (*v4_token_fn)(void *user, const v4_token *token);

enum {
    V4_FINISH_STOP = 1,         /* the model ended its text */
    V4_FINISH_LENGTH = 2,       /* max_tokens */
    V4_FINISH_CONTEXT_FULL = 3, /* no room for another token */
    V4_FINISH_CALLBACK = 4,     /* the callback stopped it */
    V4_FINISH_CANCELLED = 5,    /* v4_cancel; the call returns V4_CANCELLED */
    V4_FINISH_STOP_STRING = 6   /* a stop string was reached; since 1.1 */
};

typedef struct v4_generate_options {
    uint32_t size;
    /* Maximum number of tokens; 0 for no limit other than the context. */
    uint32_t max_tokens;
    /* Or NULL. */
    v4_cancel *cancel;
    /* Since 1.1: texts that end the answer and are left out of it, at most 64 of up to
     * 1024 bytes, NUL-terminated. Text that may be the beginning of one is held back until
     * that is known. */
    const char *const *stop;
    size_t stop_count;
    /* Since 1.3: V4_DRAFT_... or a number. */
    int32_t draft;
    /* Must be 0. */
    uint32_t reserved;
} v4_generate_options;

typedef struct v4_generate_result {
    uint32_t size;
    int32_t finish; /* V4_FINISH_... */
    /* Tokens passed to the callback. */
    uint64_t tokens;
    /* Since 1.1: the time it took, including the callback's. */
    double seconds;
    /* Since 1.3: passes of the model, drafts that were read in them, and drafts that turned
     * out to be right, each of which saved a pass. */
    uint64_t passes;
    uint64_t drafts;
    uint64_t drafts_accepted;
} v4_generate_result;

/* Continues the session token by token until a stop condition holds. `options`,
 * `callback` and `result` or NULL; `result` is filled in with V4_OK and V4_CANCELLED. The
 * token that ends the text is neither passed on nor appended. All others are then part of
 * the session, except the last one of a full context, which does not fit. What was drafted
 * and did not come is not. After V4_FINISH_LENGTH, what was read ahead is kept for the next
 * v4_session_generate; other calls that change or save the session give its memory back. */
v4_status v4_session_generate(v4_session *session, v4_sampler *sampler,
                              const v4_generate_options *options, v4_token_fn callback,
                              void *user, v4_generate_result *result);

/* ---- Chat ------------------------------------------------------------------ */

/* A request of a chat protocol, and its prompt. */
typedef struct v4_chat v4_chat;

enum {
    V4_PROTOCOL_CHAT = 0,     /* OpenAI's Chat Completions */
    V4_PROTOCOL_MESSAGES = 1, /* Anthropic's Messages */
    V4_PROTOCOL_RESPONSES = 2 /* OpenAI's Responses */
};

typedef struct v4_chat_options {
    uint32_t size;
    int32_t protocol; /* V4_PROTOCOL_... */
} v4_chat_options;

/* Reads a JSON request of up to 256 MiB, with its messages, tools, thinking and stop
 * sequences:
 *     {"messages": [{"role": "user", "content": "Hi"}],
 *      "thinking": {"type": "disabled"}}
 * The model name does not matter and can be left out. Images are V4_UNSUPPORTED.
 * `options` or NULL. */
v4_status v4_chat_open(const v4_engine *engine, const char *json, size_t length,
                       const v4_chat_options *options, v4_chat **chat);
v4_status v4_chat_close(v4_chat *chat);

/* The prompt's tokens, up to where the model's turn begins; pass them to v4_session_sync.
 * If a session is given (or NULL), they begin with its tokens as far as these spell the
 * beginning of the prompt. Otherwise a model that spelled its answer with other tokens
 * than the tokenizer chooses would have to read it again. */
v4_status v4_chat_prompt(v4_chat *chat, v4_session *session, const uint32_t **ids,
                         size_t *count);

/* What the request asks for besides its prompt. Following it is up to the caller. */
typedef struct v4_chat_facts {
    uint32_t size;
    /* Maximum tokens of the answer; 0 if not specified. */
    uint32_t max_tokens;
    float temperature;
    float top_p;
    /* Whether it has a seed. */
    uint32_t has_seed;
    /* Whether the model thinks before it answers. */
    uint32_t thinking;
    /* Whether it requests streaming. */
    uint32_t stream;
    /* Whether it requests a format of the output (JSON, a tool call). The prompt describes
     * the format, but the library does not enforce it. */
    uint32_t constrained;
    uint64_t seed;
} v4_chat_facts;

v4_status v4_chat_facts_of(v4_chat *chat, v4_chat_facts *facts);

/* ---- Output parser: reasoning, content and calls of an answer --------------- */

typedef struct v4_parser v4_parser;

enum {
    V4_EVENT_REASONING = 1,  /* text: a piece of the reasoning */
    V4_EVENT_CONTENT = 2,    /* text: a piece of the answer */
    V4_EVENT_TOOL_CALL = 3,  /* text: name of the tool; its arguments follow */
    V4_EVENT_ARGUMENTS = 4,  /* text: a piece of the call's arguments in JSON */
    V4_EVENT_END = 5,        /* text: "stop", "length", "tool_calls", "stop_sequence" */
    V4_EVENT_PROTOCOL = 6    /* text: an event of the request's protocol in JSON */
};

typedef struct v4_event {
    uint32_t size;
    int32_t kind; /* V4_EVENT_... Ignore unknown ones. */
    const char *text;
    size_t length;
    /* V4_EVENT_PROTOCOL: the event's name if the protocol has names, NULL otherwise. */
    const char *name;
} v4_event;

/* Receives an event. After a result other than 0, the call skips its remaining events and
 * returns V4_CANCELLED. */
typedef int32_t (*v4_event_fn)(void *user, const v4_event *event);

enum {
    /* V4_EVENT_PROTOCOL instead of the other events, for servers. */
    V4_PARSER_PROTOCOL = 1
};

/* A parser for the answer to a chat. */
v4_status v4_parser_open(v4_chat *chat, uint32_t flags, v4_parser **parser);
/* Takes tokens of the answer in the order of generation, and reports what they complete.
 * The token that ends the text is not one of them. Sets `ended` (or NULL) to 1 once a
 * stop sequence of the request was reached: stop generating then. */
v4_status v4_parser_push(v4_parser *parser, const uint32_t *ids, size_t count,
                         v4_event_fn callback, void *user, int32_t *ended);
/* The end of the answer: `finish` says how generation ended, V4_FINISH_.... After a stop
 * sequence there are no more events. */
v4_status v4_parser_finish(v4_parser *parser, int32_t finish, v4_event_fn callback,
                           void *user);
/* With V4_PARSER_PROTOCOL: the protocol's response so far in JSON, for clients that do not
 * stream. V4_UNSUPPORTED without it. */
v4_status v4_parser_response(v4_parser *parser, const char **json, size_t *length);
v4_status v4_parser_close(v4_parser *parser);

#ifdef __cplusplus
}
#endif

#endif
