//! Compiles the XDP programs of the packet generator and its sink.

#[path = "../dataplane/src/bpf/compile.rs"]
mod bpf;

fn main() {
    println!("cargo::rerun-if-changed=../dataplane/src/bpf/compile.rs");
    println!("cargo::rerun-if-changed=src/bpf/frame.h");
    bpf::compile(&["pktgen", "sink"]);
}
