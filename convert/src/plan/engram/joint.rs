//! llama.cpp's layout of V4.1 (spec/gguf.md section 5D): one table for all layers, and
//! the product of the gates' weights, which is all that the model computes with.

use v4_quant::GgmlType;

use crate::plan::tensor::Untyped;
use crate::recipe::{Choice, ENGRAM_FP8, JOINT_ENGRAM, Recipe, Role};
use crate::source::Source;

/// Brings Engram tensors into llama.cpp's layout where every table gets the same ggml type,
/// and says whether it did. A GGUF file keeps its layout unless its tables' type was asked for.
///
/// Tables are the last of `tensors`.
pub(in crate::plan) fn join(
    tensors: &mut Vec<Untyped>,
    choices: &mut Vec<Choice>,
    recipe: &Recipe,
    warnings: &mut Vec<String>,
) -> bool {
    let is_table = |tensor: &Untyped| tensor.role.is_engram() && tensor.name != JOINT_ENGRAM;
    let Some(first) = tensors.iter().position(is_table) else {
        return false;
    };
    let published = tensors[first].role == Role::PublishedEngram;
    let asked = recipe.engram().is_some() || choices[first..].iter().any(|c| c.rule.is_some());
    if !(published || asked) {
        return false;
    }
    let ty = choices[first].ty;
    let apart = if choices[first..].iter().any(|choice| choice.ty != ty) {
        Some("have several types")
    } else if ty == ENGRAM_FP8 {
        Some("keep their published rows, which are of no GGUF type")
    } else if tensors[first..]
        .iter()
        .any(|table| parts(tensors, table).is_none())
    {
        Some("come with tensors under other names than those of v4-convert")
    } else {
        None
    };
    if let Some(why) = apart {
        warnings.push(format!(
            "Engram tables {why}: each layer gets a table of its own, which v4-run reads and \
             llama.cpp does not"
        ));
        return false;
    }
    let tables = tensors.split_off(first);
    choices.truncate(first + 1);
    for table in &tables {
        let [kv, q, k] = parts(tensors, table).expect("looked up above");
        tensors[kv].name = tensors[kv].name.replace(".engram_wkv.", ".engram_kv.");
        fold_gates(tensors, q, k);
        tensors.remove(k);
        choices.remove(k);
    }
    let rows = |table: &Untyped| table.dims[1];
    tensors.push(Untyped {
        name: JOINT_ENGRAM.to_owned(),
        dims: vec![tables[0].dims[0], tables.iter().map(rows).sum()],
        role: tables[0].role,
        stored: tables[0].stored,
        source: Source::Joined(tables.into_iter().map(|t| (t.dims[1], t.source)).collect()),
    });
    true
}

/// Where a table's layer has its projection and the weights of its gates, q and k.
fn parts(tensors: &[Untyped], table: &Untyped) -> Option<[usize; 3]> {
    let layer = table.name.strip_suffix("engram_embd.weight")?;
    let find = |part: &str| {
        let name = format!("{layer}{part}.weight");
        tensors.iter().position(|tensor| tensor.name == name)
    };
    let [kv, q, k] = [find("engram_wkv")?, find("engram_q")?, find("engram_k")?];
    let same = tensors[q].dims == tensors[k].dims;
    let plain = [q, k]
        .iter()
        .all(|&at| matches!(tensors[at].source, Source::Rows { .. }));
    (same && plain).then_some([kv, q, k])
}

/// Puts the product of both gates in the place of `q`.
fn fold_gates(tensors: &mut [Untyped], q: usize, k: usize) {
    let factors = [q, k].map(|at| match &tensors[at].source {
        Source::Rows { ty, part } => (*ty, part.clone()),
        _ => unreachable!("`parts` gives stored rows only"),
    });
    let gate = &mut tensors[q];
    gate.name = gate.name.replace(".engram_q.", ".engram_gate.");
    gate.stored = GgmlType::F32;
    gate.source = Source::Product(factors);
}
