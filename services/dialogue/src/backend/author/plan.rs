//! What the rounds of a conversation are, before the model is asked: kinds in turn, yes as often as no,
//! the right choice at any letter, each picture shown where it is first needed.

use dataset::ability::{Draws, Shown};
use proto::dataset::v1::QuestionKind;

/// One round to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Round {
    pub(super) kind: QuestionKind,
    pub(super) about: About,
    /// Pictures that the question shows before its words.
    pub(super) shows: Vec<usize>,
    /// Whether the true answer of a yes/no round is yes.
    pub(super) is_yes: bool,
    /// Place of the right choice, as a share of the places there are.
    pub(super) letter: usize,
    /// What a round about several pictures asks for.
    pub(super) task: &'static str,
}

/// Which pictures a round is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// One of them, from 0.
    One(usize),
    /// All of them together.
    All,
}

/// Most choices of a multiple-choice round.
pub(super) const MAX_CHOICES: usize = 4;
const TASKS: [&str; 3] = ["a difference", "a similarity", "a relation"];

/// The pictures of a conversation, and how its ability shows them; `None` where it leaves that to the
/// plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pictures {
    pub(super) count: usize,
    pub(super) shown: Option<Shown>,
}

/// The rounds of a conversation; `None` where the kinds allow no first one, or where the ability shows
/// one picture in each turn and no kind asks about one. `round_count` is enough to show them all.
pub(super) fn rounds(
    kinds: Vec<QuestionKind>,
    Pictures {
        count: image_count,
        shown,
    }: Pictures,
    round_count: usize,
    draws: Draws,
) -> Option<Vec<Round>> {
    let mut planner = Planner::new(kinds, image_count, draws);
    let has_single = planner.kinds.iter().any(|&kind| is_opening_about_one(kind));
    let has_multi = planner.kinds.contains(&QuestionKind::MultiImage);
    let must_be_one_per_turn = image_count > 1 && shown == Some(Shown::OnePerTurn);
    if !has_single && (!has_multi || must_be_one_per_turn) {
        return None;
    }
    // Where the ability leaves it to the plan, too few rounds show all pictures together.
    let is_one_per_turn = must_be_one_per_turn
        || (image_count > 1
            && shown.is_none()
            && round_count >= image_count
            && has_single
            && (!has_multi || planner.draws.coin()));
    let mut rounds: Vec<Round> = Vec::with_capacity(round_count);
    for number in 0..round_count {
        let round = match (is_one_per_turn, number) {
            (true, number) if number < image_count => {
                let kind = planner.next(is_opening_about_one)?;
                planner.round(kind, About::One(number), vec![number])
            }
            // Now that all have been seen, they can be spoken of together.
            (true, number) if number == image_count && has_multi => {
                planner.round(QuestionKind::MultiImage, About::All, Vec::new())
            }
            (_, 0) => planner.opening(has_multi)?,
            _ => planner.later(rounds.last().map(|round| round.about))?,
        };
        rounds.push(round);
    }
    Some(rounds)
}

struct Planner {
    kinds: Vec<QuestionKind>,
    image_count: usize,
    draws: Draws,
    is_yes: bool,
    tasks: [&'static str; 3],
}

impl Planner {
    fn new(mut kinds: Vec<QuestionKind>, image_count: usize, mut draws: Draws) -> Self {
        kinds.retain(|&kind| image_count > 1 || kind != QuestionKind::MultiImage);
        draws.shuffle(&mut kinds);
        let mut tasks = TASKS;
        draws.shuffle(&mut tasks);
        Self {
            is_yes: draws.coin(),
            kinds,
            image_count,
            draws,
            tasks,
        }
    }

    /// The first round of a conversation that shows all its pictures at once.
    fn opening(&mut self, has_multi: bool) -> Option<Round> {
        let all = (0..self.image_count).collect();
        if self.image_count > 1 && has_multi {
            return Some(self.round(QuestionKind::MultiImage, About::All, all));
        }
        let kind = self.next(is_opening_about_one)?;
        let about = About::One(self.draws.below(self.image_count));
        Some(self.round(kind, about, all))
    }

