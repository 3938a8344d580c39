//! `sqlx::migrate!` reads the folder at compile time; a new file there must rebuild this crate.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
