//! An image's file: every directory, file, link and attribute that can be reached from its root.
#![no_main]

use bulkhead_erofs::Reader;
use libfuzzer_sys::fuzz_target;

/// Inodes of one input that are looked at.
const MOST: usize = 256;

fuzz_target!(|image: &[u8]| {
    let Ok(reader) = Reader::open(image) else { return };
    let mut open = vec![reader.root()];
    let mut seen = 0;
    let mut buffer = [0; 4096];
    while let Some(nid) = open.pop() {
        seen += 1;
        if seen > MOST {
            return;
        }
        let Ok(inode) = reader.inode(nid) else { continue };
        let _read = reader.read(&inode, 0, &mut buffer);
        let _target = reader.symlink_target(&inode);
        let _attributes = reader.xattrs(&inode);
        let _missing = reader.lookup(&inode, b"name");
        if let Ok(entries) = reader.entries(&inode, 0) {
            open.extend(entries.flatten().take(MOST).map(|entry| entry.nid));
        }
    }
});
