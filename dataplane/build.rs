//! Compiles the XDP programs.

#[path = "src/bpf/compile.rs"]
mod bpf;

fn main() {
    bpf::compile(&["redirect", "stalled", "xmit"]);
}
