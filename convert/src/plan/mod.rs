//! What a conversion will write: every tensor with its type, shape, position and source,
//! and the complete header, before any weight is read.

mod checkpoint;
pub(crate) mod engram;
mod gguf;
mod metadata;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use v4_files::gguf::{
    GgufError, Metadata, PAGE_ALIGNMENT, TensorInfo, data_bytes, encode_header, layout_offsets,
};
use v4_quant::GgmlType;
use v4_runtime::EngineError;
use v4_runtime::model::engram::EngramError;
use v4_tokenizer::TokenizerError;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::files::{InputFile, ReadError};
use crate::recipe::{Choice, ENGRAM_FP8, Projection, Recipe, Role, type_name};
use crate::source::{Source, fp8_row_bytes};

/// The longest row accepted, in values. The widest in the family, the mixing
/// matrices of V4-Pro, have 28,672.
const MAX_COLUMNS: u64 = 1 << 24;

/// Why a conversion cannot be planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The checkpoint cannot be opened.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The GGUF file cannot be opened, or the new header not be made.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The tokenizer cannot be used.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// `tokenizer.json`.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// `tokenizer_config.json` cannot be used.
    #[error("{}: {reason}; download the file again, or remove it to use the ids in config.json", path.display())]
    TokenizerConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the configuration asks for is not there.
    #[error("{}: tensor {tensor:?} is missing{}; download the whole checkpoint again", path.display(), more(*others))]
    Missing {
        /// The checkpoint.
        path: PathBuf,
        /// The first tensor missing.
        tensor: String,
        /// Further problems found.
        others: usize,
    },
    /// The tensors have the names that `transformers` gives them.
    #[error("{}: tensors have the names of `transformers` ({found:?}), not those that DeepSeek \
             published ({expected:?}); convert the published checkpoint that this one was made \
             from", path.display())]
    Renamed {
        /// The checkpoint.
        path: PathBuf,
        /// The first such name.
        found: String,
        /// A name that was expected.
        expected: String,
    },
    /// A routed expert is stored in another form than FP4.
    #[error("{}: the routed experts are {form} ({tensor:?} is {found}), but config.json says FP4, \
             and this version converts only FP4; convert the published checkpoint, whose experts \
             are FP4", path.display())]
    Experts {
        /// The shard.
        path: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// Its dtype.
        found: &'static str,
        /// The form in words.
        form: &'static str,
    },
    /// A tensor is stored otherwise than the configuration demands.
    #[error("{}: tensor {tensor:?} is {found}, but config.json requires {expected}{}; checkpoint \
             and config.json do not belong together", path.display(), more(*others))]
    Stored {
        /// The shard.
        path: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// Dtype and shape found.
        found: String,
        /// Dtype and shape expected.
        expected: String,
        /// Further problems found.
        others: usize,
    },
    /// The GGUF file holds another architecture.
    #[error("{}: `general.architecture` is {found:?}; this program requantises only deepseek4 and \
             deepseek41 files", path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// The architecture found.
        found: String,
    },
    /// `config.json` states an Engram constant that does not follow from it and
    /// the tokenizer.
    #[error("{}: `{field}` is {found}, but {from} yields {derived}; {remedy}", path.display())]
    Constant {
        /// `config.json`.
        path: PathBuf,
        /// The field.
        field: String,
        /// The number stated.
        found: u64,
        /// What follows.
        derived: String,
        /// From which facts.
        from: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Engram constants cannot be derived.
    #[error("{}: {source}; use the config.json and tokenizer.json published with the checkpoint", path.display())]
    Engram {
        /// `config.json`.
        path: PathBuf,
        /// Why.
        source: EngramError,
    },
    /// A V4.1 GGUF file's metadata describe no model.
    #[error(transparent)]
    Model(EngineError),
    /// A GGUF file's Engram constants or tables do not belong together.
    #[error("{}: {reason}; convert the checkpoint again", path.display())]
    Constants {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Engram tables of a GGUF file are stored in an unknown way.
    #[error("{}: tensor {tensor:?}: {reason}", path.display())]
    EngramRows {
        /// The file.
        path: PathBuf,
        /// The table.
        tensor: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A tensor cannot be given the type that the recipe asks for.
    #[error("{tensor}: {from} cannot be converted to {to}; {remedy}")]
    CannotConvert {
        /// The tensor.
        tensor: String,
        /// The stored form.
        from: &'static str,
        /// The type asked for.
        to: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Gate and up projections of a layer got different types.
    #[error(
        "layer {layer}: gate is {gate} and up is {up}, but they are computed together; give both \
         the same type in the recipe"
    )]
    GateUp {
        /// The layer's name, such as `blk.3`.
        layer: String,
        /// Type of the gate projection.
        gate: GgmlType,
        /// Type of the up projection.
        up: GgmlType,
    },
    /// A row is longer than any model's.
    #[error(
        "{tensor}: rows of {columns} values exceed the limit of {MAX_COLUMNS}; the file is \
             damaged"
    )]
    RowTooLong {
        /// The tensor.
        tensor: String,
        /// Values per row.
        columns: u64,
    },
    /// There is nothing to write.
    #[error("{}: contains no tensors; give a file with a model", path.display())]
    Empty {
        /// The input.
        path: PathBuf,
    },
}

