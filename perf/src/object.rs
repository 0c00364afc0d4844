//! The programs of the benchmarks and their maps.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use aya::maps::{Array, DevMap, HashMap, Map, MapData, ProgramArray};
use aya::programs::{TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, TestRun as _, include_bytes_aligned};
use turnpike_fastpath::contract::{AGGREGATES_MAX, BUCKET_SLOTS, table};
use turnpike_fastpath::verdict::REASONS_MAX;

use crate::contract::METERS_MAX;
use crate::host::make_devices;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/turnpike-bench"));

/// Flows and labels: the product's default.
pub(crate) const FLOWS: u32 = 1 << 16;

/// More than any scene has.
const NEXT_HOPS: u32 = 16;

/// What goes on for the programs of whole ways, in the order of [`turnpike_fastpath::Detour`].
const GO_ON: [&str; 4] = ["tb_way_out_v4", "tb_way_out_v6", "tb_way_in_v4", "tb_way_in_v6"];

/// Buckets for so many flows, as the engine sizes them: twice as many slots.
pub(crate) const fn buckets_of(flows: u32) -> u32 {
    2 * flows / BUCKET_SLOTS
}

/// Names of the maps that only the benchmarks have.
pub(crate) mod bench_map {
    pub(crate) const PLAN: &str = "TB_PLAN";
    pub(crate) const STATE: &str = "TB_STATE";
    pub(crate) const FIRST: &str = "TB_FIRST";
    pub(crate) const EXACT_FLOWS: &str = "TB_EXACT_FLOWS";
    pub(crate) const SCHEDULES: &str = "TB_SCHEDULES";
    pub(crate) const WINDOWS: &str = "TB_WINDOWS";
    pub(crate) const LOCKED: &str = "TB_LOCKED";
    pub(crate) const HASH: &str = "TB_HASH";
    pub(crate) const RECEPTIONS: &str = "TB_RECEPTIONS";
}

/// Loaded programs.
pub(crate) struct Programs(Ebpf);

/// Their maps, apart, so that they can be written while threads run the programs.
pub(crate) struct Maps(BTreeMap<String, Map>);

/// Loads the object with tables for so many flows and labels.
pub(crate) fn load(cpus: u32, flows: u32) -> anyhow::Result<(Programs, Maps)> {
    let mut loader = EbpfLoader::new();
    for (name, entries) in [
        (table::BUCKETS, buckets_of(flows)),
        (table::FLOWS, flows),
        (table::LABELS, flows),
        (table::FLOW_DETAILS, flows),
        (table::LABEL_DETAILS, flows),
        (table::RECEPTIONS, flows),
        (table::FLOW_SHARES, flows * cpus),
        (table::LABEL_SHARES, flows * cpus),
        (table::AGGREGATES, AGGREGATES_MAX),
        (table::NEXT_HOPS, NEXT_HOPS),
        (table::POOLS, AGGREGATES_MAX),
        (table::AGG_SHARES, AGGREGATES_MAX * cpus),
        (table::REASONS, 2 * REASONS_MAX * cpus),
        (bench_map::STATE, cpus),
        (bench_map::EXACT_FLOWS, METERS_MAX),
        (bench_map::SCHEDULES, METERS_MAX),
        (bench_map::WINDOWS, METERS_MAX),
        (bench_map::RECEPTIONS, flows),
    ] {
        loader.map_max_entries(name, entries);
    }
    loader.override_global("FLOWS_MAX", &flows, true).override_global("AGGREGATES_MAX", &AGGREGATES_MAX, true);
    let mut object = loader.load(OBJECT).context("cannot load the programs of the benchmarks")?;
    for (name, program) in object.programs_mut() {
        let program: &mut Xdp = program.try_into()?;
        program.load().with_context(|| format!("cannot load {name}"))?;
    }
    let mut go_on = object.take_map(table::PROGRAMS).context("the object has no table of programs")?;
    let mut table: ProgramArray<&mut MapData> = (&mut go_on).try_into()?;
    for (place, name) in (0..).zip(GO_ON) {
        let program: &Xdp =
            object.program(name).with_context(|| format!("the object has no program {name}"))?.try_into()?;
        table.set(place, program.fd()?, 0)?;
    }
    let names: Vec<_> = object.maps().map(|(name, _)| name.to_owned()).collect();
    let maps = names.into_iter().filter_map(|name| object.take_map(&name).map(|map| (name, map)));
    let maps = maps.chain([(table::PROGRAMS.to_owned(), go_on)]).collect();
    Ok((Programs(object), Maps(maps)))
}

