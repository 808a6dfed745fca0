//! Bodies: read within their size, their time, and the memory that all of them may take.

use std::{
    fmt,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Instant,
};

use actix_web::{
    body::{BodySize, BoxBody, MessageBody},
    web::{self, Bytes},
};
use futures_util::StreamExt;
use tokio::time::timeout_at;

use super::{Limits, answer::Answer};

/// Bytes of each body that are not counted: a webhook is smaller, so that one is read however much
/// others take.
const FREE_BYTES: usize = 8192;

/// The memory of bodies that are not yet whole.
#[derive(Debug)]
pub struct Bodies {
    bytes: AtomicUsize,
    bytes_max: usize,
}

/// The body of an answer, with that of its request.
///
/// Once nobody has a chunked body any longer, the server reads on for as long as somebody sends;
/// while somebody has it and did not read to its end, the answer ends the connection.
pub struct Holding {
    pub(super) answer: BoxBody,
    pub(super) _request: web::Payload,
}

impl fmt::Debug for Holding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Holding").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl MessageBody for Holding {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.answer.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().answer).poll_next(context)
    }
}

/// What one body takes of it.
struct Part<'b> {
    bodies: &'b Bodies,
    bytes: usize,
}

impl Bodies {
    /// That many bytes for all, beyond what is free for each.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), bytes_max }
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// When it is too large, too slow or broken off, or there is no memory for it.
    pub async fn read(
        &self,
        body: &mut web::Payload,
        limits: &Limits,
        started: Instant,
    ) -> Result<Vec<u8>, Answer> {
        let read = async {
            let mut bytes = Vec::new();
            let mut part = Part { bodies: self, bytes: 0 };
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map_err(|_broken| Answer::BodyBroken)?;
                let length = bytes.len() + chunk.len();
                if length > limits.body_max_bytes {
                    return Err(Answer::BodyTooLarge);
                }
                part.grow(length.saturating_sub(FREE_BYTES))?;
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        let deadline = started + limits.body_within;
        timeout_at(deadline.into(), read).await.unwrap_or(Err(Answer::BodyTimeout))
    }
}

impl Part<'_> {
    fn grow(&mut self, to: usize) -> Result<(), Answer> {
        let more = to - self.bytes;
        self.bytes = to;
        let before = self.bodies.bytes.fetch_add(more, Ordering::Relaxed);
        let has_room = more == 0 || before + more <= self.bodies.bytes_max;
        if has_room { Ok(()) } else { Err(Answer::BodiesTooMany) }
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.bodies.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
