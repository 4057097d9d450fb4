//! The defects that an audit looks for, by name.

use serde::Serialize;

/// A kind of defect. The names are a contract: scripts hold audits against them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Defect {
    /// See [`Defect::meaning`], as for all.
    BrokenRecord,
    /// Fewer samples than planned.
    ShortOfPlan,
    /// The same prompt again.
    RepeatedPrompt,
    /// The same prompt and answers again.
    RepeatedPair,
    /// Nearly the same prompt again.
    NearRepeatedPrompt,
    /// The same picture file again.
    RepeatedPicture,
    /// Nearly the same picture again.
    NearRepeatedPicture,
    /// A picture that is not there.
    MissingPicture,
    /// A picture that cannot be decoded.
    BrokenPicture,
    /// A style that most prompts have.
    DominantStyle,
    /// A keyword that most prompts have.
    DominantKeyword,
    /// A subject that most samples of an ability have.
    DominantSubject,
    /// Brackets that are not closed.
    UnbalancedPrompt,
    /// A prompt that ends within a word.
    CutPrompt,
    /// An answer without an end.
    UnfinishedAnswer,
    /// An answer that ends within a word.
    CutAnswer,
    /// An answer with a word left out.
    BlankInAnswer,
    /// A subject that no turn names.
    SubjectNotNamed,
    /// Emphasis that is read as plain characters.
    IdleEmphasis,
    /// More tokens than the text encoder reads.
    LongPrompt,
    /// A prompt of an evaluation set.
    LeakedPrompt,
    /// A text of an evaluation set.
    LeakedText,
    /// A picture of an evaluation set.
    LeakedPicture,
    /// Nearly a picture of an evaluation set.
    NearLeakedPicture,
}

/// What a defect is counted among.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Samples.
    Samples,
    /// Samples that were planned.
    PlannedSamples,
    /// Prompts.
    Prompts,
    /// Answers.
    Answers,
    /// Pictures.
    Pictures,
    /// Samples whose subject is known.
    KnownSubjects,
}

impl Defect {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 24] = [
        Self::BrokenRecord,
        Self::ShortOfPlan,
        Self::RepeatedPrompt,
        Self::RepeatedPair,
        Self::NearRepeatedPrompt,
        Self::RepeatedPicture,
        Self::NearRepeatedPicture,
        Self::MissingPicture,
        Self::BrokenPicture,
        Self::DominantStyle,
        Self::DominantKeyword,
        Self::DominantSubject,
        Self::UnbalancedPrompt,
        Self::CutPrompt,
        Self::UnfinishedAnswer,
        Self::CutAnswer,
        Self::BlankInAnswer,
        Self::SubjectNotNamed,
        Self::IdleEmphasis,
        Self::LongPrompt,
        Self::LeakedPrompt,
        Self::LeakedText,
        Self::LeakedPicture,
        Self::NearLeakedPicture,
    ];

    /// Its name: `repeated_prompt`.
    pub fn name(self) -> &'static str {
        self.parts().0
    }

    /// What it is counted among.
    pub fn unit(self) -> Unit {
        self.parts().1
    }

    /// One sentence for people.
    pub fn meaning(self) -> &'static str {
        self.parts().2
    }

    fn parts(self) -> (&'static str, Unit, &'static str) {
        use Unit::{Answers, KnownSubjects, Pictures, PlannedSamples, Prompts, Samples};
        match self {
            Self::BrokenRecord => ("broken_record", Samples, "The record cannot be read."),
            Self::ShortOfPlan => ("short_of_plan", PlannedSamples, "Planned and not there."),
            Self::RepeatedPrompt => (
                "repeated_prompt",
                Prompts,
                "An earlier sample has the same prompt; of several pictures, all the same ones.",
            ),
            Self::RepeatedPair => (
                "repeated_pair",
                Samples,
                "An earlier sample has the same prompt (without prompts: picture) and the same answers.",
            ),
            Self::NearRepeatedPrompt => (
                "near_repeated_prompt",
                Prompts,
                "An earlier sample's prompt, or its prompts together, shares 80 % of its pieces and is not equal.",
            ),
            Self::RepeatedPicture => (
                "repeated_picture",
                Pictures,
                "An earlier sample has the same picture file.",
            ),
            Self::NearRepeatedPicture => (
                "near_repeated_picture",
                Pictures,
                "An earlier picture looks nearly the same.",
            ),
            Self::MissingPicture => (
                "missing_picture",
                Pictures,
                "The named picture is not there.",
            ),
            Self::BrokenPicture => ("broken_picture", Pictures, "The picture cannot be decoded."),
            Self::DominantStyle => (
                "dominant_style",
                Samples,
                "Over half of all samples have this style.",
            ),
            Self::DominantKeyword => (
                "dominant_keyword",
                Prompts,
                "Over half of all prompts hold this keyword.",
            ),
            Self::DominantSubject => (
                "dominant_subject",
                Samples,
                "Over half of an ability's samples have this subject.",
            ),
            Self::UnbalancedPrompt => (
                "unbalanced_prompt",
                Prompts,
                "A bracket or quotation mark is not closed: the prompt was cut.",
            ),
            Self::CutPrompt => (
                "cut_prompt",
                Prompts,
                "The prompt ends within a word that the answer has whole.",
            ),
            Self::UnfinishedAnswer => (
                "unfinished_answer",
                Answers,
                "An answer of five words or more ends without punctuation.",
            ),
            Self::CutAnswer => (
                "cut_answer",
                Answers,
                "The answer ends within a word that the prompt has whole.",
            ),
            Self::BlankInAnswer => (
                "blank_in_answer",
                Answers,
                "A blank stands before the last full stop: a word was left out.",
            ),
            Self::SubjectNotNamed => (
                "subject_not_named",
                KnownSubjects,
                "No turn names the subject of the prompt.",
            ),
            Self::IdleEmphasis => (
                "idle_emphasis",
                Prompts,
                "The prompt has emphasis, and its syntax is plain: brackets are characters.",
            ),
            Self::LongPrompt => (
                "long_prompt",
                Prompts,
                "The prompt has more than 77 tokens: a text encoder of CLIP cuts it.",
            ),
            Self::LeakedPrompt => (
                "leaked_prompt",
                Prompts,
                "An evaluation set has the same prompt.",
            ),
            Self::LeakedText => (
                "leaked_text",
                Answers,
                "An evaluation set has the same text of eight words or more.",
            ),
            Self::LeakedPicture => (
                "leaked_picture",
                Pictures,
                "An evaluation set has the same picture file.",
            ),
            Self::NearLeakedPicture => (
                "near_leaked_picture",
                Pictures,
                "An evaluation set has a picture that looks nearly the same.",
            ),
        }
    }
}