impl Programs {
    /// Attaches each program to a device of its own, named after `prefix`: a test run of a program that is attached nowhere rewrites the kernel's dispatcher
    /// twice.
    pub(crate) fn attach(&mut self, prefix: &str) -> anyhow::Result<String> {
        let devices = make_devices(prefix, self.0.programs().count())?;
        for ((name, program), device) in self.0.programs_mut().zip(&devices) {
            let program: &mut Xdp = program.try_into()?;
            program.attach(device, XdpMode::Driver).with_context(|| format!("cannot attach {name} to {device}"))?;
        }
        devices.into_iter().next().ok_or_else(|| anyhow!("no program"))
    }

    /// Attaches a program to one more device.
    pub(crate) fn attach_also(&mut self, name: &str, device: &str) -> anyhow::Result<()> {
        let program = self.0.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
        let program: &mut Xdp = program.try_into()?;
        program.attach(device, XdpMode::Driver).with_context(|| format!("cannot attach {name} to {device}"))?;
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> anyhow::Result<&Xdp> {
        let program = self.0.program(name).with_context(|| format!("the object has no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// Instructions of a program after the verifier's rewriting.
    pub(crate) fn instructions(&self, name: &str) -> anyhow::Result<u32> {
        let size = self.get(name)?.info()?.size_translated().context("this kernel does not tell a program's size")?;
        Ok(size / 8)
    }

    /// Runs a program once, for what it leaves in its maps.
    pub(crate) fn run_once(&self, name: &str) -> anyhow::Result<()> {
        let frame = [0; 64];
        self.get(name)?.test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() })?;
        Ok(())
    }
}

impl Maps {
    fn map(&self, name: &str) -> anyhow::Result<&Map> {
        self.0.get(name).with_context(|| format!("the object has no map {name}"))
    }

    /// Writes entries of `N` words.
    pub(crate) fn write<const N: usize>(
        &mut self,
        name: &str,
        entries: impl IntoIterator<Item = (u32, [u64; N])>,
    ) -> anyhow::Result<()> {
        let map = self.0.get_mut(name).with_context(|| format!("the object has no map {name}"))?;
        let mut array: Array<&mut MapData, [u64; N]> = map.try_into()?;
        for (index, words) in entries {
            array.set(index, words, 0).with_context(|| format!("cannot write entry {index} of {name}"))?;
        }
        Ok(())
    }

    /// Reads an entry of `N` words.
    pub(crate) fn read<const N: usize>(&self, name: &str, index: u32) -> anyhow::Result<[u64; N]> {
        let array: Array<&MapData, [u64; N]> = self.map(name)?.try_into()?;
        array.get(&index, 0).with_context(|| format!("cannot read entry {index} of {name}"))
    }

    /// Fills the kernel's hash table.
    pub(crate) fn write_hash(&mut self, entries: impl IntoIterator<Item = ([u64; 2], u64)>) -> anyhow::Result<()> {
        let map = self.0.get_mut(bench_map::HASH).context("the object has no hash table")?;
        let mut hash: HashMap<&mut MapData, [u64; 2], u64> = map.try_into()?;
        for (key, value) in entries {
            hash.insert(key, value, 0)?;
        }
        Ok(())
    }

    /// Sets the device of this port.
    pub(crate) fn set_device(&mut self, port: u32, ifindex: u32) -> anyhow::Result<()> {
        let map = self.0.get_mut(table::DEVICES).context("the object has no device map")?;
        let mut devices: DevMap<&mut MapData> = map.try_into()?;
        Ok(devices.set(port, ifindex, None, 0)?)
    }
}
