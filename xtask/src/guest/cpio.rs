//! The `newc` archive that Linux unpacks as its first root.

use std::io::{self, Write};

/// Writes one entry. `mode` has the type of the file in it.
fn entry(out: &mut impl Write, inode: u32, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
    let size = u32::try_from(data.len()).map_err(|_| io::Error::other("a file of 4 GiB and more"))?;
    // With the zero at its end.
    let name_size = name.len() as u32 + 1;
    let (owner, links, time, device) = (0, 1, 0, 0);
    let numbers =
        [inode, mode, owner, owner, links, time, size, device, device, device, device, name_size, 0];
    write!(out, "070701")?;
    for number in numbers {
        write!(out, "{number:08X}")?;
    }
    /// Magic and thirteen numbers of eight digits.
    const HEADER: usize = 6 + 13 * 8;
    write!(out, "{name}\0")?;
    pad(out, HEADER + name.len() + 1)?;
    out.write_all(data)?;
    pad(out, data.len())
}

/// Everything starts at a multiple of four.
fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..(4 - written % 4) % 4])
}

/// Writes an archive with one program, `init`.
pub(super) fn write(out: &mut impl Write, init: &[u8]) -> io::Result<()> {
    const PROGRAM: u32 = 0o100_755;
    entry(out, 1, "init", PROGRAM, init)?;
    entry(out, 0, "TRAILER!!!", 0, &[])
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn another_implementation_reads_it() {
        let mut archive = Vec::new();
        write(&mut archive, b"#!/bin/sh\necho five\n").expect("a vector takes it");
        let mut cpio = Command::new("busybox");
        cpio.args(["cpio", "-i", "--to-stdout"]);
        let mut child =
            cpio.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("busybox is installed");
        child.stdin.take().expect("a pipe").write_all(&archive).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.stdout, b"#!/bin/sh\necho five\n");
        assert_eq!(archive.len() % 4, 0);
    }
}
