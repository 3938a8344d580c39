//! The project's own commands: setup, image, demo, test, bench.

fn main() {}
