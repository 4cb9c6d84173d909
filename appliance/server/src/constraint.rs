//! Output that must follow a grammar: JSON, a JSON schema, a regular expression, or calls.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use v4_chat::ModelVersion;
use v4_tokenizer::Tokenizer;

use place::Place;
use schema::{Held, Rigor};
use tools::Answer;

mod place;
mod schema;
#[cfg(test)]
mod tests;
mod tools;
mod wanted;

pub use wanted::{Calls, ConstraintError, Format, Part, Refusal, Wanted};

/// In each tag of the tools' markup.
const TOOL_MARK: &str = "｜DSML｜";

/// Before a mark's name in the trie, so that its spelling is never taken for it.
const MARK: u8 = 0xff;

/// Schemas are read and compiled by functions that call themselves, on a stack that is
/// large enough for the deepest that are taken.
const STACK: usize = 32 << 20;

/// Grammars that are kept, and how long what asks for one may be.
const MOST_CACHED: usize = 32;
const MOST_TEXT: usize = 1 << 20;

/// Makes constraints for a tokenizer.
pub struct Grammars {
    tokenizer: Tokenizer,
    version: ModelVersion,
    factory: OnceLock<Result<ParserFactory, String>>,
    /// Grammars by what asked for them, the latest last: agents have the same tools in each
    /// turn.
    cache: Mutex<VecDeque<(blake3::Hash, Matcher)>>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

/// A text that follows a grammar, so far.
pub struct Constraint {
    matcher: Matcher,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

/// A grammar's text, and what it is made of.
enum Source {
    Json(Value),
    Lark(String),
}

impl Source {
    fn grammar(self) -> TopLevelGrammar {
        match self {
            Self::Json(schema) => TopLevelGrammar::from_json_schema(schema),
            Self::Lark(text) => TopLevelGrammar::from_lark(text),
        }
    }
}

impl Grammars {
    /// For a tokenizer and a format. The tokenizer's trie is made when the first grammar
    /// is.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, version: ModelVersion) -> Self {
        Self {
            tokenizer,
            version,
            factory: OnceLock::new(),
            cache: Mutex::default(),
        }
    }

    /// The constraint that a request asks for; `None` if there is nothing to enforce.
    ///
    /// An answer is text of the form that is asked for, or a block of calls. Calls that
    /// must come, and those of strict tools, are held to their tools' schemas. Where a
    /// schema has an object's properties, they come in its order; a call's parameters come
    /// in any.
    ///
    /// # Errors
    /// `ConstraintError::Grammar` names what cannot be held to.
    pub fn of(&self, wanted: &Wanted) -> Result<Option<Constraint>, ConstraintError> {
        // The text after the beginning, which is not part of what is cache.
        let text = serde_json::to_vec(wanted).map_err(run)?;
        let key = (text.len() <= MOST_TEXT).then(|| blake3::hash(&text));
        let matcher = match key.and_then(|key| self.cached(key)) {
            Some(matcher) => matcher,
            None => match self.made_aside(wanted)? {
                Some(matcher) => {
                    if let Some(key) = key {
                        self.remember(key, &matcher);
                    }
                    matcher
                }
                None => return Ok(None),
            },
        };
        match wanted.calls {
            Calls::Never | Calls::May if wanted.format.is_some() => {
                self.begun(matcher, wanted).map(Some)
            }
            _ => Ok(Some(Constraint { matcher })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(blake3::Hash, Matcher)>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A grammar that was made before, at its start.
    fn cached(&self, key: blake3::Hash) -> Option<Matcher> {
        let mut cache = self.lock();
        let i = cache.iter().position(|(known, _)| *known == key)?;
        let found = cache.remove(i)?;
        let matcher = found.1.deep_clone();
        cache.push_back(found);
        Some(matcher)
    }

    fn remember(&self, key: blake3::Hash, matcher: &Matcher) {
        let matcher = matcher.deep_clone();
        let mut cache = self.lock();
        if cache.len() >= MOST_CACHED {
            cache.pop_front();
        }
        cache.push_back((key, matcher));
    }

    /// On a thread with a stack of its own.
    fn made_aside(&self, wanted: &Wanted) -> Result<Option<Matcher>, ConstraintError> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("grammar".to_owned())
                .stack_size(STACK)
                .spawn_scoped(scope, || self.made(wanted))
                .map_err(|e| {
                    ConstraintError::Tokenizer(format!("cannot start a thread for it: {e}"))
                })?;
            // A schema on which a library gives up is the request's own.
            let made = thread.join();
            made.unwrap_or_else(|_| Err(refused(Part::Format, "no grammar can be built from it")))
        })
    }