    fn later(&mut self, before: Option<About>) -> Option<Round> {
        let kind = self.next(|_| true)?;
        let about = match (kind, before) {
            (QuestionKind::MultiImage, _) => About::All,
            (QuestionKind::FollowUp, Some(before)) => before,
            _ => About::One(self.draws.below(self.image_count)),
        };
        Some(self.round(kind, about, Vec::new()))
    }

    /// The next kind in turn that fits.
    fn next(&mut self, fits: impl Fn(QuestionKind) -> bool) -> Option<QuestionKind> {
        let place = self.kinds.iter().position(|&kind| fits(kind))?;
        let kind = self.kinds.remove(place);
        self.kinds.push(kind);
        Some(kind)
    }

    fn round(&mut self, kind: QuestionKind, about: About, shows: Vec<usize>) -> Round {
        if kind == QuestionKind::YesNo {
            self.is_yes = !self.is_yes;
        }
        if kind == QuestionKind::MultiImage {
            self.tasks.rotate_left(1);
        }
        Round {
            kind,
            about,
            shows,
            is_yes: self.is_yes,
            letter: self.draws.below(MAX_CHOICES),
            task: self.tasks[0],
        }
    }
}

/// Whether a round of this kind can be the first about a picture.
fn is_opening_about_one(kind: QuestionKind) -> bool {
    !matches!(kind, QuestionKind::FollowUp | QuestionKind::MultiImage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn of(kinds: &[QuestionKind], images: usize, count: usize, name: usize) -> Vec<Round> {
        let draws = Draws::new(&["plan", &name.to_string()]);
        let pictures = Pictures {
            count: images,
            shown: None,
        };
        rounds(kinds.to_vec(), pictures, count, draws).expect("a plan")
    }

    #[test]
    fn every_picture_is_shown_once_in_order_and_both_shapes_come() {
        let kinds = [
            QuestionKind::FollowUp,
            QuestionKind::YesNo,
            QuestionKind::MultiImage,
            QuestionKind::Wh,
        ];
        let (mut shapes, mut tasks, mut yes) = (BTreeSet::new(), BTreeSet::new(), [0, 0]);
        for name in 0..60 {
            let images = 1 + name % 4;
            let plan = of(&kinds, images, 4, name);
            let shown: Vec<_> = plan
                .iter()
                .flat_map(|round| &round.shows)
                .copied()
                .collect();
            assert_eq!(shown, (0..images).collect::<Vec<_>>(), "{plan:?}");
            assert_ne!(plan[0].kind, QuestionKind::FollowUp);
            shapes.insert((images > 1, plan[0].shows.len() == images));
            for round in &plan {
                // A follow-up is about what the round before it was about.
                let is_about_all = round.about == About::All;
                match round.kind {
                    QuestionKind::MultiImage => assert!(is_about_all),
                    QuestionKind::FollowUp => {}
                    _ => assert!(!is_about_all),
                }
                tasks.extend((round.kind == QuestionKind::MultiImage).then_some(round.task));
                yes[usize::from(round.is_yes)] += usize::from(round.kind == QuestionKind::YesNo);
            }
        }
        assert_eq!(shapes.len(), 3);
        assert_eq!(tasks.len(), 3);
        // A coin decides each first one: sixty throws have a standard deviation of 7.7.
        assert!(yes[0].abs_diff(yes[1]) < 24, "{yes:?}");
        // What an ability shows one by one is never shown together for want of a question about one.
        let one_by_one = Pictures {
            count: 2,
            shown: Some(Shown::OnePerTurn),
        };
        let of_all = vec![QuestionKind::MultiImage];
        assert!(rounds(of_all, one_by_one, 4, Draws::new(&["none"])).is_none());
        let follow_up = vec![QuestionKind::FollowUp];
        let one = Pictures {
            count: 1,
            shown: None,
        };
        assert!(rounds(follow_up, one, 2, Draws::new(&["none"])).is_none());
    }
}
