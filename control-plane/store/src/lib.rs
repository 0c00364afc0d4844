//! Turnpike's stores
