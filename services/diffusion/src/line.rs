//! The line in front of a device, or of a server, fair between callers.
//!
//! Next is a picture of the caller with the least on the device (in pictures of their models' own
//! sizes); among equals, of the one whose turn is longest ago. Whoever comes anew takes the end of
//! the round, so that neither one large request nor many small ones keep others from the device.
//! What is shared out is room in the batch: of two callers with equal room, the one that asks for
//! more steps holds it longer.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Instant;

/// What each caller has on the device.
pub(crate) type Loads<K> = HashMap<K, usize>;

/// Something that waits.
pub(crate) struct Waiting<T> {
    pub(crate) item: T,
    pub(crate) since: Instant,
    pub(crate) cost: usize,
    /// The place that it was last said to have.
    told: Option<usize>,
}

/// Those of one caller, first come, first served.
struct Lane<K, T> {
    caller: K,
    last_turn: u64,
    waiting: VecDeque<Waiting<T>>,
}

/// All that wait; a lane is never empty.
pub(crate) struct Line<K, T> {
    lanes: Vec<Lane<K, T>>,
    turn: u64,
}

impl<K: Clone + Eq + Hash, T> Line<K, T> {
    pub(crate) fn new() -> Self {
        let lanes = Vec::new();
        Self { lanes, turn: 0 }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.waiting.len()).sum()
    }

    /// All that wait.
    pub(crate) fn items(&self) -> impl Iterator<Item = &T> {
        let all = self.lanes.iter().flat_map(|lane| &lane.waiting);
        all.map(|waiting| &waiting.item)
    }

    /// What all of them cost the device.
    pub(crate) fn cost(&self) -> usize {
        let all = self.lanes.iter().flat_map(|lane| &lane.waiting);
        all.map(|waiting| waiting.cost).sum()
    }

    /// Since when the first of them waits.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let firsts = self.lanes.iter().filter_map(|lane| lane.waiting.front());
        firsts.map(|waiting| waiting.since).min()
    }

    /// Puts `item` behind the others of its caller.
    pub(crate) fn push(&mut self, caller: K, item: T, cost: usize) {
        let waiting = Waiting {
            item,
            since: Instant::now(),
            cost,
            told: None,
        };
        match self.lanes.iter_mut().find(|lane| lane.caller == caller) {
            Some(lane) => lane.waiting.push_back(waiting),
            None => {
                self.turn += 1;
                self.lanes.push(Lane {
                    caller,
                    last_turn: self.turn,
                    waiting: VecDeque::from([waiting]),
                });
            }
        }
    }

    /// Drops what is not to be kept.
    pub(crate) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        for lane in &mut self.lanes {
            lane.waiting.retain(|waiting| keep(&waiting.item));
        }
        self.lanes.retain(|lane| !lane.waiting.is_empty());
    }

    /// Takes the next one, where its cost fits. One that does not fit is waited for and not passed by,
    /// or large pictures would never begin. `loads` is what callers have on the device, and grows.
    pub(crate) fn take(
        &mut self,
        loads: &mut Loads<K>,
        fits: impl Fn(usize) -> bool,
    ) -> Option<Waiting<T>> {
        let load = |lane: &Lane<K, T>| loads.get(&lane.caller).copied().unwrap_or_default();
        let next = (0..self.lanes.len())
            .min_by_key(|place| (load(&self.lanes[*place]), self.lanes[*place].last_turn))?;
        let lane = &mut self.lanes[next];
        let cost = lane.waiting.front().map(|waiting| waiting.cost)?;
        if !fits(cost) {
            return None;
        }
        let taken = lane.waiting.pop_front();
        self.turn += 1;
        lane.last_turn = self.turn;
        *loads.entry(lane.caller.clone()).or_default() += cost;
        if lane.waiting.is_empty() {
            self.lanes.swap_remove(next);
        }
        taken
    }

    /// Tells those whose place has changed how many are before them. The order is the one in which
    /// they would be taken if nobody came, and nothing on the device ended.
    pub(crate) fn tell(&mut self, loads: &Loads<K>, mut tell: impl FnMut(&T, usize)) {
        let mut lanes: BinaryHeap<_> = (0..self.lanes.len())
            .map(|place| {
                let lane = &self.lanes[place];
                let load = loads.get(&lane.caller).copied().unwrap_or_default();
                Reverse((load, lane.last_turn, place, 0))
            })
            .collect();
        let mut position = 0;
        while let Some(Reverse((load, _, place, index))) = lanes.pop() {
            let Some(waiting) = self.lanes[place].waiting.get_mut(index) else {
                continue;
            };
            if waiting.told.replace(position) != Some(position) {
                tell(&waiting.item, position);
            }
            position += 1;
            let turn = self.turn + position as u64;
            lanes.push(Reverse((load + waiting.cost, turn, place, index + 1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(waiting: &[(char, usize)]) -> Line<char, String> {
        let mut line = Line::new();
        for (number, (caller, cost)) in waiting.iter().enumerate() {
            line.push(*caller, format!("{caller}{number}"), *cost);
        }
        line
    }

    /// The order in which all are taken when each one's place is given back before the next is taken.
    fn order(line: &mut Line<char, String>) -> Vec<String> {
        let one_by_one = || line.take(&mut Loads::new(), |_| true).map(|w| w.item);
        std::iter::from_fn(one_by_one).collect()
    }

    #[test]
    fn callers_take_turns_and_whoever_comes_anew_takes_the_end_of_the_round() {
        let a_lot = [('a', 1); 3];
        let mut all = line(&[&a_lot[..], &[('b', 1), ('c', 1), ('b', 1)]].concat());
        let mut told = Vec::new();
        all.tell(&Loads::new(), |item, place| {
            told.push((place, item.clone()))
        });
        let told: Vec<String> = told.into_iter().map(|(_, item)| item).collect();
        assert_eq!(told, ["a0", "b3", "c4", "a1", "b5", "a2"]);
        assert_eq!(order(&mut all), told);
        assert_eq!(all.len(), 0);

        // Callers of one picture at a time that come back at once do not starve a longer line.
        let mut all = line(&[('a', 1), ('a', 1), ('a', 1), ('s', 1), ('t', 1)]);
        let mut seen = Vec::new();
        for _ in 0..9 {
            let next = all.take(&mut Loads::new(), |_| true).map(|w| w.item);
            let caller = next.and_then(|item| item.chars().next());
            seen.extend(caller);
            caller.filter(|c| *c != 'a').into_iter().for_each(|c| {
                all.push(c, c.to_string(), 1);
            });
        }
        assert_eq!(seen.iter().filter(|caller| **caller == 'a').count(), 3);
    }

    #[test]
    fn room_on_the_device_is_shared_by_what_pictures_cost() {
        let mut all = line(&[('a', 4), ('a', 4), ('b', 1), ('b', 1), ('b', 1), ('b', 1)]);
        let mut loads = Loads::new();
        let mut used = 0;
        let mut taken = Vec::new();
        while let Some(next) = all.take(&mut loads, |cost| used + cost <= 8) {
            used += next.cost;
            taken.push(next.item);
        }
        // Four places each.
        assert_eq!(taken, ["a0", "b2", "b3", "b4", "b5"]);
        // The second large one is next and does not fit: nobody passes it.
        all.push('b', "b6".to_owned(), 1);
        loads.insert('b', 9);
        assert!(all.take(&mut loads, |cost| cost <= 3).is_none());
        assert_eq!((all.len(), all.cost()), (2, 5));
    }

    #[test]
    fn a_place_is_told_once_and_again_when_it_moves() {
        let mut all = line(&[('a', 1), ('a', 1), ('b', 1)]);
        let tell = |line: &mut Line<char, String>| {
            let mut told = Vec::new();
            line.tell(&Loads::new(), |item, place| {
                told.push((item.clone(), place));
            });
            told
        };
        assert_eq!(tell(&mut all).len(), 3);
        assert!(tell(&mut all).is_empty());
        all.retain(|item| item != "b2");
        assert_eq!(tell(&mut all), [("a1".to_owned(), 1)]);
    }
}
