//! Drives the recipe's asynchronous stream by hand.
//!
//! The stream waits for nothing but its input: its generators' futures are ready at
//! once. So it can be polled with a waker that does nothing. An empty input
//! is the one reason for it to be pending, and then all output that the input
//! allows has been taken.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use deepseek_recipe::stream::{ChunkGenerator, InferenceChunk, StreamError, StreamProcessor};
use futures_core::Stream;

use crate::ChatError;

/// The input end of the stream. It is never closed: a finish chunk ends the output.
#[derive(Clone, Default)]
struct Input(Arc<Mutex<VecDeque<InferenceChunk>>>);

impl Input {
    fn queue(&self) -> MutexGuard<'_, VecDeque<InferenceChunk>> {
        // A panic elsewhere cannot leave a queue half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream for Input {
    type Item = InferenceChunk;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<InferenceChunk>> {
        match self.queue().pop_front() {
            Some(chunk) => Poll::Ready(Some(chunk)),
            None => Poll::Pending,
        }
    }
}

/// Takes inference chunks and hands out what a generator makes of them.
pub(crate) struct Pump<C> {
    input: Input,
    output: Pin<Box<dyn Stream<Item = Result<C, StreamError>> + Send>>,
    ended: bool,
}

impl<C: Send + 'static> Pump<C> {
    pub fn new<G: ChunkGenerator<Chunk = C>>(processor: StreamProcessor<G>) -> Self {
        let input = Input::default();
        Self {
            output: Box::pin(processor.into_protocol_stream(input.clone())),
            input,
            ended: false,
        }
    }

    /// Whether all output is out: the end was pushed, or a stop sequence came.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Pushes a chunk and takes all output that it completes.
    pub fn push(&mut self, chunk: InferenceChunk) -> Result<Vec<C>, ChatError> {
        if self.ended {
            return Err(ChatError::Ended);
        }
        self.input.queue().push_back(chunk);
        self.drain()
    }

    fn drain(&mut self) -> Result<Vec<C>, ChatError> {
        let mut out = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        while !self.ended {
            match self.output.as_mut().poll_next(&mut context) {
                Poll::Ready(Some(Ok(chunk))) => out.push(chunk),
                Poll::Ready(Some(Err(error))) => {
                    self.ended = true;
                    return Err(ChatError::Tokenizer(error.to_string()));
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => break,
            }
        }
        Ok(out)
    }
}
