//! Compiles the `.proto` files without a system `protoc`.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["consilium/v1/site.proto", "consilium/v1/enrolment.proto", "consilium/v1/operator.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Chunks are taken out of what was received, not copied.
    tonic_prost_build::configure()
        .bytes(".consilium.v1.UploadChunk.bytes")
        .bytes(".consilium.v1.FetchChunk.bytes")
        .compile_fds(descriptors)?;
    Ok(())
}
