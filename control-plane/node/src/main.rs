//! `turnpike`: the node and its command line.

fn main() -> std::process::ExitCode {
    turnpike_node::serve::main()
}
