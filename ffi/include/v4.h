/*
 * v4.h: runs DeepSeek-V4 models from one GGUF file inside your own program.
 * Offline: the library opens no socket. C11 and C++; v4.hpp wraps it for C++17.
 *
 *   v4_engine *engine = NULL;
 *   if (v4_engine_open("model.gguf", NULL, &engine) != V4_OK)
 *       fprintf(stderr, "%s\n", v4_last_error());
 *
 * From there: v4_tokenizer_encode makes ids of a text, v4_session_append has a session
 * read them, v4_session_generate goes on from there with a v4_sampler and hands over text;
 * v4_chat_open makes ids of a conversation, and a v4_parser reads the answer. simple.c and
 * chat.c in share/v4/examples are whole programs. Compile with what `pkg-config --cflags
 * --libs v4` prints.
 *
 * RULES, which hold for every function unless it says otherwise
 *
 * Errors. Calls return V4_OK (0) or a status that says what to do about it;
 *   v4_last_error() has the sentence for people. After an error outputs are as
 *   they were before the call (handles are not made), except where it is said.
 *   No call ends the process or unwinds into yours: a fault inside of the library
 *   becomes V4_INTERNAL, and the object that it happened in then answers
 *   V4_INTERNAL to all but its close. Two things cannot be turned into a status:
 *   memory that the system refuses (sizes are checked first, and v4_engine_options
 *   .memory is the bound to set), and callbacks of yours that throw or longjmp
 *   out: they must not.
 *
 * Handles. v4_engine, v4_session, ... are opaque. Who opens one closes it. Closing
 *   NULL is V4_OK. Objects may be closed in any order: a session keeps what it
 *   needs of its engine. A handle that was closed must not be used again.
 *
 * Pointers. No pointer may be NULL unless it says "or NULL"; NULL elsewhere is
 *   V4_INVALID_ARGUMENT. A pointer to no elements (its count is 0) may be NULL.
 *   Inputs are read during the call alone. Pointers that the library hands out are
 *   owned by the handle that they come from and are valid until that handle's
 *   next call, or as said. They must not be freed or written to.
 *
 * Structs begin with `size`, which you set to sizeof of the struct, for inputs and
 *   for outputs. Zero in every other field is valid and means the default:
 *       v4_engine_options options = {0};
 *       options.size = sizeof options;
 *   Later versions add fields at the end and never change others. A program that
 *   was compiled with an older header goes on to work. One compiled with a newer
 *   header works too while the fields that the library does not know are zero
 *   (V4_UNSUPPORTED otherwise); of outputs they come back zero.
 *
 * Text is UTF-8 with its length in bytes; V4_STRLEN as a length stands for a text
 *   that ends with a NUL. Text handed out also has a NUL behind its end. Paths are
 *   the system's bytes and end with a NUL.
 *
 * Units. Sizes are bytes, times seconds, lengths of texts bytes, all other counts
 *   tokens or elements.
 *
 * Threads. An engine may be used by any number of threads at once, and so may
 *   v4_cancel. Every other object serves one thread at a time, whichever: a second
 *   one gets V4_BUSY and changes nothing; so does a callback that uses the object
 *   whose call it comes from. Sessions of one engine run beside each other and
 *   share its worker threads. Calling threads need 256 KiB of stack. After fork()
 *   a child must not use objects that its parent opened.
 *
 * Callbacks run on the thread of the call that they were given to, unless it is
 *   said otherwise, and not after it has returned. `user` is handed on as it is.
 *   What a callback is given is valid until it returns.
 *
 * The process. Opening the first engine installs a handler for SIGBUS, which the
 *   system raises when a mapped model file is cut short or its disk fails: the
 *   engine then fails with V4_FILE_LOST in place of ending the process. Faults at
 *   any other address go to the handler that was there before; install yours
 *   first, and if you install one later, pass on what is not yours. Nothing else of
 *   the process is touched: no standard streams, environment, locale or exit
 *   handlers. The shared library stays loaded after dlclose().
 *
 * Results are the same bits for any number of threads, any grouping of tokens into
 * calls, and sessions that were saved, restored, forked or rewound.
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

/* Version of the interface: the first number changes when programs would break,
 * and with it the library's file name (libv4.so.1); the second one with additions. */
