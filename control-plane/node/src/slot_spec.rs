//! Media slots on the command line: `first:transcoding=2`.

use turnpike_api::MediaSlots;
use turnpike_broker::name::SlotName;
use turnpike_broker::record::Side;

use crate::problem::read_word;

/// So many slots of a name at one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotSpec {
    side: Side,
    name: SlotName,
    count: u32,
}

/// Reads one; an error says what is allowed.
pub(crate) fn parse(text: &str) -> Result<SlotSpec, String> {
    let parts = text.split_once(':').and_then(|(side, rest)| Some((side, rest.split_once('=')?)));
    let (side, (name, count)) =
        parts.ok_or_else(|| format!("{text:?} must be side:name=count, such as first:transcoding=2"))?;
    let count = count.parse().ok().filter(|count| *count > 0);
    Ok(SlotSpec {
        side: read_word(side).map_err(|error| format!("side: {error}"))?,
        name: name.parse().map_err(|error| format!("{error}"))?,
        count: count.ok_or_else(|| format!("{text:?} must end with a whole number, 1 or more"))?,
    })
}

/// All of them together; a name that comes twice at a side is an error.
pub(crate) fn collect(specs: &[SlotSpec]) -> Result<MediaSlots, String> {
    let mut slots = MediaSlots::default();
    for SlotSpec { side, name, count } in specs {
        let counts = match side {
            Side::First => &mut slots.first,
            Side::Second => &mut slots.second,
        };
        if counts.insert(name.clone(), *count).is_some() {
            return Err(format!("{name} is given twice at the same side"));
        }
    }
    Ok(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_read_by_side_and_name() {
        let specs = ["first:transcoding=2", "second:transcoding=1", "second:mixing=3"].map(|text| parse(text).unwrap());
        let slots = serde_json::to_value(collect(&specs).unwrap()).unwrap();
        let expected = r#"{"first":{"transcoding":2},"second":{"mixing":3,"transcoding":1}}"#;
        assert_eq!(slots.to_string(), expected);
        assert!(collect(&[specs[0].clone(), specs[0].clone()]).unwrap_err().contains("twice"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in
            ["transcoding=2", "first:transcoding", "third:x=1", "first:x=0", "first:x=-1", "first:a b=1", "first:=1"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
