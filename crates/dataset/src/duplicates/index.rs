//! The nearest of many things that lie on the disk.

use super::{
    rule::Rule,
    sort::Sorter,
    table::{KEY_BYTES, MAX_COMPARED, Stored, Table, numbered},
};
use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    os::unix::fs::FileExt as _,
};

/// Things that are looked through from end to end, 4 MiB of texts; the nearest is then found however
/// far it lies. Of more, those are looked at that share a key, of each key the first [`MAX_COMPARED`]: one
/// that is near by the rule is missed only where more than that share each of its keys, and of one
/// farther away it is not said how far.
const MAX_SCANNED: u32 = 8192;
/// Keys that are read at once; the first of each is in memory.
const PAGE_ROWS: usize = 1024;

/// Things to be found.
pub(super) struct Index<R: Rule> {
    rule: R,
    items: Stored<R::Mark>,
    keys: Option<Keys>,
}

impl<R: Rule> Table<R> {
    /// Ends the adding.
    pub(super) fn index(self) -> io::Result<Index<R>> {
        self.index_over(MAX_SCANNED)
    }

    fn index_over(self, max_scanned: u32) -> io::Result<Index<R>> {
        let items = self.items.seal()?;
        let keys = match items.count() > max_scanned {
            true => Some(Keys::of(self.keys)?),
            false => None,
        };
        Ok(Index {
            rule: self.rule,
            items,
            keys,
        })
    }
}

impl<R: Rule> Index<R> {
    /// The thing that agrees most with `own`, and in how much; the earliest of several.
    pub(super) fn nearest(&self, own: &R::Mark) -> io::Result<Option<(u32, R::Mark)>> {
        let mut nearest: Option<(u32, R::Mark)> = None;
        let mut look = |mark: R::Mark| {
            let agreement = self.rule.agreement(own, &mark);
            if nearest.as_ref().is_none_or(|(most, _)| agreement > *most) {
                nearest = Some((agreement, mark));
            }
        };
        let Some(keys) = &self.keys else {
            self.items.scan(|_, mark| look(mark))?;
            return Ok(nearest);
        };
        let mut numbers = Vec::new();
        for key in self.rule.keys(own) {
            keys.find(key, &mut numbers)?;
        }
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            look(self.items.get(number)?.1);
        }
        Ok(nearest)
    }
}

/// Sorted keys with the numbers of their things.
struct Keys {
    file: File,
    row_count: usize,
    /// The first key of each page.
    first: Vec<u64>,
}

impl Keys {
    fn of(keys: Sorter<KEY_BYTES>) -> io::Result<Self> {
        let mut file = BufWriter::new(tempfile::tempfile()?);
        let (mut first, mut row_count) = (Vec::new(), 0);
        for row in keys.sorted()? {
            let row = row?;
            if row_count % PAGE_ROWS == 0 {
                first.push(key(&row));
            }
            file.write_all(&row)?;
            row_count += 1;
        }
        Ok(Self {
            file: file.into_inner().map_err(io::IntoInnerError::into_error)?,
            row_count,
            first,
        })
    }

    /// Adds the numbers of the things of a key, the first [`MAX_COMPARED`].
    fn find(&self, wanted: u64, numbers: &mut Vec<u32>) -> io::Result<()> {
        let end = numbers.len() + MAX_COMPARED;
        let page = self.first.partition_point(|first| *first < wanted);
        // It may begin in the page before the first that begins with it.
        for page in page.saturating_sub(1)..self.first.len() {
            if self.first[page] > wanted {
                return Ok(());
            }
            let rows = self.page(page)?;
            let rows = rows.as_chunks::<KEY_BYTES>().0.iter();
            let found = rows.filter(|row| key(row) == wanted).map(numbered);
            numbers.extend(found.take(end - numbers.len()));
            if numbers.len() == end {
                return Ok(());
            }
        }
        Ok(())
    }

    fn page(&self, page: usize) -> io::Result<Vec<u8>> {
        let begin = page * PAGE_ROWS;
        let count = PAGE_ROWS.min(self.row_count - begin);
        let mut rows = vec![0; count * KEY_BYTES];
        self.file
            .read_exact_at(&mut rows, (begin * KEY_BYTES) as u64)?;
        Ok(rows)
    }
}

fn key(row: &[u8; KEY_BYTES]) -> u64 {
    u64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| row[byte]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        duplicates::rule::{NearPicture, SameText},
        image_hash::ImageHash,
        minhash::mix,
    };

    /// One of ten families, in which hashes differ in few bits.
    fn hash(number: u64) -> ImageHash {
        let family = number % 10;
        let mut words = [0, 1, 2, 3].map(|word| mix(family * 4 + word));
        for flip in 0..mix(number) % 6 {
            let bit = mix(number << 8 | flip) % 256;
            words[(bit / 64) as usize] ^= 1 << (bit % 64);
        }
        ImageHash::of_words(words)
    }

    #[test]
    fn what_is_near_is_found_by_its_keys_as_it_is_by_looking_through_all() {
        let table = || {
            let mut table = Table::new(NearPicture::within(3)).unwrap();
            for number in 0..3000 {
                table.add((number as u32, 0), &hash(number)).unwrap();
            }
            table
        };
        let (all, keyed) = (table().index().unwrap(), table().index_over(10).unwrap());
        assert!(all.keys.is_none() && keyed.keys.is_some());
        let mut near_count = 0;
        for number in 5000..5200 {
            let (most, _) = all.nearest(&hash(number)).unwrap().unwrap();
            let found = keyed.nearest(&hash(number)).unwrap();
            if most >= 256 - 3 {
                near_count += 1;
                assert_eq!(found.map(|(agreement, _)| agreement), Some(most));
            } else {
                assert!(found.is_none_or(|(agreement, _)| agreement <= most));
            }
        }
        assert!((20..200).contains(&near_count), "{near_count}");
    }

    #[test]
    fn a_key_that_many_pages_hold_is_found_and_one_that_is_missing_is_not() {
        let mut table = Table::new(SameText).unwrap();
        for number in 0..5000_u32 {
            table
                .add((number, 0), &[(number / 2500) as u8 * 2; 16])
                .unwrap();
        }
        let index = table.index_over(10).unwrap();
        for (text, agreement) in [(0, 1), (2, 1)] {
            let found = index.nearest(&[text; 16]).unwrap();
            assert_eq!(found, Some((agreement, [text; 16])));
        }
        for text in [1, 3] {
            assert_eq!(index.nearest(&[text; 16]).unwrap(), None);
        }
    }
}
