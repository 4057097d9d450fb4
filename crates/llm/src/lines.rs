//! The lines of a body, each and all within bounds.

use bytes::{Buf as _, BytesMut};

use crate::{Error, transport::Body};

/// Reads a body line by line.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// Bytes of the buffer that are known to hold no end of a line.
    searched_bytes: usize,
    max_line_bytes: usize,
    is_ended: bool,
}

impl Lines {
    pub(crate) fn new(body: Body, max_line_bytes: usize) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched_bytes: 0,
            max_line_bytes,
            is_ended: false,
        }
    }

    /// The next line without its end; `None` after the last. Cancelling the wait loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.is_ended {
                return Ok(None);
            }
            if self.buffer.len() > self.max_line_bytes {
                return Err(Error::TooLarge {
                    limit_bytes: self.max_line_bytes,
                });
            }
            match self.body.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => self.is_ended = true,
            }
        }
    }

    /// The body that the lines come from.
    pub(crate) fn body(&self) -> &Body {
        &self.body
    }

    fn take_line(&mut self) -> Option<String> {
        let end = self.buffer[self.searched_bytes..]
            .iter()
            .position(|byte| *byte == b'\n');
        let line = match end {
            Some(at) => {
                let line = self.buffer.split_to(self.searched_bytes + at);
                self.buffer.advance(1);
                line
            }
            None if self.is_ended && !self.buffer.is_empty() => self.buffer.split(),
            None => {
                self.searched_bytes = self.buffer.len();
                return None;
            }
        };
        self.searched_bytes = 0;
        let text = String::from_utf8_lossy(&line).into_owned();
        Some(text.strip_suffix('\r').map(str::to_owned).unwrap_or(text))
    }
}
