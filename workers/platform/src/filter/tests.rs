//! The filter's verdicts, asked of the very program that stubs install.

use super::*;

const OUTSIDE: u64 = 0x40_1000;
const INSIDE: u64 = layout::STUB_TEXT + 0x234;
const I386: u32 = 0x4000_0003;

fn decide(nr: i64, args: [u64; 6], ip: u64) -> u32 {
    let program = program(false, &Rules::default());
    bpf::run(&program, &bpf::Data { nr: nr as u32, arch: X86_64, ip, args }).expect("a verdict")
}

fn arg(n: usize, value: u64) -> [u64; 6] {
    let mut args = [0; 6];
    args[n] = value;
    args
}

#[test]
fn what_is_on_no_list_is_notified_everywhere() {
    let listed = |nr: i64| NATIVE.iter().any(|(native, ..)| *native == nr) || TRAPPED.contains(&nr);
    for nr in (0..600).filter(|nr| !listed(*nr)).chain([i64::from(crate::wire::BELL), -1, 1 << 20]) {
        for ip in [OUTSIDE, INSIDE] {
            assert_eq!(decide(nr, [0; 6], ip), NOTIFY, "call {nr}");
            assert_eq!(decide(nr, [u64::MAX; 6], ip), NOTIFY, "call {nr}");
        }
    }
}

#[test]
fn other_tables_are_notified_whatever_the_number() {
    let program = program(false, &Rules::default());
    for nr in 0..600 {
        let x32 = bpf::Data { nr: nr | X32_BIT, arch: X86_64, ..bpf::Data::default() };
        let i386 = bpf::Data { nr, arch: I386, ip: INSIDE, ..bpf::Data::default() };
        assert_eq!(bpf::run(&program, &x32), Some(NOTIFY));
        assert_eq!(bpf::run(&program, &i386), Some(NOTIFY));
    }
}

#[test]
fn trapped_calls_are_notified_from_stub_code() {
    for nr in TRAPPED {
        assert_eq!(decide(*nr, [0; 6], OUTSIDE), TRAP, "call {nr}");
        let inside = if *nr == libc::SYS_rt_sigreturn { ALLOW } else { NOTIFY };
        assert_eq!(decide(*nr, [0; 6], INSIDE), inside, "call {nr}");
        assert_eq!(decide(*nr, [0; 6], INSIDE + 0x1000), TRAP, "beyond the page");
        assert_eq!(decide(*nr, [0; 6], INSIDE & 0xffff_ffff), TRAP, "the low half alone");
    }
}

#[test]
fn mmap_is_native_only_as_plain_private_anonymous_memory() {
    let mmap = |prot: u64, flags: u64, fd: u64, ip| decide(libc::SYS_mmap, [0, 4096, prot, flags, fd, 0], ip);
    assert_eq!(mmap(3, 0x22, u64::MAX, OUTSIDE), ALLOW);
    assert_eq!(mmap(7, 0x22 | 0x10 | 0x4000 | 0x2_0000 | 0x40, 0, OUTSIDE), ALLOW);
    for (prot, flags) in [(3, 0x21), (3, 0x23), (8, 0x22), (3, 0x4_0022), (3, 0x2022), (3, 0x22 | 1 << 32)] {
        assert_eq!(mmap(prot, flags, 0, OUTSIDE), NOTIFY, "{prot:#x} {flags:#x}");
    }
    assert_eq!(mmap(3 | 1 << 32, 0x22, 0, OUTSIDE), NOTIFY);
    // Files: private ones are trapped; stub code may map the image and nothing else.
    let image = layout::IMAGE_FD as u64;
    assert_eq!(mmap(5, 2, image, OUTSIDE), TRAP);
    assert_eq!(mmap(5, 0x12, image, INSIDE), ALLOW);
    assert_eq!(mmap(5, 1, image, INSIDE), NOTIFY);
    assert_eq!(mmap(5, 0x12, image + 1, INSIDE), NOTIFY);
    assert_eq!(mmap(5, 0x12, image | 1 << 32, INSIDE), NOTIFY);
    assert_eq!(mmap(5, 1, 5, OUTSIDE), NOTIFY);
}

#[test]
fn mremap_is_native_unless_it_grows() {
    let mremap = |old, new, flags| decide(libc::SYS_mremap, [0, old, new, flags, 0, 0], OUTSIDE);
    assert_eq!(mremap(8192, 4096, 1), ALLOW);
    assert_eq!(mremap(8192, 8192, 3), ALLOW);
    assert_eq!(mremap(1 << 32, 1 << 20, 1), ALLOW);
    for (old, new, flags) in [(4096, 8192, 1), (0, 4096, 1), (4096, 1 << 32, 1), (8192, 4096, 8)] {
        assert_eq!(mremap(old, new, flags), NOTIFY, "{old} {new} {flags}");
    }
}

#[test]
fn arguments_of_other_native_calls() {
    assert_eq!(decide(libc::SYS_futex, arg(1, 128 | 256 | 9), OUTSIDE), ALLOW);
    assert_eq!(decide(libc::SYS_futex, arg(1, 6), OUTSIDE), NOTIFY, "LOCK_PI");
    assert_eq!(decide(libc::SYS_madvise, arg(2, 4 | 1 << 40), OUTSIDE), ALLOW, "an int: the low half");
    assert_eq!(decide(libc::SYS_madvise, arg(2, 100), OUTSIDE), NOTIFY, "HWPOISON");
    assert_eq!(decide(libc::SYS_mprotect, arg(2, 7), OUTSIDE), ALLOW);
    assert_eq!(decide(libc::SYS_mprotect, arg(2, 1 << 32), OUTSIDE), NOTIFY);
    assert_eq!(decide(libc::SYS_clock_gettime, arg(0, 2), OUTSIDE), NOTIFY, "processor time");
    assert_eq!(decide(libc::SYS_arch_prctl, arg(0, 0x5001), OUTSIDE), NOTIFY, "shadow stacks");
}

#[test]
fn mediated_memory_calls_are_notified() {
    let program = program(true, &Rules::default());
    for (nr, memory, _) in NATIVE.iter().filter(|(_, memory, _)| *memory) {
        assert!(*memory && !native(&program, *nr as u64, [0; 6], OUTSIDE), "call {nr}");
    }
    assert!(native(&program, libc::SYS_sched_yield as u64, [0; 6], OUTSIDE));
    let nr = libc::SYS_mmap as u32;
    let anonymous = bpf::Data { nr, arch: X86_64, ip: OUTSIDE, args: [0, 4096, 3, 0x22, 0, 0] };
    assert_eq!(bpf::run(&program, &anonymous), Some(NOTIFY));
    let file = bpf::Data { args: [0, 4096, 1, 2, 3, 0], ..anonymous };
    assert_eq!(bpf::run(&program, &file), Some(TRAP));
}
