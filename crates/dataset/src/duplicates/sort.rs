//! Sorting on the disk: runs that fit in memory, merged.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, Write as _},
};

/// Bytes sorted in memory.
const RUN_BYTES: usize = 16 << 20;
/// Runs that are open at a time; as many make one longer run.
const MAX_RUN_COUNT: usize = 128;

/// Takes rows of `R` bytes in any order and gives them sorted by their bytes, each as often as it
/// came.
pub(super) struct Sorter<const R: usize> {
    rows: Vec<[u8; R]>,
    runs: Vec<File>,
    max_rows: usize,
}

impl<const R: usize> Sorter<R> {
    pub(super) fn new() -> Self {
        Self::with_run(RUN_BYTES / R)
    }

    /// With runs of so many rows.
    pub(super) fn with_run(max_rows: usize) -> Self {
        Self {
            rows: Vec::new(),
            runs: Vec::new(),
            max_rows,
        }
    }

    pub(super) fn push(&mut self, row: [u8; R]) -> io::Result<()> {
        self.rows.push(row);
        if self.rows.len() < self.max_rows {
            return Ok(());
        }
        self.rows.sort_unstable();
        let run = write(self.rows.drain(..).map(Ok))?;
        self.runs.push(run);
        if self.runs.len() == MAX_RUN_COUNT {
            let longer = write(Merge::<R>::of(std::mem::take(&mut self.runs), Vec::new())?)?;
            self.runs.push(longer);
        }
        Ok(())
    }

    pub(super) fn sorted(mut self) -> io::Result<Merge<R>> {
        self.rows.sort_unstable();
        Merge::of(self.runs, self.rows)
    }
}

fn write<const R: usize>(rows: impl Iterator<Item = io::Result<[u8; R]>>) -> io::Result<File> {
    let mut file = BufWriter::new(tempfile::tempfile()?);
    for row in rows {
        file.write_all(&row?)?;
    }
    let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(file)
}

/// Sorted rows.
pub(super) struct Merge<const R: usize> {
    runs: Vec<BufReader<File>>,
    last: std::vec::IntoIter<[u8; R]>,
    /// The least row of each run, and of those in memory under the number of runs.
    next: BinaryHeap<Reverse<([u8; R], usize)>>,
}

impl<const R: usize> Merge<R> {
    fn of(runs: Vec<File>, last: Vec<[u8; R]>) -> io::Result<Self> {
        let mut merge = Self {
            runs: runs.into_iter().map(BufReader::new).collect(),
            last: last.into_iter(),
            next: BinaryHeap::new(),
        };
        for run in 0..=merge.runs.len() {
            merge.refill(run)?;
        }
        Ok(merge)
    }

    fn refill(&mut self, run: usize) -> io::Result<()> {
        let row = match self.runs.get_mut(run) {
            None => self.last.next(),
            Some(file) => match file.fill_buf()?.is_empty() {
                true => None,
                false => {
                    let mut row = [0; R];
                    file.read_exact(&mut row)?;
                    Some(row)
                }
            },
        };
        self.next.extend(row.map(|row| Reverse((row, run))));
        Ok(())
    }
}

impl<const R: usize> Iterator for Merge<R> {
    type Item = io::Result<[u8; R]>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((row, run)) = self.next.pop()?;
        Some(self.refill(run).map(|()| row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::minhash::mix;

    #[test]
    fn what_does_not_fit_in_memory_is_sorted_all_the_same() {
        let number = |seed: u64| (mix(seed) % 20) as u8;
        let mut rows: Vec<[u8; 2]> = (0..2000).map(|n| [number(n), number(n << 20)]).collect();
        let mut sorter = Sorter::with_run(7);
        for &row in &rows {
            sorter.push(row).unwrap();
        }
        let sorted: Result<Vec<_>, _> = sorter.sorted().unwrap().collect();
        rows.sort_unstable();
        assert_eq!(sorted.unwrap(), rows);
    }
}
