//! Compiles the XDP programs of the packet generator and its sink, and tells which compiler this is.

use std::process::Command;

#[path = "../dataplane/src/bpf/compile.rs"]
mod bpf;

fn main() {
    println!("cargo::rerun-if-changed=../dataplane/src/bpf/compile.rs");
    println!("cargo::rerun-if-changed=src/bpf/frame.h");
    bpf::compile(&["pktgen", "sink"]);
    let compiler = std::env::var("RUSTC").expect("cargo says which compiler it runs");
    let version = Command::new(compiler).arg("--version").output().expect("the compiler tells its version").stdout;
    println!("cargo::rustc-env=COMPILER={}", String::from_utf8_lossy(&version).trim());
}