fn more(others: usize) -> String {
    match others {
        0 => String::new(),
        n => format!(" (and {n} more such problems)"),
    }
}

/// What to do with the draft blocks of a checkpoint (MTP, DSpark).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drafts {
    /// Leave them out.
    #[default]
    Drop,
    /// Write them as `mtp.N.…`; other programs may refuse such a file.
    Keep,
}

/// What to do with the vision tower of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Vision {
    /// Leave it out.
    #[default]
    Drop,
    /// Write it under llama.cpp's names, `v.…` and `mm.…`, in the same file;
    /// nothing runs it yet.
    Keep,
}

/// The user's choices.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// Which tensor gets which type.
    pub recipe: Recipe,
    /// What to do with draft blocks.
    pub drafts: Drafts,
    /// What to do with the vision tower.
    pub vision: Vision,
    /// The model's name in the file (`general.name`).
    pub name: Option<String>,
}

/// A tensor of the output before its type is chosen.
#[derive(Debug)]
struct Draft {
    name: String,
    /// ggml order: the row's length first.
    dims: Vec<u64>,
    role: Role,
    /// The type that keeps the stored values.
    stored: GgmlType,
    source: Source,
}

/// A tensor of the output.
#[derive(Debug)]
pub struct Output {
    /// Name, type, shape, offset and size.
    pub info: TensorInfo,
    /// The type that the recipe asked for, where its rows do not fit it.
    pub instead_of: Option<GgmlType>,
    /// Whether it is an Engram table.
    pub is_engram: bool,
    /// Where the values come from.
    pub source: Source,
}

/// A planned conversion.
#[derive(Debug)]
pub struct Plan {
    /// The files that weights are read from.
    pub inputs: Vec<InputFile>,
    /// The tensors in the order of the file.
    pub outputs: Vec<Output>,
    /// The file's bytes before the tensors' data.
    pub header: Vec<u8>,
    /// The metadata in the header.
    pub metadata: Metadata,
    /// The output's length in bytes.
    pub file_bytes: u64,
    /// Things that the user should know, one line each.
    pub warnings: Vec<String>,
    /// Equal only for plans that write the same bytes from the same files.
    pub fingerprint: blake3::Hash,
}

impl Plan {
    /// Plans the conversion of a checkpoint folder or a GGUF file.
    ///
    /// # Errors
    /// [`PlanError`] naming the file, the item and a remedy.
    pub fn new(input: &Path, options: &PlanOptions) -> Result<Self, PlanError> {
        if input.is_dir() {
            return checkpoint::plan(Checkpoint::open(input)?, options);
        }
        if !input.exists() {
            return Err(ReadError::NotFound {
                path: input.to_owned(),
            }
            .into());
        }
        gguf::plan(input, options)
    }

    /// Bytes and tensors per type, the types in the order of first use.
    #[must_use]
    pub fn totals(&self) -> Vec<(GgmlType, usize, u64)> {
        let mut totals: Vec<(GgmlType, usize, u64)> = Vec::new();
        for Output { info, .. } in &self.outputs {
            match totals.iter_mut().find(|(ty, ..)| *ty == info.ty) {
                Some((_, count, bytes)) => {
                    *count += 1;
                    *bytes += info.bytes;
                }
                None => totals.push((info.ty, 1, info.bytes)),
            }
        }
        totals
    }

