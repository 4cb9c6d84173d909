//! Assigns types and positions to tensors, and builds the file's header.

use std::collections::BTreeMap;

use v4_files::gguf::{Metadata, PAGE_ALIGNMENT, layout_offsets};
use v4_quant::GgmlType;

use super::error::{MAX_COLUMNS, PlanError};
use super::files::PlannedFile;
use super::options::PlanOptions;
use super::tensor::{Output, Untyped, shorten};
use super::{engram, files, metadata};
use crate::files::InputFile;
use crate::recipe::{Choice, ENGRAM_FP8, Projection, Recipe, Role, type_name};
use crate::source::{Source, fp8_row_bytes};

/// A planned conversion.
#[derive(Debug)]
pub struct Plan {
    /// The files that weights are read from.
    pub inputs: Vec<InputFile>,
    /// The tensors in the order of the file.
    pub outputs: Vec<Output>,
    /// The files: one, or the parts of a set.
    pub files: Vec<PlannedFile>,
    /// The metadata in the first file's header.
    pub metadata: Metadata,
    /// The output's length in bytes, of all files together.
    pub file_bytes: u64,
    /// Things that the user should know, one line each.
    pub warnings: Vec<String>,
    /// Equal only for plans that write the same bytes from the same files.
    pub fingerprint: blake3::Hash,
}

impl Plan {
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

    /// Engram tables: their number, their bytes, and where in their file they begin.
    #[must_use]
    pub fn engram_tables(&self) -> Option<(usize, u64, u64)> {
        let tables = self.outputs.iter().filter(|output| output.is_engram);
        let first = self.outputs.iter().position(|output| output.is_engram)?;
        let bytes = tables.clone().map(|output| output.info.bytes).sum();
        Some((tables.count(), bytes, self.place(first).1))
    }

    /// The file that a tensor goes to, and where its data begins in it.
    #[must_use]
    pub fn place(&self, output: usize) -> (usize, u64) {
        let after = self
            .files
            .partition_point(|file| file.outputs.end <= output);
        let file = after.min(self.files.len() - 1);
        let header = self.files[file].header.len() as u64;
        (file, header + self.outputs[output].info.offset)
    }

    /// Chooses types, lays the file out and makes its header.
    pub(super) fn build(
        inputs: Vec<InputFile>,
        input_facts: blake3::Hash,
        mut tensors: Vec<Untyped>,
        mut metadata: Metadata,
        constants: Option<engram::Constants>,
        options: &PlanOptions,
        mut warnings: Vec<String>,
    ) -> Result<Self, PlanError> {
        let recipe = &options.recipe;
        // Tables are read row by row from disk; what is loaded comes before them
        // in one piece.
        tensors.sort_by_key(|tensor| tensor.role.is_engram());
        let mut choices = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            choices.push(choose(recipe, tensor)?);
        }
        check_gate_up(&tensors, &choices)?;
        warn(recipe, &tensors, &choices, &mut warnings);
        if let Some(constants) = constants
            && engram::join(&mut tensors, &mut choices, recipe, &mut warnings)
        {
            constants.put_joint(&mut metadata);
        }

        let shapes = tensors.iter().zip(&choices);
        let mut infos = layout_offsets(
            shapes.map(|(tensor, choice)| {
                let mut dims = tensor.dims.clone();
                if tensor.role.is_engram() && choice.ty == ENGRAM_FP8 {
                    dims[0] = fp8_row_bytes(dims[0]);
                }
                (tensor.name.clone(), choice.ty, dims)
            }),
            PAGE_ALIGNMENT,
        )?;
        metadata::describe_output(&mut metadata, recipe, &infos);
        engram::describe_rows(&mut metadata, tensors.iter().zip(&infos));
        let files = files::lay_out(&metadata, &mut infos, options.split)?;
        let file_bytes = files.iter().map(|file| file.bytes).sum();
        let outputs: Vec<Output> = infos
            .into_iter()
            .zip(tensors)
            .zip(choices)
            .map(|((info, tensor), choice)| Output {
                info,
                instead_of: choice.instead_of,
                is_engram: tensor.role.is_engram(),
                source: tensor.source,
            })
            .collect();
        let fingerprint = fingerprint(&inputs, input_facts, &files, &outputs);
        Ok(Self {
            inputs,
            outputs,
            files,
            metadata,
            file_bytes,
            warnings,
            fingerprint,
        })
    }
}

