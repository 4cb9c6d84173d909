//! Sizes of caches and buffers, from the model's dimensions alone.

use crate::compute::cache_rows::PAGE_ROWS;
use crate::compute::forward::{CONTEXT_ROWS, Cone, KvPrecision, formats};
use crate::model::{Attention, Candidates, DraftConfig, IndexRole, ModelConfig};

/// Bytes of caches that a session holds after `tokens` tokens: window rows,
/// compressed entries and index keys in whole pages, and the tokens of groups that
/// have not ended.
#[must_use]
pub fn kv_bytes(cfg: &ModelConfig, kv: KvPrecision, tokens: usize) -> u64 {
    let formats = formats(cfg, kv);
    let pages = |rows: usize, bytes: usize| (rows.div_ceil(PAGE_ROWS) * PAGE_ROWS * bytes) as u64;
    let window = {
        let dropped = tokens.saturating_sub(cfg.window) / PAGE_ROWS * PAGE_ROWS;
        pages(tokens - dropped, formats.window.row_bytes(cfg.head_dim))
    };
    let mut sum = 4 * tokens as u64;
    for (l, layer) in cfg.layers.iter().enumerate() {
        sum += window;
        let attention = layer.attention;
        if !attention.compresses(l) {
            continue;
        }
        let ratio = attention.ratio().max(1);
        let overlap = matches!(attention, Attention::Indexed { .. });
        // As many rows as a group that has not ended can have, and the one before it
        // where entries overlap.
        let open = if overlap { 2 * ratio } else { ratio };
        let channels = if overlap { 2 } else { 1 };
        let pending = |width: usize| {
            let rows = if ratio == 1 { 0 } else { open.min(tokens) };
            (rows * 2 * channels * width * 4) as u64
        };
        let entries = tokens / ratio;
        sum += pages(entries, formats.main.row_bytes(cfg.head_dim)) + pending(cfg.head_dim);
        if !matches!(attention, Attention::All { .. }) {
            sum += pages(entries, formats.index.row_bytes(cfg.index_dim));
            // V4.1's index keys are made of the entries.
            if overlap {
                sum += pending(cfg.index_dim);
            }
        }
    }
    sum
}

/// Tokens run at once for which a session keeps its buffers; more are a chunk of a prompt,
/// which may be taken back while it runs.
pub(crate) const FEW_ROWS: usize = 16;

/// A session at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionSize {
    /// Tokens that it holds then.
    pub tokens: usize,
    /// Tokens that it may ever hold.
    pub context: usize,
    /// Tokens run at once.
    pub rows: usize,
    /// Most tokens run at once.
    pub chunk: usize,
    /// Rows of logits.
    pub logits: usize,
}

/// Bytes that a session takes. In steps, so that not every token changes it.
pub(crate) fn session_bytes(
    cfg: &ModelConfig,
    kv: KvPrecision,
    threads: usize,
    size: SessionSize,
) -> u64 {
    let SessionSize {
        tokens,
        context,
        rows,
        chunk,
        logits,
    } = size;
    let backlog = if rows >= chunk && tokens > rows {
        backlog_bytes(cfg, chunk)
    } else {
        0
    };
    // Windows and groups that have not ended, as they were before the chunk.
    let before = match rows > FEW_ROWS {
        true => kv_bytes(cfg, kv, tokens.min(cfg.window + PAGE_ROWS)),
        false => 0,
    };
    let scratch = scratch_bytes(cfg, rows, context, threads, logits);
    (kv_bytes(cfg, kv, tokens) + scratch + backlog + before).next_multiple_of(1 << 20)
}

/// Bytes of buffers that a session needs while it runs a chunk of `rows` tokens, with
/// `threads` threads, after `context` tokens at most, of which `logits` rows are
/// wanted.
#[must_use]
pub fn scratch_bytes(
    cfg: &ModelConfig,
    rows: usize,
    context: usize,
    threads: usize,
    logits: usize,
) -> u64 {
    let d = cfg.embedding;
    let q = cfg.q_dim();
    let index_q = cfg.index_heads * cfg.index_dim;
    let low_rank = cfg.output_groups * cfg.output_lora_rank;
    let engram = cfg.engram.as_ref().map_or(0, |e| e.channels());
    let widest = d.max(if engram > 0 {
        (cfg.hc_streams + 1) * d
    } else {
        0
    });
    // What lives from layer to layer, in floats per row.
    let held = (1 + cfg.hc_streams) * d // streams, x
        + 2 * cfg.hc_mix()
        + widest // y
        + cfg.q_lora_rank
        + 2 * q // queries, what was attended to
        + 3 * 2 * cfg.head_dim // kv, gate, pooled
        + engram
        + index_q + cfg.index_heads
        + low_rank
        + cfg.experts
        + 2 * cfg.rope_dim;
    // Activations rounded to int8, with what is computed from them (under 3 bytes), and laid
    // out for many rows at a time (under 4).
    let rounded = |cols: usize| cols * 7 / 4;
    let product = rounded(q.max(low_rank).max(cfg.q_lora_rank).max(d));
    // Experts: per pair the input laid out, the hidden values, once rounded, and the output.
    let pairs = cfg.experts_used + cfg.experts_shared;
    let experts = rounded(d) + pairs * (d + cfg.expert_ff + rounded(cfg.expert_ff) + d + 4);
    let per_row = 4 * (held + product.max(experts)) as u64;
    // Attention decodes what is attended to, for all heads of some queries at once.
    let ratios = cfg.layers.iter().map(|l| l.attention);
    let visible = ratios
        .clone()
        .filter_map(|a| match a {
            Attention::All { ratio } => Some(context / ratio.max(1)),
            _ => None,
        })
        .max()
        .unwrap_or(0);
    let keys = 4 * (cfg.head_dim * (visible + cfg.window + rows)) as u64;
    let per_thread = 4
        * (cfg.heads * (visible + cfg.window + cfg.index_top_k)
            + cfg.head_dim * (cfg.index_top_k + cfg.window)
            + cfg.heads.next_multiple_of(32) * cfg.head_dim) as u64;
    let chosen = crate::compute::backend::cpu::index_bytes(most_chosen(cfg), rows, threads);
    // Until the chunk has passed a layer, its window has all of the chunk's rows and
    // its compressor all of their projections.
    let window = formats(cfg, KvPrecision::F32)
        .window
        .row_bytes(cfg.head_dim);
    let in_layer =
        window * (cfg.layers.len() / 4 + 1) + 2 * 2 * 2 * 4 * (cfg.head_dim + cfg.index_dim);
    let rows = rows.max(1) as u64;
    rows * (per_row + in_layer as u64)
        + keys
        + chosen
        + threads as u64 * per_thread
        + 4 * (logits * cfg.vocab) as u64
}