    /// Engram tables: their number, their bytes, and where in the file they begin.
    #[must_use]
    pub fn engram_tables(&self) -> Option<(usize, u64, u64)> {
        let tables = self.outputs.iter().filter(|output| output.is_engram);
        let first = tables.clone().next()?;
        let bytes = tables.clone().map(|output| output.info.bytes).sum();
        let begin = self.header.len() as u64 + first.info.offset;
        Some((tables.count(), bytes, begin))
    }

    /// Chooses types, lays the file out and makes its header.
    fn build(
        inputs: Vec<InputFile>,
        input_facts: blake3::Hash,
        mut drafts: Vec<Draft>,
        mut metadata: Metadata,
        recipe: &Recipe,
        mut warnings: Vec<String>,
    ) -> Result<Self, PlanError> {
        // Tables are read row by row from disk; what is loaded lies before them
        // in one piece.
        drafts.sort_by_key(|draft| draft.role == Role::Engram);
        let mut choices = Vec::with_capacity(drafts.len());
        for draft in &drafts {
            choices.push(choose(recipe, draft)?);
        }
        check_gate_up(&drafts, &choices)?;
        warn(recipe, &drafts, &choices, &mut warnings);

        let shapes = drafts.iter().zip(&choices);
        let infos = layout_offsets(
            shapes.map(|(draft, choice)| {
                let mut dims = draft.dims.clone();
                if draft.role == Role::Engram && choice.ty == ENGRAM_FP8 {
                    dims[0] = fp8_row_bytes(dims[0]);
                }
                (draft.name.clone(), choice.ty, dims)
            }),
            PAGE_ALIGNMENT,
        )?;
        metadata::describe_output(&mut metadata, recipe, &infos);
        engram::describe_rows(&mut metadata, drafts.iter().zip(&infos));
        let header = encode_header(&metadata, &infos, PAGE_ALIGNMENT)?;
        let file_bytes = (header.len() as u64)
            .checked_add(data_bytes(&infos, PAGE_ALIGNMENT))
            .filter(|&bytes| i64::try_from(bytes).is_ok())
            .ok_or_else(|| PlanError::RowTooLong {
                tensor: "the whole file".to_owned(),
                columns: u64::MAX,
            })?;
        let outputs: Vec<Output> = infos
            .into_iter()
            .zip(drafts)
            .zip(choices)
            .map(|((info, draft), choice)| Output {
                info,
                instead_of: choice.instead_of,
                is_engram: draft.role == Role::Engram,
                source: draft.source,
            })
            .collect();
        let fingerprint = fingerprint(&inputs, input_facts, &header, &outputs);
        Ok(Self {
            inputs,
            outputs,
            header,
            metadata,
            file_bytes,
            warnings,
            fingerprint,
        })
    }
}

/// The recipe's choice for a tensor, if that can be done.
fn choose(recipe: &Recipe, draft: &Draft) -> Result<Choice, PlanError> {
    let columns = draft.dims.first().copied().unwrap_or(0);
    if columns > MAX_COLUMNS {
        return Err(PlanError::RowTooLong {
            tensor: draft.name.clone(),
            columns,
        });
    }
    let choice = recipe.choose(&draft.name, draft.role, draft.stored, columns);
    let cannot = |remedy| PlanError::CannotConvert {
        tensor: draft.name.clone(),
        from: draft.source.form(),
        to: type_name(choice.ty),
        remedy,
    };
    match draft.source {
        Source::Fp8Rows { .. } | Source::PackedFp8Rows { .. } if choice.ty == ENGRAM_FP8 => {
            Ok(choice)
        }
        _ if choice.ty == ENGRAM_FP8 => Err(cannot(
            "fp8 is only for Engram rows as published; choose another type",
        )),
        Source::Ids { .. } if choice.ty == GgmlType::I32 => Ok(choice),
        Source::Ids { .. } => Err(cannot("token tables are always I32")),
        Source::Rows { ty, .. } if ty == choice.ty => Ok(choice),
        Source::Rows { ty, .. } if !v4_quant::can_decode(ty) => {
            Err(cannot("the stored type cannot be decoded"))
        }
        Source::Fp4 { .. } if choice.ty == GgmlType::MXFP4 => Ok(choice),
        _ if v4_quant::can_encode(choice.ty) => Ok(choice),
        _ => Err(cannot(
            "the new type cannot be written; choose another one in the recipe",
        )),
    }
}