/// The recipe's choice for a tensor, if that can be done.
fn choose(recipe: &Recipe, tensor: &Untyped) -> Result<Choice, PlanError> {
    let columns = tensor.dims.first().copied().unwrap_or(0);
    if columns > MAX_COLUMNS {
        return Err(PlanError::RowTooLong {
            tensor: tensor.name.clone(),
            columns,
        });
    }
    let choice = recipe.choose(&tensor.name, tensor.role, tensor.stored, columns);
    let cannot = |remedy| PlanError::CannotConvert {
        tensor: tensor.name.clone(),
        from: tensor.source.form(),
        to: type_name(choice.ty),
        remedy,
    };
    match *tensor.source.first() {
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
fn check_gate_up(tensors: &[Untyped], choices: &[Choice]) -> Result<(), PlanError> {
    let mut gates: BTreeMap<&str, GgmlType> = BTreeMap::new();
    let layer = |name: &'_ str| name.rfind(".ffn_").map_or(0, |end| end);
    for (tensor, choice) in tensors.iter().zip(choices) {
        let Some(projection) = tensor.role.projection() else {
            continue;
        };
        let key = &tensor.name[..layer(&tensor.name)];
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
fn warn(recipe: &Recipe, tensors: &[Untyped], choices: &[Choice], warnings: &mut Vec<String>) {
    let mut substitutes: BTreeMap<(GgmlType, GgmlType), Vec<&str>> = BTreeMap::new();
    for (tensor, choice) in tensors.iter().zip(choices) {
        if let Some(asked) = choice.instead_of {
            let names = substitutes.entry((asked, choice.ty)).or_default();
            names.push(&tensor.name);
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
    let twice: Vec<&str> = tensors
        .iter()
        .zip(choices)
        .filter(|(tensor, choice)| match tensor.source {
            // MXFP4 experts are the published values themselves.
            Source::Rows { ty, .. } => {
                let published = ty == GgmlType::MXFP4 && matches!(tensor.role, Role::Experts(_));
                ty != choice.ty && ty.block_values() > 1 && !published
            }
            _ => false,
        })
        .map(|(tensor, _)| tensor.name.as_str())
        .collect();
    if !twice.is_empty() {
        warnings.push(format!(
            "{} tensors lose quality twice, because they are already quantised; convert the \
             checkpoint instead: {}",
            twice.len(),
            shorten(&twice)
        ));
    }
    if recipe.engram().is_some() && !tensors.iter().any(|tensor| tensor.role.is_engram()) {
        warnings.push("`--engram` has no effect: the model has no Engram tables".to_owned());
    }
    for (number, text) in recipe.rules().enumerate() {
        if !choices.iter().any(|choice| choice.rule == Some(number)) {
            warnings.push(format!("rule {} has no effect: {text}", number + 1));
        }
    }
}

/// Hashes everything that the output's bytes depend on.
fn fingerprint(
    inputs: &[InputFile],
    input_facts: blake3::Hash,
    files: &[PlannedFile],
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
    for file in files {
        hasher.update(blake3::hash(&file.header).as_bytes());
    }
    for output in outputs {
        for part in output.source.parts() {
            hasher.update(&part.file.to_le_bytes());
            hasher.update(&part.offset.to_le_bytes());
            hasher.update(&part.bytes.to_le_bytes());
        }
    }
    hasher.finalize()
}
