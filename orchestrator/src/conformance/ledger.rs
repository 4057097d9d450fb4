//! Rules and their verdicts, as they are asked.
//!
//! A look at a rule is a future that gives [`Seen`]: what was seen when it holds, or a [`Miss`].
//! `?` on a status is a broken rule, since a call that ought to succeed did not.

use std::time::Duration;

use runtime::{error::code_name, explain};
use tonic::{Code, Response, Status, Streaming};
use tonic_types::StatusExt as _;

use super::report::{Finding, Report, Severity, Verdict};

/// What was seen where a rule holds, or why it does not.
pub(super) type Seen = Result<String, Miss>;

/// A rule that was not seen to hold.
#[derive(Debug, Clone)]
pub(super) enum Miss {
    /// It does not hold; with what was seen.
    Broken(String),
    /// It could not be looked at; with the reason.
    NotJudged(String),
}

/// The words of a rule that stand in a table of rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    severity: Severity,
    name: &'static str,
    sentence: &'static str,
    remedy: &'static str,
}

impl Words {
    /// As [`Rule::must`].
    pub(super) const fn must(
        name: &'static str,
        sentence: &'static str,
        remedy: &'static str,
    ) -> Self {
        let severity = Severity::Must;
        Self {
            severity,
            name,
            sentence,
            remedy,
        }
    }

    /// As [`Rule::should`].
    pub(super) const fn should(
        name: &'static str,
        sentence: &'static str,
        remedy: &'static str,
    ) -> Self {
        let severity = Severity::Should;
        Self {
            severity,
            name,
            sentence,
            remedy,
        }
    }
}

impl From<Words> for Rule {
    fn from(words: Words) -> Self {
        Self::new(words.severity, words.name, words.sentence, words.remedy)
    }
}

/// One rule of the contract.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    name: String,
    severity: Severity,
    sentence: String,
    remedy: String,
}

/// The verdicts so far.
pub(super) struct Ledger {
    limit: Duration,
    findings: Vec<Finding>,
    /// Refusals that named their field, and those that did not.
    named: Vec<String>,
    unnamed: Vec<String>,
}

impl Miss {
    pub(super) fn broken(seen: impl Into<String>) -> Self {
        Self::Broken(seen.into())
    }

    pub(super) fn not_judged(why: impl Into<String>) -> Self {
        Self::NotJudged(why.into())
    }
}

impl From<Status> for Miss {
    fn from(status: Status) -> Self {
        Self::Broken(sentence(&status))
    }
}

impl Rule {
    /// A rule that an implementation must keep.
    pub(super) fn must(name: &str, sentence: &str, remedy: &str) -> Self {
        Self::new(Severity::Must, name, sentence, remedy)
    }

    /// A rule that an implementation should keep.
    pub(super) fn should(name: &str, sentence: &str, remedy: &str) -> Self {
        Self::new(Severity::Should, name, sentence, remedy)
    }

    fn new(severity: Severity, name: &str, sentence: &str, remedy: &str) -> Self {
        Self {
            name: name.to_owned(),
            severity,
            sentence: sentence.to_owned(),
            remedy: remedy.to_owned(),
        }
    }
}

/// A request that is to be refused: the rule's name, what is wrong with it in words that end in
/// "is refused", and the field that is wrong (empty where the code says it all).
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    rule: String,
    what: &'static str,
    field: &'static str,
    code: Code,
    severity: Severity,
}

impl Refusal {
    /// Must be refused with INVALID_ARGUMENT.
    pub(super) fn invalid(
        rule: impl Into<String>,
        what: &'static str,
        field: &'static str,
    ) -> Self {
        Self::with(Code::InvalidArgument, rule, what, field)
    }

    /// Must be refused, where the capabilities name a bound.
    pub(super) fn too_many_items() -> Self {
        let what = "A request with more items than the capabilities allow";
        Self::invalid("too_many_items", what, "items")
    }

    /// Must be refused with NOT_FOUND.
    pub(super) fn not_found(rule: impl Into<String>, what: &'static str) -> Self {
        Self::with(Code::NotFound, rule, what, "")
    }

    /// Must be refused with ALREADY_EXISTS.
    pub(super) fn conflict(rule: impl Into<String>, what: &'static str) -> Self {
        Self::with(Code::AlreadyExists, rule, what, "")
    }

    fn with(code: Code, rule: impl Into<String>, what: &'static str, field: &'static str) -> Self {
        let (rule, severity) = (rule.into(), Severity::Must);
        Self {
            rule,
            what,
            field,
            code,
            severity,
        }
    }

    /// The same, where an implementation should.
    pub(super) fn advised(self) -> Self {
        Self {
            severity: Severity::Should,
            ..self
        }
    }

    fn rule(&self) -> Rule {
        let code = code_name(self.code);
        let remedy = match self.field {
            "" => format!("answer {code} before any work is done"),
            field => format!("check `{field}` before any work is done and answer {code}"),
        };
        let sentence = format!("{} is refused with {code}.", self.what);
        Rule::new(self.severity, &self.rule, &sentence, &remedy)
    }
}

