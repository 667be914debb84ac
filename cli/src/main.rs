//! The `consilium` program.

fn main() -> std::process::ExitCode {
    consilium_cli::main()
}
