//! The object file: without its debug sections, and as a list of what it holds.

use anyhow::Context;
use object::build::elf::{Builder, Section, SectionData, Symbol};
use object::elf::{SHT_STRTAB, STB_GLOBAL, STT_FUNC, STT_OBJECT};

/// Sections of programs, by the hook they are for.
const PROGRAM_SECTIONS: [&str; 2] = ["tp_btf/", "raw_tp/"];

/// Drops DWARF, nine tenths of the linker's output. BTF, which the kernel keeps with the programs, stays.
pub(super) fn stripped(elf: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut builder = Builder::read(elf).context("the linker's output is no ELF file")?;
    for section in &mut builder.sections {
        let name = name_of(section);
        if name.starts_with(".debug_") || name.starts_with(".rel.debug_") {
            section.delete = true;
        }
    }
    builder.delete_orphans();
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        // LLVM names sections from the symbols' string table; the writer wants one for each.
        let names = builder.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut object = Vec::new();
    builder.write(&mut object).context("cannot write the object without its debug sections")?;
    Ok(object)
}

/// One sorted line for every program (its hook), map (its type, sizes and flags) and global (its size).
pub(super) fn contents(elf: &[u8]) -> anyhow::Result<Vec<String>> {
    let builder = Builder::read(elf).context("the object is no ELF file")?;
    let mut lines = Vec::new();
    for symbol in &builder.symbols {
        let Some(section) = symbol.section.map(|id| builder.sections.get(id)) else {
            continue;
        };
        lines.extend(content(symbol, section));
    }
    lines.sort();
    Ok(lines)
}

fn content(symbol: &Symbol<'_>, section: &Section<'_>) -> Option<String> {
    if symbol.st_bind() != STB_GLOBAL {
        return None;
    }
    let (symbol_name, section_name) = (String::from_utf8_lossy(&symbol.name), name_of(section));
    match symbol.st_type() {
        STT_FUNC if PROGRAM_SECTIONS.iter().any(|hook| section_name.starts_with(hook)) => {
            Some(format!("program {symbol_name} ({section_name})"))
        }
        STT_OBJECT if section_name == "maps" => {
            let SectionData::Data(data) = &section.data else {
                return None;
            };
            // struct bpf_map_def: words, of which the fifth is the last that the kernel knows.
            let words: Vec<u32> = data
                .get(usize::try_from(symbol.st_value).ok()?..)?
                .chunks_exact(4)
                .take(5)
                .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
                .collect();
            let [kind, key, value, entries, flags] = words[..] else {
                return None;
            };
            Some(format!(
                "map {symbol_name} (type {kind}, key {key}, value {value}, entries {entries}, flags {flags:#x})"
            ))
        }
        STT_OBJECT if section_name == ".rodata" => Some(format!("global {symbol_name} ({} bytes)", symbol.st_size)),
        _ => None,
    }
}

fn name_of(section: &Section<'_>) -> String {
    String::from_utf8_lossy(&section.name).into_owned()
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
    fn the_committed_object_has_no_debug_sections_and_loses_nothing_by_being_stripped_again() {
        let again = stripped(probe_ebpf::OBJECT).expect("an object");
        assert_eq!(again, probe_ebpf::OBJECT);
    }
}
