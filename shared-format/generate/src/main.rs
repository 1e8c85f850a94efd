//! Writes `shared-format/src/payload/generated.rs` from `schema/payload.fbs`.
//!
//! Runs the flatc that is pinned in `Cargo.toml`, because generated code and the `flatbuffers` crate must be
//! of one version. The hash of the schema goes into the first line, so that a test notices a schema that was
//! changed without running `make generate`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use sha2::{Digest, Sha256};

fn main() -> Result<(), Box<dyn Error>> {
    let crate_dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let schema = crate_dir.join("schema/payload.fbs");
    let out_dir = env::temp_dir().join(format!("cloudsync-generate-{}", std::process::id()));
    fs::create_dir_all(&out_dir)?;
    let outcome = generate(&schema, &out_dir, &crate_dir.join("src/payload/generated.rs"));
    fs::remove_dir_all(&out_dir)?;
    outcome
}

fn generate(schema: &Path, out_dir: &Path, target: &Path) -> Result<(), Box<dyn Error>> {
    let status =
        Command::new(flatc_fork::flatc()).arg("--rust").arg("-o").arg(out_dir).arg(schema).status()?;
    if !status.success() {
        return Err(format!("flatc ended with {status}").into());
    }
    let hash: String = Sha256::digest(fs::read(schema)?).iter().map(|byte| format!("{byte:02x}")).collect();
    let code = fs::read_to_string(out_dir.join("payload_generated.rs"))?;
    fs::write(target, format!("// payload.fbs sha256: {hash}\n{code}"))?;
    Ok(())
}
