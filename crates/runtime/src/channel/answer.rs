//! What comes back is watched to its end: the deadline holds for streams too, and a malformed
//! header of the peer cannot hurt.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;
use tonic::{Status, body::Body};

use super::{Peer, address::InFlight, translate};

/// Wraps an answer.
pub(super) fn guard(
    (mut response, under_way): (Response<Body>, InFlight),
    deadline: Option<Instant>,
    peer: Arc<Peer>,
) -> Response<Body> {
    sanitize(response.headers_mut());
    let expiry = deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into())));
    response.map(|inner| {
        Body::new(Answer {
            inner,
            expiry,
            peer,
            ended: false,
            _under_way: under_way,
        })
    })
}

struct Answer {
    inner: Body,
    expiry: Option<Pin<Box<Sleep>>>,
    peer: Arc<Peer>,
    ended: bool,
    _under_way: InFlight,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| match frame {
                Ok(frame) => Ok(clean(frame)),
                Err(status) => Err(translate(status, &self.peer)),
            }));
        }
        let expired = self
            .expiry
            .as_mut()
            .is_some_and(|sleep| sleep.as_mut().poll(context).is_ready());
        if !expired {
            return Poll::Pending;
        }
        self.ended = true;
        self.inner = Body::empty();
        Poll::Ready(Some(Err(self.peer.late())))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn clean(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            sanitize(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// tonic 0.14 panics on status details that are not base64 (`Status::from_header_map`); a peer
/// must not be able to do that to us.
fn sanitize(headers: &mut HeaderMap) {
    const DETAILS: &str = "grpc-status-details-bin";
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&STANDARD, config);
    if headers
        .get(DETAILS)
        .is_some_and(|details| engine.decode(details).is_err())
    {
        headers.remove(DETAILS);
    }
}