#define V4_ABI_MAJOR 1
#define V4_ABI_MINOR 2

/* Length of a text that ends with a NUL. */
#define V4_STRLEN SIZE_MAX
/* In place of a token's id where there is none. */
#define V4_NO_TOKEN UINT32_MAX
/* v4_engine_options.memory: no bound. */
#define V4_MEMORY_UNBOUNDED UINT64_MAX

/* ---- Status ---------------------------------------------------------------- */

typedef int32_t v4_status;

enum {
    V4_OK = 0,
    /* A v4_cancel or a callback stopped the call. What was done until then is kept. */
    V4_CANCELLED = 1,
    /* NULL, a size, a number or a flag that is not allowed: a mistake of the caller. */
    V4_INVALID_ARGUMENT = 2,
    /* A text is not UTF-8. */
    V4_INVALID_UTF8 = 3,
    /* The object is in use by another thread, or by the call this callback is from. */
    V4_BUSY = 4,
    /* The buffer is too small; the call has said how large it must be. */
    V4_BUFFER_TOO_SMALL = 5,
    /* An option or a request that this version of the library does not know. */
    V4_UNSUPPORTED = 6,
    /* A file cannot be opened, read or written: no such file, no right, full disk. */
    V4_IO = 7,
    /* The model file is damaged, or of a kind that is not run. */
    V4_BAD_MODEL = 8,
    /* The model file was cut short or its disk failed while it was open. */
    V4_FILE_LOST = 9,
    /* It does not fit into the memory that is allowed. */
    V4_NO_MEMORY = 10,
    /* The tokens do not fit into the session's context, or a context not the model's. */
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
    /* The system refuses threads. */
    V4_NO_THREADS = 17,
    /* The model computed no numbers: damaged weights. */
    V4_NOT_FINITE = 18,
    /* A fault of the library. Please report it. */
    V4_INTERNAL = 19,
    /* Since 1.2: no signature by one of the signers, where one was asked for. */
    V4_UNTRUSTED = 20,
    /* Since 1.2: the model file is not what its manifest says, or somebody has written
     * to it while it was open. */
    V4_ALTERED = 21,
    /* Since 1.2: an adapter that is damaged, not for this model, or asks for what cannot
     * be done while the model runs. */
    V4_BAD_ADAPTER = 22
};

/* The name of a status, such as "V4_IO"; never NULL, never freed. */
const char *v4_status_name(v4_status status);

/* What went wrong in the last call of this thread that failed: one line in English
 * that names the file, the item and the remedy; empty before. Never NULL; valid
 * until this thread's next call into the library. */
const char *v4_last_error(void);

/* ---- Version and log ------------------------------------------------------- */

/* The interface that the library has: V4_ABI_MAJOR << 16 | V4_ABI_MINOR. */
uint32_t v4_abi_version(void);

/* The engine's version, such as "0.1.0"; never freed. */
const char *v4_version(void);

enum {
    V4_LOG_ERROR = 1, /* a fault of the library */
    V4_LOG_WARN = 2,  /* something was lost: a session was emptied by an error */
    V4_LOG_INFO = 3,  /* a model was opened or closed */
    V4_LOG_DEBUG = 4  /* sessions saved, restored, prompts read */
};

/* Takes one line. May be called on any thread, on several at once, and while
 * objects are in use; it may call nothing of this library. */
typedef void (*v4_log_fn)(void *user, int32_t level, const char *message);

/* Sends the library's messages up to `level` to `log`, or with NULL to nobody, which
 * is how it starts. For the whole process. The one before is not called any more
 * once this returns. Texts of users are never logged. */
v4_status v4_set_log(v4_log_fn log, void *user, int32_t level);

/* ---- Cancellation ---------------------------------------------------------- */

/* A request to stop, which calls that were given it look at: after every token, and
 * after every chunk of a prompt (v4_session_options.chunk). */
typedef struct v4_cancel v4_cancel;

