//! placeholder
#[derive(Default)]
pub struct FdTable;
impl FdTable {
    pub fn new() -> Self {
        Self
    }
    pub fn fork(&self) -> Self {
        Self
    }
}
pub struct FsContext;
impl FsContext {
    pub fn fork(&self) -> Self {
        Self
    }
}
pub struct Credentials {
    pub uid: u32,
}
#[derive(Debug)]
pub struct OpenFile;
