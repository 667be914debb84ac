//! The `coordinator` program.

fn main() -> std::process::ExitCode {
    consilium_coordinator::command::main()
}
