//! Builds the recorder with the extension, so that whatever installs the package has it.
//!
//! `pip install`, `maturin develop` and `maturin build` run nothing but cargo. The recorder
//! cannot be a dependency: it is a library of its own, with settings of a whole workspace. So
//! `scripts/build-recorder` is run here, in a target folder of its own. Without a recorder the
//! extension is built all the same, with a warning; the script leaves the reason in the package.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};
use std::{env, fs};

const SCRIPT: &str = "scripts/build-recorder";
const LIBRARY: &str = "python/gdb_leak/recorder/libgdb_leak_recorder.so";
const MISSING: &str = "python/gdb_leak/recorder/missing.txt";
/// Set to anything where the recorder was built before, for other machines than this one.
const BUILT: &str = "GDB_LEAK_RECORDER_BUILT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={BUILT}");
    let for_python = env::var_os("CARGO_FEATURE_PYTHON").is_some();
    if !for_python || env::var_os(BUILT).is_some() {
        return;
    }
    for needed in [
        SCRIPT,
        "scripts/stage",
        "scripts/with-rust",
        "recorder/src",
        "recorder/Cargo.toml",
        "recorder/Cargo.lock",
        LIBRARY,
    ] {
        println!("cargo::rerun-if-changed={needed}");
    }
    let begun = SystemTime::now();
    if let Err(reason) = build() {
        println!("cargo::warning=the recorder is left out: {reason}");
    } else if let Ok(library) = fs::File::options().append(true).open(LIBRARY) {
        // A library newer than this run would make cargo run this script again, and no more than that.
        let young = library.metadata().and_then(|of| of.modified()).is_ok_and(|modified| modified >= begun);
        if let Some(before) = begun.checked_sub(Duration::from_secs(1)).filter(|_| young) {
            let _ = library.set_modified(before);
        }
    }
}

/// Runs the script. Returns the reason if there is no recorder afterwards.
fn build() -> Result<(), String> {
    let missing = |reason: &str| {
        // Where not even this can be written, the warning is all there is.
        let _ = fs::write(MISSING, format!("{reason}\n"));
        Err(reason.to_owned())
    };
    let (host, target) = (env::var("HOST"), env::var("TARGET"));
    if host != target {
        return missing("it is not built for other machines than the one that builds");
    }
    if !Path::new(SCRIPT).exists() || !Path::new("recorder").exists() {
        return missing("its sources are not in this package");
    }
    let cargo = env::var_os("CARGO").unwrap_or_default();
    let mut folders: Vec<_> = Path::new(&cargo).parent().map(Path::to_path_buf).into_iter().collect();
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let path = env::join_paths(folders).map_err(|error| error.to_string())?;
    let mut script = Command::new("sh");
    // What is set for this package, and by `cargo clippy`, is not meant for another.
    let ours = env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_FEATURE_") || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_CFG_")
    });
    for name in ours.chain(["RUSTC_WORKSPACE_WRAPPER".into(), "CARGO_TARGET_DIR".into()]) {
        script.env_remove(name);
    }
    match script.arg(SCRIPT).env("PATH", path).output() {
        Ok(done) if done.status.success() && Path::new(LIBRARY).exists() => Ok(()),
        Ok(_) => match fs::read_to_string(MISSING) {
            Ok(reason) => Err(reason.trim().to_owned()),
            Err(error) => missing(&format!("{SCRIPT} did not say why: {error}")),
        },
        Err(error) => missing(&format!("sh: {error}")),
    }
}