    fn made(&self, wanted: &Wanted) -> Result<Option<Matcher>, ConstraintError> {
        let callable = wanted.calls != Calls::Never && !wanted.tools.is_empty();
        if wanted.calls == Calls::Must && !callable {
            let why = "a call is required, but there is no tool to call";
            return Err(refused(Part::Calls, why));
        }
        let held = wanted.format.as_ref().and_then(schema_of);
        let held = held.map(|(schema, rigor)| schema::read(&schema, rigor, &Part::Format));
        let held = held.transpose().map_err(ConstraintError::Grammar)?;
        if !callable {
            let source = match (&held, &wanted.format) {
                (Some(held), _) => Source::Json(held.grammar(&held.root)),
                (None, Some(Format::Regex(regex))) => {
                    Source::Lark(format!("start: {}", lark_regex(regex)?))
                }
                (None, _) => return Ok(None),
            };
            let made = self.make(source).map_err(|why| match &held {
                Some(held) => self.place(held, &Part::Format, &why),
                None => refused(Part::Format, why),
            });
            return made.map(Some);
        }
        let free = wanted.calls == Calls::May && !wanted.tools.iter().any(|tool| tool.strict);
        if free && wanted.format.is_none() && wanted.parallel {
            return Ok(None);
        }
        let answer = match (&held, &wanted.format) {
            (Some(held), _) => {
                let schema = held.grammar(&held.root);
                Answer::Form(format!("answer: %json {schema}"))
            }
            (None, Some(Format::Regex(regex))) => {
                Answer::Form(format!("answer: {}", lark_regex(regex)?))
            }
            (None, _) => Answer::Any,
        };
        self.calls(wanted, &answer, held.as_ref()).map(Some)
    }

    /// The grammar of calls. Tools that are not strict and cannot be held are let go.
    fn calls(
        &self,
        wanted: &Wanted,
        answer: &Answer,
        held: Option<&Held>,
    ) -> Result<Matcher, ConstraintError> {
        let mark = self.tokenizer.mark(TOOL_MARK);
        let mark = mark.ok_or_else(|| ConstraintError::Tokenizer(format!("no {TOOL_MARK}")))?;
        let grammar = |wanted: &Wanted, free: &HashSet<usize>| {
            let made = tools::grammar(wanted, answer, self.version, mark, free);
            made.map(Source::Lark).map_err(ConstraintError::Grammar)
        };
        let mut free = HashSet::new();
        let why = match self.make(grammar(wanted, &free)?) {
            Ok(matcher) => return Ok(matcher),
            Err(why) => why,
        };
        if let (Some(held), Calls::May) = (held, wanted.calls) {
            let alone = held.grammar(&held.root);
            if let Err(why) = self.make(Source::Json(alone)) {
                return Err(self.place(held, &Part::Format, &why));
            }
        }
        // Which tool is it?
        for (i, tool) in wanted.tools.iter().enumerate() {
            let alone = Wanted {
                tools: vec![tool.clone()],
                format: None,
                ..wanted.clone()
            };
            let made = tools::grammar(&alone, &Answer::Any, self.version, mark, &HashSet::new());
            let Err(why) = self.make(Source::Lark(made.map_err(ConstraintError::Grammar)?)) else {
                continue;
            };
            if tool.strict {
                let part = Part::Tool(tool.name.clone());
                let held = schema::read(&tool.parameters, Rigor::Strict, &part);
                return Err(self.place(&held.map_err(ConstraintError::Grammar)?, &part, &why));
            }
            free.insert(i);
        }
        if free.is_empty() {
            return Err(refused(Part::Calls, why));
        }
        let made = self.make(grammar(wanted, &free)?);
        made.map_err(|why| refused(Part::Calls, why))
    }

    fn place(&self, held: &Held, part: &Part, why: &str) -> ConstraintError {
        let fails = |schema: &Value| {
            let alone = held.grammar(schema);
            self.make(Source::Json(alone)).err()
        };
        let found = Place::find(held, why, fails);
        ConstraintError::Grammar(Box::new(found.refusal(part)))
    }

