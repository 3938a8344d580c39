//! The `newc` archive that Linux unpacks as its first root.

use std::io::{self, Write};

/// A file of the archive.
pub(crate) struct Entry {
    name: String,
    /// With the type of the file in it.
    mode: u32,
    data: Vec<u8>,
}

impl Entry {
    /// A directory; it must come before what is in it.
    pub(crate) fn directory(name: &str) -> Self {
        Self { name: name.to_owned(), mode: 0o040_755, data: Vec::new() }
    }

    /// A file.
    pub(crate) fn file(name: &str, data: Vec<u8>) -> Self {
        Self { name: name.to_owned(), mode: 0o100_644, data }
    }

    /// A file that can be executed.
    pub(crate) fn program(name: &str, data: Vec<u8>) -> Self {
        Self { name: name.to_owned(), mode: 0o100_755, data }
    }

    fn write(&self, out: &mut impl Write, inode: u32) -> io::Result<()> {
        /// Magic and thirteen numbers of eight digits.
        const HEADER: usize = 6 + 13 * 8;
        let size =
            u32::try_from(self.data.len()).map_err(|_| io::Error::other("a file of 4 GiB and more"))?;
        // With the zero at its end.
        let name_size = self.name.len() as u32 + 1;
        let (owner, links, time, device) = (0, 1, 0, 0);
        let numbers =
            [inode, self.mode, owner, owner, links, time, size, device, device, device, device, name_size, 0];
        write!(out, "070701")?;
        for number in numbers {
            write!(out, "{number:08X}")?;
        }
        write!(out, "{}\0", self.name)?;
        pad(out, HEADER + self.name.len() + 1)?;
        out.write_all(&self.data)?;
        pad(out, self.data.len())
    }
}

/// Everything starts at a multiple of four.
fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..(4 - written % 4) % 4])
}

/// Writes an archive.
pub(crate) fn write(out: &mut impl Write, entries: &[Entry]) -> io::Result<()> {
    for (entry, inode) in entries.iter().zip(1..) {
        entry.write(out, inode)?;
    }
    Entry { name: "TRAILER!!!".into(), mode: 0, data: Vec::new() }.write(out, 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn another_implementation_reads_it() {
        let mut archive = Vec::new();
        let entries =
            [Entry::directory("bin"), Entry::program("bin/five", b"#!/bin/sh\necho five\n".to_vec())];
        write(&mut archive, &entries).expect("a vector takes it");
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