v4_status v4_cancel_open(v4_cancel **cancel);
/* Stops the calls that have it, and those that get it later. From any thread, and
 * from signal handlers. */
v4_status v4_cancel_request(v4_cancel *cancel);
/* Makes it as new. */
v4_status v4_cancel_reset(v4_cancel *cancel);
/* Calls that have it already go on. */
v4_status v4_cancel_close(v4_cancel *cancel);

/* ---- Engine: a loaded model ------------------------------------------------ */

typedef struct v4_engine v4_engine;

/* Told how far something is. Anything but 0 stops it with V4_CANCELLED. */
typedef int32_t (*v4_progress_fn)(void *user, uint64_t done, uint64_t total);

enum {
    V4_PRECISION_FAST = 0, /* integer products */
    V4_PRECISION_EXACT = 1 /* float products, several times slower */
};

enum {
    V4_KV_DEFAULT = 0,   /* published with fast, f32 with exact */
    V4_KV_PUBLISHED = 1, /* as the model was trained to have them */
    V4_KV_F32 = 2
};

/* Since 1.2: how experts and Engram rows that are not in memory are read. */
enum {
    V4_READS_AUTO = 0,     /* io_uring where the system allows it, or else threads */
    V4_READS_IO_URING = 1, /* io_uring, or an error */
    V4_READS_THREADS = 2   /* a pool of threads */
};

/* Since 1.2: where the Engram tables of V4.1 are. */
enum {
    V4_ENGRAM_DISK = 0,  /* in the file: rows are read as tokens need them */
    V4_ENGRAM_MEMORY = 1 /* in memory, read when the model is opened */
};

/* Since 1.2: when the model's bytes are compared with its manifest, which lies beside it
 * (model.gguf.manifest and model.gguf.hashes, as v4-convert writes them). */
enum {
    V4_VERIFY_DEFAULT = 0, /* use where a signature is asked for, or else off */
    V4_VERIFY_OFF = 1,
    V4_VERIFY_USE = 2,  /* what every token needs when it is opened, all else when used */
    V4_VERIFY_WHOLE = 3 /* all before it is opened, and again as with use */
};

enum {
    V4_WEIGHTS_MAPPED = 0, /* read from the file as they are needed, shared */
    V4_WEIGHTS_LOCKED = 1, /* the same, read when opened and locked in memory */
    V4_WEIGHTS_COPIED = 2  /* in the process's own memory, in huge pages */
};

typedef struct v4_engine_options {
    uint32_t size;
    /* Worker threads; 0 for one per core that the process may use. At most 1024. */
    uint32_t threads;
    int32_t precision; /* V4_PRECISION_... */
    int32_t kv;        /* V4_KV_... */
    int32_t weights;   /* V4_WEIGHTS_... */
    /* Not 0: each worker is bound to a core of its own. */
    uint32_t pin;
    /* Bytes that the engine and its sessions may use together; experts that do not
     * fit are streamed from the file. 0 for what is free now less a margin. */
    uint64_t memory;
    /* Tokens of the session that memory is planned for; 0 for 32768 or the model's. */
    uint32_t context;
    /* Tokens of a prompt that are planned to be run at once; 0 for 512. */
    uint32_t chunk;
    /* Or NULL. Told how many bytes of weights were read, where they are copied; with
     * V4_VERIFY_WHOLE first how many were compared, and then from 0 again. Called on any
     * thread, one call at a time. */
    v4_progress_fn progress;
    void *user;
    /* Since 1.2, all that follows. */
    int32_t reads;  /* V4_READS_... */
    int32_t engram; /* V4_ENGRAM_... */
    /* Not 0: the model's manifest must be signed by one of the signers; if none are
     * given, by one of the keys in /etc/v4-run/keys. */
    uint32_t require_signed;
    int32_t verify; /* V4_VERIFY_... */
    /* Public keys of who may have signed the model, at most 64: each the key itself or
     * the path of its file, as minisign writes it, with a NUL at its end. Naming one asks
     * for a signature. */
    const char *const *signers;
    size_t signer_count;
} v4_engine_options;

