//! Runs Turnpike's packet logic on Linux: loads and pins the programs and owns the maps
