#!/bin/bash
# what: cargo build, test and run of a workspace without dependencies, in release and debug; a second build does nothing
# image: languages
# weight: heavy
# memory: 2G
# timeout: 240
# files: ws/a ws/b ws/Cargo.lock
export CARGO_HOME=/tmp/cargo CARGO_NET_OFFLINE=true CARGO_TERM_PROGRESS_WHEN=never
mkdir -p ws/a/src ws/b/src ws/b/tests; cd ws || exit 1
printf '[workspace]\nmembers = ["a", "b"]\n' > Cargo.toml; printf '[package]\nname = "a"\nversion = "0.1.0"\nedition = "2021"\n' > a/Cargo.toml; printf '[package]\nname = "b"\nversion = "0.1.0"\nedition = "2021"\nbuild = "build.rs"\n[dependencies]\na = { path = "../a" }\n' > b/Cargo.toml
cat > a/src/lib.rs <<'R'
//! ```
//! assert_eq!(a::primes(10), vec![2, 3, 5, 7]);
//! ```
use std::{sync::mpsc, thread};
pub fn primes(n: usize) -> Vec<usize> { let mut s = vec![true; n + 1]; let mut i = 2; while i * i <= n { if s[i] { let mut j = i * i; while j <= n { s[j] = false; j += i } } i += 1 } (2..=n).filter(|&i| s[i]).collect() }
pub fn parallel(n: u64) -> u64 { let (tx, rx) = mpsc::channel(); for i in 0..n { let tx = tx.clone(); thread::spawn(move || tx.send((0..1000).fold(i, |a, b| a.wrapping_mul(31).wrapping_add(b))).unwrap()); } drop(tx); rx.iter().fold(0, |a, b| a ^ b) }
#[cfg(test)] mod tests { #[test] fn p() { assert_eq!(super::primes(100).len(), 25) } #[test] #[should_panic] fn q() { panic!("no") } #[test] fn r() { assert_eq!(super::parallel(20), super::parallel(20)) } }
R
printf 'fn main() { println!("cargo:rustc-env=BUILT=by-build-script"); }\n' > b/build.rs; printf 'fn main() { println!("{} {} {}", a::primes(100000).len(), a::parallel(64), env!("BUILT")); let r = std::panic::catch_unwind(|| { let v: Vec<u8> = vec![]; v[std::env::args().count()] }); println!("{}", r.is_err()); std::process::exit(9) }\n' > b/src/main.rs; printf '#[test] fn runs() { let o = std::process::Command::new(env!("CARGO_BIN_EXE_b")).output().unwrap(); assert_eq!(o.status.code(), Some(9)); }\n' > b/tests/t.rs
cargo build --release 2>&1 | sed -E 's/ in [0-9.]+s$//' | sort; target/release/b 2>/dev/null; echo "status $?"; cargo test 2>&1 | sed -E 's/ in [0-9.]+s$//; s/-[0-9a-f]{16}//; s/; finished.*//' | sort; cargo build --release 2>&1 | grep -c Compiling; cargo run -q --release 2>&1 | head -n 1; echo 'fn main() { let x: u32 = "a"; }' > b/src/main.rs; cargo check 2>&1 | grep -E '^error'; rustc --version
