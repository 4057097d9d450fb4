//! The same questions on each other's pictures: what a model gets right without looking.
//!
//! Pictures change places within an ability and a kind of question, so that each group asks the
//! same questions, with the same balance of yes and no, of the same kind of pictures. No question
//! keeps its picture. A group that shows one picture only borrows one from beyond it.

use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

use crate::benchmark::Question;

/// For each question, the index of the question whose picture it gets. `pictures` names each
/// question's picture by content. `None` where all questions show the same picture.
pub fn shuffled(questions: &[Question], pictures: &[&str], seed: u64) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = (0..questions.len()).collect();
    order.sort_by_key(|&index| {
        (
            &questions[index].ability,
            questions[index].kind as i32,
            index,
        )
    });
    let mut given: Vec<usize> = (0..questions.len()).collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let same_group = |a: &usize, b: &usize| {
        questions[*a].ability == questions[*b].ability && questions[*a].kind == questions[*b].kind
    };
    for group in order.chunk_by(same_group) {
        let mut from = group.to_vec();
        from.shuffle(&mut random);
        part(group, &mut from, pictures);
        for (&question, &source) in group.iter().zip(&from) {
            given[question] = source;
        }
    }
    for question in 0..questions.len() {
        if pictures[given[question]] == pictures[question] {
            given[question] = stranger(questions, pictures, question)?;
        }
    }
    Some(given)
}

/// Swaps until nobody has an own picture, where that can be.
fn part(group: &[usize], from: &mut [usize], pictures: &[&str]) {
    let clash = |question: usize, source: usize| pictures[question] == pictures[source];
    for place in 0..group.len() {
        if !clash(group[place], from[place]) {
            continue;
        }
        let partner = (0..group.len())
            .find(|&other| !clash(group[place], from[other]) && !clash(group[other], from[place]));
        if let Some(partner) = partner {
            from.swap(place, partner);
        }
    }
}

/// The next question that shows another picture: of the ability if it has one, else of any.
fn stranger(questions: &[Question], pictures: &[&str], question: usize) -> Option<usize> {
    let following = (1..questions.len()).map(|step| (question + step) % questions.len());
    let mut others = following.filter(|&other| pictures[other] != pictures[question]);
    let near = others
        .clone()
        .find(|&other| questions[other].ability == questions[question].ability);
    near.or_else(|| others.next())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proto::dataset::v1::QuestionKind;

    use super::*;

    fn questions(groups: &[(&str, QuestionKind, usize)]) -> Vec<Question> {
        let mut questions = Vec::new();
        for &(ability, kind, count) in groups {
            questions.extend((0..count).map(|index| Question {
                question_id: format!("{ability}-{kind:?}-{index}"),
                ability: ability.into(),
                kind,
                image: format!("{ability}-{index}.png"),
                text: "?".into(),
                answers: vec!["yes".into()],
            }));
        }
        questions
    }

    #[test]
    fn every_question_gets_another_picture_of_its_own_ability_and_kind() {
        use QuestionKind::{Wh, YesNo};
        let questions = questions(&[("animal", YesNo, 24), ("animal", Wh, 2), ("color", Wh, 5)]);
        // Some pictures are shared by several questions.
        let pictures: Vec<String> = (0..questions.len())
            .map(|i| format!("{}-{}", questions[i].ability, i / 2))
            .collect();
        let pictures: Vec<&str> = pictures.iter().map(String::as_str).collect();
        let given = shuffled(&questions[..24], &pictures[..24], 7).expect("shuffled");
        let mut uses: BTreeMap<usize, usize> = BTreeMap::new();
        for (question, &source) in given.iter().enumerate() {
            assert_ne!(pictures[question], pictures[source]);
            *uses.entry(source).or_default() += 1;
        }
        assert!(
            uses.values().all(|&count| count == 1),
            "a picture was used twice: {uses:?}"
        );
        assert_eq!(
            shuffled(&questions[..24], &pictures[..24], 7),
            Some(given.clone())
        );
        assert_ne!(shuffled(&questions[..24], &pictures[..24], 8), Some(given));

        let given = shuffled(&questions, &pictures, 7).expect("shuffled");
        for (question, &source) in given.iter().enumerate() {
            assert_ne!(pictures[question], pictures[source]);
            assert_eq!(questions[question].ability, questions[source].ability);
        }
    }

    #[test]
    fn a_group_with_one_picture_borrows_and_a_benchmark_with_one_cannot_be_shuffled() {
        let questions = questions(&[
            ("animal", QuestionKind::Wh, 3),
            ("color", QuestionKind::Wh, 1),
        ]);
        assert_eq!(
            shuffled(&questions, &["a", "a", "a", "b"], 1),
            Some(vec![3, 3, 3, 0])
        );
        assert_eq!(shuffled(&questions, &["a"; 4], 1), None);
    }
}
