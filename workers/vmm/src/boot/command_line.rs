use super::BootError;
use crate::devices::MmioPlace;

/// The longest that the x86 kernel takes, in bytes, with its final zero.
const MOST_BYTES: usize = 2048;

/// For every KVM. The guest has one tenant, so that mitigations against its own programs buy nothing; `rodata=off` saves
/// 1.8 million instructions at boot and 3.5 MiB of poisoned pages in a snapshot. A panic or reboot ends in a write to the
/// keyboard controller's port, which ends the machine. `noreplace-smp`: patching every lock prefix out of a kernel with one
/// processor costs three million instructions; `swiotlb=noforce`: 64 MiB that no device of ours needs, above 4 GiB.
/// `percpu_alloc=page`: otherwise each processor's area is cut out of 2 MiB that the kernel clears first, and its
/// bookkeeping is one of 2 MiB. `rootfstype=ramfs`: the agent is unpacked into the simpler of two file systems in memory. A
/// word is compared with all that a kernel knows (25,000 instructions), so that there is none without need.
const ALWAYS: &str = "console=ttyS0 quiet panic=-1 reboot=k tsc=reliable clocksource=kvm-clock \
    mitigations=off rodata=off noreplace-smp swiotlb=noforce percpu_alloc=page rootfstype=ramfs";

/// The kernel's command line.
#[derive(Debug, Clone)]
pub struct CommandLine {
    text: String,
}

impl CommandLine {
    /// What every guest gets; `tsc_khz` spares it from measuring its clock.
    pub fn new(tsc_khz: Option<u32>) -> Self {
        let mut line = Self { text: ALWAYS.to_owned() };
        if let Some(khz) = tsc_khz {
            line.add(&format!("tsc_early_khz={khz}"));
        }
        line
    }

    /// Adds words of the VMM's own or of its operator, separated by spaces.
    pub fn add(&mut self, words: &str) {
        if !words.is_empty() {
            self.text.push(' ');
            self.text.push_str(words);
        }
    }

    /// Announces a virtio device.
    pub fn add_device(&mut self, place: &MmioPlace) {
        self.add(&format!("virtio_mmio.device=4K@{:#x}:{}", place.address, place.interrupt));
    }

    /// The text with its final zero.
    ///
    /// # Errors
    /// [`BootError::CommandLine`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, BootError> {
        if self.text.len() >= MOST_BYTES {
            let length = self.text.len();
            return Err(BootError::CommandLine(format!("{length} bytes are over {}", MOST_BYTES - 1)));
        }
        if !self.text.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
            return Err(BootError::CommandLine("only printable ASCII is possible".into()));
        }
        Ok([self.text.as_bytes(), b"\0"].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_cut_or_misread_is_refused() {
        let mut line = CommandLine::new(Some(2_000_000));
        line.add("init=/agent");
        assert!(line.to_bytes().expect("valid").ends_with(b" tsc_early_khz=2000000 init=/agent\0"));
        for bad in ["a\nb", "ä", &"x".repeat(MOST_BYTES)] {
            let mut line = line.clone();
            line.add(bad);
            assert!(line.to_bytes().is_err());
        }
    }
}
