//! Compiles the stand-in for the driver's library into a folder, for `LD_LIBRARY_PATH`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: stand_in FOLDER");
        return ExitCode::from(2);
    };
    match v4_cuda_shim::stand_in::build(Path::new(&folder)) {
        Ok(library) => {
            println!("{}", library.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("stand_in: {error}");
            ExitCode::FAILURE
        }
    }
}
