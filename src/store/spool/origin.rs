//! Who a message came from, as its spool file says.

/// Where a message came from: what it may cause depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client in RELAY_FROM, or a report about such a client's mail.
    Inside,
    /// Any other client.
    Outside,
    /// A report about mail of such a client: its recipient was named by a stranger.
    Report,
}

impl Origin {
    /// As the file has it.
    pub fn word(self) -> &'static str {
        match self {
            Origin::Inside => "inside",
            Origin::Outside => "outside",
            Origin::Report => "report",
        }
    }

    pub(crate) fn of_word(word: &str) -> Option<Origin> {
        let all = [Origin::Inside, Origin::Outside, Origin::Report];
        all.into_iter().find(|origin| origin.word() == word)
    }
}
