//! What an answer is expected to be.

use super::*;

pub(crate) fn refusal(answer: Answer) -> Refusal {
    match answer {
        Answer::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) fn reason(answer: Answer) -> Reason {
    refusal(answer).reason
}

pub(crate) fn session(answer: Answer) -> (SessionRecord, bool) {
    match answer {
        Answer::Session { record, created } => (record, created),
        other => panic!("no session: {other:?}"),
    }
}
