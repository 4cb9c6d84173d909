//! Prompts that are read in advance: recorded first requests of agents, whose system
//! prompts take minutes to read.

use std::sync::Arc;

use crate::api::chat;
use crate::recorded::Recorded;
use crate::service::Service;

/// Reads the prompts of recorded requests, one after the other, while nothing else is to
/// be done. What does not fit is logged and passed over.
pub(crate) async fn run(service: Arc<Service>, recorded: Vec<Recorded>) {
    let mut left = recorded.len();
    for request in recorded {
        let read = match request.parts() {
            Err(what) => Err(what),
            Ok((protocol, body)) => chat::read_beforehand(&service, protocol, body)
                .await
                .map_err(|error| error.message),
        };
        if service.jobs().draining() {
            return;
        }
        left -= 1;
        service.metrics().recorded_left(left);
        let place = request.place;
        service.log(&match read {
            Ok((tokens, cached)) => {
                format!("{place}: {tokens} tokens read ahead, {cached} of them reused")
            }
            Err(what) => format!("{place}: not read ahead: {what}"),
        });
    }
}