/* Opens a GGUF file. `options` or NULL. Takes seconds, or as long as it takes to read
 * the file where weights are locked or copied, or the whole file is verified.
 * V4_UNTRUSTED comes where a signature is asked for, V4_ALTERED where bytes are compared.
 * Calls of sessions return V4_ALTERED too: with V4_VERIFY_USE, and whenever the file is
 * written to while it is open. All calls that run the model then do; close it, and open a
 * good copy. */
v4_status v4_engine_open(const char *path, const v4_engine_options *options,
                         v4_engine **engine);

/* Gives up the caller's share of the model: its memory is given back when the last
 * of its sessions, decoders, chats and parsers is closed too. */
v4_status v4_engine_close(v4_engine *engine);

/* Since 1.2: the same model with low-rank adapters, and no others: folders as PEFT saves
 * them (adapter_config.json, adapter_model.safetensors), at most 64, whose paths have a
 * NUL at their ends. What each adds is added in this order. A handle of its own, to be
 * closed by itself: it shares the weights, the threads and the memory of `engine`, with
 * which nothing changes, and each has sessions of its own. Adapters take memory of what
 * sessions share. If the model had to be signed, the adapters must be as well. An adapter
 * that is damaged, or not for this model, is V4_BAD_ADAPTER. */
v4_status v4_engine_with_adapters(const v4_engine *engine, const char *const *folders,
                                  size_t count, v4_engine **adapted);

/* What a model is. Strings are the engine's, valid until it is closed. */
typedef struct v4_facts {
    uint32_t size;
    /* Ids with a role, V4_NO_TOKEN where the model has none: begins a prompt, ends an
     * answer, fills up a batch. */
    uint32_t bos;
    uint32_t eos;
    uint32_t pad;
    /* Number of ids, and so of logits. */
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
    /* The file, as it was given. */
    const char *path;
    /* Instruction set of the kernels, such as "avx2". */
    const char *isa;
    /* Since 1.2: the signer's key, as it was given or the path of its file; NULL if no
     * signature was asked for. */
    const char *signer;
    /* Since 1.2: what is known of the file's origin and content, one line for people. */
    const char *trust;
} v4_facts;

v4_status v4_engine_facts(const v4_engine *engine, v4_facts *facts);

/* Where every group of bytes goes, for one session of `context` tokens. */
typedef struct v4_plan {
    uint32_t size;
    uint32_t context;
    /* Whether routed experts are read from the file as tokens need them. */
    uint32_t streamed;
    /* Routed experts in the file, of all layers, and those that have room in memory
     * beside a full session. */
    uint32_t experts;
    uint32_t expert_slots;
    uint32_t threads;
    /* All that is in memory with one full session. */
    uint64_t total;
    /* What may be used; V4_MEMORY_UNBOUNDED without a bound. */
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
} v4_plan;

/* The plan that the engine was opened with. */
v4_status v4_engine_plan(const v4_engine *engine, v4_plan *plan);

/* The plan for a file that is not opened: only its header is read, and no signature.
 * V4_NO_MEMORY if it would not fit; v4_last_error() says what would. `options` or NULL. */
v4_status v4_plan_file(const char *path, const v4_engine_options *options, v4_plan *plan);

/* ---- Tokenizer ------------------------------------------------------------- */

enum {
    /* Text that spells a mark, such as <think>, means it. Leave it out for text by
     * users, who could end their own turn otherwise. */
    V4_ENCODE_MARKS = 1,
    /* Begins with the model's begin-of-sentence token. */
    V4_ENCODE_BOS = 2
};

/* The ids of a text of up to 1 GiB. Writes up to `capacity` of them to `ids`, all or
 * none, and their number to `count`, also with V4_BUFFER_TOO_SMALL. There are never
 * more ids than bytes in the text, and one more with V4_ENCODE_BOS. */
v4_status v4_tokenizer_encode(const v4_engine *engine, const char *text, size_t length,
                              uint32_t flags, uint32_t *ids, size_t capacity,
                              size_t *count);

enum {
    /* What is no UTF-8 becomes U+FFFD. */
    V4_DECODE_UTF8 = 1
};