/// Bytes that a session keeps for a draft module, which may also draft for `more` positions
/// before the last, and of the buffers of a draft.
pub(crate) fn draft_bytes(
    draft: &DraftConfig,
    kv: KvPrecision,
    threads: usize,
    more: usize,
) -> u64 {
    let (c, rows) = (&draft.model, draft.rows());
    // States are given up when there are twice as many as are kept, and a chunk's are added
    // before that.
    let states = 3 * (c.window + more) * draft.state_width() * 4;
    let context = c.window + rows;
    let buffers = scratch_bytes(c, rows.max(CONTEXT_ROWS), context, threads, 2 * rows);
    let input = CONTEXT_ROWS * 4 * 4 * draft.state_width();
    let bytes = kv_bytes(c, kv, context) + buffers + (states + input) as u64;
    bytes.next_multiple_of(1 << 20)
}

/// Most entries that an indexer chooses for a token, with the blocks it keeps.
fn most_chosen(cfg: &ModelConfig) -> usize {
    let layers = cfg.layers.iter().map(|layer| match layer.attention {
        Attention::Indexed { .. } => cfg.index_top_k,
        Attention::Shared { index, .. } => match index {
            IndexRole::Source(Candidates::Keep { blocks, .. }) => cfg.index_top_k + blocks,
            _ => cfg.index_top_k,
        },
        Attention::Window | Attention::All { .. } => 0,
    });
    layers.max().unwrap_or(0)
}

/// Bytes of the rows that V4.1's decoder must still process while a prompt of more than
/// one chunk is read (`crate::compute::forward`'s backlog).
#[must_use]
pub(crate) fn backlog_bytes(cfg: &ModelConfig, chunk: usize) -> u64 {
    let decoder = Cone::full(cfg).decoder();
    let left = cfg.layers.len() - decoder.min(cfg.layers.len());
    if left == 0 || decoder == 0 {
        return 0;
    }
    let rows = left * (cfg.window - 1) + chunk;
    // Windows from before, as floats at most.
    let windows = left * (cfg.window + PAGE_ROWS) * cfg.head_dim * 4;
    // Buffers that grow have up to twice the room.
    (windows + 2 * (rows * 4 * (cfg.hc_streams * cfg.embedding + cfg.hc_mix() + 1))) as u64
}

/// Bytes that caches keep in addition while `rows` tokens may be taken back: rows of the
/// windows, in whole pages, and of groups that have ended.
#[must_use]
pub(crate) fn ahead_bytes(cfg: &ModelConfig, kv: KvPrecision, rows: usize) -> u64 {
    if rows == 0 {
        return 0;
    }
    let window = formats(cfg, kv).window.row_bytes(cfg.head_dim);
    let pages = rows.div_ceil(PAGE_ROWS) * PAGE_ROWS * window * cfg.layers.len();
    // Values and pooling logits, of both halves where entries overlap. Buffers that grow have
    // up to twice the room.
    let pending = |width: usize| 2 * rows * 2 * 2 * width * 4;
    let compressing = |(l, _): &(usize, _)| cfg.layers[*l].attention.compresses(*l);
    let compressing = cfg.layers.iter().enumerate().filter(compressing).count();
    (pages + compressing * (pending(cfg.head_dim) + pending(cfg.index_dim))) as u64
}

/// Bytes of cache rows that a token at position `depth` reads.
#[must_use]
pub(crate) fn kv_read_bytes(cfg: &ModelConfig, depth: usize) -> u64 {
    let formats = formats(cfg, KvPrecision::Published);
    let [window, main, index] = [
        formats.window.row_bytes(cfg.head_dim),
        formats.main.row_bytes(cfg.head_dim),
        formats.index.row_bytes(cfg.index_dim.max(32)),
    ];
    let layers = cfg.layers.iter().map(|layer| {
        let entries = depth / layer.attention.ratio().max(1);
        let more = match layer.attention {
            Attention::Window => 0,
            Attention::All { .. } => entries * main,
            Attention::Indexed { .. } => entries.min(cfg.index_top_k) * main + entries * index,
            Attention::Shared { index: role, .. } => {
                let scored = matches!(role, IndexRole::Source(_));
                entries.min(cfg.index_top_k) * main + usize::from(scored) * entries * index
            }
        };
        depth.min(cfg.window) * window + more
    });
    layers.sum::<usize>() as u64
}
