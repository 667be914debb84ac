//! The `coordinator` program, with stopping points before and after each durable write.

fn main() -> std::process::ExitCode {
    consilium_coordinator::command::main()
}
