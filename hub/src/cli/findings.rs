//! What a command found, line by line: what is fine, what to know, what is wrong and how to mend it.

use std::fmt::{self, Write};

/// What a command prints, and whether it ends in success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What is printed.
    pub text: String,
    /// Whether nothing is wrong.
    pub is_good: bool,
}

/// The lines so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    text: String,
    wrong: u32,
    notes: u32,
}

impl Findings {
    /// Something is as it should be.
    pub(super) fn fine(&mut self, place: &dyn fmt::Display, says: impl fmt::Display) {
        self.line("ok   ", place, &says);
    }

    /// Something works, but may not be meant so.
    pub(super) fn note(
        &mut self,
        place: &dyn fmt::Display,
        says: impl fmt::Display,
        mend: impl fmt::Display,
    ) {
        self.notes = self.notes.saturating_add(1);
        self.line("note ", place, &says);
        self.mend(&mend);
    }

    /// Something keeps the hub from its work.
    pub(super) fn wrong(
        &mut self,
        place: &dyn fmt::Display,
        says: impl fmt::Display,
        mend: impl fmt::Display,
    ) {
        self.wrong = self.wrong.saturating_add(1);
        self.line("WRONG", place, &says);
        self.mend(&mend);
    }

    fn line(&mut self, kind: &str, place: &dyn fmt::Display, says: &dyn fmt::Display) {
        // Writing to a text cannot fail.
        let _written = writeln!(self.text, "{kind}  {place}: {says}");
    }

    fn mend(&mut self, mend: &dyn fmt::Display) {
        let _written = writeln!(self.text, "         to mend it: {mend}");
    }

    /// Sums up.
    pub(super) fn end(mut self) -> Told {
        let (wrong, notes) = (self.wrong, self.notes);
        let _written = match (wrong, notes) {
            (0, 0) => writeln!(self.text, "all is well"),
            (0, notes) => writeln!(self.text, "nothing is wrong, {notes} to look at"),
            (wrong, notes) => writeln!(self.text, "{wrong} wrong, {notes} to look at"),
        };
        Told { text: self.text, is_good: wrong == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_ends_in_failure() {
        let mut findings = Findings::default();
        findings.fine(&"store", "it keeps what it is given");
        findings.note(&"database a", "no tables", "track one");
        let told = findings.end();
        assert!(told.is_good && told.text.ends_with("nothing is wrong, 1 to look at\n"), "{}", told.text);
        let mut findings = Findings::default();
        findings.wrong(&"store", "it is away", "bring it back");
        let told = findings.end();
        assert_eq!(
            (told.text.as_str(), told.is_good),
            ("WRONG  store: it is away\n         to mend it: bring it back\n1 wrong, 0 to look at\n", false)
        );
    }
}
