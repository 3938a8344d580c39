//! A hostile guest for each rule that keeps a guest in: contained while the rule stands, out when a test takes the
//! rule away.

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod handler;
mod memory;

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;

use bulkhead_platform::{Call, Config, FileAccess, GuestThread, HostCall, Registers, Rules};
use support::guest;
use support::kernel::{End, Mini, Policy, TEST_CALL, boot};

fn main() -> ExitCode {
    support::main(&[
        ("jump_into_the_handler", handler::jump_into_the_handler),
        ("jump_into_the_handler_escapes_without_consent", handler::jump_escapes_without_consent),
        ("slot_race", handler::slot_race),
        ("slot_race_escapes_without_exact_consent", handler::slot_race_escapes),
        ("forged_identity", handler::forged_identity),
        ("forged_identity_escapes_without_the_kernels_word", handler::forged_identity_escapes),
        ("unmapped_stub_page", handler::unmapped_stub_page),
        ("unreadable_stub_page", handler::unreadable_stub_page),
        ("unmapped_slot", handler::unmapped_slot),
        ("unmapped_stub_page_escapes_without_trap", handler::unmapped_escapes_without_trap),
        ("fork_bomb", handler::fork_bomb),
        ("fork_bomb_through_the_handler", handler::fork_bomb_through_the_handler),
        ("fork_bomb_escapes_without_consent", handler::fork_bomb_escapes),
        ("scribbled_frames", handler::scribbled_frames),
        ("forged_bells", handler::forged_bells),
        ("path_changed_after_the_copy", calls::path_changed),
        ("path_changed_escapes_if_any_call_continues", calls::path_changed_escapes),
        ("other_system_call_tables", calls::other_tables),
        ("other_tables_escape_unless_looked_at_first", calls::other_tables_escape),
        ("calls_on_no_list", calls::calls_on_no_list),
        ("calls_on_no_list_escape_unless_notified", calls::calls_on_no_list_escape),
        ("native_calls_with_bad_arguments", calls::bad_arguments),
        ("bad_arguments_escape_unless_checked", calls::bad_arguments_escape),
        ("writable_mapping_of_a_read_only_file", memory::writable_mapping),
        ("writable_mapping_escapes_with_inexact_rights", memory::writable_mapping_escapes),
        ("growing_mremap", memory::growing_mremap),
        ("growing_mremap_escapes_unless_notified", memory::growing_mremap_escapes),
        ("descriptors_that_are_no_files", memory::descriptors_that_are_no_files),
    ])
}

/// A configuration with every rule, or without one.
fn config(without: Option<&str>) -> Config {
    Config { rules: without.map_or_else(Rules::default, Rules::without), ..Config::default() }
}

/// Runs a guest program on this kernel to its end.
fn attack(kernel: &Arc<Mini>, name: &str, args: &[&str]) -> (End, String) {
    let pid = kernel.spawn(&guest::program(name), args);
    let end = kernel.wait(pid);
    (end, kernel.printed())
}

/// Another guest of the same sentry still runs: the attack hurt nobody else.
fn assert_unharmed(kernel: &Arc<Mini>) {
    let (end, printed) = attack(kernel, "hello", &["still here"]);
    assert_eq!(end, End::Exited(3));
    assert!(printed.ends_with("hello still here\n"), "{printed}");
}

/// A file of two pages; guests may see the first.
fn two_pages() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut bytes = vec![b'P'; 8192];
    bytes[4096..].fill(b'S');
    std::fs::write(file.path(), bytes).expect("to write");
    file
}

/// Offers a two-page file by the test call; maps its first page, privately or shared.
struct FilePolicy {
    file: std::fs::File,
}

impl Policy for FilePolicy {
    fn call(&self, kernel: &Mini, thread: &Arc<GuestThread>, call: &Call) -> bool {
        let ours = call.nr == TEST_CALL;
        if ours {
            thread.ret(kernel.offer(self.file.try_clone().expect("a descriptor")) as i64);
        }
        ours
    }

    fn trapped(&self, _kernel: &Mini, thread: &Arc<GuestThread>, call: &Call, registers: &Registers) -> bool {
        let ours = call.nr == libc::SYS_mmap as u64;
        if ours {
            const AT: i32 = 50;
            assert_eq!((call.args[1], call.args[5]), (4096, 0), "the guest asks for the first page");
            thread.add_fd(self.file.as_fd(), Some(AT), FileAccess::ReadOnly).expect("a descriptor");
            let map = HostCall::mmap(0, 4096, libc::PROT_READ, libc::MAP_PRIVATE, AT, 0);
            thread.run_and_return(&[map], registers).expect("one command");
        }
        ours
    }
}

fn file_kernel(without: Option<&str>) -> (tempfile::NamedTempFile, Arc<Mini>) {
    let file = two_pages();
    let open = std::fs::OpenOptions::new().read(true).write(true).open(file.path()).expect("the file");
    let kernel = boot(config(without), FilePolicy { file: open });
    (file, kernel)
}
