use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

const FEATURES: u32 = 1;
const CACHES: u32 = 4;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
/// KVM's own features.
const PARAVIRTUAL: u32 = 0x4000_0001;
/// Leaf 1, ECX.
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: the number of logical processors in EBX is meant.
const HTT: u32 = 1 << 28;

/// What KVM offers on this host.
///
/// # Errors
/// What KVM said.
pub fn supported(kvm: &Kvm) -> Result<CpuId, kvm_ioctls::Error> {
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    // Older KVMs have the timer but leave it out of their list; a guest without it, and without a PIT, never wakes.
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    for entry in cpuid.as_mut_slice() {
        if entry.function == FEATURES {
            // Linux asks for the hypervisor bit before it looks for kvm-clock.
            entry.ecx |= HYPERVISOR;
            if deadline {
                entry.ecx |= TSC_DEADLINE;
            }
        }
    }
    Ok(cpuid)
}

/// Takes some of KVM's own features away (leaf 0x40000001, EAX).
pub fn without_paravirtual(cpuid: &mut CpuId, features: u32) {
    for entry in cpuid.as_mut_slice().iter_mut().filter(|entry| entry.function == PARAVIRTUAL) {
        entry.eax &= !features;
    }
}

/// The same for one of `count` processors: its APIC id, and one package with a core for each.
pub fn for_vcpu(supported: &CpuId, id: u8, count: u8) -> CpuId {
    let mut cpuid = supported.clone();
    let (id, count) = (u32::from(id), u32::from(count));
    let bits = count.next_power_of_two().trailing_zeros();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            FEATURES => {
                entry.ebx =
                    (entry.ebx & 0xff00) | id << 24 | count.next_power_of_two() << 16 | entry.ebx & 0xff;
                if count > 1 {
                    entry.edx |= HTT;
                } else {
                    entry.edx &= !HTT;
                }
            }
            // Bits 26 to 31: cores in the package less one; 14 to 25: threads that share the cache, less one.
            CACHES if entry.eax & 0x1f != 0 => {
                let shared = if entry.eax >> 5 & 7 == 3 { count.next_power_of_two() - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | shared << 14 | (count.next_power_of_two() - 1) << 26;
            }
            TOPOLOGY | TOPOLOGY_V2 => {
                entry.edx = id;
                match entry.index {
                    0 => (entry.eax, entry.ebx, entry.ecx) = (0, 1, 1 << 8),
                    1 => (entry.eax, entry.ebx, entry.ecx) = (bits, count, 1 | 2 << 8),
                    index => (entry.eax, entry.ebx, entry.ecx) = (0, 0, index),
                }
            }
            _ => {}
        }
    }
    cpuid
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_cpuid_entry2;

    #[test]
    fn each_processor_has_its_own_apic_id() {
        let leaf = |function, index| kvm_cpuid_entry2 { function, index, ..Default::default() };
        let all = CpuId::from_entries(&[leaf(1, 0), leaf(0xb, 0), leaf(0xb, 1)]).expect("entries");
        for id in 0..2 {
            let own = for_vcpu(&all, id, 2);
            let own = own.as_slice();
            assert_eq!(own[0].ebx >> 24, u32::from(id));
            assert_eq!(own[0].ebx >> 16 & 0xff, 2);
            assert_eq!((own[1].edx, own[2].edx), (u32::from(id), u32::from(id)));
            assert_eq!((own[2].eax, own[2].ebx), (1, 2));
        }
    }
}