/* The bytes that ids stand for, with a NUL behind them. They need not be UTF-8 nor
 * without NUL. Writes them if `capacity` is more than their number, which goes to
 * `length`, also with V4_BUFFER_TOO_SMALL. */
v4_status v4_tokenizer_decode(const v4_engine *engine, const uint32_t *ids, size_t count,
                              uint32_t flags, char *buffer, size_t capacity,
                              size_t *length);

/* Decodes ids that arrive one by one, and holds back the beginning of a character
 * until its last byte is there. */
typedef struct v4_decoder v4_decoder;

v4_status v4_decoder_open(const v4_engine *engine, v4_decoder **decoder);
/* The text that `id` completes, often empty: whole characters, U+FFFD for bytes that
 * can be none. */
v4_status v4_decoder_push(v4_decoder *decoder, uint32_t id, const char **text,
                          size_t *length);
/* The end: an incomplete character becomes U+FFFD. The decoder is then as new. */
v4_status v4_decoder_finish(v4_decoder *decoder, const char **text, size_t *length);
v4_status v4_decoder_close(v4_decoder *decoder);

/* ---- Session: one sequence of tokens, and what the model remembers of it ---- */

typedef struct v4_session v4_session;

typedef struct v4_session_options {
    uint32_t size;
    /* Tokens it can hold; 0 for what the engine was opened for. Memory is taken as it
     * grows. */
    uint32_t context;
    /* Tokens of a prompt that are run at once; 0 for what the engine was opened for.
     * Fewer are slower and can be stopped sooner. */
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
    /* One for each id: of the token at position + 1. */
    const float *logits;
    size_t count;
} v4_logits;

/* Takes one position's logits. Anything but 0 stops at the end of the chunk. */
typedef int32_t (*v4_logits_fn)(void *user, const v4_logits *logits);

typedef struct v4_run_options {
    uint32_t size;
    /* Must be 0. */
    uint32_t reserved;
    /* Told how many of this call's tokens are done, after every chunk but the last; or
     * NULL. */
    v4_progress_fn progress;
    /* Takes the logits of every position, or NULL: those of the last alone are kept. */
    v4_logits_fn logits;
    /* Of both. */
    void *user;
    /* Or NULL. */
    v4_cancel *cancel;
} v4_run_options;

/* Appends tokens. `options` or NULL.
 * With V4_BAD_TOKEN, V4_CONTEXT_FULL and V4_NO_MEMORY nothing was appended; with
 * V4_CANCELLED whole chunks; with V4_IO, V4_FILE_LOST, V4_ALTERED and V4_NOT_FINITE the
 * session is empty. */
v4_status v4_session_append(v4_session *session, const uint32_t *ids, size_t count,
                            const v4_run_options *options);

/* Makes the session hold exactly these tokens: keeps the beginning that it has in common
 * with them, as far as it can go back to it, and runs the rest. What a chat wants, which
 * sends its whole prompt each time. Errors as above; a session that was cut back stays
 * so. */
v4_status v4_session_sync(v4_session *session, const uint32_t *ids, size_t count,
                          const v4_run_options *options);

/* Logits for the token after the last, one for each id, valid until the session's next
 * call. V4_NO_LOGITS for a session that is empty or was restored: append a token, or
 * rewind it to the length that it has. After v4_session_generate this may run the model
 * for the answer's last token. */
v4_status v4_session_logits(v4_session *session, const float **logits, size_t *count);

/* Since 1.1: makes the session what it was after its first `length` tokens, with the
 * logits after them. What lies between there and the mark before it, or the beginning, is
 * run again; marks are set at the end of prompts and by v4_session_mark. `options` or
 * NULL. Errors as above, and V4_INVALID_ARGUMENT for more than it holds. */
v4_status v4_session_rewind(v4_session *session, size_t length,
                            const v4_run_options *options);

/* Since 1.1: remembers the state here, so that going back to here or a little further is
 * quick. Of marks 16 are kept, closer together the nearer to the end, and none where
 * memory is short. */
v4_status v4_session_mark(v4_session *session);

/* Another session that has seen the same. Both go on by themselves. */
v4_status v4_session_fork(v4_session *session, v4_session **fork);

