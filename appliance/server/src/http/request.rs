//! Reads request bodies within limits.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::{Body as _, Bytes, Incoming};

use super::encoding;
use super::error::{ApiError, Kind};

/// Reads a request's body of at most `most` bytes, which has so long to come. What is
/// compressed is decompressed, to that many bytes at most.
pub(crate) async fn read_body(
    request: Request<Incoming>,
    most: usize,
    time: Duration,
) -> Result<Bytes, ApiError> {
    let (head, body) = request.into_parts();
    let codings = encoding::codings(&head.headers)?;
    let body = read_plain(body, most, time).await?;
    if codings.is_empty() {
        return Ok(body);
    }
    tokio::task::spawn_blocking(move || encoding::decode(&codings, body, most))
        .await
        .map_err(|_| ApiError::new(Kind::Internal, "The request could not be read."))?
}

async fn read_plain(body: Incoming, most: usize, time: Duration) -> Result<Bytes, ApiError> {
    // Not read at all if it says that it is too long.
    if body.size_hint().lower() > most as u64 {
        return Err(ApiError::too_large(most));
    }
    let read = tokio::time::timeout(time, Limited::new(body, most).collect()).await;
    match read {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::too_large(most))
        }
        Ok(Err(error)) => Err(ApiError::new(
            Kind::Invalid,
            format!("The request body could not be read: {error}"),
        )),
        Err(_) => Err(ApiError::new(
            Kind::Timeout,
            format!(
                "The request body did not arrive within {} seconds.",
                time.as_secs()
            ),
        )),
    }
}
