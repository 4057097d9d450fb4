//! TensorBoard event files.
//!
//! A file is a row of TFRecords: length, masked CRC-32C of the length, data, masked CRC-32C of the
//! data. The data is a `tensorflow.Event` message, of which five fields are written by hand.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A file that grows by one record per call.
#[derive(Debug)]
pub(crate) struct EventWriter {
    file: File,
}

impl EventWriter {
    /// Starts a file. Its name must contain `tfevents` for TensorBoard to find it.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut writer = Self {
            file: File::create(path)?,
        };
        let mut event = event(0);
        bytes_field(&mut event, 3, b"brain.Event:2");
        writer.write(&event)?;
        Ok(writer)
    }

    /// Adds scalars of one step.
    pub(crate) fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            bytes_field(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | 5); // simple_value, 32 bits
            entry.extend((*value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &entry);
        }
        let mut event = event(step);
        bytes_field(&mut event, 5, &summary);
        self.write(&event)
    }

    fn write(&mut self, event: &[u8]) -> io::Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(event);
        record.extend(masked_crc(event).to_le_bytes());
        self.file.write_all(&record)
    }
}

/// Wall time and step of an event.
fn event(step: u64) -> Vec<u8> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    let mut event = vec![1 << 3 | 1]; // wall_time, 64 bits
    event.extend(now.to_le_bytes());
    event.push(2 << 3); // step, varint
    varint(&mut event, step);
    event
}

fn bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with Castagnoli's polynomial; the records are too small for a table to matter.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| {
        if crc & 1 == 1 {
            crc >> 1 ^ 0x82f6_3b78
        } else {
            crc >> 1
        }
    };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283); // the check value of RFC 3720
    }

    #[test]
    fn records_carry_their_length_and_scalars_their_tag() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.out.tfevents.1");
        let mut writer = EventWriter::create(&path).unwrap();
        writer.scalars(300, &[("loss", 1.5)]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let first = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert!(bytes[12..12 + first].ends_with(b"brain.Event:2"));
        let second = &bytes[12 + first + 4..];
        assert_eq!(second.len(), 12 + second[0] as usize + 4);
        let tail = [&[0x0a, 4][..], b"loss", &[0x15], &1.5f32.to_le_bytes()].concat();
        assert!(second[..second.len() - 4].ends_with(&tail));
    }
}
