//! Things on the disk, and the near pairs among them.

use super::{
    Measure,
    rule::{Mark, Rule},
    sort::Sorter,
};
use crate::identity::SampleId;
use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    marker::PhantomData,
    os::unix::fs::FileExt as _,
};

/// Whose a thing is: number of the sample, in order, and of its partition.
pub(super) type Place = (u32, u32);

/// Bytes of a place.
const PLACE_BYTES: usize = 8;
/// Bytes read at once where all records are.
const CHUNK_BYTES: usize = 1 << 20;

/// Records of one kind in a temporary file, by number.
pub(super) struct Items<M> {
    file: BufWriter<File>,
    count: u32,
    record: Vec<u8>,
    kind: PhantomData<M>,
}

impl<M: Mark> Items<M> {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::new(tempfile::tempfile()?),
            count: 0,
            record: Vec::new(),
            kind: PhantomData,
        })
    }

    /// Adds a thing and gives its number.
    pub(super) fn push(&mut self, (sample, partition): Place, mark: &M) -> io::Result<u32> {
        self.record.clear();
        self.record.extend(sample.to_le_bytes());
        self.record.extend(partition.to_le_bytes());
        mark.write(&mut self.record);
        self.file.write_all(&self.record)?;
        let number = self.count;
        let next = self.count.checked_add(1);
        self.count = next.ok_or_else(|| io::Error::other("over four thousand million things"))?;
        Ok(number)
    }

    /// Ends the writing.
    pub(super) fn seal(self) -> io::Result<Stored<M>> {
        let file = self.file.into_inner();
        Ok(Stored {
            file: file.map_err(io::IntoInnerError::into_error)?,
            count: self.count,
            kind: PhantomData,
        })
    }
}

/// Records that are all there.
pub(super) struct Stored<M> {
    file: File,
    count: u32,
    kind: PhantomData<fn() -> M>,
}

impl<M: Mark> Stored<M> {
    const RECORD_BYTES: usize = PLACE_BYTES + M::BYTES;

    /// Number of things.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn get(&self, number: u32) -> io::Result<(Place, M)> {
        let mut record = vec![0; Self::RECORD_BYTES];
        let offset = u64::from(number) * Self::RECORD_BYTES as u64;
        self.file.read_exact_at(&mut record, offset)?;
        Ok(Self::parse(&record))
    }

    /// Shows every thing, in order.
    pub(super) fn scan(&self, mut each: impl FnMut(Place, M)) -> io::Result<()> {
        let chunk_count = (CHUNK_BYTES / Self::RECORD_BYTES).max(1);
        let mut chunk = vec![0; chunk_count * Self::RECORD_BYTES];
        let mut number = 0;
        while number < self.count as usize {
            let count = chunk_count.min(self.count as usize - number);
            let chunk = &mut chunk[..count * Self::RECORD_BYTES];
            let offset = (number * Self::RECORD_BYTES) as u64;
            self.file.read_exact_at(chunk, offset)?;
            for record in chunk.chunks_exact(Self::RECORD_BYTES) {
                let (place, mark) = Self::parse(record);
                each(place, mark);
            }
            number += count;
        }
        Ok(())
    }

    fn parse(record: &[u8]) -> (Place, M) {
        let (place, mark) = record.split_at(PLACE_BYTES);
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| place[at + byte]));
        ((number(0), number(4)), M::read(mark))
    }
}

/// Who a sample is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Owner {
    pub(super) id: SampleId,
    pub(super) slot: u64,
    pub(super) attempt: u32,
}

impl Owner {
    pub(super) fn id(&self) -> String {
        self.id.to_string()
    }
}

impl Mark for Owner {
    const BYTES: usize = 16 + 8 + 4;

    fn write(&self, record: &mut Vec<u8>) {
        record.extend(self.id.bytes());
        record.extend(self.slot.to_le_bytes());
        record.extend(self.attempt.to_le_bytes());
    }

    fn read(record: &[u8]) -> Self {
        fn part<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
            let mut part = [0; N];
            part.copy_from_slice(&record[at..at + N]);
            part
        }
        Self {
            id: SampleId::of_bytes(part(record, 0)),
            slot: u64::from_le_bytes(part(record, 16)),
            attempt: u32::from_le_bytes(part(record, 24)),
        }
    }
}

