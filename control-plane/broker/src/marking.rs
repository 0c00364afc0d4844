//! Marking: what a request says of DSCPs, and whether it makes sense.

use crate::event::AggregateRequest;
use crate::policy::{Dscp, DscpPolicy, Marking};
use crate::refusal::Refusal;

pub(crate) const DSCP_MAX: u8 = 63;

impl AggregateRequest {
    /// What it asks for, with what it leaves out filled in.
    pub(crate) fn marking(&self) -> Result<Marking, Refusal> {
        let deliver_policy = self.deliver_dscp_policy.unwrap_or(match self.deliver_dscp {
            Some(_) => DscpPolicy::Set,
            None => DscpPolicy::Copy,
        });
        let marking = Marking {
            dscp: dscp("dscp", self.dscp_policy.unwrap_or(DscpPolicy::Set), self.dscp)?,
            excess_dscp: self.excess_dscp,
            deliver_dscp: dscp("deliver_dscp", deliver_policy, self.deliver_dscp)?,
        };
        check_marking(&marking)?;
        Ok(marking)
    }
}

fn dscp(field: &str, policy: DscpPolicy, value: Option<u8>) -> Result<Dscp, Refusal> {
    match (policy, value) {
        (DscpPolicy::Set, Some(value)) => Ok(Dscp::Set(value)),
        (DscpPolicy::Set, None) => {
            let allowed = format!("0 to {DSCP_MAX}, or {field}_policy copy or map");
            Err(Refusal::invalid(field, "missing", allowed))
        }
        (DscpPolicy::Copy, None) => Ok(Dscp::Copy),
        (DscpPolicy::Map, None) => Ok(Dscp::Map),
        (DscpPolicy::Copy | DscpPolicy::Map, Some(value)) => {
            Err(Refusal::invalid(field, value, format!("none, because {field}_policy is not set")))
        }
    }
}

/// Whether every value is one of 6 bits; a peer's may not be.
pub(crate) fn check_marking(marking: &Marking) -> Result<(), Refusal> {
    let Marking { dscp, excess_dscp, deliver_dscp } = marking;
    let values = [("dscp", dscp.value()), ("excess_dscp", *excess_dscp), ("deliver_dscp", deliver_dscp.value())];
    for (field, value) in values {
        if let Some(value) = value.filter(|value| *value > DSCP_MAX) {
            return Err(Refusal::invalid(field, value, format!("0 to {DSCP_MAX}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Tag;

    fn request() -> AggregateRequest {
        AggregateRequest {
            name: "ab".parse().unwrap(),
            peer: "b".parse().unwrap(),
            rate_bps: 1_000_000,
            burst_bytes: Some(20_000),
            class: None,
            dscp_policy: None,
            dscp: None,
            excess_dscp: None,
            deliver_dscp_policy: None,
            deliver_dscp: None,
            tag: Tag::Label,
            when_full: crate::WhenFull::Refuse,
            emergency_percent: 0,
        }
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        let set = AggregateRequest { dscp: Some(46), ..request() };
        let marking = Marking { dscp: Dscp::Set(46), excess_dscp: None, deliver_dscp: Dscp::Copy };
        assert_eq!(set.marking(), Ok(marking));
        let map = AggregateRequest {
            dscp_policy: Some(DscpPolicy::Map),
            excess_dscp: Some(8),
            deliver_dscp: Some(0),
            ..request()
        };
        let marking = Marking { dscp: Dscp::Map, excess_dscp: Some(8), deliver_dscp: Dscp::Set(0) };
        assert_eq!(map.marking(), Ok(marking));
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_its_field() {
        let copy = Some(DscpPolicy::Copy);
        let set = Some(DscpPolicy::Set);
        let cases = [
            (request(), "dscp"),
            (AggregateRequest { dscp: Some(64), ..request() }, "dscp"),
            (AggregateRequest { dscp: Some(46), dscp_policy: copy, ..request() }, "dscp"),
            (AggregateRequest { dscp: Some(46), excess_dscp: Some(64), ..request() }, "excess_dscp"),
            (AggregateRequest { dscp: Some(46), deliver_dscp: Some(64), ..request() }, "deliver_dscp"),
            (AggregateRequest { dscp: Some(46), deliver_dscp_policy: set, ..request() }, "deliver_dscp"),
            (
                AggregateRequest { dscp: Some(46), deliver_dscp: Some(1), deliver_dscp_policy: copy, ..request() },
                "deliver_dscp",
            ),
        ];
        for (request, field) in cases {
            let refusal = request.marking().unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some(field), "{}", refusal.detail);
        }
    }
}
