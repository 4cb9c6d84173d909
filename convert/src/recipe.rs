//! Recipes decide which tensor gets which type.
//!
//! A recipe is a base (one of the built-in recipes) and a list of rules. The
//! first rule whose pattern matches a tensor's name gives its type; what no rule
//! matches gets the base's type. Rules concern matrices: vectors stay F32 and
//! token tables stay I32, as every reader of the format expects.
//!
//! ```toml
//! base = "native"
//!
//! [[rule]]
//! tensors = "blk.*.ffn_{gate,up}_exps.weight"
//! layers = "0-36"
//! type = "iq2_xxs"
//!
//! [[rule]]
//! tensors = ["blk.*.ffn_down_exps.weight"]
//! type = "q2_k"
//! ```

mod bases;

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;
use v4_quant::GgmlType;

use crate::files::{ReadError, read_small};
use bases::{BASES, Base};
pub use bases::{built_in, built_in_names};

/// The largest recipe file accepted.
const MAX_RECIPE_BYTES: u64 = 1 << 20;

/// What is wrong with a recipe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The recipe file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Neither a built-in recipe nor a file.
    #[error(
        "no recipe {name:?}; the built-in recipes are {}, anything else must be a TOML file",
        built_in_names()
    )]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The file is not a recipe.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, on one line.
        reason: String,
    },
}

/// A matrix in the experts, which a recipe treats apart from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    /// The gate projection (`w1`).
    Gate,
    /// The up projection (`w3`).
    Up,
    /// The down projection (`w2`).
    Down,
}

/// What a tensor is to a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// All experts' matrices of one layer and projection.
    Experts(Projection),
    /// The same from a checkpoint whose experts are not FP4, but FP8, NVFP4 or BF16.
    OtherExperts(Projection),
    /// A matrix published in FP8.
    Dense,
    /// A matrix published in BF16 or F32; or any matrix of a GGUF file.
    Matrix,
    /// A vector, or a matrix that is used as one: F32 in every file.
    Vector,
    /// An Engram table published in FP8.
    PublishedEngram,
    /// An Engram table of a GGUF file.
    Engram,
    /// A table of expert numbers by token.
    Table,
}

impl Role {
    /// Whether it is an Engram table.
    #[must_use]
    pub fn is_engram(self) -> bool {
        matches!(self, Self::PublishedEngram | Self::Engram)
    }

    /// The projection, of experts.
    #[must_use]
    pub fn projection(self) -> Option<Projection> {
        match self {
            Self::Experts(projection) | Self::OtherExperts(projection) => Some(projection),
            _ => None,
        }
    }
}

/// The table that all Engram layers share, in llama.cpp's layout of V4.1.
pub const JOINT_ENGRAM: &str = "per_layer_token_embd.weight";

/// The type that stands for Engram rows as published: e4m3 codes, then one e8m0
/// scale per 32 of them. GGUF has no such type; the bytes are stored as I8.
pub const ENGRAM_FP8: GgmlType = GgmlType::I8;

/// A type for Engram tables, by the names of `--engram` and of rules: those of
/// ggml types, and `fp8` for the rows as published.
///
/// # Errors
/// A sentence without the file's name.
pub fn engram_type(name: &str) -> Result<GgmlType, String> {
    if name.eq_ignore_ascii_case("fp8") {
        return Ok(ENGRAM_FP8);
    }
    match GgmlType::from_name(name) {
        Some(known) if v4_quant::can_encode(known) => Ok(known),
        _ => Err(format!(
            "type {name:?} cannot be written; choose one of {}, fp8 (Engram tables only)",
            writable()
        )),
    }
}

/// A type's name, `fp8` for Engram rows as published.
#[must_use]
pub fn type_name(ty: GgmlType) -> &'static str {
    match ty {
        ENGRAM_FP8 => "fp8",
        _ => ty.name(),
    }
}

/// One rule of a recipe file.
#[derive(Debug, Clone)]
struct Rule {
    patterns: Vec<GlobMatcher>,
    layers: Vec<(u32, u32)>,
    ty: GgmlType,
    /// The rule in one line, for the file's metadata and for messages.
    text: String,
}

impl Rule {
    fn matches(&self, name: &str) -> bool {
        let layer_fits = self.layers.is_empty()
            || layer_of(name)
                .is_some_and(|layer| self.layers.iter().any(|&(a, b)| (a..=b).contains(&layer)));
        layer_fits && self.patterns.iter().any(|pattern| pattern.is_match(name))
    }
}

