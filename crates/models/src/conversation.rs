//! Conversations to tokens and labels: LLaVA's templates `plain` and `vicuna_v1`.
//!
//! Labels are made by construction: the rendered text is tokenised once, and a token is supervised
//! when it begins inside an answer (the space before the answer and the end mark included). That
//! gives the official labels wherever the official code does not give up on a sample, and says why
//! where it does.

use std::ops::Range;

use crate::llava_error::Error;
use crate::llava_tokenizer::{IMAGE_MARK, LlavaTokenizer};

/// Label of a position that is not supervised, as in PyTorch.
pub const IGNORE: i64 = -100;

const VICUNA_SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. \
     The assistant gives helpful, detailed, and polite answers to the user's questions.";
const VICUNA_ROLE: &str = " ASSISTANT: ";

/// How a conversation is written for the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// `<image>caption\n`: the question is thrown away, no end mark. For the projector's stage.
    Plain,
    /// `SYSTEM USER: … ASSISTANT: …</s>USER: …`: for instruction tuning and for questions.
    VicunaV1,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// What the human says, `<image>` marks included.
    pub question: String,
    /// What the model is to say.
    pub answer: String,
}

/// Why a sample supervises nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsupervised {
    /// An answer is empty.
    EmptyAnswer,
    /// A question of a conversation without pictures is empty.
    EmptyQuestion,
    /// A turn contains the role marker or the end mark.
    MarkInTurn,
    /// No answer fits into the model's positions.
    TooLong,
}

impl Unsupervised {
    /// A few words for reports.
    pub fn reason(self) -> &'static str {
        match self {
            Self::EmptyAnswer => "an answer is empty",
            Self::EmptyQuestion => "a question is empty",
            Self::MarkInTurn => "a turn contains a role or end mark",
            Self::TooLong => "no answer fits into the model's positions",
        }
    }
}

/// Tokens with one image token per picture (not yet expanded), and a label for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Tokens.
    pub tokens: Vec<u32>,
    /// The same tokens where supervised, else [`IGNORE`].
    pub labels: Vec<i64>,
    /// Why nothing is supervised, if nothing is.
    pub unsupervised: Option<Unsupervised>,
}

impl Encoded {
    /// Number of supervised tokens.
    pub fn supervised_count(&self) -> usize {
        self.labels.iter().filter(|&&label| label != IGNORE).count()
    }

    /// Number of pictures.
    pub fn image_count(&self, image_token: u32) -> usize {
        self.tokens
            .iter()
            .filter(|&&token| token == image_token)
            .count()
    }

    /// Cuts the end off so that at most `limit` positions remain once every picture has become
    /// `tokens_per_image` of them; a picture is never cut in two.
    pub fn truncate(&mut self, limit: usize, image_token: u32, tokens_per_image: usize) {
        let mut used = 0;
        let mut fits = |&token: &u32| {
            used += if token == image_token {
                tokens_per_image
            } else {
                1
            };
            used <= limit
        };
        let kept = self.tokens.iter().take_while(|token| fits(token)).count();
        self.tokens.truncate(kept);
        self.labels.truncate(kept);
        if self.unsupervised.is_none() && self.supervised_count() == 0 {
            self.unsupervised = Some(Unsupervised::TooLong);
        }
    }
}

/// Tokens and labels of a conversation.
///
/// # Errors
/// Refuses conversations without rounds, `<image>` in an answer, and captions without a picture.
pub fn encode(
    template: Template,
    rounds: &[Round],
    tokenizer: &LlavaTokenizer,
) -> Result<Encoded, Error> {
    let Some(first) = rounds.first() else {
        return Err(Error::Input("the conversation is empty".into()));
    };
    if rounds.iter().any(|round| round.answer.contains(IMAGE_MARK)) {
        return Err(Error::Input("an answer contains `<image>`".into()));
    }
    let unsupervised = unsupervised(template, rounds, &tokenizer.end_mark());
    let (text, answers) = match template {
        Template::Plain => render_plain(first)?,
        Template::VicunaV1 => render_vicuna(rounds, &tokenizer.end_mark()),
    };
    let tokens = tokenizer.encode(&text)?;
    let is_answer = |at: usize| answers.iter().any(|answer| answer.contains(&at));
    let labels = tokens.iter().map(|token| {
        let is_picture = token.id == tokenizer.image_token();
        let is_supervised = unsupervised.is_none()
            && !is_picture
            && !token.span.is_empty()
            && is_answer(token.span.start);
        if is_supervised {
            i64::from(token.id)
        } else {
            IGNORE
        }
    });
    Ok(Encoded {
        labels: labels.collect(),
        tokens: tokens.iter().map(|t| t.id).collect(),
        unsupervised,
    })
}

/// The text that asks `question` and waits for the answer: no space after the last colon.
pub fn render_question(question: &str) -> String {
    format!(
        "{VICUNA_SYSTEM} USER: {} ASSISTANT:",
        images_first(question)
    )
}

/// Moves the pictures of a turn to its front, each on a line of its own.
fn images_first(turn: &str) -> String {
    let count = turn.matches(IMAGE_MARK).count();
    if count == 0 {
        return turn.to_owned();
    }
    let rest = turn.replace(IMAGE_MARK, "");
    let marks = format!("{IMAGE_MARK}\n").repeat(count);
    format!("{marks}{}", rest.trim()).trim().to_owned()
}

fn render_plain(round: &Round) -> Result<(String, Vec<Range<usize>>), Error> {
    let count = round.question.matches(IMAGE_MARK).count();
    if count == 0 {
        return Err(Error::Input("a caption has no `<image>`".into()));
    }
    let marks = IMAGE_MARK.repeat(count);
    let text = format!("{marks}{}\n", round.answer);
    let answer = marks.len()..text.len();
    Ok((text, vec![answer]))
}

fn render_vicuna(rounds: &[Round], end_mark: &str) -> (String, Vec<Range<usize>>) {
    let mut text = format!("{VICUNA_SYSTEM} ");
    let mut answers = Vec::new();
    for round in rounds {
        text += &format!(
            "USER: {}{}",
            images_first(&round.question),
            VICUNA_ROLE.trim_end()
        );
        let start = text.len();
        text += &format!(" {}{end_mark}", round.answer);
        answers.push(start..text.len());
    }
    (text, answers)
}

fn unsupervised(template: Template, rounds: &[Round], end_mark: &str) -> Option<Unsupervised> {
    let asked = if template == Template::Plain {
        &rounds[..1]
    } else {
        rounds
    };
    if asked.iter().any(|round| round.answer.trim().is_empty()) {
        return Some(Unsupervised::EmptyAnswer);
    }
    if template == Template::Plain {
        return None;
    }
    // The official code splits the written text at both, and masks it when the parts do not add up.
    let is_marked = |text: &str| text.contains(VICUNA_ROLE) || text.contains(end_mark);
    let asks = |round: &Round| format!(" {}", images_first(&round.question));
    if asked
        .iter()
        .any(|round| is_marked(&asks(round)) || is_marked(&round.answer))
    {
        return Some(Unsupervised::MarkInTurn);
    }
    let has_pictures = asked
        .iter()
        .any(|round| round.question.contains(IMAGE_MARK));
    let is_silent = asked.iter().any(|round| round.question.trim().is_empty());
    (is_silent && !has_pictures).then_some(Unsupervised::EmptyQuestion)
}
