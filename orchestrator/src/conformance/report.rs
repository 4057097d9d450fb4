//! What was found, for people and for machines.

use serde::Serialize;

/// What one rule came to.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Name of the rule, stable, such as `same_seed_same_bytes`.
    pub rule: String,
    /// Whether an implementation must or should keep it.
    pub severity: Severity,
    /// The rule in one sentence.
    pub sentence: String,
    /// Whether it was kept.
    pub verdict: Verdict,
    /// What was seen, or why nothing could be.
    pub seen: String,
    /// What to do about a rule that was broken; empty otherwise.
    pub remedy: String,
}

/// How much a rule weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// The suite relies on it.
    Must,
    /// Callers and operators are better off with it.
    Should,
}

/// What came of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was seen to hold.
    Kept,
    /// It was seen not to hold.
    Broken,
    /// It could not be looked at; never counted as kept.
    NotJudged,
}

/// What all rules came to.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The service, as the command line names it.
    pub service: String,
    /// Where it was met.
    pub endpoint: String,
    /// Rules kept, of either severity.
    pub kept: usize,
    /// Rules of severity MUST that are broken.
    pub broken: usize,
    /// Rules of severity SHOULD that are broken.
    pub advised: usize,
    /// Rules that could not be looked at.
    pub not_judged: usize,
    /// The rules, in the order in which they were asked.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(service: &str, endpoint: &str, findings: Vec<Finding>) -> Self {
        let count = |is_counted: &dyn Fn(&Finding) -> bool| {
            findings.iter().filter(|found| is_counted(found)).count()
        };
        let is_broken = |found: &Finding, severity| {
            found.verdict == Verdict::Broken && found.severity == severity
        };
        Self {
            service: service.to_owned(),
            endpoint: endpoint.to_owned(),
            kept: count(&|found| found.verdict == Verdict::Kept),
            broken: count(&|found| is_broken(found, Severity::Must)),
            advised: count(&|found| is_broken(found, Severity::Should)),
            not_judged: count(&|found| found.verdict == Verdict::NotJudged),
            findings,
        }
    }

    /// The finding of one rule.
    pub fn finding(&self, rule: &str) -> Option<&Finding> {
        self.findings.iter().find(|found| found.rule == rule)
    }

    /// A table of rule, verdict and what was seen; below a broken rule, what it says and what to
    /// do.
    pub fn table(&self) -> String {
        let widest = self.findings.iter().map(|found| found.rule.len()).max();
        let width = widest.unwrap_or_default();
        let mut lines: Vec<String> = Vec::new();
        for found in &self.findings {
            let (verdict, severity) = (found.verdict.word(), found.severity.word());
            let Finding { rule, seen, .. } = found;
            lines.push(format!(
                "{verdict:<10} {severity:<6} {rule:<width$}  {seen}"
            ));
            if found.verdict == Verdict::Broken {
                let indent = " ".repeat(20 + width);
                lines.push(format!("{indent}rule: {}", found.sentence));
                lines.push(format!("{indent}do:   {}", found.remedy));
            }
        }
        lines.push(self.summary());
        lines.join("\n")
    }

    fn summary(&self) -> String {
        format!(
            "\n{} at {}: {} kept, {} MUST broken, {} SHOULD broken, {} not judged",
            self.service, self.endpoint, self.kept, self.broken, self.advised, self.not_judged
        )
    }
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
        }
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Broken => "BROKEN",
            Self::NotJudged => "not judged",
        }
    }
}
