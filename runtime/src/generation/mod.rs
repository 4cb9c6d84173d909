//! Continues a text: the sampler picks a token, and the loop passes it on and appends it to
//! the session until a stop condition holds.

mod drafts;
mod lookup;
mod loops;
mod pace;
mod sampling;
mod sources;
mod stop;

use std::ops::ControlFlow;

pub use drafts::{Draft, DraftCounts, DraftOptions, DraftSource, Drafting, Speculation};
pub use lookup::PromptLookup;
pub use loops::LoopDetector;
pub use pace::PassTimes;
pub use sampling::{Sampler, SamplerError, SamplerOptions};
pub use sources::{ModelDrafting, ModuleDrafts};
pub use stop::StopFilter;

use crate::error::EngineError;

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its text.
    Stop,
    /// Whoever takes the tokens wants no more: a stop string was met.
    StopString,
    /// As many tokens as asked for.
    Length,
    /// The context has no room for another token.
    ContextFull,
    /// The text repeated itself.
    Loop,
    /// Somebody asked to stop.
    Interrupted,
}

impl Finish {
    /// The word for it in JSON and statistics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::StopString => "stop_string",
            Finish::Length => "length",
            Finish::ContextFull => "context_full",
            Finish::Loop => "loop",
            Finish::Interrupted => "interrupted",
        }
    }
}

/// Why a token could not be read or the next one not be picked.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The engine failed, or was stopped.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No token can be picked from its logits.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
}

/// Something that continues token by token.
pub trait Steps {
    /// Whether another token can be read.
    fn has_room(&self) -> bool;
    /// Reads a token and picks the next.
    ///
    /// # Errors
    /// If either fails.
    fn next(&mut self, id: u32) -> Result<u32, StepError>;
}

/// When to stop, apart from what the text says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Until {
    /// Tokens at most.
    pub max_tokens: Option<usize>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// Whether a text that repeats itself ends.
    pub stop_loops: bool,
}

/// What a generation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// Why it ended.
    pub finish: Finish,
    /// The tokens, without the one that ends a text.
    pub ids: Vec<u32>,
    /// How many of them were read: all, or all but the last.
    pub read: usize,
}

/// Goes on from `first`, which was picked already, and hands each token to `take`,
/// which breaks when it wants no more. `interrupted` is asked after every token.
///
/// # Errors
/// Those of `take`, and of reading and picking.
pub fn generate<E: From<StepError>>(
    model: &mut dyn Steps,
    first: u32,
    until: Until,
    interrupted: &dyn Fn() -> bool,
    take: &mut dyn FnMut(u32) -> Result<ControlFlow<()>, E>,
) -> Result<Generated, E> {
    let mut ids = Vec::new();
    let (mut id, mut read) = (first, 0);
    let mut loops = until.stop_loops.then(LoopDetector::default);
    let finish = loop {
        if until.eos == Some(id) {
            break Finish::Stop;
        }
        ids.push(id);
        if take(id)?.is_break() {
            break Finish::StopString;
        }
        if until.max_tokens.is_some_and(|max| ids.len() >= max) {
            break Finish::Length;
        }
        if loops.as_mut().is_some_and(|loops| loops.push(id)) {
            break Finish::Loop;
        }
        if interrupted() {
            break Finish::Interrupted;
        }
        if !model.has_room() {
            break Finish::ContextFull;
        }
        id = model.next(id)?;
        read += 1;
    };
    Ok(Generated { finish, ids, read })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says `script` after any prompt.
    struct Scripted {
        room: usize,
        script: Vec<u32>,
    }

    impl Steps for Scripted {
        fn has_room(&self) -> bool {
            self.room > 0
        }
        fn next(&mut self, _: u32) -> Result<u32, StepError> {
            self.room = self.room.checked_sub(1).expect("room for a token");
            Ok(self.script.remove(0))
        }
    }

    fn run(room: usize, max_tokens: Option<usize>, stop_at: Option<u32>) -> Generated {
        let script = vec![11, 12, 13, 1, 99];
        let mut model = Scripted { room, script };
        let until = Until {
            max_tokens,
            eos: Some(1),
            stop_loops: false,
        };
        let mut seen = Vec::new();
        let take = &mut |id| {
            seen.push(id);
            Ok::<_, StepError>(if stop_at == Some(id) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        };
        let generated = generate(&mut model, 10, until, &|| false, take).unwrap();
        assert_eq!(seen, generated.ids, "every token is handed on, once");
        generated
    }

    #[test]
    fn the_end_token_stops_and_is_not_part_of_the_text() {
        let generated = run(100, None, None);
        assert_eq!(generated.finish, Finish::Stop);
        assert_eq!(generated.ids, [10, 11, 12, 13]);
        assert_eq!(generated.read, 4);
    }

    #[test]
    fn the_limit_stops_without_reading_its_last_token() {
        let generated = run(100, Some(2), None);
        assert_eq!((generated.finish, generated.read), (Finish::Length, 1));
        assert_eq!(generated.ids, [10, 11]);
    }

    #[test]
    fn a_full_context_stops_with_the_last_token_that_fits() {
        let generated = run(1, None, None);
        assert_eq!(generated.finish, Finish::ContextFull);
        assert_eq!(generated.ids, [10, 11]);
    }

    #[test]
    fn a_loop_ends_where_that_is_asked_for() {
        for (stop_loops, finish) in [(true, Finish::Loop), (false, Finish::ContextFull)] {
            let mut model = Scripted {
                room: 999,
                script: [7, 8, 9].repeat(400),
            };
            let until = Until {
                stop_loops,
                ..Until::default()
            };
            let take = &mut |_| Ok::<_, StepError>(ControlFlow::Continue(()));
            let generated = generate(&mut model, 9, until, &|| false, take).unwrap();
            assert_eq!(generated.finish, finish);
        }
    }

    #[test]
    fn the_taker_can_stop() {
        let generated = run(100, None, Some(12));
        assert_eq!(generated.finish, Finish::StopString);
        assert_eq!(generated.ids, [10, 11, 12]);
    }

    #[test]
    fn an_interrupt_stops_after_its_token() {
        let mut model = Scripted {
            room: 9,
            script: vec![11],
        };
        let take = &mut |_| Ok::<_, StepError>(ControlFlow::Continue(()));
        let generated = generate(&mut model, 10, Until::default(), &|| true, take).unwrap();
        assert_eq!(generated.finish, Finish::Interrupted);
        assert_eq!(generated.ids, [10]);
    }
}
