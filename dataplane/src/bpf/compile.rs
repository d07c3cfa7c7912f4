//! Part of build scripts: compiles BPF programs with clang, so that binaries carry them.

use libbpf_cargo::SkeletonBuilder;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// Compiles `src/bpf/NAME.bpf.c` of the package into `NAME.bpf.o` of its output directory.
pub fn compile(programs: &[&str]) {
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    if !Command::new(&clang).arg("--version").output().is_ok_and(|answer| answer.status.success()) {
        fail(&format!("`{clang}`, which compiles the XDP programs, is missing: apt install clang"));
    }
    // Debian keeps the architecture's own headers apart (asm/types.h), and clang does not look there for a BPF target.
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let own = PathBuf::from(format!("/usr/include/{arch}-linux-gnu"));
    if !Path::new("/usr/include/linux/bpf.h").exists() {
        fail("/usr/include/linux/bpf.h is missing: apt install linux-libc-dev");
    }
    for program in programs {
        let source = format!("src/bpf/{program}.bpf.c");
        println!("cargo::rerun-if-changed={source}");
        let object = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join(format!("{program}.bpf.o"));
        let built = SkeletonBuilder::new()
            .source(&source)
            .obj(&object)
            .clang(&clang)
            .clang_args(["-Wall".into(), "-Werror".into(), "-I".into(), own.clone().into_os_string()])
            .build();
        if let Err(error) = built {
            fail(&format!("clang could not compile {source}: {error:#}"));
        }
    }
}

fn fail(why: &str) -> ! {
    println!("cargo::error={}", why.replace('\n', " "));
    exit(1)
}
