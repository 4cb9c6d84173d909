//! Choosing tokens.

use v4_runtime::generation::{Sampler, SamplerOptions};

use crate::failure::{Failure, Outcome};
use crate::guard::guard;
use crate::handle::Exclusive;
use crate::layout::{c_struct, read};
use crate::pointer::{self, Out};
use crate::session::v4_session;
use crate::status::v4_status;

/// Tokens back that the repetition penalty looks at where the caller does not say.
const REPEAT_LAST_N: u32 = 64;

c_struct! {
    /// How to choose a token.
    v4_sampler_options, first 48, {
        size: u32,
        temperature: f32,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        top_k: u32,
        repeat_last_n: u32,
        reserved: u32,
        seed: u64,
        draws: u64,
    }
}

/// A sampler.
#[derive(Debug)]
pub struct v4_sampler {
    pub(crate) inner: Exclusive<Sampler>,
}

impl v4_sampler_options {
    fn sampler(&self) -> Outcome<Sampler> {
        if self.reserved != 0 {
            return Err(Failure::argument("v4_sampler_options.reserved must be 0"));
        }
        let or_one = |x: f32| if x == 0.0 { 1.0 } else { x };
        let options = SamplerOptions {
            temperature: self.temperature,
            top_k: self.top_k as usize,
            top_p: or_one(self.top_p),
            min_p: self.min_p,
            repetition_penalty: or_one(self.repetition_penalty),
            repeat_last_n: match self.repeat_last_n {
                0 => REPEAT_LAST_N as usize,
                u32::MAX => usize::MAX,
                n => n as usize,
            },
            seed: self.seed,
        };
        Ok(Sampler::resume(options, self.draws)?)
    }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_sampler_open(
    options: *const v4_sampler_options,
    sampler: *mut *mut v4_sampler,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for structs.
        let options = unsafe { read(options) }?;
        let make = || {
            Ok(v4_sampler {
                inner: Exclusive::new(options.sampler()?),
            })
        };
        // SAFETY: the header's rules for pointers.
        unsafe { pointer::open(sampler, "sampler", make) }
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_sampler_sample(
    sampler: *mut v4_sampler,
    session: *mut v4_session,
    id: *mut u32,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let sampler = unsafe { pointer::handle(sampler, "sampler") }?;
        // SAFETY: as above.
        let session = unsafe { pointer::handle(session, "session") }?;
        // SAFETY: the header's rules for pointers.
        let id = unsafe { Out::new(id, "id") }?;
        let mut timeline = session.inner.take("session")?;
        let mut sampler = sampler.inner.take("sampler")?;
        timeline.logits()?;
        id.set(timeline.pick(&mut sampler)?);
        Ok(())
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_sampler_sample_logits(
    sampler: *mut v4_sampler,
    logits: *const f32,
    count: usize,
    history: *const u32,
    history_count: usize,
    id: *mut u32,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let sampler = unsafe { pointer::handle(sampler, "sampler") }?;
        // SAFETY: the header's rules for pointers.
        let logits = unsafe { pointer::slice(logits, count, "logits") }?;
        // SAFETY: as above.
        let history = unsafe { pointer::slice(history, history_count, "history") }?;
        // SAFETY: as above.
        let id = unsafe { Out::new(id, "id") }?;
        id.set(sampler.inner.take("sampler")?.sample(logits, history)?);
        Ok(())
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_sampler_draws(sampler: *mut v4_sampler, draws: *mut u64) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let sampler = unsafe { pointer::handle(sampler, "sampler") }?;
        // SAFETY: the header's rules for pointers.
        let draws = unsafe { Out::new(draws, "draws") }?;
        draws.set(sampler.inner.take("sampler")?.draws());
        Ok(())
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_sampler_close(sampler: *mut v4_sampler) -> v4_status {
    // SAFETY: the header's rules for handles.
    guard(|| unsafe { pointer::close_idle(sampler, "sampler", |s| &s.inner) })
}
