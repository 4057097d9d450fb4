//! Sorting on the disk: runs that fit in memory, merged.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, Write as _},
};

/// Bytes sorted in memory: little, so that a comparison of a million samples takes what one of ten
/// thousand does.
const RUN_BYTES: usize = 1 << 20;
/// Runs that are open at a time, 4 or more. A comparison sorts five things at once, and with their
/// records has 210 files open at most: systems allow 256 where they allow few.
const MAX_RUN_COUNT: usize = 40;

/// Takes rows of `R` bytes in any order and gives them sorted by their bytes, each as often as it
/// came.
pub(super) struct Sorter<const R: usize> {
    rows: Vec<[u8; R]>,
    runs: Vec<Run>,
    max_rows: usize,
    max_runs: usize,
}

/// Sorted rows in a temporary file, and how often they were merged.
struct Run {
    file: File,
    level: u32,
}

impl<const R: usize> Sorter<R> {
    pub(super) fn new() -> Self {
        Self::within(RUN_BYTES / R, MAX_RUN_COUNT)
    }

    /// With runs of so many rows, and so many of them.
    fn within(max_rows: usize, max_runs: usize) -> Self {
        Self {
            rows: Vec::new(),
            runs: Vec::new(),
            max_rows,
            max_runs,
        }
    }

    pub(super) fn push(&mut self, row: [u8; R]) -> io::Result<()> {
        // At once and for good: a vector that grows is there twice while it does.
        if self.rows.capacity() == 0 {
            self.rows.reserve_exact(self.max_rows);
        }
        self.rows.push(row);
        if self.rows.len() < self.max_rows {
            return Ok(());
        }
        self.rows.sort_unstable();
        let file = write(self.rows.drain(..).map(Ok))?;
        self.runs.push(Run { file, level: 0 });
        match self.runs.len() < self.max_runs {
            true => Ok(()),
            false => self.merge_short(),
        }
    }

    /// Makes one run of the shorter half. A run is merged with such as were merged as often, so that a
    /// row is written once per level and not once per merge.
    fn merge_short(&mut self) -> io::Result<()> {
        self.runs.sort_by_key(|run| Reverse(run.level));
        let level = self.runs[self.runs.len() / 2].level;
        let begin = self.runs.partition_point(|run| run.level > level);
        let short = self.runs.split_off(begin);
        let file = write(Merge::<R>::of(short, Vec::new())?)?;
        let level = level + 1;
        self.runs.push(Run { file, level });
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
    fn of(runs: Vec<Run>, last: Vec<[u8; R]>) -> io::Result<Self> {
        let files = runs.into_iter().map(|run| BufReader::new(run.file));
        let mut merge = Self {
            runs: files.collect(),
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
    fn what_does_not_fit_in_memory_is_sorted_with_few_files_and_few_rewritings() {
        let number = |seed: u64| (mix(seed) % 20) as u8;
        let mut rows: Vec<[u8; 2]> = (0..9000).map(|n| [number(n), number(n << 20)]).collect();
        let mut sorter = Sorter::within(7, 12);
        for &row in &rows {
            sorter.push(row).unwrap();
            assert!(sorter.runs.len() < 12, "{} files", sorter.runs.len());
            assert!(sorter.rows.capacity() < 14);
        }
        // 1285 runs of rows: none was written more often than this.
        let levels = sorter.runs.iter().map(|run| run.level).max();
        assert!(levels < Some(7), "{levels:?}");
        let sorted: Result<Vec<_>, _> = sorter.sorted().unwrap().collect();
        rows.sort_unstable();
        assert_eq!(sorted.unwrap(), rows);
    }
}