/// N of `blk.N.…`.
fn layer_of(name: &str) -> Option<u32> {
    let (layer, _) = name.strip_prefix("blk.")?.split_once('.')?;
    layer.parse().ok()
}

/// A recipe.
#[derive(Debug, Clone)]
pub struct Recipe {
    name: String,
    base: Base,
    rules: Vec<Rule>,
    engram: Option<GgmlType>,
}

/// A recipe's decision about one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The type to write.
    pub ty: GgmlType,
    /// The type that the recipe asks for, if the tensor's rows do not fit it.
    pub instead_of: Option<GgmlType>,
    /// The rule that decided.
    pub rule: Option<usize>,
}

impl Recipe {
    /// The built-in recipe of this name, or the one in the TOML file of this path.
    ///
    /// # Errors
    /// [`RecipeError`] naming the file and the item.
    pub fn load(name_or_path: &str) -> Result<Self, RecipeError> {
        if let Some(recipe) = Self::built_in(name_or_path) {
            return Ok(recipe);
        }
        let path = Path::new(name_or_path);
        let bytes = match read_small(path, MAX_RECIPE_BYTES) {
            Err(ReadError::NotFound { .. }) => {
                return Err(RecipeError::Unknown {
                    name: name_or_path.to_owned(),
                });
            }
            other => other?,
        };
        let parsed = String::from_utf8(bytes)
            .map_err(|error| error.to_string())
            .and_then(|text| Self::parse(&file_stem(path), &text));
        parsed.map_err(|reason| RecipeError::File {
            path: path.to_owned(),
            reason,
        })
    }

    /// The built-in recipe of this name.
    #[must_use]
    pub fn built_in(name: &str) -> Option<Self> {
        let base = *BASES.iter().find(|base| base.name == name)?;
        Some(Self {
            name: base.name.to_owned(),
            base,
            rules: Vec::new(),
            engram: None,
        })
    }

    /// Parses a recipe file; the error is one line without the file's name.
    fn parse(stem: &str, text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct RawRecipe {
            name: Option<String>,
            base: String,
            #[serde(default)]
            rule: Vec<RawRule>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct RawRule {
            tensors: OneOrMany,
            layers: Option<String>,
            r#type: String,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            One(String),
            Many(Vec<String>),
        }
        let raw: RawRecipe = toml::from_str(text).map_err(|error| one_line(text, &error))?;
        let base = BASES
            .iter()
            .find(|base| base.name == raw.base)
            .ok_or_else(|| {
                format!(
                    "`base` is {:?}, but must be one of {}",
                    raw.base,
                    built_in_names()
                )
            })?;
        let name = raw.name.unwrap_or_else(|| stem.to_owned());
        if name.is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
            return Err("`name` must have 1 to 100 printable characters".to_owned());
        }
        let mut rules = Vec::with_capacity(raw.rule.len());
        for (number, rule) in raw.rule.into_iter().enumerate() {
            let patterns = match rule.tensors {
                OneOrMany::One(pattern) => vec![pattern],
                OneOrMany::Many(patterns) => patterns,
            };
            let rule = Rule::new(&patterns, rule.layers.as_deref(), &rule.r#type)
                .map_err(|reason| format!("rule {}: {reason}", number + 1))?;
            rules.push(rule);
        }
        Ok(Self {
            name,
            base: *base,
            rules,
            engram: None,
        })
    }

    /// The recipe with another type for all Engram tables, whatever its rules say.
    #[must_use]
    pub fn with_engram(mut self, ty: GgmlType) -> Self {
        self.engram = Some(ty);
        self
    }

    /// The type that [`with_engram`](Self::with_engram) set.
    #[must_use]
    pub fn engram(&self) -> Option<GgmlType> {
        self.engram
    }

    /// The recipe's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the built-in recipe that it builds on.
    #[must_use]
    pub fn base(&self) -> &'static str {
        self.base.name
    }

