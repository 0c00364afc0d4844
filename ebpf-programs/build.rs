//! Flags of the eBPF linker.

fn main() {
    // Without it every header field is loaded byte by byte: a quarter more instructions (docs/life-of-a-packet.md).
    println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
}