/// A sample that repeats an earlier one.
pub(super) struct Pair {
    pub(super) later: u32,
    pub(super) earlier: u32,
    pub(super) measure: Measure,
    pub(super) value: f32,
}

/// Bytes of a written pair.
pub(super) const PAIR_BYTES: usize = 13;

impl Pair {
    /// In the order of the later, then of the earlier, then of the measure.
    fn written(&self) -> [u8; PAIR_BYTES] {
        let mut row = [0; PAIR_BYTES];
        row[..4].copy_from_slice(&self.later.to_be_bytes());
        row[4..8].copy_from_slice(&self.earlier.to_be_bytes());
        row[8] = self.measure as u8;
        row[9..].copy_from_slice(&self.value.to_be_bytes());
        row
    }

    pub(super) fn read(row: [u8; PAIR_BYTES]) -> Self {
        let four = |at: usize| [0, 1, 2, 3].map(|byte| row[at + byte]);
        Self {
            later: u32::from_be_bytes(four(0)),
            earlier: u32::from_be_bytes(four(4)),
            measure: Measure::of_number(row[8]),
            value: f32::from_be_bytes(four(9)),
        }
    }
}

/// Bytes of a key with the number of its thing.
pub(super) const KEY_BYTES: usize = 12;
/// Things of one key that others of it are compared with, the earliest ones. A key that so many
/// share tells of a common background or phrase; what is near shares others too.
pub(super) const MAX_COMPARED: usize = 1024;
/// Earlier things that a thing is found near to, per key: where all of these are dropped, it is
/// dropped for none of those behind them.
const MAX_NEAR: usize = 16;

/// Things of one kind with their keys.
pub(super) struct Table<R: Rule> {
    pub(super) rule: R,
    pub(super) items: Items<R::Mark>,
    pub(super) keys: Sorter<KEY_BYTES>,
}

impl<R: Rule> Table<R> {
    pub(super) fn new(rule: R) -> io::Result<Self> {
        Ok(Self {
            rule,
            items: Items::new()?,
            keys: Sorter::new(),
        })
    }

    pub(super) fn add(&mut self, place: Place, mark: &R::Mark) -> io::Result<()> {
        let number = self.items.push(place, mark)?;
        for key in self.rule.keys(mark) {
            let mut row = [0; KEY_BYTES];
            row[..8].copy_from_slice(&key.to_be_bytes());
            row[8..].copy_from_slice(&number.to_be_bytes());
            self.keys.push(row)?;
        }
        Ok(())
    }

    /// Finds the near pairs of different partitions.
    pub(super) fn pairs(self, measure: Measure, pairs: &mut Sorter<PAIR_BYTES>) -> io::Result<()> {
        let Self { rule, items, keys } = self;
        let items = items.seal()?;
        let mut key = [0; 8];
        // The first of a key is not read before there is a second: most have none.
        let mut first: Option<u32> = None;
        let mut known: Vec<(Place, R::Mark)> = Vec::new();
        for row in keys.sorted()? {
            let row = row?;
            let number = numbered(&row);
            if (first.is_none() && known.is_empty()) || row[..8] != key {
                key.copy_from_slice(&row[..8]);
                known.clear();
                first = Some(number);
                continue;
            }
            if let Some(first) = first.take() {
                known.push(items.get(first)?);
            }
            let own = items.get(number)?;
            for pair in near(&rule, measure, &known, &own).take(MAX_NEAR) {
                pairs.push(pair.written())?;
            }
            if known.len() < MAX_COMPARED {
                known.push(own);
            }
        }
        Ok(())
    }
}

/// The number of a key's thing.
pub(super) fn numbered(row: &[u8; KEY_BYTES]) -> u32 {
    u32::from_be_bytes([8, 9, 10, 11].map(|byte| row[byte]))
}

/// Pairs of a thing with those before it, of other partitions.
fn near<'a, R: Rule>(
    rule: &'a R,
    measure: Measure,
    known: &'a [(Place, R::Mark)],
    (own_place, own): &'a (Place, R::Mark),
) -> impl Iterator<Item = Pair> + 'a {
    let others = known.iter().filter(|(place, _)| place.1 != own_place.1);
    others.filter_map(move |(place, mark)| {
        let value = rule.nearness(mark, own)?;
        Some(Pair {
            later: own_place.0,
            earlier: place.0,
            measure,
            value,
        })
    })
}