    fn make(&self, source: Source) -> Result<Matcher, String> {
        let factory = self.factory.get_or_init(|| {
            let env = environment(&self.tokenizer)?;
            let mut factory = ParserFactory::new_simple(&env).map_err(|e| e.to_string())?;
            factory.quiet();
            factory.limits_mut().verbose_errors = false;
            Ok(factory)
        });
        let factory = factory.as_ref().map_err(Clone::clone)?;
        let parser = factory.create_parser(source.grammar());
        let mut matcher = Matcher::new(Ok(parser.map_err(|e| format!("{e:#}"))?));
        // Some grammars only turn out unusable when they are first asked.
        let mask = matcher.compute_mask_or_eos();
        match mask.map_err(|e| format!("{e:#}"))?.num_set() {
            0 => Err("it allows no answer".to_owned()),
            _ => Ok(matcher),
        }
    }

    /// Reads what the prompt has of the answer.
    fn begun(&self, mut matcher: Matcher, wanted: &Wanted) -> Result<Constraint, ConstraintError> {
        if !wanted.begun.is_empty() {
            let env = matcher.tok_env().map_err(run)?;
            let tokens = env.tok_trie().greedy_tokenize(wanted.begun.as_bytes());
            let read = matcher.try_consume_tokens(&tokens).map_err(run)?;
            if read < tokens.len() {
                let lengths = tokens[..read].iter().map(|t| env.tok_trie().token_len(*t));
                let good = wanted.begun.get(..lengths.sum()).unwrap_or_default();
                let from = good.char_indices().rev().nth(39).map_or(0, |(i, _)| i);
                let shown = &good[from..];
                let why = format!(
                    "it cannot start a text of the requested form (after {shown:?}; the properties \
                     of an object come in the schema's order); change it, or leave out the form"
                );
                return Err(refused(Part::Begun, why));
            }
        }
        Ok(Constraint { matcher })
    }
}

impl Constraint {
    /// Forbids every token that the text cannot continue with.
    ///
    /// # Errors
    /// [`ConstraintError::Run`].
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(run)?;
        for (id, logit) in logits.iter_mut().enumerate() {
            if !(id < mask.len() && mask.get(id)) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Takes a token; true if the text can only end after it.
    ///
    /// # Errors
    /// [`ConstraintError::Run`].
    pub fn accept(&mut self, id: u32) -> Result<bool, ConstraintError> {
        self.matcher.consume_token(id).map_err(run)?;
        Ok(self.matcher.is_stopped())
    }
}

/// The schema of a format that has one.
fn schema_of(format: &Format) -> Option<(Value, Rigor)> {
    match format {
        Format::JsonObject => Some((json!({"type": "object"}), Rigor::Plain)),
        Format::Schema { schema, strict } => {
            let rigor = if *strict { Rigor::Strict } else { Rigor::Plain };
            Some((schema.clone(), rigor))
        }
        Format::Regex(_) => None,
    }
}

/// A regular expression that a whole text matches, in Lark's notation.
fn lark_regex(regex: &str) -> Result<String, ConstraintError> {
    let text = llguidance::regex_to_lark(regex, "");
    let made = llguidance::derivre::RegexBuilder::new().mk_regex(&text);
    made.map_err(|e| refused(Part::Format, format!("the regular expression: {e:#}")))?;
    Ok(match text.is_empty() {
        true => "\"\"".to_owned(),
        false => format!("/{text}/"),
    })
}

fn refused(part: Part, why: impl Into<String>) -> ConstraintError {
    ConstraintError::Grammar(Box::new(Refusal {
        part,
        place: None,
        keyword: None,
        why: why.into(),
    }))
}

fn run(error: impl fmt::Display) -> ConstraintError {
    ConstraintError::Run(format!("{error:#}"))
}

fn environment(tokenizer: &Tokenizer) -> Result<TokEnv, String> {
    let eos = tokenizer
        .eos()
        .ok_or("the tokenizer has no end-of-sentence token")?;
    let size = u32::try_from(tokenizer.vocab_size()).map_err(|e| e.to_string())?;
    let words: Vec<Vec<u8>> = (0..size)
        .map(|id| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            match tokenizer.is_mark(id) {
                true => [&[MARK], bytes].concat(),
                false => bytes.to_vec(),
            }
        })
        .collect();
    let trie = TokTrie::from(&TokRxInfo::new(size, eos), &words);
    Ok(std::sync::Arc::new(ApproximateTokEnv::new(trie)))
}