    /// Its rules, each in one line.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &str> {
        self.rules.iter().map(|rule| rule.text.as_str())
    }

    /// The type for a tensor of rows of `columns` values that is stored as
    /// `stored` (the type that keeps its values, for the published formats).
    ///
    /// A row that is not a whole number of blocks of the type asked for gets
    /// instead: MXFP4 for experts, Q8_0 for other matrices, and the type that
    /// it is stored in where even that does not fit.
    #[must_use]
    pub fn choose(&self, name: &str, role: Role, stored: GgmlType, columns: u64) -> Choice {
        let plain = |ty| Choice {
            ty,
            instead_of: None,
            rule: None,
        };
        match role {
            Role::Vector => return plain(GgmlType::F32),
            Role::Table => return plain(GgmlType::I32),
            _ => {}
        }
        let engram = self.engram.filter(|_| role.is_engram());
        // A table's rows may end up in a tensor of either name.
        let joint = Some(JOINT_ENGRAM).filter(|_| role.is_engram());
        let named = |rule: &Rule| rule.matches(name) || joint.is_some_and(|j| rule.matches(j));
        let rule = match engram {
            None => self.rules.iter().position(named),
            Some(_) => None,
        };
        let asked = match (rule, role) {
            (Some(rule), _) => self.rules[rule].ty,
            (None, Role::Engram) => engram.unwrap_or(stored),
            (None, Role::PublishedEngram) => engram.unwrap_or(self.base.engram),
            (None, Role::Experts(projection) | Role::OtherExperts(projection))
                if self.base.requantises =>
            {
                match projection {
                    Projection::Gate | Projection::Up => self.base.gate_up,
                    Projection::Down => self.base.down,
                }
            }
            // What no type keeps exactly is as good in the type of FP8 matrices.
            (None, Role::OtherExperts(_)) if self.base.dense == GgmlType::Q8_0 => GgmlType::Q8_0,
            (None, Role::Dense) => self.base.dense,
            (None, _) => stored,
        };
        let fits = |ty: &GgmlType| columns.is_multiple_of(ty.block_values() as u64);
        if fits(&asked) {
            return Choice {
                ty: asked,
                instead_of: None,
                rule,
            };
        }
        let substitute = match role {
            Role::Experts(_) => GgmlType::MXFP4,
            _ => GgmlType::Q8_0,
        };
        Choice {
            ty: Some(substitute).filter(fits).unwrap_or(stored),
            instead_of: Some(asked),
            rule,
        }
    }
}

impl Rule {
    fn new(patterns: &[String], layers: Option<&str>, ty: &str) -> Result<Self, String> {
        if patterns.is_empty() {
            return Err("`tensors` is empty".to_owned());
        }
        let ty = engram_type(ty)?;
        let matchers = patterns
            .iter()
            .map(|pattern| {
                GlobBuilder::new(pattern)
                    .build()
                    .map(|glob| glob.compile_matcher())
                    .map_err(|error| format!("pattern {pattern:?}: {}", error.kind()))
            })
            .collect::<Result<_, _>>()?;
        let ranges = layers.map(parse_layers).transpose()?.unwrap_or_default();
        let mut text = patterns.join(" ");
        if let Some(layers) = layers {
            text = format!("{text} [layers {layers}]");
        }
        Ok(Self {
            patterns: matchers,
            layers: ranges,
            ty,
            text: format!("{text} = {}", type_name(ty)),
        })
    }
}

/// Parses `0-2,40`.
fn parse_layers(text: &str) -> Result<Vec<(u32, u32)>, String> {
    let bad = || format!("`layers` is {text:?}, but must be numbers and ranges such as \"0-2,40\"");
    text.split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.trim().parse().map_err(|_| bad())?;
            let last: u32 = last.trim().parse().map_err(|_| bad())?;
            if first > last {
                return Err(bad());
            }
            Ok((first, last))
        })
        .collect()
}

fn writable() -> String {
    let names: Vec<&str> = GgmlType::ALL
        .iter()
        .filter(|&&ty| v4_quant::can_encode(ty))
        .map(|ty| ty.name())
        .collect();
    format!("choose one of {}", names.join(", "))
}

