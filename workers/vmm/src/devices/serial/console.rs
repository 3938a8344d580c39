use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// How much of the console is kept: enough for an oops or a panic with its registers, in bytes.
pub const LOG_BYTES: usize = 16 << 10;

/// The last words of the guest's kernel. A handle; clones are the same console.
#[derive(Debug, Clone, Default)]
pub struct Console {
    kept: Arc<Mutex<VecDeque<u8>>>,
    /// Every byte also goes to standard error: for people at a terminal.
    echo: bool,
}

impl Console {
    /// An empty one.
    pub fn new(echo: bool) -> Self {
        Self { kept: Arc::default(), echo }
    }

    /// Up to this many of the last lines, with control characters made visible.
    pub fn last_lines(&self, count: usize) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text: Vec<u8> = kept.iter().copied().filter(|byte| *byte != b'\r').collect();
        drop(kept);
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let last = &lines[lines.len().saturating_sub(count)..];
        let visible = |c: char| if c == '\n' || !c.is_control() { c } else { '\u{fffd}' };
        last.join("\n").chars().map(visible).collect()
    }

    /// Whether the kept part has these words.
    pub fn contains(&self, words: &str) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.make_contiguous().windows(words.len()).any(|window| window == words.as_bytes())
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether the guest has said nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in bytes {
            if kept.len() == LOG_BYTES {
                kept.pop_front();
            }
            kept.push_back(*byte);
        }
        drop(kept);
        if self.echo {
            // A console that nobody can read must not stop the guest.
            let _unread = io::stderr().write_all(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
