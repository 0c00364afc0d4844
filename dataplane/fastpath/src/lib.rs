//! Turnpike's packet logic: parse, classify, meter, tag, untag, count, verdict