fn file_stem(path: &Path) -> String {
    path.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// A TOML error in one line, with the line number.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', ", ");
    match error.span() {
        Some(span) => {
            let line = text.as_bytes()[..span.start.min(text.len())]
                .iter()
                .filter(|&&byte| byte == b'\n')
                .count();
            format!("line {}: {message}", line + 1)
        }
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Recipe, String> {
        Recipe::parse("mine", text)
    }

    const GATE: Role = Role::Experts(Projection::Gate);

    #[test]
    fn the_first_matching_rule_wins() {
        let recipe = parse(
            r#"
            base = "q2"
            [[rule]]
            tensors = "blk.*.ffn_{gate,up}_exps.weight"
            layers = "0-2, 40"
            type = "q4_k"
            [[rule]]
            tensors = ["*_exps.weight", "output.weight"]
            type = "Q8_0"
            "#,
        )
        .unwrap();
        let choose = |name, role, stored| recipe.choose(name, role, stored, 512).ty;
        let stored = GgmlType::MXFP4;
        assert_eq!(
            choose("blk.2.ffn_gate_exps.weight", GATE, stored),
            GgmlType::Q4_K
        );
        assert_eq!(
            choose("blk.40.ffn_up_exps.weight", GATE, stored),
            GgmlType::Q4_K
        );
        assert_eq!(
            choose("blk.3.ffn_gate_exps.weight", GATE, stored),
            GgmlType::Q8_0
        );
        let bf16 = GgmlType::BF16;
        assert_eq!(choose("output.weight", Role::Matrix, bf16), GgmlType::Q8_0);
        assert_eq!(choose("token_embd.weight", Role::Matrix, bf16), bf16);
        assert_eq!(
            choose("blk.0.attn_kv.weight", Role::Dense, bf16),
            GgmlType::Q8_0
        );
        assert_eq!(choose("output.weight", Role::Vector, bf16), GgmlType::F32);
        assert_eq!(recipe.rules().len(), 2);
        assert_eq!(recipe.name(), "mine");
    }

    #[test]
    fn rows_that_do_not_fit_get_a_documented_substitute() {
        let recipe = Recipe::built_in("q2").unwrap();
        let choice = recipe.choose("blk.0.ffn_gate_exps.weight", GATE, GgmlType::MXFP4, 96);
        assert_eq!(choice.ty, GgmlType::MXFP4);
        assert_eq!(choice.instead_of, Some(GgmlType::IQ2_XXS));
        let choice = recipe.choose("blk.0.attn_q_b.weight", Role::Dense, GgmlType::BF16, 40);
        assert_eq!(choice.ty, GgmlType::BF16);
        assert_eq!(choice.instead_of, Some(GgmlType::Q8_0));
        let recipe = parse("base='native'\n[[rule]]\ntensors='*'\ntype='q4_k'").unwrap();
        let choice = recipe.choose("output.weight", Role::Matrix, GgmlType::BF16, 64);
        assert_eq!(choice.ty, GgmlType::Q8_0);
    }

    #[test]
    fn native_leaves_quantised_experts_as_they_are() {
        for (name, ty) in [("native", GgmlType::Q2_K), ("q4", GgmlType::Q4_K)] {
            let recipe = Recipe::built_in(name).unwrap();
            let choice = recipe.choose("blk.0.ffn_gate_exps.weight", GATE, GgmlType::Q2_K, 256);
            assert_eq!(choice.ty, ty);
        }
    }

    #[test]
    fn mistakes_in_a_recipe_are_named() {
        for (text, why) in [
            ("", "base"),
            ("base = 'best'", "`base` is \"best\""),
            ("base = 'native'\ncolour = 1", "colour"),
            ("base = 'native'\n[[rule]]\ntype = 'q4_k'", "tensors"),
            ("base = 'native'\n[[rule]]\ntensors = 'a'", "type"),
            (
                "base = 'native'\n[[rule]]\ntensors = 'a'\ntype = 'q9'",
                "rule 1: type \"q9\"",
            ),
            (
                "base = 'native'\n[[rule]]\ntensors = 'a'\ntype = 'iq1_s'",
                "cannot be written",
            ),
            (
                "base = 'native'\n[[rule]]\ntensors = 'a'\ntype = 'i32'",
                "cannot be written",
            ),
            (
                "base = 'native'\n[[rule]]\ntensors = []\ntype = 'q4_k'",
                "empty",
            ),
            (
                "base = 'native'\n[[rule]]\ntensors = '[a'\ntype = 'q4_k'",
                "pattern \"[a\"",
            ),
            (
                "base = 'native'\n[[rule]]\ntensors = 'a'\nlayers = '3-1'\ntype = 'q4_k'",
                "`layers` is \"3-1\"",
            ),
            ("base = 'native'\nname = \"a\\nb\"", "printable"),
            ("base =\n", "line 1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        assert!(matches!(
            Recipe::load("no-such-recipe"),
            Err(RecipeError::Unknown { .. })
        ));
    }
}