/* How a session's file is kept. */
typedef struct v4_file_options {
    uint32_t size;
    /* 32: the file is encrypted (XChaCha20-Poly1305) with this key, which should be
     * random bytes; 0: it is not. */
    uint32_t key_length;
    const uint8_t *key;
} v4_file_options;

/* Writes the session to a file: only what the file lacks, so saving again is quick.
 * The file can be read by its owner alone. What it has beyond a common beginning is
 * given up. A crash at any moment leaves what was saved before. `file` or NULL. */
v4_status v4_session_save(v4_session *session, const char *path,
                          const v4_file_options *file);

/* A session as it was when a file was saved, with the same model, precision, kv and key.
 * `file` and `options` or NULL. */
v4_status v4_session_restore(const v4_engine *engine, const char *path,
                             const v4_file_options *file, const v4_session_options *options,
                             v4_session **session);

/* ---- Sampler: chooses the next token --------------------------------------- */

typedef struct v4_sampler v4_sampler;

typedef struct v4_sampler_options {
    uint32_t size;
    /* Divides the logits. 0 always takes the likeliest token; the model card
     * recommends 1. */
    float temperature;
    /* Keeps the likeliest tokens whose probabilities reach this together, above 0 and
     * at most 1; 0 keeps all, as 1 does. */
    float top_p;
    /* Keeps tokens at least this fraction as likely as the likeliest. */
    float min_p;
    /* For tokens among the last `repeat_last_n`; 0 is none, as 1 is. */
    float repetition_penalty;
    /* Keeps this many of the likeliest; 0 keeps all. */
    uint32_t top_k;
    /* 0 for 64, UINT32_MAX for all. */
    uint32_t repeat_last_n;
    /* Must be 0. */
    uint32_t reserved;
    /* Where the random numbers start: the same seed gives the same tokens. */
    uint64_t seed;
    /* Random numbers to skip: goes on where another sampler stood. */
    uint64_t draws;
} v4_sampler_options;

/* `options` or NULL, which takes the likeliest token. */
v4_status v4_sampler_open(const v4_sampler_options *options, v4_sampler **sampler);
/* Chooses the token after the session's last. It is not appended. */
v4_status v4_sampler_sample(v4_sampler *sampler, v4_session *session, uint32_t *id);
/* The same from logits of your own; minus infinity forbids a token. `history` has the
 * ids so far for the repetition penalty. */
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
    /* Its id; V4_NO_TOKEN at the end, where text was held back and no token is left. */
    uint32_t id;
    /* The text that it completes: whole characters, often none. */
    const char *text;
    size_t length;
} v4_token;

/* Takes a token. Anything but 0 stops: that is V4_OK, and V4_FINISH_CALLBACK. */
typedef int32_t (*v4_token_fn)(void *user, const v4_token *token);

enum {
    V4_FINISH_STOP = 1,         /* the model ended its text */
    V4_FINISH_LENGTH = 2,       /* max_tokens */
    V4_FINISH_CONTEXT_FULL = 3, /* no room for another token */
    V4_FINISH_CALLBACK = 4,     /* the callback wanted no more */
    V4_FINISH_CANCELLED = 5,    /* v4_cancel; the call returns V4_CANCELLED */
    V4_FINISH_STOP_STRING = 6   /* a stop string was met; since 1.1 */
};

typedef struct v4_generate_options {
    uint32_t size;
    /* Tokens at most; 0 for as many as the model says and the context holds. */
    uint32_t max_tokens;
    /* Or NULL. */
    v4_cancel *cancel;
    /* Since 1.1: texts that end the answer and are left out of it, at most 64 of up to
     * 1024 bytes, each with a NUL at its end. What may be the beginning of one is held
     * back until it is known. */
    const char *const *stop;
    size_t stop_count;
} v4_generate_options;

typedef struct v4_generate_result {
    uint32_t size;
    int32_t finish; /* V4_FINISH_... */
    /* Tokens handed to the callback. */
    uint64_t tokens;
    /* Since 1.1: the time it took, with the callback's. */
    double seconds;
} v4_generate_result;

