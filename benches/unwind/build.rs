//! Compiles the functions that are walked through, with frame pointers and without.

use std::path::Path;
use std::process::Command;

fn main() {
    let out = std::env::var("OUT_DIR").expect("cargo names a folder");
    println!("cargo::rerun-if-changed=chain.c");
    for (name, option) in [("with", "-fno-omit-frame-pointer"), ("without", "-fomit-frame-pointer")] {
        let object = Path::new(&out).join(format!("{name}.o"));
        let done = Command::new("gcc")
            .args(["-O2", "-c", "-fPIC", "-fno-optimize-sibling-calls", option, "chain.c", "-o"])
            .arg(&object)
            .arg(format!("-DCHAIN=chain_{name}"))
            .status();
        assert!(done.is_ok_and(|status| status.success()), "gcc: chain.c was not compiled");
        println!("cargo::rustc-link-arg={}", object.display());
    }
}