impl Ledger {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            findings: Vec::new(),
            named: Vec::new(),
            unnamed: Vec::new(),
        }
    }

    /// The longest time of one rule.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Looks at one rule, within the limit.
    pub(super) async fn judge(&mut self, rule: Rule, look: impl Future<Output = Seen>) {
        let seen = tokio::time::timeout(self.limit, look).await;
        let late = || {
            Err(Miss::broken(format!(
                "nothing within {} s",
                self.limit.as_secs()
            )))
        };
        self.note(rule, seen.unwrap_or_else(|_| late()));
    }

    /// Notes what one rule came to.
    pub(super) fn note(&mut self, rule: Rule, seen: Seen) {
        let (verdict, seen, remedy) = match seen {
            Ok(seen) => (Verdict::Kept, seen, String::new()),
            Err(Miss::Broken(seen)) => (Verdict::Broken, seen, rule.remedy),
            Err(Miss::NotJudged(why)) => (Verdict::NotJudged, why, String::new()),
        };
        let (rule, severity, sentence) = (rule.name, rule.severity, rule.sentence);
        self.findings.push(Finding {
            rule,
            severity,
            sentence,
            verdict,
            seen,
            remedy,
        });
    }

    /// Sends a request that is to be refused. Whether the refusal names its field is counted for
    /// [`into_report`](Self::into_report).
    pub(super) async fn refused<T>(
        &mut self,
        refusal: Refusal,
        call: impl Future<Output = Result<T, Status>>,
    ) {
        let mut field_named = None;
        let look = async {
            let Err(status) = call.await else {
                return Err(Miss::broken("it was accepted"));
            };
            if status.code() != refusal.code {
                return Err(Miss::Broken(sentence(&status)));
            }
            if !refusal.field.is_empty() {
                field_named = Some(names(&status, refusal.field));
            }
            Ok(sentence(&status))
        };
        self.judge(refusal.rule(), look).await;
        match field_named {
            Some(true) => self.named.push(refusal.rule),
            Some(false) => self.unnamed.push(refusal.rule),
            None => {}
        }
    }

    /// Sends one item more than the `most` that the endpoint says it takes.
    pub(super) async fn bounded<T>(
        &mut self,
        refusal: Refusal,
        most: usize,
        call: impl Future<Output = Result<T, Status>>,
    ) {
        match most {
            0 => {
                let why = Miss::not_judged("the capabilities name no bound");
                self.note(refusal.rule(), Err(why));
            }
            _ => self.refused(refusal, call).await,
        }
    }

    /// Ends the case.
    pub(super) fn into_report(mut self, service: &str, endpoint: &str) -> Report {
        let rule = Rule::should(
            "refusals_name_the_field",
            "An INVALID_ARGUMENT carries google.rpc.BadRequest with the path of the field.",
            "attach BadRequest.FieldViolation { field, description } to the status details",
        );
        let (named, unnamed) = (self.named.len(), self.unnamed.join(", "));
        let seen = match (named, self.unnamed.len()) {
            (0, 0) => Err(Miss::not_judged(
                "nothing was refused with INVALID_ARGUMENT",
            )),
            (_, 0) => Ok(format!("{named} of {named} refusals name it")),
            (_, some) => {
                let all = named + some;
                Err(Miss::broken(format!(
                    "{named} of {all} refusals name it; not {unnamed}"
                )))
            }
        };
        self.note(rule, seen);
        Report::new(service, endpoint, self.findings)
    }
}

/// Whether a violation is about the field or something in it: the request's own index is not
/// compared, `items[1].sample_id` is about `items.sample_id`.
fn names(status: &Status, field: &str) -> bool {
    let details = status.get_error_details();
    let violations = details
        .bad_request()
        .map_or(&[][..], |bad| &bad.field_violations);
    let plain = |path: &str| {
        let mut is_inside = false;
        path.chars()
            .filter(|&c| {
                is_inside = c == '[' || (is_inside && c != ']');
                !is_inside && c != ']'
            })
            .collect::<String>()
    };
    violations
        .iter()
        .any(|violation| plain(&violation.field).contains(field))
}

/// A status as it was seen: code and words.
pub(super) fn sentence(status: &Status) -> String {
    format!("{}: {}", code_name(status.code()), explain(status))
}

/// Reads a stream to its end.
pub(super) async fn collect<M>(
    call: Result<Response<Streaming<M>>, Status>,
) -> Result<Vec<M>, Status> {
    let mut stream = call?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message);
    }
    Ok(messages)
}

/// Holds, with what was seen; else broken with it.
pub(super) fn holds(is_so: bool, seen: impl Into<String>) -> Result<(), Miss> {
    match is_so {
        true => Ok(()),
        false => Err(Miss::broken(seen)),
    }
}

/// The `index`-th sample id of a rule; ids of different rules differ.
pub(super) fn sample_id(rule: u64, index: usize) -> String {
    format!("c0f0{rule:012x}{index:016x}")
}

/// Whether a text is a SHA-256 in lower-case hexadecimal.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
