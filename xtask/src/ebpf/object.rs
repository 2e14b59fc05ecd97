//! The object file as a list of what it holds.

use anyhow::Context;
use object::{File, Object, ObjectSection, ObjectSymbol, SymbolKind};

/// Sections of programs, by the hook they are for.
const PROGRAM_SECTIONS: [&str; 2] = ["tp_btf/", "raw_tp/"];

/// One sorted line for every program (its hook), map (its type, sizes and flags) and global (its size).
pub(super) fn contents(elf: &[u8]) -> anyhow::Result<Vec<String>> {
    let file = File::parse(elf).context("the object is no ELF file")?;
    let mut lines = Vec::new();
    for symbol in file.symbols().filter(|symbol| symbol.is_global()) {
        let Some(index) = symbol.section_index() else {
            continue;
        };
        let section = file.section_by_index(index)?;
        let (name, section_name) = (symbol.name()?, section.name()?);
        match symbol.kind() {
            SymbolKind::Text if PROGRAM_SECTIONS.iter().any(|hook| section_name.starts_with(hook)) => {
                lines.push(format!("program {name} ({section_name})"));
            }
            SymbolKind::Data if section_name == "maps" => {
                let definition =
                    section.data()?.get(usize::try_from(symbol.address())?..).context("a map ends early")?;
                lines.push(format!("map {name} ({})", map(definition)?));
            }
            SymbolKind::Data if section_name == ".rodata" => {
                lines.push(format!("global {name} ({} bytes)", symbol.size()));
            }
            _ => {}
        }
    }
    lines.sort();
    Ok(lines)
}

/// `struct bpf_map_def`: words, of which the fifth is the last that the kernel knows.
fn map(definition: &[u8]) -> anyhow::Result<String> {
    let words: Vec<u32> = definition
        .chunks_exact(4)
        .take(5)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    let [kind, key, value, entries, flags] = words[..] else {
        anyhow::bail!("a map's definition is too short");
    };
    Ok(format!("type {kind}, key {key}, value {value}, entries {entries}, flags {flags:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_holds_the_programs_maps_and_globals_of_the_abi() {
        let contents = contents(probe_ebpf::OBJECT).expect("an object");
        let btf = format!("program {} (tp_btf/inet_sock_set_state)", probe_ebpf::PROGRAM_BTF);
        let raw = format!("program {} (raw_tp/inet_sock_set_state)", probe_ebpf::PROGRAM_RAW);
        let map = |name: &str, value: usize, entries: u32, flags: u32| {
            format!("map {name} (type 2, key 4, value {value}, entries {entries}, flags {flags:#x})")
        };
        // BPF_F_MMAPABLE
        let mapped = 0x400;
        let expected = [
            btf,
            raw,
            map(probe_ebpf::MAP_COUNTERS, 8, probe_ebpf::COUNTERS_LEN, mapped),
            map(probe_ebpf::MAP_CONNECTS, size_of::<probe_ebpf::Connect>(), probe_ebpf::CONNECTS_LEN, mapped),
            map(probe_ebpf::MAP_PORTS, 8, probe_ebpf::PORTS_LEN, 0),
            map(probe_ebpf::MAP_DROPS, 8, 1, mapped),
            format!("global {} ({} bytes)", probe_ebpf::GLOBAL_OFFSETS, size_of::<probe_ebpf::Offsets>()),
            format!("global {} ({} bytes)", probe_ebpf::GLOBAL_IDENTITY, size_of::<probe_ebpf::Identity>()),
            format!("global {} (1 bytes)", probe_ebpf::GLOBAL_LOG),
        ];
        for line in &expected {
            assert!(contents.contains(line), "no `{line}` in {contents:#?}");
        }
        assert!(contents.iter().any(|line| line.starts_with(&format!("map {} (type 27", probe_ebpf::MAP_EVENTS))));
        assert_eq!(contents.iter().filter(|line| line.starts_with("program ")).count(), 2, "{contents:#?}");
    }

    #[test]
    fn the_committed_object_holds_no_path_of_the_machine_that_made_it() {
        let text = String::from_utf8_lossy(probe_ebpf::OBJECT);
        for path in ["/home/", "/root/", "/work/", "/tmp/", ".cargo/"] {
            assert!(!text.contains(path), "{path}");
        }
    }
}