/* Goes on after what the session holds, token by token, until something says stop.
 * `options`, `callback` and `result` or NULL; `result` is filled in with V4_OK and
 * V4_CANCELLED. The token that ends the text is neither handed over nor appended. All
 * others are then part of the session, except that the last one of a full context
 * has no room. */
v4_status v4_session_generate(v4_session *session, v4_sampler *sampler,
                              const v4_generate_options *options, v4_token_fn callback,
                              void *user, v4_generate_result *result);

/* ---- Chat ------------------------------------------------------------------ */

/* A request of a chat protocol, as its prompt. */
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

/* Reads a request in JSON of up to 256 MiB, with its messages, tools, thinking and
 * stop sequences:
 *     {"messages": [{"role": "user", "content": "Hi"}],
 *      "thinking": {"type": "disabled"}}
 * The name that it gives the model does not matter and can be left out. Images are
 * V4_UNSUPPORTED. `options` or NULL. */
v4_status v4_chat_open(const v4_engine *engine, const char *json, size_t length,
                       const v4_chat_options *options, v4_chat **chat);
v4_status v4_chat_close(v4_chat *chat);

/* The prompt's tokens, up to where the model's turn begins; give them to
 * v4_session_sync. With a session (or NULL) they begin with what it holds where that
 * spells the prompt's beginning: a model may have spelt its answer with other tokens
 * than the tokenizer chooses, and would have to read it again otherwise. */
v4_status v4_chat_prompt(v4_chat *chat, v4_session *session, const uint32_t **ids,
                         size_t *count);

/* What the request asks for beside its prompt. The library leaves it to the caller. */
typedef struct v4_chat_facts {
    uint32_t size;
    /* Tokens of the answer at most; 0 if it does not say. */
    uint32_t max_tokens;
    float temperature;
    float top_p;
    /* Whether it has a seed. */
    uint32_t has_seed;
    /* Whether the model thinks before it answers. */
    uint32_t thinking;
    /* Whether it wants the answer as it comes. */
    uint32_t stream;
    /* Whether it asks for output of a given form (JSON, a tool call), which the prompt
     * asks the model for, and which the library does not enforce. */
    uint32_t constrained;
    uint64_t seed;
} v4_chat_facts;

v4_status v4_chat_facts_of(v4_chat *chat, v4_chat_facts *facts);

/* ---- Output parser: what the tokens of an answer mean ----------------------- */

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
    int32_t kind; /* V4_EVENT_... Ignore those you do not know. */
    const char *text;
    size_t length;
    /* V4_EVENT_PROTOCOL: the event's name where the protocol names them, or else NULL. */
    const char *name;
} v4_event;

/* Takes an event. Anything but 0: the call leaves out the rest of its events and
 * returns V4_CANCELLED. */
typedef int32_t (*v4_event_fn)(void *user, const v4_event *event);

enum {
    /* V4_EVENT_PROTOCOL, for servers, in place of the other events. */
    V4_PARSER_PROTOCOL = 1
};

/* What reads the answer to a chat. */
v4_status v4_parser_open(v4_chat *chat, uint32_t flags, v4_parser **parser);
/* Takes tokens of the answer, in the order in which they are generated, and tells what
 * they complete. The token that ends the text is not one of them. Sets `ended` (or NULL)
 * to 1 once a stop sequence of the request was met: stop generating then. */
v4_status v4_parser_push(v4_parser *parser, const uint32_t *ids, size_t count,
                         v4_event_fn callback, void *user, int32_t *ended);
/* The end of the answer: `finish` is how generation ended, V4_FINISH_.... After a
 * stop sequence there are no more events. */
v4_status v4_parser_finish(v4_parser *parser, int32_t finish, v4_event_fn callback,
                           void *user);
/* With V4_PARSER_PROTOCOL: the protocol's response up to here in JSON, for clients that
 * do not stream. V4_UNSUPPORTED without. */
v4_status v4_parser_response(v4_parser *parser, const char **json, size_t *length);
v4_status v4_parser_close(v4_parser *parser);

#ifdef __cplusplus
}
#endif

#endif