/// Gate and up of a layer's experts must share a type.
fn check_gate_up(drafts: &[Draft], choices: &[Choice]) -> Result<(), PlanError> {
    let mut gates: BTreeMap<&str, GgmlType> = BTreeMap::new();
    let layer = |name: &'_ str| name.rfind(".ffn_").map_or(0, |end| end);
    for (draft, choice) in drafts.iter().zip(choices) {
        let Role::Experts(projection) = draft.role else {
            continue;
        };
        let key = &draft.name[..layer(&draft.name)];
        let (gate, up) = match (projection, gates.get(key)) {
            (Projection::Down, _) => continue,
            (_, None) => {
                gates.insert(key, choice.ty);
                continue;
            }
            (Projection::Gate, Some(&up)) => (choice.ty, up),
            (Projection::Up, Some(&gate)) => (gate, choice.ty),
        };
        if gate != up {
            return Err(PlanError::GateUp {
                layer: key.to_owned(),
                gate,
                up,
            });
        }
    }
    Ok(())
}

/// Tells about substitutes and about rules that match nothing.
fn warn(recipe: &Recipe, drafts: &[Draft], choices: &[Choice], warnings: &mut Vec<String>) {
    let mut substitutes: BTreeMap<(GgmlType, GgmlType), Vec<&str>> = BTreeMap::new();
    for (draft, choice) in drafts.iter().zip(choices) {
        if let Some(asked) = choice.instead_of {
            let names = substitutes.entry((asked, choice.ty)).or_default();
            names.push(&draft.name);
        }
    }
    for ((asked, ty), names) in substitutes {
        warnings.push(format!(
            "{} tensors are {} instead of {asked}, because their rows are not a multiple of {} \
             values: {}",
            names.len(),
            type_name(ty),
            asked.block_values(),
            shorten(&names),
        ));
    }
    let twice: Vec<&str> = drafts
        .iter()
        .zip(choices)
        .filter(|(draft, choice)| match draft.source {
            // MXFP4 experts are the published values themselves.
            Source::Rows { ty, .. } => {
                let published = ty == GgmlType::MXFP4 && matches!(draft.role, Role::Experts(_));
                ty != choice.ty && ty.block_values() > 1 && !published
            }
            _ => false,
        })
        .map(|(draft, _)| draft.name.as_str())
        .collect();
    if !twice.is_empty() {
        warnings.push(format!(
            "{} tensors lose quality twice, because they are already quantised; convert the \
             checkpoint instead: {}",
            twice.len(),
            shorten(&twice)
        ));
    }
    if recipe.engram().is_some() && !drafts.iter().any(|draft| draft.role == Role::Engram) {
        warnings.push("`--engram` has no effect: the model has no Engram tables".to_owned());
    }
    for (number, text) in recipe.rules().enumerate() {
        if !choices.iter().any(|choice| choice.rule == Some(number)) {
            warnings.push(format!("rule {} has no effect: {text}", number + 1));
        }
    }
}

/// The first few of a list of names.
fn shorten<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 3;
    let mut text = String::new();
    for name in names.iter().take(SHOWN) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.extend(name.as_ref().chars().flat_map(char::escape_debug).take(96));
    }
    if names.len() > SHOWN {
        text.push_str(", …");
    }
    text
}

/// Hashes everything that the output's bytes depend on.
fn fingerprint(
    inputs: &[InputFile],
    input_facts: blake3::Hash,
    header: &[u8],
    outputs: &[Output],
) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
    hasher.update(input_facts.as_bytes());
    for input in inputs {
        // The time stands in for contents, which are not read here.
        let (seconds, nanoseconds) = input.modified();
        // Without the folder, which may be spelled in many ways.
        let name = input.path().file_name().unwrap_or_default();
        hasher.update(name.as_encoded_bytes());
        hasher.update(&[0]);
        hasher.update(&input.len().to_le_bytes());
        hasher.update(&seconds.to_le_bytes());
        hasher.update(&nanoseconds.to_le_bytes());
    }
    hasher.update(blake3::hash(header).as_bytes());
    for output in outputs {
        for part in output.source.parts() {
            hasher.update(&part.file.to_le_bytes());
            hasher.update(&part.offset.to_le_bytes());
            hasher.update(&part.bytes.to_le_bytes());
        }
    }
    hasher.finalize()
}
