//! Generates answers token by token.

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;
use std::time::Instant;

use v4_runtime::generation::{self, Finish, Sampler, StepError, Steps, StopFilter, Until};
use v4_tokenizer::DecodeStream;

use crate::callback::{NO_TOKEN, v4_token, v4_token_fn};
use crate::cancel::{Cancel, v4_cancel};
use crate::decoder::Lent;
use crate::drafts;
use crate::failure::{Failure, Outcome};
use crate::guard::guard;
use crate::layout::{Filled, c_struct, read, size32};
use crate::pointer::{self, User};
use crate::sampler::v4_sampler;
use crate::session::v4_session;
use crate::status::v4_status;
use crate::timeline::Timeline;

c_struct! {
    /// How long to continue.
    v4_generate_options, first 16, {
        size: u32,
        max_tokens: u32,
        cancel: *mut v4_cancel,
        stop: *const *const c_char,
        stop_count: usize,
        draft: i32,
        reserved: u32,
    }
}

c_struct! {
    /// How it ended.
    v4_generate_result, first 16, {
        size: u32,
        finish: i32,
        tokens: u64,
        seconds: f64,
        passes: u64,
        drafts: u64,
        drafts_accepted: u64,
    }
}

/// Why generation ended, by its number in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum End {
    Stop = 1,
    Length = 2,
    ContextFull = 3,
    Callback = 4,
    Cancelled = 5,
    StopString = 6,
}

impl End {
    /// By its number.
    pub fn new(number: i32) -> Option<Self> {
        let all = [
            Self::Stop,
            Self::Length,
            Self::ContextFull,
            Self::Callback,
            Self::Cancelled,
            Self::StopString,
        ];
        all.into_iter().find(|end| *end as i32 == number)
    }
}

/// A session whose tokens are picked by a sampler.
struct Sampled<'a> {
    timeline: &'a mut Timeline,
    sampler: &'a mut Sampler,
}

impl Steps for Sampled<'_> {
    fn has_room(&self) -> bool {
        self.timeline.has_room()
    }

    fn next(&mut self, id: u32) -> Result<u32, StepError> {
        self.timeline.step(id)?;
        Ok(self.timeline.pick(self.sampler)?)
    }
}

/// Hands the tokens of an answer on, with the text that they complete.
struct Told {
    callback: v4_token_fn,
    user: User,
    stream: DecodeStream,
    stops: StopFilter,
    text: Lent,
}

impl Told {
    fn tell(&mut self, id: u32, text: &str) -> ControlFlow<()> {
        let Some(callback) = self.callback else {
            return ControlFlow::Continue(());
        };
        let (text, length) = self.text.lend(text);
        let token = v4_token {
            size: size32::<v4_token>(),
            id,
            text,
            length,
        };
        // SAFETY: the header asks for a function that can be called during the call; the
        // token lasts until it returns.
        match unsafe { callback(self.user.0, &raw const token) } {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_session_generate(
    session: *mut v4_session,
    sampler: *mut v4_sampler,
    options: *const v4_generate_options,
    callback: v4_token_fn,
    user: *mut c_void,
    result: *mut v4_generate_result,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let session = unsafe { pointer::handle(session, "session") }?;
        // SAFETY: as above.
        let sampler = unsafe { pointer::handle(sampler, "sampler") }?;
        // SAFETY: the header's rules for structs.
        let options = unsafe { read(options) }?;
        // SAFETY: the header's rules for handles.
        let cancel = unsafe { Cancel::new(options.cancel) }?;
        // SAFETY: the header's rules for pointers.
        let stops = unsafe {
            let (most, longest) = (MOST_STOPS, MOST_STOP);
            pointer::texts(
                options.stop,
                options.stop_count,
                most,
                longest,
                "stop string",
            )
        }?;
        let draft = drafts::options(options.draft)?;
        if options.reserved != 0 {
            let what = "v4_generate_options.reserved must be 0";
            return Err(Failure::argument(what));
        }
        // SAFETY: the header's rules for structs.
        let result = unsafe { Filled::or_null(result) }?;
        let mut timeline = session.inner.take("session")?;
        let mut sampler = sampler.inner.take("sampler")?;
        let started = Instant::now();
        timeline.begin(draft)?;
        let mut told = Told {
            callback,
            user: User(user),
            stream: timeline.engine().tokenizer().decode_stream(),
            stops: StopFilter::new(&stops),
            text: Lent::default(),
        };
        let max = options.max_tokens;
        let until = Until {
            max_tokens: (max != 0).then_some(max as usize),
            eos: timeline.engine().tokenizer().eos(),
            stop_loops: false,
        };
        let (end, tokens) = generate(&mut timeline, &mut sampler, until, &cancel, &mut told)?;
        // Whoever asks for some tokens may ask for more.
        let [passes, drafts, drafts_accepted] = timeline.end(end == End::Length);
        if let Some(result) = result {
            result.set(&v4_generate_result {
                size: size32::<v4_generate_result>(),
                finish: end as i32,
                tokens,
                seconds: started.elapsed().as_secs_f64(),
                passes,
                drafts,
                drafts_accepted,
            });
        }
        match end {
            End::Cancelled => Err(Failure::cancelled()),
            _ => Ok(()),
        }
    })
}

/// Most stop strings, and bytes of one.
const MOST_STOPS: usize = 64;
const MOST_STOP: usize = 1024;

fn generate(
    timeline: &mut Timeline,
    sampler: &mut Sampler,
    until: Until,
    cancel: &Cancel,
    told: &mut Told,
) -> Outcome<(End, u64)> {
    if cancel.requested() {
        return Ok((End::Cancelled, 0));
    }
    let first = timeline.pick(sampler)?;
    let mut model = Sampled { timeline, sampler };
    let interrupted = || cancel.requested();
    let mut stopped = false;
    let mut take = |id| -> Outcome<_> {
        let text = told.stops.push(&told.stream.push(id)?);
        let told_all = told.tell(id, &text);
        stopped = told_all.is_continue() && told.stops.stopped();
        Ok(match stopped {
            true => ControlFlow::Break(()),
            false => told_all,
        })
    };
    let generated = generation::generate(&mut model, first, until, &interrupted, &mut take)?;
    if let Some(&last) = generated.ids.last()
        && generated.read < generated.ids.len()
        && timeline.has_room()
    {
        timeline.leave(last);
    }
    let end = match generated.finish {
        Finish::Stop => End::Stop,
        Finish::StopString if stopped => End::StopString,
        Finish::StopString => End::Callback,
        // Never asked for here; it cuts an answer off as a limit does.
        Finish::Length | Finish::Loop => End::Length,
        Finish::ContextFull => End::ContextFull,
        Finish::Interrupted => End::Cancelled,
    };
    if end != End::Callback {
        let stream = timeline.engine().tokenizer().decode_stream();
        let rest = std::mem::replace(&mut told.stream, stream).finish();
        let rest = told.stops.push(&rest) + &told.stops.finish();
        if !rest.is_empty() {
            // Nothing is left that it could stop.
            let _ = told.tell(NO_TOKEN, &rest);
        }
    }
    Ok((end, generated.ids.len() as u64))
}
