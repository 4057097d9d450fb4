//! Compiles the schemas with protox, so that no protoc is needed.

use prost::Message as _;
use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=diptych");
    let mut files = Vec::new();
    list_schemas(Path::new("diptych"), &mut files)?;
    files.sort();
    let descriptors = protox::compile(&files, ["."])?;
    let out_dir = env::var("OUT_DIR")?;
    fs::write(
        Path::new(&out_dir).join("diptych.binpb"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}

fn list_schemas(folder: &Path, files: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list_schemas(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(
                path.to_str()
                    .ok_or("a schema path is not UTF-8")?
                    .to_owned(),
            );
        }
    }
    Ok(())
}
