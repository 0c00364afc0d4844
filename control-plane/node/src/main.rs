//! `turnpike`: the node and its command line.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    turnpike_node::serve::main()
}
