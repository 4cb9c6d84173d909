//! When queued work is done.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use v4_cuda::driver::{DriverError, code};

use super::Inner;
use super::failure::Failure;
use super::options::Schedule;
use super::state::{Candidate, State, Work};

/// How long a wait takes without anything being done until it counts as one for ever.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same where a thread of the shim does the work, which the system may forget for a while.
const PATIENCE_WITH_THREAD: Duration = Duration::from_secs(30);

/// What is waited for.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// A number of finished works of a stream.
    Stream(u64, u64),
    /// A record.
    Record(u64),
    /// Everything.
    All,
}

impl Goal {
    fn is_reached(self, state: &State) -> bool {
        match self {
            Self::Stream(id, finished) => {
                let stream = state.streams.get(&id);
                stream.is_none_or(|stream| stream.finished >= finished)
            }
            Self::Record(record) => state.is_reached(record),
            Self::All => state.is_idle(),
        }
    }
}

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_threaded(&self) -> bool {
        matches!(self.options.schedule, Schedule::Threaded(_))
    }

    fn patience(&self) -> Duration {
        match self.is_threaded() {
            true => PATIENCE_WITH_THREAD,
            false => PATIENCE,
        }
    }

    /// Work that could be done next, in view of what is waited for. Memory must be open.
    fn choices(&self, state: &State, goal: Goal) -> Vec<Candidate> {
        let word = |address| self.word(address);
        let target = match (self.options.schedule, goal) {
            (Schedule::Random(_) | Schedule::Threaded(_), _) | (_, Goal::All) => None,
            (_, Goal::Stream(id, _)) => Some(id),
            (_, Goal::Record(record)) => {
                state.stream_with(|work| matches!(work, Work::Reach(other) if *other == record))
            }
        };
        match target {
            Some(id) => state.towards(id, &word),
            None => state.candidates(&word),
        }
    }

    /// Does one of the choices. Memory must be open.
    fn step<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        choices: &[Candidate],
    ) -> MutexGuard<'a, State> {
        let choice = match self.options.schedule {
            Schedule::Eager | Schedule::Late => 0,
            Schedule::Random(_) | Schedule::Threaded(_) => state.below(choices.len()),
        };
        let choice = choices[choice];
        let work = state.work(choice);
        let is_kernel = matches!(work, Work::Kernel { .. });
        state.counts.kernels += u64::from(is_kernel);
        let number = state.counts.kernels;
        let fails = is_kernel && state.faults.launch == Some(number);
        state.busy = true;
        drop(state);
        let done = match fails {
            true => Err(Failure::new(code::LAUNCH_FAILED, "put in on purpose")),
            false => self.perform(&work, number),
        };
        let mut state = self.state();
        state.busy = false;
        match done {
            Ok(()) => state.finish(choice),
            // A card does nothing more after such an error, and never says which call it was.
            Err(failure) => state.broken = Some(failure),
        }
        self.wake.notify_all();
        state
    }

    /// Waits for the goal, doing what is to be done for it where no other thread does.
    pub(super) fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        goal: Goal,
        call: &str,
    ) -> Result<MutexGuard<'a, State>, DriverError> {
        let _open = (!self.is_threaded()).then(|| self.arena.open());
        let mut finished = self.finished(&state);
        let mut since = Instant::now();
        loop {
            if let Some(failure) = &state.broken {
                return Err(failure.clone().of(call));
            }
            if goal.is_reached(&state) {
                return Ok(state);
            }
            if !self.is_threaded() && !state.busy {
                let choices = self.choices(&state, goal);
                if !choices.is_empty() {
                    state = self.step(state, &choices);
                    continue;
                }
            }
            let now = self.finished(&state);
            if now != finished {
                (finished, since) = (now, Instant::now());
            }
            if since.elapsed() > self.patience() && !state.busy {
                return Err(DriverError::Refused {
                    call: call.to_owned(),
                    why: "it would never end: all streams wait".to_owned(),
                });
            }
            // A value that a stream waits for can come from another thread, unannounced.
            let waited = self.wake.wait_timeout(state, Duration::from_millis(1));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn finished(&self, state: &State) -> u64 {
        state.streams.values().map(|stream| stream.finished).sum()
    }

    /// Goes on a little, as time passes on a card while the host asks or polls.
    pub(super) fn advance<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        goal: Goal,
    ) -> MutexGuard<'a, State> {
        if self.is_threaded() || state.busy || state.broken.is_some() {
            return state;
        }
        let _open = self.arena.open();
        match self.choices(&state, goal) {
            choices if choices.is_empty() => state,
            choices => self.step(state, &choices),
        }
    }

    /// Goes on a little while the host polls memory. An error if nothing has been there to be
    /// done for long: what it polls for does not come.
    pub(super) fn poll(&self) -> Result<(), DriverError> {
        let call = "wait for a value in memory";
        let mut state = self.state();
        if let Some(failure) = &state.broken {
            return Err(failure.clone().of(call));
        }
        let (finished, idle) = (self.finished(&state), state.is_idle() && !state.busy);
        match state.idle_since {
            Some((then, since)) if idle && then == finished => {
                if since.elapsed() > self.patience() {
                    return Err(DriverError::Refused {
                        call: call.to_owned(),
                        why: "it would never end: nothing is queued".to_owned(),
                    });
                }
            }
            _ => state.idle_since = idle.then(|| (finished, Instant::now())),
        }
        drop(self.advance(state, Goal::All));
        thread::yield_now();
        Ok(())
    }

    /// Called after something was queued.
    pub(super) fn queued<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        let steps = match self.options.schedule {
            Schedule::Late => 0,
            Schedule::Eager => usize::MAX,
            Schedule::Random(_) => match state.below(2) {
                0 => 0,
                _ => state.below(4),
            },
            Schedule::Threaded(_) => {
                self.wake.notify_all();
                0
            }
        };
        let _open = (steps > 0).then(|| self.arena.open());
        for _ in 0..steps {
            if state.busy || state.broken.is_some() {
                return;
            }
            match self.choices(&state, Goal::All) {
                choices if choices.is_empty() => return,
                choices => state = self.step(state, &choices),
            }
        }
    }

    /// The thread that does the work.
    pub(super) fn start_worker(inner: &Arc<Self>) -> Option<JoinHandle<()>> {
        if !inner.is_threaded() {
            return None;
        }
        let inner = Arc::clone(inner);
        let worker = thread::Builder::new().name("shim card".to_owned());
        Some(worker.spawn(move || inner.work()).expect("a thread"))
    }

    fn work(&self) {
        let mut state = self.state();
        while !state.closing {
            if state.broken.is_some() || state.is_idle() {
                let woken = self.wake.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let open = self.arena.open();
            let choices = self.choices(&state, Goal::All);
            // Some work comes later than it could.
            if !choices.is_empty() && state.below(4) > 0 {
                state = self.step(state, &choices);
                drop(open);
                continue;
            }
            let pause = 20 << state.below(5);
            drop(open);
            drop(state);
            thread::sleep(Duration::from_micros(pause));
            state = self.state();
        }
    }
}
